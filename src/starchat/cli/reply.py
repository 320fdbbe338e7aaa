"""Prints replies as they are written: Markdown at a terminal, else the text as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing, suppress
from typing import NamedTuple, Protocol

from ..stream import Stream
from ..types import Chunk, FinishReason, Usage
from .terminal import Waiting, note, printable, unechoed


class Reply(NamedTuple):
    """What was printed; without a reason it was stopped by Ctrl-C."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    usage: Usage = Usage(0, 0)


class _View(Protocol):
    def feed(self, text: str) -> None:
        """Show more of the reply."""

    def close(self) -> None:
        """Show what is left, and end the line."""


class _PlainView:
    """Writes a text as it comes."""

    def feed(self, text: str) -> None:
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def close(self) -> None:
        self.feed("\n")


def _view(markdown: bool) -> _View:
    if markdown and sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False)
        if not console.is_dumb_terminal:
            from .markdown import MarkdownView

            return MarkdownView(console)
    return _PlainView()


def print_reply(
    start: Callable[[], Stream], *, markdown: bool = False, interruptible: bool = False
) -> Reply:
    """Print the reply of the stream that `start` returns; if `interruptible`, Ctrl-C ends it."""
    text = ""
    token_ids: tuple[int, ...] = ()
    last: Chunk | None = None
    stream: Stream | None = None

    def progress() -> str:
        done, total = stream.prompt_progress if stream else (0, 0)
        return f"reading the prompt: {done:,} of {total:,} tokens" if total else "starting"

    stops = [KeyboardInterrupt] if interruptible else []
    with suppress(*stops), unechoed(), closing(Waiting(progress)) as waiting:
        stream = start()  # before anything is printed, as it may raise
        with stream, closing(_view(markdown)) as view:
            for last in stream:
                waiting.close()
                text += last.text
                token_ids += last.token_ids
                view.feed(last.text)
    reason, usage = (last.finish_reason, last.usage) if last else (None, None)
    return Reply(text, token_ids, reason, usage or Usage(0, 0))


def say_if_cut(reply: Reply, n_ctx: int, remedy: str = "") -> None:
    """Say on stderr why a reply is not whole."""
    n_tokens = reply.usage.completion_tokens
    if reply.finish_reason is None:
        note("stopped")
    elif reply.finish_reason == "length" and reply.usage.total_tokens >= n_ctx:
        note(f"cut here: the context of {n_ctx:,} tokens is full{remedy}")
    elif reply.finish_reason == "length":
        note(f"cut here: {n_tokens:,} tokens, the limit of --max-tokens")
