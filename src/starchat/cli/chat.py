"""`starchat chat`: one answer, or a conversation at the terminal."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..errors import InvalidRequestError
from .conversation import COMMANDS, Conversation
from .line_editor import reader
from .options import Prefix, ReplyOptions, loaded, taking
from .reply import print_reply, say_if_cut
from .terminal import at_keyboard, note, read_question


@taking(ReplyOptions)
def chat(
    options: ReplyOptions,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION",
            help="Answer this and exit; what is on standard input follows it.",
        ),
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="System message: who the assistant is, how it should answer."
        ),
    ] = "",
    plain: Annotated[
        bool, typer.Option("--plain", help="Show answers as they are written, not as Markdown.")
    ] = False,
    prefix: Prefix = None,
) -> None:
    """Talk to a model; with a QUESTION, or one on standard input, only answer that.

    In a conversation, /help lists the commands. Ctrl-C stops an answer, Ctrl-D ends.
    """
    markdown = not (plain or options.constrained)  # Markdown would change JSON's backslashes
    if question is None and at_keyboard():
        with loaded(options, prefix) as model:
            _converse(Conversation(model, system, options.keywords, markdown))
        return
    asked = read_question(question)
    if not asked:
        raise InvalidRequestError("no question: neither as an argument nor on standard input")
    dialogue = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
    with loaded(options, prefix) as model:
        reply = print_reply(
            lambda: model.stream_chat(dialogue, **options.keywords), markdown=markdown
        )
        say_if_cut(reply, model.info.n_ctx)


def _converse(conversation: Conversation) -> None:
    info = conversation.model.info
    note(
        f"{os.path.basename(info.file)} · context {info.n_ctx:,} tokens\n"
        "/help lists commands · Ctrl-C stops an answer · Ctrl-D leaves"
    )
    read = reader(COMMANDS)
    goes_on = True
    while goes_on:
        try:
            goes_on = conversation.read(read())
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
