"""`starchat perplexity`: how well a model predicts a text, and what quantization changed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Annotated

import typer

from ..model import StarChat
from ..model_path import model_path
from ..model_source import context_size
from ..perplexity import Perplexity, measure
from .options import CheckMemory, Threads, read_text

_WINDOW = 512  # tokens; what llama.cpp takes, too


def perplexity(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", parser=os.path.expanduser, help="A file or folder."),
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text file; - is standard input.")],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            parser=os.path.expanduser,
            help="A model of the same vocabulary, as the same one without quantization: shows how "
            "far the predictions are from its own.",
        ),
    ] = None,
    ctx: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens of a window. (default: 512, or the file's)"),
    ] = None,
    windows: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Read at most so many windows.")
    ] = None,
    threads: Threads = None,
    check_memory: CheckMemory = True,
    json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Measure how well a model predicts a text, by windows as llama.cpp's perplexity does."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    words = read_text(text, "TEXT")
    files = [model_path(each) for each in (file, against) if each]
    n_ctx = ctx or min(_WINDOW, *[context_size(each) for each in files])
    with ExitStack() as stack:
        models = [
            stack.enter_context(
                StarChat.load(each, n_threads=threads, n_ctx=n_ctx, check_memory=check_memory)
            )
            for each in files
        ]
        stderr = Console(stderr=True)
        bar = Progress(
            *(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )
        task = stack.enter_context(bar).add_task("measuring", total=None)

        def show(done: int, total: int, so_far: float) -> None:
            bar.update(task, completed=done, total=total, description=f"perplexity {so_far:.4f}")

        reference = models[1] if against else None
        measured = measure(models[0], words, n_ctx, reference, n_windows=windows, report=show)
    print(measured.to_json() if json else _shown(measured))


def _shown(measured: Perplexity) -> str:
    lines = [
        f"perplexity      {measured.perplexity:.4f} +/- {measured.error:.4f}",
        f"scored          {measured.n_tokens:,} tokens in {measured.n_windows:,} windows of "
        f"{measured.n_ctx:,}",
    ]
    if against := measured.against:
        lines += [
            f"perplexity of --against  {against.perplexity:.4f}",
            f"KL divergence   mean {against.kl_mean:.6f}, 95 % {against.kl_95:.6f}, "
            f"max {against.kl_max:.6f}",
            f"same top token  {against.same_top:.2%}",
        ]
    return "\n".join(lines)
