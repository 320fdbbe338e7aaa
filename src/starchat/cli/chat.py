"""`starchat chat`: one answer, or a conversation at the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer

from ..errors import InvalidRequestError, StarChatError
from ..model import StarChat
from ..sampling import SamplingOptions
from .options import ReplyOptions, taking
from .terminal import note, print_stream, read_stdin, report


@taking(ReplyOptions)
def chat(
    options: ReplyOptions,
    question: Annotated[
        str | None, typer.Argument(help="Answer this and exit; - takes it from standard input.")
    ] = None,
    system: Annotated[
        str, typer.Option(help="System message: who the assistant is, how it should answer.")
    ] = "",
) -> None:
    """Talk to a model; with a QUESTION, or one on standard input, only answer that."""
    if question == "-" or (question is None and not (sys.stdin and sys.stdin.isatty())):
        question = read_stdin().strip()
        if not question:
            raise InvalidRequestError("no question: neither as an argument nor on standard input")
    with options.load() as model:
        dialogue = Dialogue(model, system, options.sampling)
        if question is None:
            _converse(dialogue)
        else:
            dialogue.ask(question)


class Dialogue:
    """The turns so far; keeps the ids of replies, so that nothing is tokenized twice."""

    def __init__(self, model: StarChat, system: str, sampling: SamplingOptions) -> None:
        """Begin with an empty history."""
        self.model = model
        self._sampling = sampling
        self._system: list[dict[str, object]] = [{"role": "system", "content": system}]
        self._turns: list[dict[str, object]] = []

    def ask(self, question: str, interruptible: bool = False) -> None:
        """Print the answer and remember it, or what there is of it when Ctrl-C ends it early."""
        asked: list[dict[str, object]] = [*self._turns, {"role": "user", "content": question}]
        answer: dict[str, object] = {"role": "assistant", "content": "", "token_ids": ()}
        with self.model.stream_chat([*self._system, *asked], **self._sampling) as stream:
            answer["content"], answer["token_ids"] = print_stream(stream, interruptible)
        self._turns = [*asked, answer]

    def forget(self) -> None:
        """Begin again."""
        self._turns = []


def _converse(dialogue: Dialogue) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (its import gives input() line editing and a history)
    info = dialogue.model.info
    note(
        f"{os.path.basename(info.file)} · context {info.n_ctx:,} tokens\n"
        "Ctrl-C stops an answer · /reset forgets the dialogue · /exit or Ctrl-D leaves"
    )
    while True:
        try:
            question = input("\n> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            print()
            return
        if question == "/exit":
            return
        if question == "/reset":
            dialogue.forget()
            note("forgotten")
        elif question.startswith("/"):
            note(f"{question}: no such command; there are /reset and /exit")
        elif question:
            try:
                dialogue.ask(question, interruptible=True)
            except StarChatError as error:
                report(str(error))
