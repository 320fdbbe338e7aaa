"""Each kernel by itself against what the machine can do at best, measured in the same run.

    python benchmarks/kernels.py [--isa avx512 avx2] [--types q4_0 q8_0] [--json kernels.json]

Matrix products have StarChat beta's largest shape, over more matrices than the caches hold: as in
a model, weights come from memory. Attention has its 48 heads on one of keys and values, by one
thread. The limit is the smaller of multiply-add peak and read bandwidth times multiply-adds a byte.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from machine import Limits, Result, new_result, write_result
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from spread import Spread, digits

from starchat._core import TensorType, tensor_types, testing
from starchat._core.machine import instruction_sets

N_ROWS, N_COLS = 24576, 6144  # c_fc of StarChat beta
N_HEADS, HEAD_DIM = 48, 128
COLD_BYTES = 256 << 20  # weights that no cache holds
COLUMNS = (1, 2, 4, 8, 16, 32, 64)
ATTENTION = ((64, 1), (512, 1), (4096, 1), (512, 64), (4096, 64))  # positions, columns
ELEMENTWISE = ("quantize", "layer_norm", "gelu")
KERNELS = ("matmul", "attention", *ELEMENTWISE)
#: by name: every type that weights may have
TYPES: dict[str, TensorType] = {type.name: type for type in tensor_types()}


@dataclass
class Case:
    """One kernel on one instruction set, with one size of work."""

    kernel: str
    isa: str
    type: str  # of weights or keys; f32 for element-wise work
    n_threads: int
    n_columns: int
    n_positions: int = 0
    macs: int = 0
    bytes: int = 0  # weights, cache or input, read once
    seconds: list[float] = field(default_factory=list)

    @property
    def operands(self) -> str:
        """What it multiplies: quantized weights meet quantized activations."""
        return "f32" if TYPES[self.type].block_weights == 1 else "int8"

    def limit(self, limits: dict[str, Any]) -> float | None:
        """Return multiply-adds per second that the machine could do, None where it has no say."""
        peaks = limits["multiply_peak"].get(f"{self.isa}/{self.operands}")
        if not self.macs or not peaks:
            return None
        team = str(self.n_threads)
        peak: float = max(peaks[team])
        if self.kernel == "attention":  # its keys and values stay in the processor's caches
            return peak
        bandwidth: float = max(limits["read_bandwidth"][team])
        return min(peak, bandwidth * self.macs / self.bytes)


#: a case, and what measures it once
Timed = tuple[Case, Callable[[], float]]


def matmul(isa: str, type: str, n_threads: int, columns: list[int]) -> Iterator[Timed]:
    """Yield each case with a function that measures it."""
    size = N_ROWS * N_COLS // TYPES[type].block_weights * TYPES[type].block_bytes
    timer = testing.MatmulTimer(isa, type, N_ROWS, N_COLS, -(-COLD_BYTES // size), n_threads)
    for n in columns:
        case = Case("matmul", isa, type, n_threads, n, 0, N_ROWS * N_COLS * n, timer.matrix_bytes)
        yield case, partial(timer.seconds, n)


def attention(isa: str) -> Iterator[Timed]:
    """Yield the same for attention: causal, so the mean column sees half of the columns."""
    for n_positions, n in ATTENTION:
        seen = sum(n_positions - c for c in range(n))
        case = Case("attention", isa, "f16", 1, n, n_positions)
        case.macs, case.bytes = 2 * N_HEADS * HEAD_DIM * seen, 4 * HEAD_DIM * n_positions
        shape = N_HEADS, HEAD_DIM, n_positions, n
        yield case, partial(testing.attention_seconds, isa, *shape)


def elementwise(isa: str, kernel: str) -> Iterator[Timed]:
    """Yield the same for one column of the width that the model has there."""
    n = N_ROWS if kernel == "gelu" else N_COLS
    seconds = getattr(testing, f"{kernel}_seconds")
    yield Case(kernel, isa, "f32", 1, 1, bytes=4 * n), partial(seconds, isa, n)


def groups(arguments: argparse.Namespace) -> list[Callable[[], Iterator[Timed]]]:
    """Return what makes the cases, one group at a time: a group holds its weights."""
    found: list[Callable[[], Iterator[Timed]]] = []
    for isa in arguments.isa:
        if "matmul" in arguments.kernels:
            found += [
                partial(matmul, isa, type, n, arguments.columns)
                for n in arguments.threads
                for type in arguments.types
            ]
        if "attention" in arguments.kernels:
            found.append(partial(attention, isa))
        found += [
            partial(elementwise, isa, kernel)
            for kernel in ELEMENTWISE
            if kernel in arguments.kernels
        ]
    return found


def measure(arguments: argparse.Namespace) -> Result:
    """Run everything, some rounds, limits between them."""
    result = new_result("kernels")
    cases: dict[tuple[Any, ...], Case] = {}
    limits = Limits({1, *arguments.threads}, arguments.isa)
    makers = groups(arguments)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("measuring", total=arguments.rounds * len(makers))
        for _ in range(arguments.rounds):
            limits.sample()
            for make in makers:
                for case, seconds in make():
                    key = (case.kernel, case.isa, case.type, case.n_threads, case.n_columns)
                    known = cases.setdefault((*key, case.n_positions), case)
                    progress.update(bar, description=f"{case.kernel} {case.type} {case.isa}")
                    known.seconds.append(seconds())
                progress.advance(bar)
    return result | {"limits": limits.samples, "cases": [vars(case) for case in cases.values()]}


def table(result: Result) -> Table:
    """Return one row for each case."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kernel", "set"):
        shown.add_column(title, no_wrap=True)
    for title in (
        *("threads", "columns", "context", "µs", "GB/s", "GMAC/s", "MAC/cycle"),
        *("of limit", "spread"),
    ):
        shown.add_column(title, justify="right", no_wrap=True)
    hertz = Spread.of(result["limits"]["clock_hz"]).median
    for fields in result["cases"]:
        case = Case(**fields)
        time = Spread.of(case.seconds)
        limit = case.limit(result["limits"])
        rate = case.macs / time.median
        shown.add_row(
            f"{case.kernel} {case.type}" if case.macs else case.kernel,
            case.isa,
            str(case.n_threads),
            str(case.n_columns),
            str(case.n_positions or ""),
            digits(time.median * 1e6),
            digits(case.bytes / time.median / 1e9),
            digits(rate / 1e9) if rate else "",
            digits(rate / hertz / case.n_threads) if rate else "",
            f"{rate / limit:.0%}" if limit else "",
            f"{(time.high - time.low) / time.median:.0%}",
        )
    return shown


