"""400 children that follow grammars of their own, while threads of their parent compile others."""

from __future__ import annotations

import os

import pytest

from support.processes import run_python

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
]
CODE = """
    import os, signal, sys, threading
    from starchat import StarChat

    model = StarChat.load()

    def compile_and_follow(i):
        for n in range(10**9):
            model.complete("a", regex=f"[a-z]{{1,3}}{i}x{n}", max_tokens=8)

    for i in range(4):
        threading.Thread(target=compile_and_follow, args=(i,), daemon=True).start()
    ends = []
    for n in range(400):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that hangs
            StarChat.load().complete("a", regex=f"q{n}[0-9]{{2}}", max_tokens=20)
            os._exit(0)
        ends.append(os.waitpid(child, 0)[1])
    print([n for n, end in enumerate(ends) if end])
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.mark.timeout(3600)
def test_no_child_waits_for_a_lock_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rust keeps a lock while it looks where an error came from, unless RUST_BACKTRACE is off."""
    monkeypatch.setenv("RUST_BACKTRACE", "1")
    done = run_python(CODE, timeout_s=3000)
    assert done.stdout == "[]\n", (done.stdout, done.stderr[-2000:])
