"""The interpreter ends cleanly, whatever its other threads are doing in the core."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.processes import run_python

pytestmark = pytest.mark.integration

BUSY = {
    "tokenizing": "model.tokenize('ab c ' * 20_000)",
    "loading": "StarChat.load(sys.argv[1], n_ctx=next(sizes))",
    "evaluating": "model.logits([5] * 300)",
    "chatting": "model.complete('a', ignore_eos=True)",
    "following": "model.complete('a', regex=f'[a-z]{{{next(sizes)}}}')",
}


@pytest.mark.parametrize("work", BUSY)
def test_daemon_threads_in_the_core_do_not_abort_the_exit(work: str, tiny_model_path: Path) -> None:
    script = f"""
        import itertools, sys, threading, time
        from starchat import StarChat, StarChatError
        sizes = itertools.cycle(range(100, 500))
        model = StarChat.load(sys.argv[1])
        def repeat():
            try:
                while True:
                    {BUSY[work]}
            except StarChatError:  # the exit has closed the engine
                pass
        for _ in range(3):
            threading.Thread(target=repeat, daemon=True).start()
        time.sleep(0.1)
    """
    for _ in range(3):
        result = run_python(script, tiny_model_path)
        assert (result.returncode, result.stderr) == (0, "")


def test_too_few_threads_is_an_error(tiny_model_path: Path) -> None:
    script = """
        import resource, sys
        from starchat import OutOfMemoryError, StarChat
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 300_000_000,) * 2)  # some 30 stacks
        try:
            StarChat.load(sys.argv[1], n_threads=256)
        except OutOfMemoryError as error:
            print(error)
        print(StarChat.load(sys.argv[1], n_threads=2).complete("a", max_tokens=3).finish_reason)
    """
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux")
    result = run_python(script, tiny_model_path)
    assert result.returncode == 0, result.stderr
    assert "cannot start a thread" in result.stdout and "choose fewer n_threads" in result.stdout
    assert result.stdout.endswith("length\n")
