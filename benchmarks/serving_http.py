"""What HTTP costs, and other servers beside ours: first chunks, chunks per second, many clients.

    python benchmarks/serving_http.py [--model FILE.bin --gguf FILE.gguf] [--llama-server PROGRAM]
        [--rounds 5] [--concurrency 8] [--tokens 64]

Without a model, only the embedded one is measured: one connection beside the same calls in a
process of their own, then 64 clients. With a model of random_model.py (the same weights in both
files), also `starchat serve` beside llama-cpp-python's server, and beside llama.cpp's own where its
program is given: so many clients at once, each with a prompt of its own. Servers take turns within
a round, and those whose turn it is not do nothing. The client is one thread that reads sockets and
counts events; tokens/s count from the requests to the last event. Medians over the rounds, with the
lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import selectors
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from environment import PeersUnavailable, default_directory, peers_python
from machine import begin, write_result
from spread import Spread

from starchat import StarChat

Rows = dict[str, dict[str, list[float]]]  # row → column → a sample of each round

QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
SAMPLING = {"temperature": 1.0, "top_k": 40, "top_p": 0.95}
MANY = 64  # clients at once
START_S = 300.0
_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')
_END = b"\r\n0\r\n\r\n"
_EVENT = b"\ndata: {"
_WORDS = ["list", "sort", "read", "file", "open", "write", "print", "value", "key", "loop"]


# ---- a client -------------------------------------------------------------------------------


@dataclass
class Answer:
    """One streamed answer: when its events came, and how many tokens it says it has."""

    times: list[float] = field(default_factory=list)
    n_tokens: int = 0


class Connection:
    """One connection that is kept, and the answer that comes over it."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = port

    def ask(self, path: str, body: dict[str, Any]) -> None:
        """Send a request."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: "
        head += f"application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.answer, self._tail, self._has_head = Answer(), b"", False
        self.socket.sendall(head.encode() + data)

    def read(self) -> bool:
        """Take what came; return whether the answer is whole."""
        piece = self.socket.recv(1 << 16)
        now = time.perf_counter()
        data = self._tail + piece
        if not self._has_head and b"\r\n\r\n" in data:
            if not data.startswith(b"HTTP/1.1 200"):
                sys.exit(f"error: {data[:2000].decode(errors='replace')}")
            self._has_head = True
        self.answer.times += [now] * (data.count(_EVENT) - self._tail.count(_EVENT))
        if found := _TOKENS.findall(data):
            self.answer.n_tokens = int(found[-1])
        self._tail = data[-(len(_EVENT) + 24) :] if self._has_head else data
        return data.endswith(_END) or not piece

    def whole(self, path: str, body: dict[str, Any]) -> Answer:
        """Send a request and return its answer."""
        self.ask(path, body)
        while not self.read():
            pass
        return self.answer


def at_once(port: int, path: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """Send all requests, and return their answers; one thread reads them all."""
    connections = [Connection(port) for _ in bodies]
    with selectors.DefaultSelector() as selector:
        for connection, body in zip(connections, bodies, strict=True):
            connection.ask(path, body)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.read():
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
    return [connection.answer for connection in connections]


# ---- servers --------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def served(command: list[str], port: int) -> Iterator[int]:
    """Run a server until the block ends; it answers when the block begins."""
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"error: no server: {' '.join(command)}")
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def starchat_server(model: str | None, n_threads: int) -> tuple[list[str], int]:
    """Return the command of our server, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "starchat", "serve", "--port", str(port)]
    command += ["--threads", str(n_threads), *(["--model", model] if model else [])]
    return command, port


def llama_cpp_python_server(python: Path, gguf: str, n_threads: int) -> tuple[list[str], int]:
    """Return the command of llama-cpp-python's server, which answers one request at a time."""
    port = free_port()
    command = [str(python), "-m", "llama_cpp.server", "--model", gguf, "--port", str(port)]
    command += ["--n_threads", str(n_threads), "--n_threads_batch", str(n_threads)]
    return [*command, "--n_ctx", "512", "--interrupt_requests", "False"], port


def llama_server(program: str, gguf: str, n_threads: int, n_slots: int) -> tuple[list[str], int]:
    """Return the command of llama.cpp's server, with a place for each client."""
    port = free_port()
    command = [program, "-m", gguf, "--port", str(port), "-t", str(n_threads)]
    return [*command, "-np", str(n_slots), "-c", str(512 * n_slots), "--no-webui"], port


