"""Calls of a model in which a chosen allocation fails (failing_memory.c), one process for each.

As a program, it makes them: `LIBRARIES CALL COUNT FIRST END STEP` → a JSON list of outcomes.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CORE = "libstdc++ /_core.cpython"  # the C++ code: allocations of it and of pybind11
# llguidance's library, where Rust ends the process; a forked child has a copy of it.
RUST = "_lib.abi3 /proc/"
ALL = f"-{RUST}"  # every other library

QUESTION = [{"role": "user", "content": "How do I sort a list in Python?"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def build(folder: Path) -> Path | None:
    """Compile the library; None where there is no compiler or no glibc."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "failing_memory.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-o", str(library)]
    result = subprocess.run(
        [compiler, *options, str(HERE / "failing_memory.c"), "-ldl"], capture_output=True
    )
    return library if result.returncode == 0 else None


def outcomes(
    library: Path, watched: str, call: str, points: range, count: int = 1, timeout_s: float = 1800
) -> Counter[str]:
    """Make `call` once for each point, where `count` allocations from that one on fail.

    Counts what came of it: "unreached" where there was no such allocation, "fine" where nobody
    needed it, "MemoryError", or what went wrong.
    """
    numbers = [count, points.start, points.stop, points.step]
    command = [sys.executable, "-m", "support.failing_memory", watched, call, *map(str, numbers)]
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Counter(json.loads(done.stdout.splitlines()[-1]))


async def _astream(model: Any) -> str:
    stream = model.astream_chat(QUESTION, temperature=0, max_tokens=12)
    return "".join([chunk.text async for chunk in stream])


def _soon(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def calls() -> dict[str, Callable[[Any], object]]:
    import starchat

    return {
        "load": lambda model: starchat.StarChat.load(n_threads=2, n_ctx=128).complete(
            "a", max_tokens=1
        ),
        "ask": lambda model: model.chat(QUESTION, temperature=0, max_tokens=12),
        "stream": lambda model: [*model.stream_chat(QUESTION, max_tokens=12, logprobs=3)],
        "replies": lambda model: model.complete("def f(", n=3, max_tokens=5),
        "async": lambda model: _soon(_astream(model)),
        "achat": lambda model: _soon(model.achat(QUESTION, max_tokens=12)),
        "embed": lambda model: model.embed(["sort a list", "open a socket"]),
        "aembed": lambda model: _soon(model.aembed(["sort a list", "open a socket"])),
        "tokenize": lambda model: model.detokenize(model.tokenize("def f(x): return " * 50)),
        "logits": lambda model: model.logits([1, 2, 3]),
        "json": lambda model: model.chat(QUESTION, json_schema=SCHEMA, max_tokens=20),
    }


def adapters() -> dict[str, Callable[[Any], object]]:
    """Return calls of the adapters' models, which share the engine of the same file."""
    from llama_index.core.llms import ChatMessage
    from llama_index.embeddings.starchat import StarChatEmbedding
    from llama_index.llms.starchat import StarChat

    from langchain_starchat import ChatStarChat

    chain = ChatStarChat(n_threads=2, temperature=0, max_tokens=12)
    index = StarChat(n_threads=2, temperature=0, max_tokens=12)
    texts = StarChatEmbedding(n_threads=2)
    text, messages = "How do I sort a list in Python?", [ChatMessage(content="Hello")]
    return {
        "langchain invoke": lambda _: chain.invoke(text),
        "langchain stream": lambda _: [*chain.stream(text)],
        "langchain ainvoke": lambda _: _soon(chain.ainvoke(text)),
        "llama_index chat": lambda _: index.chat(messages),
        "llama_index stream": lambda _: [*index.stream_chat(messages)],
        "llama_index achat": lambda _: _soon(index.achat(messages)),
        "llama_index embed": lambda _: texts.get_text_embedding("sort a list"),
    }


def _outcome(library: Any, watched: str, name: str, point: int, count: int) -> str:
    """Load a model, make the call, and ask again without failures."""
    import starchat

    model = starchat.StarChat.load(n_threads=2)
    before = model.chat(QUESTION, temperature=0, max_tokens=4).text
    if name == "json":  # loads llguidance's library
        model.complete("a", regex="a", max_tokens=1)
    call = (adapters if " " in name else calls)()[name]
    library.watch(watched.encode())
    library.fail_from(point, count)
    try:
        call(model)
        result = "fine"
    except BaseException as error:
        library.fail_none()
        result = "MemoryError" if isinstance(error, MemoryError) else repr(error)[:200]
    n_failed = library.failures()
    library.fail_none()
    after = model.chat(QUESTION, temperature=0, max_tokens=4).text
    if after != before:
        return f"{result}, then the reply {after!r} instead of {before!r}"
    return result if n_failed or result != "fine" else "unreached"


def _ending(status: int, text: str) -> str:
    """Return what a child said; or how it died, named if the fault is another library's."""
    if "memory allocation of" in text:
        return "Rust aborts"
    if "register TLS destructor" in text or "memory for thread-local data" in text:
        return "glibc aborts"
    if "in _bootstrap_inner" in text and os.WIFSIGNALED(status):
        return "Python waits"
    if os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
        lines = re.sub(r"\s+", " ", text)[-300:]
        return f"died ({os.waitstatus_to_exitcode(status)}): {lines}"
    return text.rsplit("\n@", 1)[-1]


def _in_child(run: Callable[[], str]) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        signal.alarm(30)
        os.write(writing, b"\n@" + run().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        text = pipe.read()
    return _ending(os.waitpid(child, 0)[1], text)


def main(watched: str, name: str, *numbers: str) -> None:
    import numpy  # noqa: F401  (what a child would import may not be there for it)

    import starchat

    if " " in name:
        adapters()
    count, first, end, step = map(int, numbers)
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    starchat.StarChat.load(n_threads=2).close()
    found = Counter(
        _in_child(partial(_outcome, library, watched, name, point, count))
        for point in range(first, end, step)
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
