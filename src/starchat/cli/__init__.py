"""The `starchat` command, or `python -m starchat`; docs/command_line.md says what it does.

Answers go to stdout as they are written, everything else to stderr; what goes wrong is one line
there, and never a traceback.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from typing import NoReturn


def main() -> NoReturn:
    """Run the command and exit with its code: 0, 1 for an error, 2 for usage, 130 for Ctrl-C."""
    try:
        _run()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one does not wait for the end
        sys.exit(130)
    sys.exit(0)


def _run() -> None:
    # Here, as importing takes time too, in which Ctrl-C may come.
    from ..errors import StarChatError
    from .app import app
    from .terminal import fail, warn
    from .wording import in_command_words

    if sys.stdout is None:
        fail("standard output is closed: there is nowhere to print to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold what the terminal cannot
    warnings.showwarning = lambda message, *place: warn(in_command_words(Warning(message)))
    try:
        try:
            app(prog_name="starchat")
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told
    except StarChatError as error:
        fail(in_command_words(error))
    except OSError as error:
        # What could not be written is still in the buffer, and would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has seen enough
            sys.exit(1)
        fail(f"standard input or output: {error.strerror or error}")
    except Exception as error:
        if os.environ.get("STARCHAT_TRACEBACK"):
            raise
        kind = type(error).__name__
        fail(f"{kind}: {error} (a fault of starchat; STARCHAT_TRACEBACK=1 shows where)")
