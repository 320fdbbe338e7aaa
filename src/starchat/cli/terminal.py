"""Standard input, output and errors: what a terminal shows, and how a program ends."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NoReturn

from ..progress import DELAY_S

if TYPE_CHECKING:
    from rich.status import Status

_NOT_SHOWN = {code: "\ufffd" for code in (*range(9), *range(11, 32), *range(127, 160))}
_BEGIN_S = 30.0  # another model at the other end of a pipe loads before it writes


def printable(text: str) -> str:
    """Return text that cannot command a terminal: no control characters but tab and newline."""
    return text.translate(_NOT_SHOWN)


class Waiting:
    """Says on stderr what takes so long: after two seconds, where stderr is a terminal.

    rich asks this object again and again what to show.
    """

    def __init__(self, what: Callable[[], str]) -> None:
        """Begin to wait for what the function names."""
        self.__rich__ = what
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._timer = threading.Timer(DELAY_S, self._show)
        self._timer.daemon = True
        if sys.stderr and sys.stderr.isatty():
            self._timer.start()

    def _show(self) -> None:
        from rich.console import Console

        with self._lock:
            if not self._timer.finished.is_set():  # closed meanwhile
                self._status = Console(stderr=True).status(self)
                self._status.start()

    def close(self) -> None:
        """Remove what was said."""
        self._timer.cancel()
        with self._lock:
            if self._status:
                self._status.stop()
                self._status = None


def read_stdin(begin_s: float | None = None) -> str:
    """Return what is on standard input, U+FFFD for what is no UTF-8.

    Where nothing comes for `begin_s`, none, with a warning: not every pipe has a writer.
    """
    if not sys.stdin:
        return ""
    with closing(Waiting(lambda: "waiting for the end of standard input (none? </dev/null)")):
        if begin_s is None or select.select([sys.stdin.buffer], [], [], begin_s)[0]:
            return sys.stdin.buffer.read().decode("utf-8", "replace")
    warn(
        f"nothing came on standard input within {begin_s:g} s: going on without it; </dev/null "
        "where there is none"
    )
    return ""


def read_beside() -> str:
    """Return what a pipe or a file brings beside an argument."""
    return "" if at_keyboard() else read_stdin(_BEGIN_S).strip("\n").rstrip()


def read_question(argument: str | None) -> str:
    """Return what is asked: the argument, and what standard input brings beside it."""
    if argument == "-" or (not argument and not at_keyboard()):
        return read_stdin().strip()
    return "\n\n".join(filter(None, [argument, read_beside()]))


@contextmanager
def unechoed() -> Iterator[None]:
    """Do not show what is typed meanwhile: it would move the lines of a live display."""
    keyboard = sys.stdin.fileno() if at_keyboard() else -1
    if keyboard < 0 or _in_background(keyboard):
        yield
        return
    before = termios.tcgetattr(keyboard)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(keyboard, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _in_background(terminal: int) -> bool:
    """Return whether this is a job in the background, which would stop if it set the terminal."""
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:  # not this process's controlling terminal: nobody stops it
        return False


def at_keyboard() -> bool:
    """Return whether a person types at standard input."""
    return bool(sys.stdin and sys.stdin.isatty())


def note(text: str) -> None:
    """Print a remark on stderr."""
    _print_on_stderr(text, "dim")


def report(error: str) -> None:
    """Print an error on stderr, as one line."""
    _print_on_stderr(f"error: {error}", "red")


def warn(warning: str) -> None:
    """Print a warning on stderr."""
    _print_on_stderr(f"warning: {warning}", "yellow")


def _print_on_stderr(text: str, style: str) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(printable(text), style=style, soft_wrap=not console.is_terminal)


def fail(error: str) -> NoReturn:
    """Print an error on stderr and end the program with exit code 1."""
    report(error)
    sys.exit(1)
