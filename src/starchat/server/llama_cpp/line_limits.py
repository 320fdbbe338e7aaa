"""Ends of code completions that no token or stop string marks: less indentation, and time."""

from __future__ import annotations

import re
import time


class LineLimits:
    r"""Passes a reply's text on, piece by piece, up to a line that is not part of it.

    indentation: a line with fewer blanks before its text ends the reply, before its line break.
    seconds: from the first piece; the first line break behind them ends the reply, too. 0: none.

    >>> lines = LineLimits(indentation=4)
    >>> [lines.feed(text) for text in ("a\n  ", "  b\n\n", "c")], lines.is_over
    (['a', '\n    b', ''], True)
    """

    def __init__(self, indentation: int = 0, seconds: float = 0.0) -> None:
        """Begin a reply."""
        self._indentation = indentation
        self._seconds = seconds
        self._began = 0.0
        self._held = ""  # a line break, and blanks behind it
        self._n_lines = 0
        self.is_over = False

    def feed(self, text: str) -> str:
        """Add text; return what is certain to be part of the reply, "" once it is over."""
        if self.is_over:
            return ""
        now = time.monotonic()
        self._began = self._began or now
        self._n_lines += text.count("\n")
        if self._indentation > 0:
            text = self._indented(text)
        if self._seconds and self._n_lines and now - self._began > self._seconds:
            self.is_over = True
        return text

    def _indented(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        for line in _LINE.finditer(text):
            if line.end() == len(text):  # what follows decides
                self._held = line[0]
                return text[: line.start()]
            if len(line[1]) < self._indentation:
                self.is_over = True
                return text[: line.start()]
        return text

    def finish(self) -> str:
        """Return what was held back, where the reply ends by itself."""
        held, self._held = self._held, ""
        return "" if self.is_over else held


_LINE = re.compile(r"\n(?:[ \t\r]*\n)*([ \t\r]*)")  # blank lines, and the blanks of the next one
