"""Many requests at once, through every interface: tokens per second, waiting times, stalls.

    python benchmarks/serving.py FILE.bin [--interfaces threads …] [--concurrency 1 2 4 8 16]

FILE.bin comes from random_model.py, or is any other whose steps take longer than to read a chunk.
Interfaces whose framework is not installed are left out. Every request has its own short prompt, so
that no prefix is shared, and nothing is guessed; tokens/s count from the calls to the last token,
decoding/s between the tokens. In the last lines, a long prompt arrives while four other requests
stream. Medians over the rounds, with the lowest and the highest. If fewer cores were used than
threads, other programs used them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import threading
import time
from collections.abc import AsyncIterable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from machine import begin, write_result

from starchat import StarChat, Stream

Times = list[float]  # when the tokens of one request came
Run = Callable[[list[str]], list[Times]]
Rows = dict[str, dict[str, list[float]]]  # row → column → a sample of each round

_WORDS = ["list", "sort", "read", "file", "open", "write", "print", "value", "key", "loop"]


class Setting(NamedTuple):
    """What every interface needs."""

    path: str
    n_threads: int | None
    options: dict[str, Any]


# ---- interfaces: each returns a function that runs some prompts at once -----------------------


def _note(stream: Iterable[Any], times: Times) -> None:
    for _ in stream:
        times.append(time.perf_counter())


async def _noted(stream: AsyncIterable[Any]) -> Times:
    return [time.perf_counter() async for _ in stream]


def _threads(to: Setting) -> Run:
    model = StarChat.load(to.path, n_threads=to.n_threads)

    def one(text: str) -> Times:
        times: Times = []
        _note(model.stream_complete(text, **to.options), times)
        return times

    def run(texts: list[str]) -> list[Times]:
        with ThreadPoolExecutor(len(texts)) as pool:
            return [*pool.map(one, texts)]

    return run


def _asyncio(to: Setting) -> Run:
    model = StarChat.load(to.path, n_threads=to.n_threads)

    async def gather(texts: list[str]) -> list[Times]:
        streams = [model.astream_complete(text, **to.options) for text in texts]
        return await asyncio.gather(*map(_noted, streams))

    return lambda texts: asyncio.run(gather(texts))


def _langchain(to: Setting, is_async: bool) -> Run:
    from langchain_core.callbacks import BaseCallbackHandler

    from langchain_starchat import ChatStarChat

    class Watch(BaseCallbackHandler):
        run_inline = True

        def __init__(self) -> None:
            self.times: Times = []

        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            self.times.append(time.perf_counter())

    llm = ChatStarChat(model_path=to.path, n_threads=to.n_threads, streaming=True, **to.options)

    def run(texts: list[str]) -> list[Times]:
        watches = [Watch() for _ in texts]
        configs: list[Any] = [{"callbacks": [watch]} for watch in watches]
        if is_async:
            asyncio.run(llm.abatch([*texts], configs))
        else:
            llm.batch([*texts], configs)
        return [watch.times[:-1] for watch in watches]  # the last piece is the end alone

    return run


def _llama_index(to: Setting) -> Run:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.starchat import StarChat as LlamaIndexStarChat

    llm = LlamaIndexStarChat(model_path=to.path, n_threads=to.n_threads, **to.options)

    async def gather(texts: list[str]) -> list[Times]:
        async def one(text: str) -> Times:
            return await _noted(await llm.astream_chat([ChatMessage(text)]))

        return await asyncio.gather(*map(one, texts))

    return lambda texts: asyncio.run(gather(texts))


INTERFACES: dict[str, Callable[[Setting], Run]] = {
    "threads": _threads,
    "asyncio": _asyncio,
    "langchain.batch": lambda to: _langchain(to, is_async=False),
    "langchain.abatch": lambda to: _langchain(to, is_async=True),
    "llama_index": _llama_index,
}


# ---- figures --------------------------------------------------------------------------------


def _gaps_ms(rows: list[Times], begin: float = 0, end: float = float("inf")) -> list[float]:
    """Return the times between tokens, sorted; of those that begin between two moments."""
    pairs = [pair for row in rows for pair in pairwise(row)]
    return sorted((b - a) * 1e3 for a, b in pairs if begin <= a < end)


def serve(run: Run, n: int, n_tokens: int) -> dict[str, float]:
    """Run n requests of n_tokens at once and return what can be seen from outside."""
    draw = random.Random(n)
    texts = [f"{draw.random():.4f} {draw.choice(_WORDS)}" for _ in range(n)]
    start, cpu = time.perf_counter(), time.process_time()
    rows = run(texts)
    cores = (time.process_time() - cpu) / (time.perf_counter() - start)
    gaps = _gaps_ms(rows)
    return {
        "tokens/s": n * n_tokens / (max(row[-1] for row in rows) - start),
        "decoding/s": n * 1e3 / statistics.mean(gaps),
        "first ms": statistics.median(row[0] - start for row in rows) * 1e3,
        "p50 ms": gaps[len(gaps) // 2],
        "p95 ms": gaps[len(gaps) * 95 // 100],
        "cores used": cores,
    }


def stall(to: Setting, n_tokens: int, seed: int) -> dict[str, float]:
    """Let a prompt of n_tokens arrive at four running streams; the steps that these see."""
    model = StarChat.load(to.path, n_threads=to.n_threads)
    rows: list[Times] = [[] for _ in range(4)]
    draw = random.Random(f"stall {seed}")

    def wait_for(n: int) -> float:
        while min(map(len, rows)) < n:
            time.sleep(0.005)
        return time.perf_counter()

    def read(stream: Stream, row: Times) -> None:
        with stream:
            _note(stream, row)

    options = to.options | {"max_tokens": model.info.n_ctx // 2}
    streams = [model.stream_complete(f"{draw.random():.4f}", **options) for _ in rows]
    threads = [threading.Thread(target=read, args=pair) for pair in zip(streams, rows, strict=True)]
    for thread in threads:
        thread.start()
    quiet = wait_for(4)
    arrival = wait_for(24)
    prompt = [draw.randrange(1, 256) for _ in range(min(n_tokens, model.info.n_ctx - 2))]
    model.complete(prompt, **to.options | {"max_tokens": 1})
    answered = time.perf_counter()
    for stream in streams:
        stream.close()
    for thread in threads:
        thread.join()
    normal, during = _gaps_ms(rows, quiet, arrival), _gaps_ms(rows, arrival, answered)
    step = normal[len(normal) // 2]
    return {
        "step ms": step,
        "p50 ms": during[len(during) // 2],
        "p95 ms": during[len(during) * 95 // 100],
        "longest ms": during[-1],
        "longest/step": during[-1] / step,
        "prefill/s": len(prompt) / (answered - arrival),
    }


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _print_row(name: str, rounds: list[dict[str, float]], rows: Rows) -> None:
    rows[name] = {key: [figures[key] for figures in rounds] for key in rounds[0]}
    cells = [_spread([figures[key] for figures in rounds]) for key in rounds[0]]
    print(f"{name:20}" + "".join(f"{cell:>25}" for cell in cells), flush=True)


def main() -> None:
    """Measure every interface that is installed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--interfaces", nargs="*", choices=INTERFACES, default=[*INTERFACES])
    parser.add_argument("--concurrency", nargs="*", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--long", type=int, default=2000, help="tokens of the prompt that arrives")
    arguments, result = begin("serving", parser, n_rounds=3)
    served: Rows = {}
    stalled: Rows = {}
    options = {"max_tokens": arguments.tokens, "ignore_eos": True, "speculation": False}
    to = Setting(arguments.path, arguments.threads, options)
    with StarChat.load(to.path, n_threads=to.n_threads) as model:  # so that it stays in memory
        print(model.info)
        is_first = True
        for interface in arguments.interfaces:
            try:
                run = INTERFACES[interface](to)
            except ImportError as error:
                print(f"{interface}: left out: {error}")
                continue
            rounds: dict[int, list[dict[str, float]]] = {n: [] for n in arguments.concurrency}
            run(["warm"])
            for _ in range(arguments.rounds):
                for n, figures in rounds.items():
                    figures.append(serve(run, n, arguments.tokens))
            if is_first and rounds:
                heads = [*rounds[arguments.concurrency[0]][0], "times one"]
                print(" " * 20 + "".join(f"{head:>25}" for head in heads))
                is_first = False
            for n, figures in rounds.items():
                one = next(iter(rounds.values()))
                for row, single in zip(figures, one, strict=True):
                    row["times one"] = row["decoding/s"] / single["decoding/s"]
                _print_row(f"{interface} {n}", figures, served)
        if arguments.long:
            stalls = [stall(to, arguments.long, seed) for seed in range(arguments.rounds)]
            print(" " * 20 + "".join(f"{head:>25}" for head in stalls[0]))
            _print_row(f"{arguments.long} tokens arrive", stalls, stalled)
        about = f"{Path(model.info.file).name}, {model.info.isa}, {model.info.n_threads} threads"
    result["tables"] = [{"caption": f"Requests at once, by interface ({about}):", "rows": served}]
    if stalled:
        caption = f"A long prompt arrives at four running streams ({about}):"
        result["tables"].append({"caption": caption, "rows": stalled})
    write_result(result, arguments.json)


if __name__ == "__main__":
    main()
