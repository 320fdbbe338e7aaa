"""A real `starchat serve` under clients that go, by the thousand, and under hostile ones."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.random_constraints import random_constraint

pytestmark = pytest.mark.nightly

MINUTES = float(os.environ.get("MINUTES") or 30)
FIRST_SEED = int(os.environ.get("FIRST_SEED") or 1)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
LONG = {"messages": QUESTION, "max_tokens": 1_500, "ignore_eos": True}
#: What clients ask before they go, and after how many seconds they do.
KINDS: dict[str, tuple[str, dict[str, Any], float]] = {
    "stream": (CHAT, LONG | {"stream": True}, 0.02),
    "plain": (CHAT, LONG, 0.02),
    "at once": (CHAT, LONG, 0.0),
    "prompt": (COMPLETIONS, {"prompt": "a = b + c\n" * 200, "max_tokens": 9}, 0.004),
    "n": (COMPLETIONS, {"prompt": "def", "max_tokens": 500, "n": 8, "stream": True}, 0.01),
    "tools": (CHAT, LONG | {"tools": [{"type": "function", "function": {"name": "now"}}]}, 0.01),
}


def constrained(keyword: str, value: Any) -> dict[str, Any]:
    """Return the fields of a request for a constraint."""
    if keyword != "json_schema":
        return {keyword: value}
    schema = {"name": "x", "schema": value}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def slow_grammar(step: int = 999_983) -> dict[str, Any]:
    """Return a schema that takes seconds to be refused."""
    return {"type": "integer", "multipleOf": step}


class Server:
    """The command in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "starchat", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        first = self.process.stderr.readline()
        self.port = int(first.split(" ")[0].rpartition(":")[2])
        threading.Thread(target=self._read, daemon=True).start()
        while self.get("/health")[0] != 200:
            time.sleep(0.01)

    def _read(self) -> None:
        assert self.process.stderr
        for _ in self.process.stderr:
            pass

    def begin(self, path: str, body: Any, timeout_s: float = 60) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        text = body if isinstance(body, bytes) else json.dumps(body)
        connection.request("POST", path, text, {"Content-Type": "application/json"})
        return connection

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def metrics(self) -> dict[str, float]:
        status, text = self.get("/metrics")
        while status == 503:  # more connections than the server takes, until it has closed some
            time.sleep(0.05)
            status, text = self.get("/metrics")
        families = text_string_to_metric_families(text)
        return {s.name: s.value for family in families for s in family.samples if not s.labels}

    @property
    def n_here(self) -> float:
        now = self.metrics()
        return now["starchat_num_requests_running"] + now["starchat_num_requests_waiting"]

    def wait_until_idle(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while self.n_here:
            assert time.monotonic() < end
            time.sleep(0.01)

    def n_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def resident_mb(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(*getattr(request, "param", ()))
    yield server
    server.process.kill()
    server.process.wait()


def go(server: Server, kind: str, chance: random.Random) -> None:
    path, body, seconds = KINDS[kind]
    connection = server.begin(path, body)
    time.sleep(seconds * 2 * chance.random())
    connection.close()


def many_go(server: Server, n: int, n_threads: int = 8) -> None:
    def some(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(n // n_threads):
            go(server, chance.choice([*KINDS]), chance)

    threads = [threading.Thread(target=some, args=(seed,)) for seed in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.wait_until_idle(5.0)


def test_2000_clients_that_go_leave_no_memory_no_file_and_no_work(server: Server) -> None:
    many_go(server, 3_000)  # caches and the allocator's arenas reach their size
    time.sleep(1.0)
    before, files = server.resident_mb(), server.n_files()
    many_go(server, 2_000)
    time.sleep(1.0)
    after = server.resident_mb()
    print(f"resident {before:.1f} MB, then {after:.1f} MB; {files} and {server.n_files()} files")
    assert abs(after - before) <= 5.0
    assert server.n_files() <= files
    assert server.metrics()["starchat_cancelled_total"] > 1_000, "they went before their answers"
    assert server.end() == 0


@pytest.mark.parametrize("kind", [*KINDS, "compiling"])
def test_the_work_of_a_client_that_goes_is_gone_within_a_second(server: Server, kind: str) -> None:
    compiling = (CHAT, LONG | constrained("json_schema", slow_grammar()), 0.05)
    path, body, seconds = KINDS.get(kind, compiling)
    for _ in range(5):
        connection = server.begin(path, body)
        time.sleep(seconds)
        connection.close()
        server.wait_until_idle(1.0)


@pytest.mark.parametrize("server", [("--max-running", "4", "--max-queue", "4")], indirect=True)
def test_health_is_quick_while_the_server_is_full(server: Server) -> None:
    busy = [server.begin(CHAT, LONG | {"n": 2}) for _ in range(8)]
    seconds, statuses = [], Counter[int]()
    for _ in range(300):
        began = time.monotonic()
        assert server.get("/health")[0] == 200
        seconds.append(time.monotonic() - began)
        if len(seconds) % 10 == 0:
            statuses[server.begin(CHAT, LONG).getresponse().status] += 1
    for connection in busy:
        connection.close()
    p99 = statistics.quantiles(seconds, n=100)[98]
    print(f"p99 of /health {p99 * 1e3:.1f} ms; other answers {dict(statuses)}")
    assert p99 < 0.05
    assert statuses[503] > 0


def written(seed: int, n: int = 40) -> list[bytes]:
    """Return bodies as they are sent: writing some takes seconds, in which this process stands."""
    bodies = [body for _, body in islice(hostile_bodies(seed), n)]
    texts = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
    return [text for text in texts if len(text) < 20_000_000]


def hostile_bodies(seed: int) -> Iterator[tuple[str, Any]]:
    """Yield requests that cost as much as they can, or are none."""
    chance = random.Random(seed)
    base = {"messages": QUESTION, "max_tokens": 30}
    while True:
        constraint = random_constraint(chance.randrange(1 << 30))
        yield CHAT, base | constrained(constraint.keyword, constraint.value)
        yield (
            CHAT,
            chance.choice(
                [
                    base | {"regex": "(a{1,999}){1,999}"},
                    base | {"regex": "(" * 20_000},
                    base | constrained("json_schema", slow_grammar(chance.randrange(1, 10**6))),
                    base | {"stop": ["x" * 10_000] * 100},
                    base | {"logit_bias": {str(n): 1 for n in range(100_000)}},
                    base | {"n": 10**9},
                    base | {"messages": [{"role": "user", "content": "x" * 7_000_000}]},
                    base | {"messages": [[]] * 250_000},
                    base | {"tools": [{"type": "function", "function": {"name": "f"}}] * 10_000},
                    b"[" * 1_000_000,
                    b'{"a":' * 200_000,
                    b"\xff" * 1_000_000,
                    b'{"messages": "' + b"\\ud800" * 300_000 + b'"}',
                ]
            ),
        )


@pytest.mark.timeout(60 * MINUTES + 600)
def test_hostile_requests_hold_up_no_stream(server: Server) -> None:
    attacks = [written(FIRST_SEED + n) for n in range(3)]
    end = time.monotonic() + 60 * min(MINUTES, 10)
    gaps: list[float] = []
    statuses = Counter[int]()
    failures: list[str] = []

    def stream() -> None:
        body = LONG | {"stream": True, "temperature": 1.0}
        while time.monotonic() < end:
            answer = server.begin(CHAT, body).getresponse()
            if answer.status != 200:
                failures.append(f"a stream got {answer.status}")
                return
            last, whole = time.monotonic(), b""
            while piece := answer.read1(1 << 16):
                now = time.monotonic()
                gaps.append(now - last)
                last, whole = now, piece
            if not whole.endswith(b"data: [DONE]\n\n"):
                failures.append("a stream was cut")

    def attack(bodies: list[bytes]) -> None:
        for body in cycle(bodies):
            if time.monotonic() > end:
                return
            with suppress(http.client.RemoteDisconnected, ConnectionError):
                answer = server.begin(CHAT, body).getresponse()
                answer.read()
                statuses[answer.status] += 1

    threads = [threading.Thread(target=stream) for _ in range(4)]
    threads += [threading.Thread(target=attack, args=(bodies,)) for bodies in attacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    longest = sorted(gaps)[-5:]
    print(f"FIRST_SEED={FIRST_SEED} answers {dict(statuses)}; longest gaps {longest}")
    assert not failures
    assert {*statuses} <= {200, 400, 413, 503}, statuses
    assert longest[-1] <= 0.5
    server.wait_until_idle(60.0)
    assert server.end() == 0
