"""A forked child ends and works at once, whatever threads of its parent were doing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.processes import run_python

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def test_a_child_does_not_wait_for_threads_of_its_parent(tiny_model_path: Path) -> None:
    code = """
        import atexit, os, sys, threading, time
        from starchat import StarChat
        model = StarChat.load(sys.argv[1])
        done = threading.Event()

        def wait_for_the_gil():
            while not done.is_set():
                model.tokenize("a")

        threads = [threading.Thread(target=wait_for_the_gil) for _ in range(4)]
        for thread in threads:
            thread.start()
        waits = 0
        for _ in range(10):
            if (child := os.fork()) == 0:
                start = time.monotonic()
                atexit._run_exitfuncs()
                os._exit(time.monotonic() - start > 0.9)
            waits += os.waitpid(child, 0)[1] != 0
        done.set()
        print("children that waited:", waits)
    """
    result = run_python(code, tiny_model_path)
    assert result.stdout == "children that waited: 0\n", result.stderr


def test_a_child_of_a_process_that_ends_can_go_on(tiny_model_path: Path) -> None:
    code = """
        import atexit, os, sys, threading
        ending, forked = threading.Event(), threading.Event()

        def wait_for_the_fork():  # the last handler: the core's have run
            ending.set()
            forked.wait(10)

        atexit.register(wait_for_the_fork)
        from starchat import StarChat
        model = StarChat.load(sys.argv[1])

        def fork():
            ending.wait()
            child = os.fork()
            if child == 0:
                print(len(StarChat.load(sys.argv[1]).tokenize("a")), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            forked.set()

        threading.Thread(target=fork, daemon=True).start()
    """
    result = run_python(code, tiny_model_path, timeout_s=20)
    assert result.stdout == "1\n", result.stderr


def test_a_child_follows_grammars_while_threads_of_its_parent_compile(
    tiny_model_path: Path,
) -> None:
    """Rust keeps a lock while it looks where an error came from: a child would wait for it."""
    code = """
        import os, signal, sys, threading
        os.environ["RUST_BACKTRACE"] = "1"
        from starchat import StarChat
        model = StarChat.load(sys.argv[1])

        def compile_for_ever(name):
            for i in range(10 ** 9):
                model.complete("a", regex=f"[a-z]{{1,3}}{name}x{i}", max_tokens=8)

        for name in range(4):
            threading.Thread(target=compile_for_ever, args=(name,), daemon=True).start()
        model.complete("a", regex="[a-z]", max_tokens=8)
        failed = 0
        for i in range(20):
            if (child := os.fork()) == 0:
                signal.alarm(10)
                StarChat.load(sys.argv[1]).complete("a", regex=f"q{i}[0-9]{{2}}", max_tokens=20)
                os._exit(0)
            failed += os.waitpid(child, 0)[1] != 0
            if failed:
                break
        print("failed:", failed, flush=True)
        os._exit(0)
    """
    result = run_python(code, tiny_model_path, timeout_s=40)
    assert result.stdout == "failed: 0\n", result.stderr


def test_worker_threads_import_nothing(tiny_model_path: Path) -> None:
    """A child that is forked during an import could never import that module."""
    code = """
        import sys, threading
        from starchat import StarChat
        model = StarChat.load(sys.argv[1])
        imported = set(sys.modules)

        def work():
            model.logits([5, 6])
            model.complete("a", regex="[a-z]", max_tokens=3)
            model.complete("a", logprobs=1, max_tokens=3)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        print(sorted(set(sys.modules) - imported))
    """
    result = run_python(code, tiny_model_path)
    assert result.stdout == "[]\n", result.stderr
