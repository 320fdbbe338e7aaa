"""`starchat complete`: a text goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import InvalidRequestError
from .options import Prefix, ReplyOptions, loaded, taking
from .reply import print_reply, say_if_cut
from .terminal import read_beside, read_stdin


@taking(ReplyOptions)
def complete(
    options: ReplyOptions,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="The text; - or nothing takes it from standard input."
        ),
    ] = None,
    allow_special: Annotated[
        bool | None,
        typer.Option(
            help="Control tokens that are spelt out in the text are such tokens, or are not; by "
            "default they are where they frame it, as a dialogue or for infilling."
        ),
    ] = None,
    prefix: Prefix = None,
) -> None:
    """Continue a text: the prompt as it is, no roles around it."""
    if prompt is None or prompt == "-":
        prompt = read_stdin()
    elif read_beside():
        problem = "a text as an argument and another one on standard input: expected one of them"
        raise InvalidRequestError(problem)
    with loaded(options, prefix) as model:
        reply = print_reply(
            lambda: model.stream_complete(prompt, allow_special=allow_special, **options.keywords)
        )
        say_if_cut(reply, model.info.n_ctx)
