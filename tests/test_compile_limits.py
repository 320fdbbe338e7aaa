"""Compiling a grammar: bounds of time and memory, what is kept, copies, Ctrl-C and close."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from starchat import ConstraintError, EngineClosedError, StarChat
from starchat._core import Tokenizer, testing
from starchat.grammar.constraint import library
from starchat.grammar.helper import helper_command
from support.processes import run_python

pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')
BYTES = Tokenizer([bytes([value]) for value in range(256)])
PRIME = '{"type": "integer", "multipleOf": 999983}'  # 10 s and 0.4 GiB


def compiler(**limits: Any) -> Any:
    return testing.GrammarCompiler(library(), BYTES, **{"helper": helper_command(), **limits})


def test_compiling_is_bounded_in_time() -> None:
    """Of CPU time: after 1.4 s by the clock it would be another error."""
    with pytest.raises(ConstraintError, match=r"^took .* expected at most 0\.1 s") as caught:
        compiler(seconds=0.1).compile("json_schema", PRIME)
    assert caught.value.limit == 0.1 and 0.1 <= float(caught.value.got or 0) < 0.5


def test_compiling_is_bounded_in_memory() -> None:
    with pytest.raises(ConstraintError, match="expected at most 16 MiB") as caught:
        compiler(bytes=16 << 20, seconds=60).compile("json_schema", PRIME)
    assert caught.value.limit == 16 << 20 < float(caught.value.got or 0)


def test_the_bound_of_memory_is_the_same_for_the_next_one() -> None:
    bounded = compiler(bytes=8 << 20)
    bounded.compile("regex", "[a-z]")
    with pytest.raises(ConstraintError, match="expected at most 8 MiB"):
        bounded.compile("json_schema", '{"type": "integer", "multipleOf": 19997}')  # 12 MiB


def test_without_a_helper_process_the_wait_is_bounded() -> None:
    alone = testing.GrammarCompiler(library(), BYTES, seconds=0.1)
    with pytest.raises(ConstraintError, match=r"expected at most 0\.1 s"):
        alone.compile("json_schema", '{"type": "integer", "multipleOf": 99991}')


def test_grammars_are_kept_by_their_compiled_size() -> None:
    small = compiler(cache_bytes=1 << 20)
    for n in range(30):
        small.compile("json_schema", f'{{"type": "integer", "multipleOf": {1000 + n}}}')
    n_compiled, n_kept, kept_bytes, _ = small.counts()
    assert n_compiled == 30 and 0 < n_kept < 30 and kept_bytes <= 1 << 20
    small.compile("json_schema", '{"type": "integer", "multipleOf": 1029}')
    assert small.counts()[0] == 30


def test_a_grammar_that_many_want_is_compiled_once() -> None:
    shared = compiler()
    schema = '{"type": "integer", "multipleOf": 19997}'
    threads = [
        threading.Thread(target=shared.compile, args=("json_schema", schema)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.counts()[0] == 1


def test_ctrl_c_ends_the_wait() -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        compiler(seconds=2).compile("json_schema", PRIME)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("kind", "text", "limits", "message"),
    [
        ("json_schema", PRIME, {"seconds": 0.05}, "took"),
        ("json_schema", PRIME, {"bytes": 4 << 20}, "MiB or more"),
        ("regex", "(", {}, "unclosed group"),
        ("regex", "(", {"helper": []}, "unclosed group"),
    ],
    ids=["time", "memory", "fault", "fault-without-helper"],
)
def test_what_was_refused_is_refused_again_without_work(
    kind: str, text: str, limits: dict[str, Any], message: str
) -> None:
    bounded = compiler(**limits)
    errors = []
    for _ in range(3):
        with pytest.raises(ConstraintError, match=message) as caught:
            bounded.compile(kind, text)
        errors.append((str(caught.value), caught.value.limit, caught.value.got))
    assert len(set(errors)) == 1
    assert bounded.counts()[3] == 1
    bounded.compile("regex", "another")
    assert bounded.counts()[3] == 2


def test_refusals_are_kept_within_bounds() -> None:
    bounded = compiler()
    for n in range(9):  # of 1 MiB each, 8 MiB are kept
        with pytest.raises(ConstraintError):
            bounded.compile("lark", f"{n}?" + " " * (1 << 20))
    with pytest.raises(ConstraintError):
        bounded.compile("lark", "8?" + " " * (1 << 20))
    assert bounded.counts()[3] == 9
    with pytest.raises(ConstraintError):
        bounded.compile("lark", "0?" + " " * (1 << 20))
    assert bounded.counts()[3] == 10


def test_copies_of_large_grammars_are_bounded() -> None:
    bounded = compiler(copy_bytes=10 << 20)
    large = bounded.compile("json_schema", '{"type": "integer", "multipleOf": 19997}')
    small = bounded.compile("regex", "[a-z]+")
    replies = [testing.Constraint(BYTES, large)]  # of 7 MiB
    with pytest.raises(
        ConstraintError, match=r"expected at most 10 MiB.*grammar_copy_bytes"
    ) as caught:
        testing.Constraint(BYTES, large)
    assert caught.value.limit == 10 << 20 < float(caught.value.got or 0)
    testing.Constraint(BYTES, small)
    replies.clear()
    testing.Constraint(BYTES, large)


def test_a_grammar_is_freed_without_the_gil() -> None:
    """A large one takes 0.1 s, perhaps in the event loop's thread."""
    fresh = compiler(cache_bytes=0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # a thread runs only where the other one lets it
    try:
        for n in range(100):
            # Freed in a millisecond: an idle core needs some of it to wake the other thread.
            grammar = fresh.compile(
                "json_schema", f'{{"type": "integer", "multipleOf": {8000 + n}}}'
            )
            go = threading.Event()
            ran: list[bool] = []
            thread = threading.Thread(target=lambda go=go, ran=ran: go.wait() and ran.append(True))
            thread.start()
            go.set()
            del grammar
            was_free = bool(ran)
            thread.join()
            if was_free:
                return
    finally:
        sys.setswitchinterval(interval)
    pytest.fail("no other thread ran")


def test_close_ends_the_wait() -> None:
    closing = compiler(seconds=2)
    errors: list[BaseException] = []

    def compile_prime() -> None:
        try:
            closing.compile("json_schema", PRIME)
        except EngineClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=compile_prime)
    thread.start()
    while closing.counts()[3] == 0:
        time.sleep(0.01)
    closing.close()
    thread.join(1)
    assert not thread.is_alive() and "closed while this constraint" in str(errors[0])
    with pytest.raises(EngineClosedError):
        closing.compile("regex", "a")


