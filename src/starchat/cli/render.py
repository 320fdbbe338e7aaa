"""`starchat render`: the prompt that the model gets for a dialogue."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from ..errors import FileAccessError, InvalidRequestError
from ..openai import read_messages
from .options import ModelOptions, taking
from .terminal import note, printable, read_stdin


@taking(ModelOptions)
def render(
    options: ModelOptions,
    question: Annotated[
        str | None, typer.Argument(help="The user's message; - takes it from standard input.")
    ] = None,
    system: Annotated[str, typer.Option(help="System message before it.")] = "",
    messages: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A whole dialogue instead: a JSON list of messages."),
    ] = None,
) -> None:
    """Show the exact prompt of a dialogue, every control token as «token»; generate nothing."""
    if messages is not None:
        if question is not None or system:
            raise InvalidRequestError("--messages has the whole dialogue: give no other message")
        dialogue: Any = read_messages(_json(messages))
    elif question is None:
        raise InvalidRequestError("no dialogue: give a QUESTION, or --messages FILE")
    else:
        asked = read_stdin().strip() if question == "-" else question
        dialogue = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
    with options.load() as model:
        text = model.render(dialogue)
        n_tokens = model.count_tokens(dialogue)
    print(printable(text) if sys.stdout.isatty() else text)
    note(f"{n_tokens:,} tokens")


def _json(path: str) -> Any:
    """Return what a file of JSON holds; - is standard input."""
    try:
        if path == "-":
            return json.loads(read_stdin())
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror}", param="messages") from None
    except (ValueError, RecursionError) as error:
        problem = f"{path}: expected a JSON list of messages: {error}"
        raise InvalidRequestError(problem, param="messages") from None
