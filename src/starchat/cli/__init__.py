"""The command line: `starchat`, or `python -m starchat`."""

from .app import main

__all__ = ["main"]
