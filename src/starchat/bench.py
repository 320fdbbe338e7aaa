"""How fast a model reads and writes here, and what this machine could do at best.

Reading a prompt multiplies every weight with every token: its limit is the peak of multiply-adds.
Writing reads every weight from memory once for each token: its limit is the read bandwidth. Both
limits are measured between the runs, by as many threads as the model has; there are none where a
GPU computes layers.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from ._core import machine
from .model import StarChat
from .types import ModelInfo

_READ_BYTES = 1 << 29  # at once: no cache holds as much
_CACHED_BYTES = 1 << 26  # weights that may stay in the caches: memory does not limit them


@dataclass
class Phase:
    """Reading a prompt, or writing a reply."""

    n_tokens: int
    unit: str  # of rate and limits / 1e9
    work_per_token: int  # bytes, or multiply-adds
    tokens_per_s: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)  # empty where it has none

    @property
    def rate(self) -> float:
        """Work per second."""
        return statistics.median(self.tokens_per_s) * self.work_per_token

    @property
    def limit(self) -> float | None:
        """What the machine could do, None where that is not known."""
        return statistics.median(self.limits) if self.limits else None

    @property
    def share(self) -> float | None:
        """What the model gets of it, each run held against the limit measured beside it."""
        pairs = zip(self.tokens_per_s, self.limits, strict=False)
        shares = [speed * self.work_per_token / limit for speed, limit in pairs]
        return statistics.median(shares) if shares else None


@dataclass
class Speed:
    """What was measured of one model."""

    info: ModelInfo
    prefill: Phase
    decode: Phase
    guessed: Phase | None = None  # decoding with the draft model

    def to_json(self) -> str:
        """Return everything, for programs."""
        phases = {"prefill": self.prefill, "decode": self.decode}
        if self.guessed:
            phases["guessed"] = self.guessed
        shown = {
            name: asdict(phase) | {"rate": phase.rate, "limit": phase.limit, "share": phase.share}
            for name, phase in phases.items()
        }
        return json.dumps({"model": asdict(self.info), **shown}, indent=1)


def measure(
    model: StarChat,
    n_prompt: int,
    n_tokens: int,
    n_runs: int,
    done: Callable[[], object] = lambda: None,
) -> Speed:
    """Return the speeds of `n_runs` prompts and replies.

    `done` is called three times for each, with a draft model four times.
    """
    info = model.info
    speed = Speed(
        info,
        Phase(n_prompt, "GMAC/s", _multiply_adds(info)),
        Phase(n_tokens, "GB/s", info.weight_bytes),
        Phase(n_tokens, "GB/s", info.weight_bytes) if info.draft else None,
    )
    for run in range(n_runs):
        choose = random.Random(run)
        prompt = [choose.randrange(info.n_vocab) for _ in range(n_prompt)]
        if info.weight_bytes > _CACHED_BYTES and not info.gpu_layers:
            reads = [machine.read_bandwidth(info.n_threads, _READ_BYTES) for _ in range(3)]
            speed.decode.limits.append(max(reads))
        if info.isa != "scalar" and not info.gpu_layers:
            operands = "int8" if info.quantization.startswith("q") else "f32"
            peaks = [machine.multiply_peak(info.isa, operands, info.n_threads) for _ in range(3)]
            speed.prefill.limits.append(max(peaks))
        done()
        start = time.perf_counter()
        model.complete(prompt, max_tokens=1, temperature=0)
        speed.prefill.tokens_per_s.append(n_prompt / (time.perf_counter() - start))
        done()
        start = time.perf_counter()
        model.complete(  # n_tokens steps of one column
            prompt[-1:], max_tokens=n_tokens, temperature=0, ignore_eos=True, speculation=False
        )
        speed.decode.tokens_per_s.append(n_tokens / (time.perf_counter() - start))
        done()
        if speed.guessed:
            start = time.perf_counter()
            model.complete(prompt[-1:], max_tokens=n_tokens, temperature=0, ignore_eos=True)
            speed.guessed.tokens_per_s.append(n_tokens / (time.perf_counter() - start))
            done()
    return speed


def _multiply_adds(info: ModelInfo) -> int:
    """Return those for one token of a prompt; only its last token meets the output matrix."""
    width, kv_width = info.n_embd, info.n_kv_head * (info.n_embd // info.n_head)
    return info.n_layer * width * (width + 2 * kv_width + width + 8 * width)
