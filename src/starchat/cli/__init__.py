"""The `starchat` command, or `python -m starchat`: chat, complete, render, inspect, bench.

Answers go to stdout as they are written, everything else to stderr; what goes wrong is one line
there, with exit code 1.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import StarChatError
from . import bench, chat, complete, inspect, render
from .terminal import fail

app = typer.Typer(
    name="starchat",
    help="Runs StarChat and StarCoder files on the CPU.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (chat.chat, complete.complete, render.render, inspect.inspect, bench.bench):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"starchat {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run StarChat and StarCoder files on the CPU."""


def main() -> NoReturn:
    """Run the command and exit with its code."""
    if sys.stdout is None:
        fail("standard output is closed: there is nowhere to print to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold what the terminal cannot
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told
    except StarChatError as error:
        fail(str(error))
    except OSError as error:
        # What could not be written is still in the buffer, and would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has seen enough
            sys.exit(1)
        fail(f"standard input or output: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
