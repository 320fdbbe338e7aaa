"""`starchat complete`: a text goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import ReplyOptions, taking
from .terminal import print_stream, read_stdin


@taking(ReplyOptions)
def complete(
    options: ReplyOptions,
    prompt: Annotated[
        str | None, typer.Argument(help="The text; - or nothing takes it from standard input.")
    ] = None,
) -> None:
    """Continue a text: the prompt as it is, no roles around it."""
    text = read_stdin() if prompt is None or prompt == "-" else prompt
    with options.load() as model, model.stream_complete(text, **options.sampling) as stream:
        print_stream(stream)
