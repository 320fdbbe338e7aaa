"""`starchat render`: the prompt that the model gets for a dialogue."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ..errors import InvalidRequestError
from ..openai import read_messages
from .options import ModelOptions, read_json, taking
from .terminal import note, printable, read_question


@taking(ModelOptions)
def render(
    options: ModelOptions,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION", help="The user's message; what is on standard input follows it."
        ),
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System message before it.")] = "",
    messages: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A whole dialogue instead: a JSON list of messages."),
    ] = None,
) -> None:
    """Show the exact prompt of a dialogue, every control token as «token»; generate nothing."""
    if messages is not None:
        if question is not None or system:
            raise InvalidRequestError("--messages has the whole dialogue: give no other message")
        dialogue: Any = read_messages(read_json(messages, "--messages", "a JSON list of messages"))
    elif question is None:
        raise InvalidRequestError("no dialogue: give a QUESTION, or --messages FILE")
    else:
        asked = read_question(question)
        dialogue = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
    with options.load() as model:
        text = model.render(dialogue)
        n_tokens = model.count_tokens(dialogue)
    print(printable(text) if sys.stdout.isatty() else text)
    note(f"{n_tokens:,} tokens")
