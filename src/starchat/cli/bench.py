"""`starchat bench`: speed, and its share of what this machine can do."""

from __future__ import annotations

import statistics
from typing import Annotated, Any

import typer

from ..bench import Speed, measure
from ..errors import InvalidRequestError
from .options import ModelOptions, taking
from .terminal import note


@taking(ModelOptions)
def bench(
    options: ModelOptions,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 256,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the answer.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Measurements; the median is shown.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print every measurement as JSON.")] = False,
) -> None:
    """Measure how fast a model reads and writes, and how near that is to this machine's limits."""
    from rich.console import Console
    from rich.progress import Progress

    # Without the prefix cache, and below without guesses: every token is computed.
    with options.load(prefix_cache_bytes=0) as model:
        info = model.info
        for option, n_tokens in ("--prompt-tokens", prompt_tokens), ("--tokens", tokens):
            if n_tokens >= info.n_ctx:
                expected = f"expected less than the context of {info.n_ctx:,} tokens"
                raise InvalidRequestError.of(option, f"{expected}, got {n_tokens:,}")
        stderr = Console(stderr=True)
        with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
            task = bar.add_task("measuring", total=(4 if info.draft else 3) * repeat)
            measured = measure(model, prompt_tokens, tokens, repeat, lambda: bar.advance(task))
    if json:
        print(measured.to_json())
    else:
        note(str(info))
        Console(highlight=False).print(_speed_table(measured))


def _speed_table(measured: Speed) -> Any:
    from rich.table import Table

    table = Table("", box=None, pad_edge=False, header_style="bold")
    for title in ("tokens", "tok/s", "spread", "rate", "limit", "share"):
        table.add_column(title, justify="right")
    phases = {
        "read the prompt": measured.prefill,
        "write the reply": measured.decode,
        "with guesses": measured.guessed,
    }
    for name, phase in phases.items():
        if phase is None:
            continue
        limit, share, speeds = phase.limit, phase.share, phase.tokens_per_s
        table.add_row(
            name,
            f"{phase.n_tokens:,}",
            _short(statistics.median(speeds)),
            f"{_short(min(speeds))}-{_short(max(speeds))}",
            f"{_short(phase.rate / 1e9)} {phase.unit}",
            "" if limit is None else f"{_short(limit / 1e9)} {phase.unit}",
            "" if share is None else f"{share:.0%}",
        )
    return table


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