def limits_text(limits: dict[str, Any]) -> str:
    """Return the limits as lines of text; what counts is the best that was seen."""
    lines = [f"clock: {giga(limits['clock_hz'])} GHz"]
    for team, samples in limits["read_bandwidth"].items():
        lines.append(f"read bandwidth, {_threads(team)}: {giga(samples)} GB/s")
    for name, teams in limits["multiply_peak"].items():
        for team, samples in teams.items():
            lines.append(f"multiply-add peak, {name}, {_threads(team)}: {giga(samples)} GMAC/s")
    return "\n".join(lines)


def giga(samples: list[float]) -> Spread:
    """Return samples in units of 10^9."""
    return Spread.of([sample / 1e9 for sample in samples])


def _threads(team: str) -> str:
    return "1 thread" if team == "1" else f"{team} threads"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    sets = instruction_sets()
    n_cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--isa", nargs="+", choices=sets, default=sets[1:] or sets, help="default: all but scalar"
    )
    parser.add_argument("--types", nargs="+", choices=TYPES, default=[*TYPES])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=[*KERNELS])
    parser.add_argument("--columns", nargs="+", type=_positive, default=[*COLUMNS])
    parser.add_argument(
        "--threads",
        nargs="+",
        type=_positive,
        default=sorted({1, n_cores}),
        help="numbers of threads for matrix products (default: 1 and one for each core)",
    )
    parser.add_argument("--rounds", type=_positive, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def main() -> None:
    """Measure, print the table, write the file."""
    arguments = parse()
    result = measure(arguments)
    write_result(result, arguments.json)
    console = Console(highlight=False)
    console.width = max(console.width, 112)
    console.print(limits_text(result["limits"]))
    console.print(table(result))


if __name__ == "__main__":
    main()
