"""What everything around the model costs: chunks per second of the embedded model, import times.

    python benchmarks/overhead.py [--rounds 15] [--threads N]

One reader, one reply at a time. Chunks hold more than one token where the reader is slower than
the engine, so tokens/s stand beside them, and the share of two cores' time that the process got.
"adapter" is what importing it takes when its framework's modules are there already. Frameworks
that are not installed are left out. Medians, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

from machine import begin, write_result

from starchat import StarChat

QUESTION = "How do I sort a list in Python?"
DIALOGUE = [{"role": "user", "content": QUESTION}]
LONG = {"max_tokens": 400, "ignore_eos": True, "speculation": False}
SETTINGS: dict[str, dict[str, Any]] = {"default": LONG, "greedy": LONG | {"temperature": 0}}
ADAPTERS = ("langchain_starchat", "llama_index.llms.starchat")

# In a fresh process: everything that importing `name` loads, but for our own packages, goes first.
OWN_IMPORT = """
import importlib, subprocess, sys, time
name, ours = sys.argv[1], ("starchat", "langchain_starchat", "llama_index.llms.starchat")
loaded = subprocess.run([sys.executable, "-c", f"import sys, {name}; print(*sys.modules)"],
                        capture_output=True, text=True, check=True).stdout.split()
for module in loaded:
    if not module.startswith(ours) and module not in sys.modules:
        try:
            importlib.import_module(module)
        except ImportError:
            pass
start = time.perf_counter()
importlib.import_module(name)
print(time.perf_counter() - start)
"""
WHOLE_IMPORT = """
import importlib, sys, time
start = time.perf_counter()
importlib.import_module(sys.argv[1])
print(time.perf_counter() - start)
"""


def import_ms(code: str, name: str, rounds: int) -> list[float]:
    """Time imports in fresh processes, after one that warms the disk's cache; [] if it fails."""
    times = []
    for _ in range(rounds + 1):
        result = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
        if result.returncode:
            return []
        times.append(float(result.stdout) * 1e3)
    return times[1:]


def _count(stream: Iterable[Any]) -> int:
    return sum(1 for _ in stream)


async def _acount(stream: AsyncIterable[Any]) -> int:
    n = 0
    async for _ in stream:
        n += 1
    return n


def ways(n_threads: int | None, options: dict[str, Any]) -> dict[str, Callable[[], int]]:
    """Return how to read one reply, in every way that there is; each returns its chunks."""
    model = StarChat.load(n_threads=n_threads)
    found: dict[str, Callable[[], int]] = {
        "stream_chat": lambda: _count(model.stream_chat(DIALOGUE, **options)),
        "astream_chat": lambda: asyncio.run(_acount(model.astream_chat(DIALOGUE, **options))),
    }
    try:
        from langchain_starchat import ChatStarChat

        llm = ChatStarChat(n_threads=n_threads, **options)
        found["langchain stream"] = lambda: _count(llm.stream(QUESTION))
        found["langchain astream"] = lambda: asyncio.run(_acount(llm.astream(QUESTION)))
    except ImportError as error:
        print(f"langchain: left out: {error}")
    try:
        from llama_index.core.llms import ChatMessage
        from llama_index.llms.starchat import StarChat as LlamaIndexStarChat

        other = LlamaIndexStarChat(n_threads=n_threads, **options)
        messages = [ChatMessage(QUESTION)]

        async def astream() -> int:
            return await _acount(await other.astream_chat(messages))

        found["llama_index stream"] = lambda: _count(other.stream_chat(messages))
        found["llama_index astream"] = lambda: asyncio.run(astream())
    except ImportError as error:
        print(f"llama_index: left out: {error}")
    return found


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    arguments, result = begin("overhead", parser, n_rounds=15)
    imports: dict[str, dict[str, list[float]]] = {}
    replies: dict[str, dict[str, list[float]]] = {}
    n_imports = max(3, arguments.rounds // 3)
    times = import_ms(WHOLE_IMPORT, "starchat", n_imports)
    imports["starchat"] = {"ms": times}
    print(f"import starchat: {_spread(times)} ms")
    for name in ADAPTERS:
        if whole := import_ms(WHOLE_IMPORT, name, n_imports):
            own = import_ms(OWN_IMPORT, name, n_imports)
            imports[name] = {"ms": whole, "of it starchat and adapter": own}
            print(f"import {name}: {_spread(whole)} ms, of it starchat and adapter {_spread(own)}")
    with StarChat.load(n_threads=arguments.threads) as model:
        print(f"{model.info.isa}, {model.info.n_threads} threads")
        print(f"{'':30}{'chunks/s':>26}{'tokens/s':>26}{'cores used':>12}")
        for setting, options in SETTINGS.items():
            for name, read in ways(arguments.threads, options).items():
                read()
                chunks, tokens, cores = [], [], []
                for _ in range(arguments.rounds):
                    start, cpu = time.perf_counter(), time.process_time()
                    n = read()
                    seconds = time.perf_counter() - start
                    chunks.append(n / seconds)
                    tokens.append(options["max_tokens"] / seconds)
                    cores.append((time.process_time() - cpu) / seconds)
                samples = {"chunks/s": chunks, "tokens/s": tokens, "cores used": cores}
                replies[f"{name}, {setting}"] = samples
                row = f"{_spread(chunks):>26}{_spread(tokens):>26}{statistics.median(cores):12.1f}"
                print(f"{name + ', ' + setting:30}" + row, flush=True)
    result["tables"] = [
        {"caption": "Imports in a fresh process, milliseconds:", "rows": imports},
        {"caption": "One reply of the embedded model, one reader:", "rows": replies},
    ]
    write_result(result, arguments.json)


if __name__ == "__main__":
    main()
