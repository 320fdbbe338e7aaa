"""The machine that a benchmark runs on, and what it can do at best: a part of every result.

A result is a dict that goes to a JSON file as it is: what was run, when, where, and every sample,
so that medians, ratios and spreads are made later, from the same numbers.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import starchat
from starchat._core.machine import clock_hz, multiply_peak, read_bandwidth

Result = dict[str, Any]
Samples = list[float]

#: read at once to measure bandwidth: more than any cache holds
_READ_BYTES = 1 << 30
#: options that say where things lie, and not what was measured
_PLACES = ("--json", "--peers", "--environment", "--weights")
_BUSY = 0.5  # processes that want to run, when a benchmark begins


def begin(benchmark: str, parser: ArgumentParser, n_rounds: int) -> tuple[Namespace, Result]:
    """Return the command line's options, these three among them, and a new result."""
    parser.add_argument("--rounds", type=int, default=n_rounds)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    return parser.parse_args(), new_result(benchmark)


def new_result(benchmark: str) -> Result:
    """Return the benchmark, its command, time and machine; warn on stderr if that is busy."""
    result: Result = {
        "benchmark": benchmark,
        "command": command_line(sys.argv),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": processor(_cpuinfo()),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": f"{platform.system()} {platform.release()}",
            "starchat": starchat.__version__,
            "load": round(os.getloadavg()[0], 2),
        },
    }
    if is_busy(result):
        load = result["machine"]["load"]
        print(
            f"warning: the machine is busy (load {load}): figures will be low and scattered",
            file=sys.stderr,
        )
    return result


def command_line(argv: Sequence[str]) -> str:
    """Return the command that somebody else would type: no paths of this machine.

    >>> command_line(["/home/me/benchmarks/peers.py", "santacoder", "--json", "a.json"])
    'python benchmarks/peers.py santacoder'
    """
    words, rest = ["python", f"benchmarks/{Path(argv[0]).name}"], list(argv[1:])
    while rest:
        word = rest.pop(0)
        if word in _PLACES:
            rest = rest[1:]
        elif not word.startswith(tuple(f"{place}=" for place in _PLACES)):
            words.append(Path(word).name if os.sep in word else word)
    return shlex.join(words)


def is_busy(result: Result) -> bool:
    """Whether other programs were running when it began."""
    return float(result["machine"]["load"]) > _BUSY


def write_result(result: Result, path: Path | None) -> None:
    """Write the file, where one is asked for."""
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")


class Limits:
    """Samples of read bandwidth, multiply-add peaks and clock, taken between measurements."""

    def __init__(self, threads: Iterable[int], isas: Iterable[str]) -> None:
        """Choose the numbers of threads, and the instruction sets (all but scalar have a peak)."""
        self._threads = sorted({*threads})
        self._peaks = [(isa, kind) for isa in isas if isa != "scalar" for kind in ("int8", "f32")]
        teams = [str(n) for n in self._threads]
        self.samples: dict[str, Any] = {
            "read_bandwidth": {n: [] for n in teams},
            "multiply_peak": {f"{isa}/{kind}": {n: [] for n in teams} for isa, kind in self._peaks},
            "clock_hz": [],
        }

    def sample(self) -> None:
        """Measure everything once: about half a second for each number of threads."""
        self.samples["clock_hz"].append(max(clock_hz() for _ in range(5)))
        for n in self._threads:
            reads = [read_bandwidth(n, _READ_BYTES) for _ in range(3)]
            self.samples["read_bandwidth"][str(n)].append(max(reads))
            for isa, kind in self._peaks:
                peaks = [multiply_peak(isa, kind, n) for _ in range(5)]
                self.samples["multiply_peak"][f"{isa}/{kind}"][str(n)].append(max(peaks))


def processor(cpuinfo: str) -> str:
    r"""Return the name in /proc/cpuinfo, with family and model: clouds hide the rest of the name.

    >>> processor("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1")
    'AMD EPYC (family 25, model 17: Zen 4)'
    """
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    found = {name.strip(): value.strip() for name, _, value in pairs}
    if not {"cpu family", "model", "model name"} <= found.keys():
        return found.get("model name") or platform.processor() or platform.machine()
    family, model = found["cpu family"], found["model"]
    names = [name for key, models, name in _CORES if key == family and int(model) in models]
    told = ": ".join([f"family {family}, model {model}", *names])
    return f"{found['model name']} ({told})"


#: family, models and name of the cores that were met
_CORES = (
    ("25", (*range(0x10, 0x20), *range(0x60, 0xB0)), "Zen 4"),
    ("26", range(0x100), "Zen 5"),
    ("6", (0x6A, 0x6C), "Ice Lake"),
)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