# ---- figures --------------------------------------------------------------------------------


def _spread(row: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {Spread.of(samples)}" for name, samples in row.items())


def _add(rows: Rows, name: str, figures: dict[str, float]) -> None:
    row = rows.setdefault(name, {})
    for column, value in figures.items():
        row.setdefault(column, []).append(value)


def one_reader(port: int, n_first: int) -> dict[str, float]:
    """Return what one connection sees of the embedded model."""
    connection = Connection(port)
    short = {"messages": QUESTION, "max_tokens": 1, "stream": True, **SAMPLING}
    firsts = []
    for _ in range(n_first):
        start = time.perf_counter()
        times = connection.whole("/v1/chat/completions", short).times
        firsts.append(times[min(1, len(times) - 1)] - start)  # behind the role's
    long = short | {"max_tokens": 400, "ignore_eos": True, "seed": 1}
    long["stream_options"] = {"include_usage": True}
    start = time.perf_counter()
    answer = connection.whole("/v1/chat/completions", long)
    seconds = time.perf_counter() - start
    n_chunks = len(answer.times) - 3  # the role, the end, the usage
    return {
        "first ms": statistics.median(firsts) * 1e3,
        "chunks/s": n_chunks / seconds,
        "tokens/s": answer.n_tokens / seconds,
    }


def one_caller(model: StarChat, n_first: int) -> dict[str, float]:
    """Return the same of the Python API."""
    firsts = []
    for _ in range(n_first):
        start = time.perf_counter()
        with model.stream_chat(QUESTION, max_tokens=1, **SAMPLING) as stream:
            next(stream)
        firsts.append(time.perf_counter() - start)
    start = time.perf_counter()
    stream = model.stream_chat(QUESTION, max_tokens=400, ignore_eos=True, seed=1, **SAMPLING)
    n_chunks = sum(1 for _ in stream)
    seconds = time.perf_counter() - start
    return {
        "first ms": statistics.median(firsts) * 1e3,
        "chunks/s": n_chunks / seconds,
        "tokens/s": 400 / seconds,
    }


def _bodies(n: int, n_tokens: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    words = [" ".join(draw.choices(_WORDS, k=24)) for _ in range(n)]
    body = {"max_tokens": n_tokens, "stream": True, "model": "any", **SAMPLING}
    return [{**body, "prompt": f"{draw.random():.4f} {text}", "seed": seed} for text in words]


def many_readers(port: int, n: int, n_tokens: int, seed: int, own: bool) -> dict[str, float]:
    """Return what n clients see who ask at once; `own`: of our server, which tells tokens."""
    bodies = _bodies(n, n_tokens, seed)
    if own:
        bodies = [
            {**body, "ignore_eos": True, "stream_options": {"include_usage": True}}
            for body in bodies
        ]
    start = time.perf_counter()
    answers = at_once(port, "/v1/completions", bodies)
    seconds = max(answer.times[-1] for answer in answers) - start
    n_all = sum(answer.n_tokens or len(answer.times) for answer in answers)
    gaps = sorted((b - a) * 1e3 for each in answers for a, b in pairwise(each.times))
    return {
        "tokens/s": n_all / seconds,
        "first ms": statistics.median(each.times[0] - start for each in answers) * 1e3,
        "p50 ms": gaps[len(gaps) // 2],
        "p95 ms": gaps[len(gaps) * 95 // 100],
    }


#: In a process of its own, so that nothing but the engine is in it: the same requests by threads.
_ENGINE = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from starchat import StarChat
path, n_threads, bodies = json.loads(sys.stdin.readline())
model = StarChat.load(path, n_threads=n_threads)
def ask(body):
    prompt, keys = body["prompt"], ("max_tokens", "temperature", "top_k", "top_p", "seed")
    options = {key: body[key] for key in keys}
    return model.complete(prompt, ignore_eos=True, **options).usage.completion_tokens
for _ in range(2):
    start = time.perf_counter()
    with ThreadPoolExecutor(len(bodies)) as pool:
        n = sum(pool.map(ask, bodies))
    print(json.dumps(n / (time.perf_counter() - start)), flush=True)
    bodies = [dict(body, prompt=body["prompt"][::-1]) for body in bodies]
"""


def engine_alone(path: str | None, n_threads: int, n: int, n_tokens: int, seed: int) -> float:
    """Return the tokens/s of the same requests without HTTP, the second time."""
    task = json.dumps([path, n_threads, _bodies(n, n_tokens, seed)]) + "\n"
    command = [sys.executable, "-c", _ENGINE]
    result = subprocess.run(command, input=task, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


# ---- tables ---------------------------------------------------------------------------------


def embedded(n_rounds: int, n_threads: int) -> list[dict[str, Any]]:
    """Return the tables of the embedded model."""
    alone: Rows = {}
    many: Rows = {}
    n_first = 100
    for round in range(n_rounds):
        with StarChat.load(n_threads=n_threads) as model:
            one_caller(model, 5)
            api = one_caller(model, n_first)
        with served(*starchat_server(None, n_threads)) as port:
            one_reader(port, 5)
            http = one_reader(port, n_first)
            many_readers(port, MANY, 100, 0, own=True)
            served_many = many_readers(port, MANY, 100, round + 1, own=True)
        _add(alone, "StarChat.stream_chat", api)
        _add(alone, "starchat serve", http)
        _add(alone, "difference", {"first ms": http["first ms"] - api["first ms"]})
        engine = engine_alone(None, n_threads, MANY, 100, round + 1)
        _add(many, "the engine by threads", {"tokens/s": engine})
        share = {"share of the engine's": served_many["tokens/s"] / engine}
        _add(many, "starchat serve", served_many | share)
    tables = [
        {"caption": "One connection, the embedded model:", "rows": alone},
        {"caption": f"{MANY} clients at once, the embedded model:", "rows": many},
    ]
    show(tables)
    return tables


def beside_others(
    arguments: argparse.Namespace, n_threads: int, python: Path | None
) -> list[dict[str, Any]]:
    """Return the tables of servers beside each other, and of many clients."""
    n, n_tokens = arguments.concurrency, arguments.tokens
    commands = {"starchat serve": starchat_server(str(arguments.model), n_threads)}
    gguf = str(arguments.gguf)
    if python:
        commands["llama-cpp-python"] = llama_cpp_python_server(python, gguf, n_threads)
    if arguments.llama_server:
        commands["llama-server"] = llama_server(arguments.llama_server, gguf, n_threads, n)
    rows: Rows = {}
    many: Rows = {}
    with ExitStack() as stack:
        ports = {name: stack.enter_context(served(*command)) for name, command in commands.items()}
        for name, port in ports.items():
            many_readers(port, n, 8, 0, own=name == "starchat serve")
        for round in range(1, arguments.rounds + 1):
            found = {
                name: many_readers(port, n, n_tokens, round, own=name == "starchat serve")
                for name, port in ports.items()
            }
            for name, figures in found.items():
                ratio = found["starchat serve"]["tokens/s"] / figures["tokens/s"]
                _add(rows, name, figures | ({"ours / it": ratio} if len(found) > 1 else {}))
            http = many_readers(ports["starchat serve"], MANY, n_tokens, 1_000 + round, own=True)
            engine = engine_alone(str(arguments.model), n_threads, MANY, n_tokens, 1_000 + round)
            _add(many, "the engine by threads", {"tokens/s": engine})
            share = {"share of the engine's": http["tokens/s"] / engine}
            _add(many, "starchat serve", http | share)
    name = Path(arguments.model).name
    tables = [
        {"caption": f"{n} clients at once, {name}, {n_tokens} tokens each:", "rows": rows},
        {"caption": f"{MANY} clients at once, {name}, {n_tokens} tokens each:", "rows": many},
    ]
    show(tables)
    return tables


def show(tables: list[dict[str, Any]]) -> None:
    """Print tables."""
    for table in tables:
        print(table["caption"])
        for name, row in table["rows"].items():
            print(f"  {name:24}{_spread(row)}", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model file, for starchat")
    parser.add_argument("--gguf", type=Path, help="the same weights, for the others")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="has llama-cpp-python[server]")
    parser.add_argument("--llama-server", metavar="PROGRAM")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    arguments, result = begin("serving_http", parser, n_rounds=5)
    n_threads = arguments.threads or len(os.sched_getaffinity(0))
    result["tables"] = embedded(arguments.rounds, n_threads)
    if arguments.model:
        python: Path | None = None
        if arguments.gguf:
            try:
                python = arguments.peers or peers_python(default_directory("native"), "native")
            except PeersUnavailable as error:
                print(f"llama-cpp-python is left out: {error}", file=sys.stderr)
        result["tables"] += beside_others(arguments, n_threads, python)
    write_result(result, arguments.json)


if __name__ == "__main__":
    main()
