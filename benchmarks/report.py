"""docs/performance.md and its picture, from the results of the benchmarks.

    python benchmarks/report.py [RESULT.json …] [--check]

Results are what kernels.py, peers.py, speculation.py and the like write with --json; without any,
those in benchmarks/results. In the page, what stands between `<!-- begin: NAME -->` and
`<!-- end: NAME -->` is written anew; the rest is left as it is. --check writes nothing and fails
where that would change something.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from comparison import shares
from kernels import Case, giga, limits_text
from machine import Result, is_busy, write_result
from roofline import roofline
from spread import Spread, digits

from starchat.errors import StarChatError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = "roofline.svg"
_BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


class ReportError(Exception):
    """A result or page that cannot be used: which, and why."""


# ---- sections: the results of one benchmark → Markdown ---------------------------------------


def source(result: Result) -> str:
    """Return the line that every group of figures ends with."""
    machine = result["machine"]
    busy = f"; the machine was busy, load {machine['load']}" if is_busy(result) else ""
    return (
        f"`{result['command']}`, {result['date']}, {machine['processor']}, {machine['cores']} "
        f"cores, {machine['memory_bytes'] / 1e9:.0f} GB, {machine['system']}, starchat "
        f"{machine['starchat']}{busy}."
    )


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, text to the left, figures to the right."""
    lines = [heads, ["---" if i == 0 else "---:" for i in range(len(heads))], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def limits(results: list[Result]) -> str:
    """What the machine can do at best."""
    parts = []
    for result in results:
        lines = limits_text(result["limits"]).splitlines()
        parts += ["\n".join(f"- {line}" for line in lines), source(result)]
    return "\n\n".join(parts)


def kernels(results: list[Result]) -> str:
    """Matrix products by columns, attention by positions, the rest by itself."""
    parts = []
    for result in results:
        cases = [Case(**fields) for fields in result["cases"]]
        products = [case for case in cases if case.kernel == "matmul"]
        for team in sorted({case.n_threads for case in products}):
            mine = [case for case in products if case.n_threads == team]
            parts += [
                f"Matrix products, {team} thread{'s' * (team > 1)}, GMAC/s (share of the limit):",
                _by_columns(mine, result["limits"]),
            ]
        if others := [case for case in cases if case.kernel == "attention"]:
            parts += ["Attention, 1 thread:", _attention(others, result["limits"])]
        if others := [case for case in cases if not case.macs]:
            parts += ["Element by element, 1 thread:", _elementwise(others)]
        parts.append(
            f"Medians; the rounds of a figure differ by {_widest(cases)}. " + source(result)
        )
    return "\n\n".join(parts)


def _cell(case: Case, samples: dict[str, Any]) -> str:
    rate = case.macs / Spread.of(case.seconds).median
    limit = case.limit(samples)
    share = f" ({rate / limit:.0%})" if limit else ""
    return digits(rate / 1e9) + share


def _by_columns(cases: list[Case], samples: dict[str, Any]) -> str:
    columns = sorted({case.n_columns for case in cases})
    rows: dict[tuple[str, str], dict[int, Case]] = {}
    for case in cases:
        rows.setdefault((case.type, case.isa), {})[case.n_columns] = case
    heads = ["", *(f"{n} column{'s' * (n > 1)}" for n in columns)]
    return markdown(
        [*heads[:1], "GB/s", *heads[1:]],
        [
            [
                f"{type} {isa}",
                digits(max(c.bytes / Spread.of(c.seconds).median for c in row.values()) / 1e9),
                *(_cell(row[n], samples) for n in columns),
            ]
            for (type, isa), row in rows.items()
        ],
    )


def _attention(cases: list[Case], samples: dict[str, Any]) -> str:
    sizes = list(dict.fromkeys((case.n_positions, case.n_columns) for case in cases))
    found = {(case.isa, case.n_positions, case.n_columns): case for case in cases}
    return markdown(
        ["GMAC/s (share of the f32 peak)"]
        + [f"{n} column{'s' * (n > 1)}, {positions:,} positions" for positions, n in sizes],
        [
            [isa, *(_cell(found[(isa, *size)], samples) for size in sizes)]
            for isa in dict.fromkeys(case.isa for case in cases)
        ],
    )


def _elementwise(cases: list[Case]) -> str:
    names = list(dict.fromkeys(case.kernel for case in cases))
    found = {(case.isa, case.kernel): Spread.of(case.seconds).median for case in cases}
    n_values = {case.kernel: case.bytes // 4 for case in cases}
    return markdown(
        ["µs", *(f"{name}, {n_values[name]:,} values" for name in names)],
        [
            [isa, *(digits(found[isa, name] * 1e6) for name in names)]
            for isa in dict.fromkeys(case.isa for case in cases)
        ],
    )


def _widest(cases: list[Case]) -> str:
    spreads = [Spread.of(case.seconds) for case in cases]
    widths = [(spread.high - spread.low) / spread.median for spread in spreads]
    middle = Spread.of(widths)
    return f"{middle.median:.0%} (median), at most {middle.high:.0%}"


def peers(results: list[Result]) -> str:
    """Prefill, decode, memory: each engine, our ratio to it, our share of the limit."""
    parts = []
    for result in results:
        told = f"{result['threads']} threads, {_builds(result)}, {result['machine']['processor']}"
        parts.append(f"### {result['model']}, {told}")
        for phase, head, limit in (
            ("prefill", "prompt", "share of the multiply-add peak"),
            ("decode", "context", "share of the read bandwidth"),
        ):
            if rows := [
                row for found in result["types"] for row in _peer_rows(result, found, phase)
            ]:
                engines = _engines(result)
                heads = ["", *engines, *(f"ours / {name}" for name in engines[1:]), limit]
                parts += [
                    f"{phase.capitalize()} by length of {head}, tokens/s:",
                    markdown(heads, rows),
                ]
        parts += ["Load time and peak resident memory:", _loads(result)]
        failures = {
            f"- {engine} is left out of {found['type']}: `{why}`"
            for found in result["types"]
            for engine, why in found["failures"].items()
        }
        parts += ["\n".join(sorted(failures))] if failures else []
        bandwidth = [
            sample
            for found in result["types"]
            for sample in found["limits"]["read_bandwidth"][str(result["threads"])]
        ]
        parts.append(
            f"Medians (lowest to highest). Read bandwidth in the same run: "
            f"{giga(bandwidth)} GB/s. {source(result)}"
        )
    return "\n\n".join(parts)


def _builds(result: Result) -> str:
    return "AVX2 alone" if result["build"] == "avx2" else "every instruction set"


def _engines(result: Result) -> list[str]:
    return list(dict.fromkeys(engine for found in result["types"] for engine in found["engines"]))


def _peer_rows(result: Result, found: dict[str, Any], phase: str) -> Iterable[list[str]]:
    ours = found["engines"]["starchat"][phase]
    share = shares(found, result["threads"])[phase]
    for length, speeds in ours.items():
        theirs = [
            found["engines"].get(engine, {}).get(phase, {}).get(length)
            for engine in _engines(result)[1:]
        ]
        yield [
            f"{found['type']}, {int(length):,}",
            str(Spread.of(speeds)),
            *(str(Spread.of(samples)) if samples else "" for samples in theirs),
            *(str(Spread.ratio(speeds, samples)) if samples else "" for samples in theirs),
            share[length].percent(),
        ]


def _loads(result: Result) -> str:
    engines = _engines(result)
    rows = []
    for found in result["types"]:
        cells = []
        for engine in engines:
            figures = found["engines"].get(engine)
            cells.append(
                f"{Spread.of(figures['load_s'])} s, "
                f"{digits(Spread.of(figures['peak_bytes']).median / 1e9)} GB"
                if figures
                else ""
            )
        rows.append([found["type"], *cells])
    return markdown(["", *engines], rows)


def table_rows(rows: dict[str, dict[str, list[float]]]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of a table of samples: rows → columns → samples."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [
        [name, *(str(Spread.of(row[column])) if column in row else "" for column in columns)]
        for name, row in rows.items()
    ]
    return ["", *columns], cells


def tables(results: list[Result]) -> str:
    """Tables of samples, as serving.py and the like write them."""
    parts = []
    for result in results:
        for found in result["tables"]:
            parts += [found["caption"], markdown(*table_rows(found["rows"]))]
        parts.append("Medians (lowest to highest). " + source(result))
    return "\n\n".join(parts)


#: block of the page → the benchmark whose results it shows, and how
SECTIONS: dict[str, tuple[str, Callable[[list[Result]], str]]] = {
    "limits": ("kernels", limits),
    "kernels": ("kernels", kernels),
    "peers": ("peers", peers),
    "serving": ("serving", tables),
    "serving_http": ("serving_http", tables),
    "speculation": ("speculation", tables),
    "overhead": ("overhead", tables),
}


# ---- a benchmark of tables ---------------------------------------------------------------------


def run(measure: Callable[[Path], Result], weights: Path | None, json: Path | None) -> None:
    """Measure, print the tables, write the file; end the program at an error.

    measure: is given the folder for model files, `weights` or a temporary one.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(weights or Path(folder))
    except (StarChatError, OSError) as error:
        sys.exit(f"error: {error}")
    write_result(result, json)
    for found in result["tables"]:
        print(found["caption"], markdown(*table_rows(found["rows"])), sep="\n\n", end="\n\n")


# ---- the page -------------------------------------------------------------------------------


def render(page: str, results: Sequence[Result]) -> str:
    """Return the page with every block written anew.

    Raises ReportError for a block or benchmark that is not known.
    """
    known = {benchmark for benchmark, _ in SECTIONS.values()}
    for result in results:
        if result["benchmark"] not in known:
            raise ReportError(f"a result of {result['benchmark']}: there is no section for it")

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name not in SECTIONS:
            raise ReportError(f"block {name}: unknown, there are {', '.join(SECTIONS)}")
        benchmark, write = SECTIONS[name]
        mine = [result for result in results if result["benchmark"] == benchmark]
        text = write(mine) if mine else f"Not measured yet: `benchmarks/{benchmark}.py --json`."
        return f"{match[1]}\n{text}\n\n{match[3]}"

    return _BLOCK.sub(block, page)


def read(paths: Iterable[Path]) -> list[Result]:
    """Return the results of files."""
    results = []
    for path in paths:
        try:
            results.append(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise ReportError(f"{path}: no result of a benchmark: {error}") from error
    return results


def main() -> None:
    """Write the page and the picture, or say whether they are current."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", type=Path, default=sorted(RESULTS.glob("*.json")))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    try:
        results = read(arguments.results)
        wanted = {arguments.page: render(arguments.page.read_text(), results)}
    except ReportError as error:
        sys.exit(f"error: {error}")
    for result in results:
        if result["benchmark"] == "kernels":
            wanted[arguments.page.with_name(PICTURE)] = roofline(result)
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if arguments.check and stale:
        sys.exit(f"error: {', '.join(path.name for path in stale)}: run benchmarks/report.py")
    if not arguments.check:
        for path in stale:
            path.write_text(wanted[path])


if __name__ == "__main__":
    main()
