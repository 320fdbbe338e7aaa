"""One engine in a process of its own: load, prefill, decode; what it finds goes to stdout as JSON.

    python runner.py ENGINE FILE --threads 2 --ctx 512 --prefill 256 480 --context 64 --steps 32

Runs under the peers' interpreter too, so it imports nothing but the engine. Every line is an
object: {"done": tokens} on the way, the figures at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIECE = 512  # tokens between two signs of life; a multiple of every engine's batch


class StarChatRunner:
    """This project, without its scheduler: the bare forward pass, as the peers are run."""

    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        """Load."""
        from starchat._core import testing

        self._model = testing.Forward(path, n_threads, n_ctx)
        self.extra = {"weight_bytes": self._model.weight_bytes}

    def eval(self, ids: list[int]) -> None:
        """Append tokens; compute the last one's logits."""
        for start in range(0, len(ids), self._model.max_columns):
            self._model.run(ids[start : start + self._model.max_columns], last_only=True)

    def reset(self) -> None:
        """Begin again at position 0."""
        self._model.rewind(0)


class LlamaCppRunner:
    """llama.cpp with its defaults, by llama-cpp-python."""

    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        """Load."""
        from llama_cpp import Llama

        self._model = Llama(
            path, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, verbose=False
        )
        self.eval, self.reset = self._model.eval, self._model.reset
        self.extra: dict[str, Any] = {}


class CTransformersRunner:
    """ctransformers, in batches of 64."""

    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        """Load."""
        from ctransformers import AutoModelForCausalLM

        warnings.simplefilter("ignore")  # reset() is deprecated, and there is no other
        self._model = AutoModelForCausalLM.from_pretrained(
            path, model_type="starcoder", context_length=n_ctx, threads=n_threads, batch_size=64
        )
        self.eval, self.reset = self._model.eval, self._model.reset
        self.extra: dict[str, Any] = {}


RUNNERS: dict[str, Callable[[str, int, int], Any]] = {
    "starchat": StarChatRunner,
    "llama.cpp": LlamaCppRunner,
    "ctransformers": CTransformersRunner,
}


def tell(**figures: object) -> None:
    """Write a line."""
    print(json.dumps(figures), flush=True)


def measure(runner: Any, prefill: list[int], contexts: list[int], n_steps: int) -> dict[str, Any]:
    """Return tokens per second: of prompts of each length, and of steps at each context."""
    choose = random.Random(0)
    ids = [choose.randrange(1, 400) for _ in range(max(prefill + contexts))]
    runner.eval(ids[:8])  # what is made on first use
    speeds: dict[str, Any] = {"prefill": {}, "decode": {}}
    for length in sorted({*prefill, *contexts}):
        runner.reset()
        start = time.perf_counter()
        for first in range(0, length, PIECE):
            runner.eval(ids[first : min(length, first + PIECE)])
            tell(done=min(PIECE, length - first))
        elapsed = time.perf_counter() - start
        if length in prefill:
            speeds["prefill"][length] = length / elapsed
        if length in contexts:
            steps = []
            for _ in range(n_steps):
                start = time.perf_counter()
                runner.eval([7])
                steps.append(time.perf_counter() - start)
            speeds["decode"][length] = 1 / statistics.median(steps)
            tell(done=n_steps)
    return speeds


def peak_bytes() -> int:
    """Return the most memory that this process had resident."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Run the engine that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=RUNNERS)
    parser.add_argument("path")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ctx", type=int, required=True, help="positions to load with")
    parser.add_argument("--prefill", type=int, nargs="*", default=[256])
    parser.add_argument("--context", type=int, nargs="*", default=[64])
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args()
    start = time.perf_counter()
    runner = RUNNERS[arguments.engine](arguments.path, arguments.threads, arguments.ctx)
    load_s = time.perf_counter() - start
    speeds = measure(runner, arguments.prefill, arguments.context, arguments.steps)
    tell(load_s=load_s, peak_bytes=peak_bytes(), **speeds, **runner.extra)


if __name__ == "__main__":
    main()
