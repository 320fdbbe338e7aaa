"""One weight type's engines side by side: our ratios to the others, our shares of the limits.

Both are made within each round, from figures that were measured minutes apart.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table
from spread import Spread, digits

Figures = dict[str, Any]


def shares(found: Figures, n_threads: int) -> dict[str, dict[str, Spread]]:
    """Return our speed as a share of the limit: prefill of multiply-adds, decode of bandwidth."""
    ours, team = found["engines"]["starchat"], str(n_threads)
    peak = found["limits"]["multiply_peak"][f"{found['isa']}/int8"][team]
    bandwidth = found["limits"]["read_bandwidth"][team]
    return {
        "prefill": {
            length: Spread.ratio(speeds, peak, found["macs_per_token"])
            for length, speeds in ours["prefill"].items()
        },
        "decode": {
            context: Spread.ratio(speeds, bandwidth, ours["weight_bytes"][0])
            for context, speeds in ours["decode"].items()
        },
    }


def table(found: Figures, n_threads: int) -> Table:
    """Return a row for each engine, then the ratios and the shares of the limits."""
    ours = found["engines"]["starchat"]
    lengths, contexts = [*ours["prefill"]], [*ours["decode"]]
    shown = Table(title=found["type"], title_justify="left", box=None, pad_edge=False)
    shown.add_column("tokens/s")
    for title in (
        *("load s", "peak GB"),
        *(f"prefill {n}" for n in lengths),
        *(f"decode at {n}" for n in contexts),
    ):
        shown.add_column(title, justify="right")
    for engine, figures in found["engines"].items():
        shown.add_row(
            engine,
            digits(Spread.of(figures["load_s"]).median),
            digits(Spread.of(figures["peak_bytes"]).median / 1e9),
            *(str(Spread.of(figures["prefill"][n])) for n in lengths),
            *(str(Spread.of(figures["decode"][n])) for n in contexts),
        )
    for engine, figures in found["engines"].items():
        if engine != "starchat":
            shown.add_row(
                f"ours / {engine}",
                *("", ""),
                *(str(Spread.ratio(ours["prefill"][n], figures["prefill"][n])) for n in lengths),
                *(str(Spread.ratio(ours["decode"][n], figures["decode"][n])) for n in contexts),
            )
    share = shares(found, n_threads)
    shown.add_row(
        "share of limit",
        *("", ""),
        *(share["prefill"][n].percent() for n in lengths),
        *(share["decode"][n].percent() for n in contexts),
    )
    return shown