def test_a_model_that_closes_ends_the_wait(tiny_model_path: Path) -> None:
    model = StarChat.load(tiny_model_path, limits={"compile_seconds": 2})
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            model.complete("a", json_schema=json.loads(PRIME))
        except EngineClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.1)
    model.close()
    thread.join(1)
    assert not thread.is_alive() and len(errors) == 1


def test_no_compilation_begins_without_room_for_it() -> None:
    """llguidance would abort this process."""
    code = """
        import resource, sys
        from starchat import OutOfMemoryError
        from starchat._core import Tokenizer, testing
        from starchat.grammar.constraint import library
        from starchat.grammar.helper import helper_command
        vocabulary = Tokenizer([bytes([value]) for value in range(256)])
        compiler = testing.GrammarCompiler(library(), vocabulary, helper=helper_command())
        compiler.compile("regex", "[a-z]")  # its helper starts without a limit
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (size + (24 << 20), resource.RLIM_INFINITY))
        try:
            compiler.compile("json_schema", '{"type": "integer", "multipleOf": 29989}')
        except OutOfMemoryError as error:
            print(error)
        compiler.compile("regex", "[a-z]+")
        print("goes on")
    """
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "the limits of this process's memory leave" in result.stdout
    assert result.stdout.endswith("goes on\n")
