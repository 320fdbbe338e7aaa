"""Helper processes over time: those that idle end, and none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid
from pathlib import Path

import pytest

from starchat._core import Tokenizer, testing
from starchat.grammar.constraint import library
from starchat.grammar.helper import helper_command

pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')
pytestmark = pytest.mark.nightly


def helpers(name: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if name.encode() in (process / "cmdline").read_bytes() and parent != os.getpid():
                found.append(int(process.name))
    return found


def test_idle_helpers_are_replaced_and_end_but_one() -> None:
    name = uuid.uuid4().hex
    vocabulary = Tokenizer([bytes([value]) for value in range(256)])
    compiler = testing.GrammarCompiler(library(), vocabulary, helper=[*helper_command(), name])
    schemas = [f'{{"type": "integer", "multipleOf": {30000 + n}}}' for n in range(8)]
    threads = [
        threading.Thread(target=compiler.compile, args=("json_schema", schema))
        for schema in schemas
    ]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(helpers(name)))
        time.sleep(0.05)
    assert 1 < most <= 4
    for pid in helpers(name):
        os.kill(pid, signal.SIGKILL)
    compiler.compile("regex", "all were killed")

    threads = [
        threading.Thread(target=compiler.compile, args=("json_schema", schema))
        for schema in [f'{{"type": "integer", "multipleOf": {40000 + n}}}' for n in range(8)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(helpers(name)) > 1
    until = time.monotonic() + 20
    while len(helpers(name)) > 1 and time.monotonic() < until:
        time.sleep(0.5)
    time.sleep(12)
    assert len(helpers(name)) == 1
    for n in range(8):  # those that ended are replaced
        compiler.compile("regex", f"a{n}")
    assert len(helpers(name)) == 1
