"""Compiling a grammar: bounds of time and memory, the cache, Ctrl-C, and the helper process."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from starchat import ConstraintError
from starchat._core import Tokenizer, testing
from starchat.grammar.constraint import library
from starchat.grammar.helper import helper_command

pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')
BYTES = Tokenizer([bytes([value]) for value in range(256)])
PRIME = '{"type": "integer", "multipleOf": 999983}'  # 10 s and 0.4 GiB


def compiler(**limits: Any) -> Any:
    return testing.GrammarCompiler(library(), BYTES, helper=helper_command(), **limits)


def test_compiling_is_bounded_in_time() -> None:
    start = time.perf_counter()
    with pytest.raises(ConstraintError, match=r"expected at most 0\.1 s") as caught:
        compiler(seconds=0.1).compile("json_schema", PRIME)
    assert time.perf_counter() - start < 3
    assert caught.value.limit == 0.1 and float(caught.value.got or 0) >= 0.1


def test_compiling_is_bounded_in_memory() -> None:
    with pytest.raises(ConstraintError, match="expected at most 16 MiB") as caught:
        compiler(bytes=16 << 20, seconds=60).compile("json_schema", PRIME)
    assert caught.value.limit == 16 << 20 < float(caught.value.got or 0)


def test_without_a_helper_process_the_wait_is_bounded() -> None:
    alone = testing.GrammarCompiler(library(), BYTES, seconds=0.1)
    with pytest.raises(ConstraintError, match=r"expected at most 0\.1 s"):
        alone.compile("json_schema", '{"type": "integer", "multipleOf": 99991}')


def test_grammars_are_kept_by_their_compiled_size() -> None:
    small = compiler(cache_bytes=1 << 20)
    for n in range(30):
        small.compile("json_schema", f'{{"type": "integer", "multipleOf": {1000 + n}}}')
    n_compiled, n_kept, kept_bytes = small.counts()
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
