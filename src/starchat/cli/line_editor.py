"""What a person types, one input after the other: prompt_toolkit, or plain lines without it.

A paste is one input, as the terminal brackets it; the history of inputs is a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .terminal import note

PROMPT = "> "
_QUOTES = '"""'
_PASTE, _END_OF_PASTE = "\x1b[200~", "\x1b[201~"  # how terminals bracket a paste


def is_open(text: str) -> bool:
    """Return whether Enter begins another line: between triple quotes.

    >>> is_open('\"\"\"def f():'), is_open('\"\"\"def f(): pass\"\"\"')
    (True, False)
    """
    text = text.strip()
    return text.startswith(_QUOTES) and (len(text) < 6 or not text.endswith(_QUOTES))


def unquoted(text: str) -> str:
    """Return an input without the triple quotes around it."""
    stripped = text.strip()
    if stripped.startswith(_QUOTES) and not is_open(stripped):
        return stripped[3:-3].strip("\n")
    return text


def reader(commands: Iterable[str]) -> Callable[[], str]:
    """Return a function that reads an input; it raises KeyboardInterrupt, EOFError at Ctrl-D."""
    from prompt_toolkit.utils import is_dumb_terminal

    screen = next((out for out in (sys.stdout, sys.stderr) if out and out.isatty()), None)
    if screen is None or is_dumb_terminal():
        return _plain_input
    session = _session(screen, commands)

    def read() -> str:
        print(file=screen, flush=True)
        text = session.prompt([("ansicyan", PROMPT)])
        return unquoted(text.encode("utf-8", "replace").decode())  # what is typed may be no UTF-8

    return read


def _plain_input() -> str:
    text = input(f"\n{PROMPT}")
    while True:
        is_pasting = text.count(_PASTE) > text.count(_END_OF_PASTE)
        if text.endswith("\\") and not is_pasting:
            text = text[:-1]
        elif not is_pasting and not is_open(text):
            return unquoted(text.replace(_PASTE, "").replace(_END_OF_PASTE, ""))
        text += "\n" + input()


def _session(screen: Any, commands: Iterable[str]) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        document = buffer.document
        if document.is_cursor_at_the_end and document.text.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif is_open(document.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    # It would ask the terminal where the cursor is, which some never answer.
    os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"
    return PromptSession(
        history=history(),
        key_bindings=keys,
        output=create_output(stdout=screen),
        completer=WordCompleter([f"/{name}" for name in commands], sentence=True),
        complete_while_typing=False,
        prompt_continuation=" " * len(PROMPT),
        enable_suspend=True,
    )


def history_file() -> Path:
    """Return where inputs are kept (XDG base directories)."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local/state") / "starchat/history"


def history() -> Any:
    """Return the inputs of earlier sessions and this one; of this one where no file can be."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class History(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError, UnicodeError):  # the disk is full; no UTF-8
                super().store_string(string)

    try:
        file = history_file()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)) as opened:
            os.fchmod(opened.fileno(), 0o600)
        return History(os.fspath(file))
    except (OSError, RuntimeError) as error:  # no home
        note(f"no history between sessions: {error}")
        return InMemoryHistory()
