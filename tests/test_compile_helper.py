"""The helper process that compiles grammars: whatever becomes of it, a request ends, and the next
one finds another helper.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starchat import ConstraintError, OutOfMemoryError
from starchat._core import Tokenizer, testing
from starchat.grammar.constraint import library
from starchat.grammar.helper import helper_command

pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')
pytestmark = [
    pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks at processes in /proc"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
BYTES = Tokenizer([bytes([value]) for value in range(256)])
PRIME = '{"type": "integer", "multipleOf": 999983}'  # 10 s and 0.4 GiB

# A program in the place of the helper. It greets, takes the first request and answers it wrongly.
FAKE = """
import os, socket, struct, sys, time
does = sys.argv[1]
if does == "no greeting":
    sys.exit(1)
if os.fork():
    os._exit(0)
own = socket.socket(fileno=0)
mark = 0 if does == "other greeting" else 0x3354616972546772
own.sendall(struct.pack("<Qii", mark, os.getpid(), 0))
own.recv(1 << 20)
if does == "no acceptance":
    sys.exit(0)
own.sendall(b"\\1")
if does == "garbage":
    own.sendall(b"\\xff" * 64)
if does == "long message":
    own.sendall(struct.pack("<IIdqqqQ", 1, 0, 0, 0, 0, 0, 1 << 40))
if does == "no answer":
    time.sleep(60)
"""


# A process that compiles, and ends.
OWNER = """
import os, sys, threading, time
from starchat._core import Tokenizer, testing
from starchat.grammar.constraint import library
WAIT = 0.3
vocabulary = Tokenizer([bytes([value]) for value in range(256)])
compiler = testing.GrammarCompiler(library(), vocabulary, helper=sys.argv[1:], seconds=60)
text = '{"type": "integer", "multipleOf": 999983}'
threading.Thread(target=compiler.compile, args=("json_schema", text), daemon=True).start()
time.sleep(WAIT)
END
"""


def compiler(command: list[str], **limits: Any) -> Any:
    return testing.GrammarCompiler(library(), BYTES, helper=command, **limits)


def fake(does: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", FAKE, does, uuid.uuid4().hex]


def own_helper() -> list[str]:
    """Return the command of a helper that no other compiler shares; its last argument names it."""
    return [*helper_command(), uuid.uuid4().hex]


def helpers(command: list[str]) -> list[int]:
    """Return the processes of this command, without what is still a child of this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if command[-1].encode() in arguments[-2:] and parent != os.getpid():
                found.append(int(process.name))
    return found


def wait_for(condition: Any, timeout_s: float = 10) -> Any:
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < until, "this did not happen in time"
        time.sleep(0.005)
    return value


@pytest.mark.parametrize("does", ["no acceptance", "ends", "garbage", "long message"])
def test_a_helper_without_an_answer_is_an_error(does: str) -> None:
    with pytest.raises(OutOfMemoryError, match="was ended, twice"):
        compiler(fake(does)).compile("regex", "a")


def test_an_answer_that_does_not_come_is_an_error() -> None:
    command = fake("no answer")
    with pytest.raises(ConstraintError, match=r"did not answer within .* too much to do"):
        compiler(command, seconds=0).compile("regex", "a")
    wait_for(lambda: not helpers(command))


@pytest.mark.parametrize("command", [fake("no greeting"), fake("other greeting"), ["/nowhere"]])
def test_without_a_helper_grammars_are_compiled_here(command: list[str]) -> None:
    alone = compiler(command)
    alone.compile("regex", "a")
    alone.compile("regex", "b")
    assert alone.counts()[0] == 2


def test_a_helper_that_could_not_start_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "helper"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o700)
    patient = compiler([str(program), *helper_command()], bytes=1 << 20)
    patient.compile("json_schema", '{"type": "integer", "multipleOf": 9973}')  # here: 5 MiB
    program.write_text('#!/bin/sh\nexec "$@"\n')

    def is_bounded() -> bool:
        try:
            patient.compile("json_schema", f'{{"type": "integer", "multipleOf": {next(values)}}}')
        except ConstraintError as error:
            return "at most 1 MiB" in str(error)
        return False

    values = iter(range(9905, 9973))
    wait_for(is_bounded)


@contextlib.contextmanager
def compiling(command: list[str], **limits: Any) -> Iterator[list[BaseException]]:
    """Compile in another thread, whose error is what the block gets; wait for it at the end."""
    errors: list[BaseException] = []

    def compile_prime() -> None:
        try:
            compiler(command, **limits).compile("json_schema", PRIME)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=compile_prime)
    thread.start()
    yield errors
    thread.join(10)
    assert not thread.is_alive()


def that_compiles(command: list[str], other_than: int = 0) -> list[int]:
    """Return the helper that has used more CPU time than its start takes."""
    ticks = 0.15 * os.sysconf("SC_CLK_TCK")
    return [
        pid
        for pid in helpers(command)
        if pid != other_than
        and sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        > ticks
    ]


def test_a_helper_that_is_killed_is_an_error_at_the_second_time() -> None:
    command = own_helper()
    with compiling(command) as errors:
        (first,) = wait_for(lambda: that_compiles(command), 30)
        os.kill(first, signal.SIGKILL)
        (second,) = wait_for(lambda: that_compiles(command, first), 30)
        assert not errors
        os.kill(second, signal.SIGKILL)
    assert "was ended, twice" in str(errors[0])
    compiler(command).compile("regex", "a")


def test_a_helper_that_is_killed_while_idle_is_replaced() -> None:
    command = own_helper()
    one = compiler(command)
    for text in "abc":
        one.compile("regex", text)
        os.kill(helpers(command)[0], signal.SIGKILL)
        wait_for(lambda: not helpers(command))
    one.compile("regex", "d")


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()", "os.kill(os.getpid(), 9)"])
def test_a_helper_ends_with_its_owner(end: str) -> None:
    command = own_helper()
    with subprocess.Popen([sys.executable, "-c", OWNER.replace("END", end), *command]) as owner:
        owner.wait(20)
    wait_for(lambda: not helpers(command), 2)


@pytest.mark.parametrize("delay_s", [0, 0.3], ids=["compiles", "starts"])
def test_a_forked_child_does_not_keep_a_helper_of_its_parent(delay_s: float) -> None:
    path, *options, script, core = helper_command()
    script = f"import time; time.sleep({delay_s})\n{script}"
    command = [path, *options, script, core, uuid.uuid4().hex]
    fork = """
if (child := os.fork()) == 0:
    time.sleep(20)
print(child, flush=True)
os._exit(0)
"""
    code = OWNER.replace("END", fork).replace("WAIT = 0.3", f"WAIT = {0.1 if delay_s else 0.3}")
    with subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        try:
            owner.wait(20)
            wait_for(lambda: helpers(command) == [child], 3)
        finally:
            os.kill(child, signal.SIGKILL)
