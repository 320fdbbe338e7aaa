"""Standard input, output and errors: what a terminal shows, and how a program ends."""

from __future__ import annotations

import contextlib
import sys
from typing import NoReturn

from ..stream import Stream

_NOT_SHOWN = {code: "\ufffd" for code in (*range(9), *range(11, 32), *range(127, 160))}


def printable(text: str) -> str:
    """Return text that cannot command a terminal: no control characters but tab and newline."""
    return text.translate(_NOT_SHOWN)


def print_stream(stream: Stream, interruptible: bool = False) -> tuple[str, tuple[int, ...]]:
    """Print a reply as it comes; return its text and ids, also where Ctrl-C may end it."""
    is_terminal = sys.stdout.isatty()
    text = ""
    token_ids: tuple[int, ...] = ()
    with contextlib.suppress(*[KeyboardInterrupt] if interruptible else ()):
        for chunk in stream:
            text += chunk.text
            token_ids += chunk.token_ids
            sys.stdout.write(printable(chunk.text) if is_terminal else chunk.text)
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return text, token_ids


def read_stdin() -> str:
    """Return what is on standard input, U+FFFD for what is no UTF-8."""
    return sys.stdin.buffer.read().decode("utf-8", "replace") if sys.stdin else ""


def note(text: str) -> None:
    """Print a remark on stderr."""
    from rich.console import Console

    Console(stderr=True, highlight=False, markup=False).print(printable(text), style="dim")


def report(error: str) -> None:
    """Print an error on stderr, as one line."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"error: {printable(error)}", style="red")


def fail(error: str) -> NoReturn:
    """Print an error on stderr and end the program with exit code 1."""
    report(error)
    sys.exit(1)
