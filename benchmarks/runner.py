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
from itertools import pairwise
from pathlib import Path
from typing import Any

PIECE = 512  # tokens between two signs of life; a multiple of every engine's batch


class Runner:
    """A loaded engine: how a prompt is read, and how tokens follow it, one by one."""

    eval: Callable[[list[int]], Any]  # append tokens; compute the last one's logits
    reset: Callable[[], Any]  # begin again at position 0
    extra: dict[str, Any]  # more figures

    def prompt(self, ids: list[int]) -> None:
        """Read a prompt from position 0."""
        self.reset()
        for first in range(0, len(ids), PIECE):
            piece = ids[first : first + PIECE]
            self.eval(piece)
            tell(done=len(piece))

    def steps(self, n: int) -> list[float]:
        """Return the seconds of each of n tokens behind the last prompt."""
        seconds = []
        for _ in range(n):
            start = time.perf_counter()
            self.eval([7])
            seconds.append(time.perf_counter() - start)
        return seconds


class StarChatRunner(Runner):
    """This project, without its scheduler: the bare forward pass, as the peers are run."""

    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        """Load."""
        from starchat._core import testing

        self._model = testing.Forward(path, n_threads, n_ctx)
        self.extra = {"weight_bytes": self._model.weight_bytes}

        self.eval, self.reset = self._eval, lambda: self._model.rewind(0)

    def _eval(self, ids: list[int]) -> None:
        for start in range(0, len(ids), self._model.max_columns):
            self._model.run(ids[start : start + self._model.max_columns], last_only=True)


class LlamaCppRunner(Runner):
    """llama.cpp with its defaults, by llama-cpp-python."""

    repack = True

    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        """Load."""
        import llama_cpp

        if not self.repack:
            defaults = llama_cpp.llama_model_default_params

            def params() -> Any:
                chosen = defaults()
                chosen.use_extra_bufts = False
                return chosen

            llama_cpp.llama_cpp.llama_model_default_params = params
        self._model = llama_cpp.Llama(
            path, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, verbose=False
        )
        self.eval, self.reset = self._model.eval, self._model.reset
        self.extra = {}


class LlamaCppUnpackedRunner(LlamaCppRunner):
    """llama.cpp with weights as they lie in the file: for some types it is the faster way."""

    repack = False


class CTransformersRunner(Runner):
    """ctransformers, in batches of 64."""

    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        """Load."""
        from ctransformers import AutoModelForCausalLM

        warnings.simplefilter("ignore")  # reset() is deprecated, and there is no other
        self._model = AutoModelForCausalLM.from_pretrained(
            path, model_type="starcoder", context_length=n_ctx, threads=n_threads, batch_size=64
        )
        self.eval, self.reset = self._model.eval, self._model.reset
        self.extra = {}


class CTranslate2Runner(Runner):
    """CTranslate2 in int8, which only writes whole replies: a prompt is a reply of one token."""

    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        """Load."""
        import ctranslate2

        self._model = ctranslate2.Generator(path, compute_type="int8", intra_threads=n_threads)
        self._prompt: list[str] = []
        self.eval, self.reset = self.prompt, lambda: None
        self.extra = {}

    def prompt(self, ids: list[int]) -> None:
        """Read a prompt from position 0."""
        self._prompt = [f"t{id}" for id in ids]
        self._write(1)
        tell(done=len(ids))

    def steps(self, n: int) -> list[float]:
        """Return the seconds between the tokens of a reply to the last prompt."""
        times = self._write(n + 1)
        return [after - before for before, after in pairwise(times)]

    def _write(self, n: int) -> list[float]:
        times: list[float] = []
        self._model.generate_batch(
            [self._prompt],
            max_length=n,
            min_length=n,
            include_prompt_in_result=False,
            callback=lambda step: bool(times.append(time.perf_counter())),
        )
        return times


RUNNERS: dict[str, Callable[[str, int, int], Runner]] = {
    "starchat": StarChatRunner,
    "llama.cpp": LlamaCppRunner,
    "llama.cpp unpacked": LlamaCppUnpackedRunner,
    "ctransformers": CTransformersRunner,
    "CTranslate2": CTranslate2Runner,
}


def tell(**figures: object) -> None:
    """Write a line."""
    print(json.dumps(figures), flush=True)


def measure(
    runner: Runner, prefill: list[int], contexts: list[int], n_steps: int
) -> dict[str, Any]:
    """Return tokens per second: of prompts of each length, and of steps at each context."""
    choose = random.Random(0)
    ids = [choose.randrange(1, 400) for _ in range(max(prefill + contexts))]
    runner.eval(ids[:8])  # what is made on first use
    speeds: dict[str, Any] = {"prefill": {}, "decode": {}}
    for length in sorted({*prefill, *contexts}):
        start = time.perf_counter()
        runner.prompt(ids[:length])
        elapsed = time.perf_counter() - start
        if length in prefill:
            speeds["prefill"][length] = length / elapsed
        if length in contexts:
            speeds["decode"][length] = 1 / statistics.median(runner.steps(n_steps))
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
