"""The server under attack, over HTTP: hostile schemas, regexes and bodies beside four streams."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest

from support.random_constraints import random_constraint

pytest.importorskip("fastapi", reason='needs pip install "starchat[serve]"')
pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')
pytestmark = pytest.mark.nightly

N_STREAMS = 4
LONGEST_GAP_S = 0.5
N_SEEDS = 250
CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "How do I sort a list in Python?"}]}
ENDLESS = QUESTION | {"max_tokens": 1_500, "stream": True, "ignore_eos": True}


class Server:
    """`starchat serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def connect(self, timeout_s: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def begin(self, body: Any, path: str = CHAT) -> http.client.HTTPConnection:
        """Send a request, and read nothing."""
        connection = self.connect()
        text = body if isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request("POST", path, text, {"Content-Type": "application/json"})
        return connection

    def ask(self, body: Any, path: str = CHAT) -> tuple[int, bytes]:
        connection = self.begin(body, path)
        try:
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def is_idle(self) -> bool:
        """Whether nobody is here; a server that is behind with connections that went is not."""
        connection = self.connect()
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        here = re.findall(r"^starchat_num_requests_(?:running|waiting) (\S+)$", text, re.MULTILINE)
        return answer.status == 200 and [float(number) for number in here] == [0, 0]

    def resident_mib(self) -> float:
        """What is resident and not shared with other processes' files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024


@contextmanager
def server(*options: str) -> Iterator[Server]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "starchat", "serve", "--port", str(port), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True) as process:
        served = Server(process, port)
        try:
            wait_until(lambda: is_healthy(served), 60)
            yield served
            assert process.poll() is None, "the server ended"
        finally:
            process.terminate()


def is_healthy(served: Server) -> bool:
    with suppress(OSError):
        connection = served.connect(5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def wait_until(is_so: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "still not so"
        time.sleep(0.05)


class Waits(threading.Thread):
    """How long threads of two processes have waited for a processor, looked at now and then.

    On a busy machine, a gap is the others' as far as they took the processor from us.
    """

    def __init__(self, served: Server) -> None:
        super().__init__(daemon=True)
        self._tasks = [Path(f"/proc/{pid}/task") for pid in (served.process.pid, os.getpid())]
        self._seen: list[tuple[float, float]] = []

    def run(self) -> None:
        while True:
            waited = 0.0
            for tasks in self._tasks:
                for task in tasks.glob("*/schedstat"):
                    with suppress(OSError):  # it ended
                        waited += int(task.read_text().split()[1]) / 1e9
            self._seen.append((time.monotonic(), waited))
            time.sleep(0.05)

    def during(self, begin: float, end: float) -> float:
        """Return the sum over all threads; what ended meanwhile may make it too small."""
        before = [waited for at, waited in self._seen if at <= begin]
        after = [waited for at, waited in self._seen if at >= end]
        return max(0.0, after[0] - before[-1]) if before and after else 0.0


class Reader(threading.Thread):
    """Reads endless replies, one after the other; notes when each piece came."""

    def __init__(self, served: Server) -> None:
        super().__init__(daemon=True)
        self._served = served
        self.is_wanted = True
        self.gaps: list[tuple[float, float]] = []  # begin and end
        self.n_replies = 0
        self.problem: str | None = None

    def run(self) -> None:
        try:
            while self.is_wanted:
                self._read()
        except Exception as error:
            self.problem = repr(error)

    def _read(self) -> None:
        connection = self._served.begin(ENDLESS)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        times, text = [time.monotonic()], b""
        while piece := answer.read1(1 << 16):
            times.append(time.monotonic())
            text += piece
        connection.close()
        assert text.endswith(b"data: [DONE]\n\n"), text[-200:]
        assert b'"finish_reason":"length"' in text.replace(b" ", b"")
        self.gaps += pairwise(times)
        self.n_replies += 1


def constraint_body(seed: int) -> dict[str, Any]:
    """A random constraint, hard to compile or to follow."""
    constraint = random_constraint(seed)
    keyword, value = constraint.keyword, constraint.value
    form: dict[str, Any] = {keyword: value}
    if keyword == "json_schema":
        schema = {"name": "x", "strict": True, "schema": value}
        form = {"response_format": {"type": "json_schema", "json_schema": schema}}
    return QUESTION | form | {"max_tokens": 64, "seed": seed, "stream": seed % 2 == 0}


DEEP = "[" * 100_000 + "]" * 100_000
BODIES: list[Any] = [
    DEEP,
    '{"messages": ' + DEEP + "}",
    "{" * 1_000_000,
    b"\xff\xfe" * 1000,
    '{"messages": [{"role": "user", "content": "\\ud800"}]}',
    '{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    '{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
    json.dumps(QUESTION | {"max_tokens": 10**30}),
    json.dumps(QUESTION | {"n": 10**6}),
    json.dumps(QUESTION | {"logit_bias": {str(i): 1 for i in range(100_000)}}),
    json.dumps(QUESTION | {"stop": ["x" * 100_000] * 16}),
    json.dumps({"messages": [{"role": "user", "content": "word " * 1_500_000}]}),
    json.dumps({"messages": [{"role": "user", "content": "x"}] * 200_000}),
    json.dumps(QUESTION | {"tools": [{"type": "function", "function": {"name": "f"}}] * 100_000}),
    json.dumps(QUESTION | {"regex": "(" * 30_000}),
    json.dumps(QUESTION | {"regex": "((a{0,999}){0,999}){0,999}"}),
    json.dumps(QUESTION | {"grammar": "start: " + "a " * 30_000}),
    json.dumps(QUESTION | {"choice": ["x" * 100] * 10_000}),
    json.dumps(QUESTION | {"response_format": {"type": "json_schema", "json_schema": {}}}),
    json.dumps({"messages": "x" * 8_000_000}),
    "x" * 9_000_000,
]


def test_hostile_requests_hold_up_no_stream_and_end_nothing() -> None:
    # Written before, as that would hold up the readers in this process.
    texts = [body if isinstance(body, bytes) else body.encode() for body in BODIES]
    texts += [json.dumps(constraint_body(seed)).encode() for seed in range(N_SEEDS)]
    random.Random(0).shuffle(texts)
    with server() as served:
        readers = [Reader(served) for _ in range(N_STREAMS)]
        waits = Waits(served)
        for thread in (waits, *readers):
            thread.start()
        statuses: dict[int, int] = {}
        problems: list[str] = []
        end = time.monotonic() + 120
        attacks = cycle(texts)

        def attack() -> None:
            for body in attacks:
                if time.monotonic() > end:
                    return
                try:
                    status, text = served.ask(body)
                except (ConnectionError, http.client.HTTPException):
                    status, text = 0, b"{}"  # closed before a body that is too large was sent
                statuses[status] = statuses.get(status, 0) + 1
                if status == 500 or status not in (0, 200, 400, 413, 503):
                    problems.append(f"{status} {text[:300]!r} for {body[:300]!r}")

        attackers = [threading.Thread(target=attack) for _ in range(3)]
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()
        for reader in readers:
            reader.is_wanted = False
        for reader in readers:
            reader.join()
        gaps = [gap for reader in readers for gap in reader.gaps]
        longest = sorted(gaps, key=lambda gap: gap[0] - gap[1])[:99]
        own = [end - begin - waits.during(begin, end) for begin, end in longest]
        longest_s = [round(end - begin, 3) for begin, end in longest[:5]]
        print(f"{statuses}, {len(gaps)} pieces, gaps: {longest_s}, our part at most {max(own):.3f}")
        assert not problems, problems[:5]
        assert [reader.problem for reader in readers] == [None] * N_STREAMS
        assert max(own) < LONGEST_GAP_S
        assert statuses[200] > 20 < statuses[400]
        wait_until(served.is_idle, 60)


def test_cancelled_requests_leave_no_memory() -> None:
    with server() as served:

        def cancel(n: int) -> None:
            kinds = [
                ENDLESS,
                QUESTION | {"max_tokens": 1_500, "ignore_eos": True},
                ENDLESS | {"messages": [{"role": "user", "content": "a = b + c\n" * 150}]},
                ENDLESS | {"regex": "[a-z]{1,900}"},
            ]
            for i in range(n):
                connection = served.begin(kinds[i % len(kinds)])
                time.sleep(0.001 * (i % 7))
                connection.close()

        def memory() -> float:
            wait_until(served.is_idle, 60)
            served.ask(QUESTION | {"max_tokens": 1})
            return served.resident_mib()

        cancel(2_000)  # what is kept, such as pages of the KV cache, grows to its bound
        before = memory()
        cancel(2_000)
        after = memory()
        print(f"{before:.1f} MiB before, {after:.1f} MiB after")
        assert after - before < 5
        n_files = len([*Path(f"/proc/{served.process.pid}/fd").iterdir()])
        assert n_files < 40
