"""starchat beside llama.cpp and ctransformers: the same random weights, in alternation, one run.

    python benchmarks/peers.py FILE.bin [--gguf FILE.gguf] [--peers PYTHON] [--rounds 3]

FILE.bin and FILE.gguf come from random_model.py. PYTHON is an interpreter that has
llama-cpp-python and ctransformers (their own environment, so that they disturb nobody); without
it starchat runs alone. A peer that cannot run the file is reported and left out.
Prints medians over the rounds, ratios, and decode as a share of the machine's read bandwidth,
measured between the rounds. Peak memory is that of a process which does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def run_starchat(path: str, n_threads: int, n_ctx: int) -> tuple[Callable[[list[int]], None], int]:
    """Return a function that feeds token ids, and the resident weight bytes."""
    from starchat._core import testing

    model = testing.Forward(path, n_threads, n_ctx)

    def feed(ids: list[int]) -> None:
        for start in range(0, len(ids), model.max_columns):
            model.run(ids[start : start + model.max_columns], last_only=True)

    return feed, model.weight_bytes


def run_llama_cpp(path: str, n_threads: int, n_ctx: int) -> tuple[Callable[[list[int]], None], int]:
    """The same, by llama-cpp-python."""
    from llama_cpp import Llama

    model = Llama(path, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, verbose=False)
    return model.eval, 0


def run_ctransformers(
    path: str, n_threads: int, n_ctx: int
) -> tuple[Callable[[list[int]], None], int]:
    """The same, by ctransformers."""
    from ctransformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path, model_type="starcoder", context_length=n_ctx, threads=n_threads, batch_size=64
    )
    return model.eval, 0


RUNNERS = {
    "starchat": run_starchat,
    "llama.cpp": run_llama_cpp,
    "ctransformers": run_ctransformers,
}


def measure(name: str, path: str, arguments: argparse.Namespace) -> None:
    """Load, prefill, decode; print the figures as one JSON line (in a process of its own)."""
    start = time.perf_counter()
    feed, weight_bytes = RUNNERS[name](path, arguments.threads, arguments.ctx)
    load_s = time.perf_counter() - start
    random = np.random.default_rng(0)
    prompt = random.integers(1, 400, arguments.prefill).tolist()
    feed(prompt[:8])
    start = time.perf_counter()
    feed(prompt)
    prefill_s = time.perf_counter() - start
    steps = []
    for _ in range(arguments.decode):
        start = time.perf_counter()
        feed([7])
        steps.append(time.perf_counter() - start)
    peak = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    figures = {
        "load_s": load_s,
        "prefill": arguments.prefill / prefill_s,
        "decode": 1 / statistics.median(steps),
        "peak_bytes": peak,
        "weight_bytes": weight_bytes,
    }
    print(json.dumps(figures))


def read_bandwidth(n_threads: int) -> float:
    """Return bytes per second that `n_threads` read from memory, the best of five."""
    from starchat._core import testing

    return max(testing.read_bandwidth(n_threads, 1 << 30) for _ in range(5))


def in_process(name: str, path: Path, arguments: argparse.Namespace) -> dict[str, Any] | str:
    """Measure in a fresh process; the last line of its complaint where it fails."""
    python = sys.executable if name == "starchat" else arguments.peers
    options = [f"--{key}={getattr(arguments, key)}" for key in ("threads", "ctx", "prefill")]
    command = [python, __file__, str(path), *options, f"--decode={arguments.decode}"]
    result = subprocess.run([*command, "--measure", name], capture_output=True, text=True)
    if result.returncode:
        complaint = result.stderr.strip().splitlines()
        return complaint[-1] if complaint else f"died with signal {-result.returncode}"
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Run every peer in turn, some rounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--peers")
    parser.add_argument("--skip", nargs="*", choices=RUNNERS, default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--prefill", type=int, default=256)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--measure", choices=RUNNERS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, str(arguments.path), arguments)
        return

    files = {"starchat": arguments.path}
    if arguments.peers:
        files["ctransformers"] = arguments.path
        if arguments.gguf:
            files["llama.cpp"] = arguments.gguf
    files = {name: path for name, path in files.items() if name not in arguments.skip}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
    bandwidths = []
    for _ in range(arguments.rounds):
        bandwidths.append(read_bandwidth(arguments.threads))
        for name in [*files]:
            figures = in_process(name, files[name], arguments)
            if isinstance(figures, str):
                print(f"{name}: cannot run this file: {figures}")
                del files[name]
            else:
                rounds[name].append(figures)

    bandwidth = statistics.median(bandwidths)
    spread = " ".join(f"{value / 1e9:.1f}" for value in bandwidths)
    print(f"read bandwidth, {arguments.threads} threads: {bandwidth / 1e9:.1f} GB/s ({spread})")
    ours = {
        key: statistics.median(r[key] for r in rounds["starchat"]) for key in rounds["starchat"][0]
    }
    limit = bandwidth / ours["weight_bytes"]
    print(f"{'':14}{'load s':>8}{'peak GB':>9}{'prefill/s':>11}{'decode/s':>10}   ours/theirs")
    for name, figures in rounds.items():
        if not figures:
            continue
        row = {key: statistics.median(r[key] for r in figures) for key in figures[0]}
        ratios = f"{ours['prefill'] / row['prefill']:.2f} {ours['decode'] / row['decode']:.2f}"
        decodes = " ".join(f"{r['decode']:.2f}" for r in figures)
        print(
            f"{name:14}{row['load_s']:8.1f}{row['peak_bytes'] / 1e9:9.2f}{row['prefill']:11.1f}"
            f"{row['decode']:10.2f}   {ratios}   decode {decodes}"
        )
    print(f"starchat decodes at {ours['decode'] / limit:.0%} of bandwidth / weight bytes")


if __name__ == "__main__":
    main()
