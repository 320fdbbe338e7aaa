"""A growing text in Markdown → pieces that nothing written later can change, and an open rest.

Each line is looked at once, by its first characters. A piece is whole top-level blocks, or items of
a top-level list: rendered one by one, pieces give what the whole text gives.
"""

from __future__ import annotations

import re

from ...markdown import parse

MOST_OPEN = 8_192  # characters of a piece that is no code: it is rendered again as it grows
_MOST_LOOKS = 20  # at such a piece, whether an indented fence stands in a list or quote of it
_FENCE = re.compile(r"( {0,3})(`{3,}(?=[^`]*$)|~{3,})[ \t]*([^ \t]*)")
_ITEM = re.compile(r"((?:[-+*]|\d{1,9}[.)]) {1,4})(?=[^ \t])")
_RULE = re.compile(r"([-*_])[ \t]*(?:\1[ \t]*){2,}$")
_HEADING = re.compile(r"#{1,6}(?:[ \t]|$)")
_BLANK = re.compile(r"[ \t]*$")
_MAY_CLOSE = re.compile(r" {0,3}[`~]*[ \t]*$")


class BlockSplitter:
    """Takes a text as it comes, and gives its pieces."""

    def __init__(self) -> None:
        """Begin with an empty text."""
        self._whole: list[str] = []
        self._lines: list[str] = []  # of the open piece
        self._size = 0  # characters in them
        self._line = ""  # that has not ended
        self._held = ""  # "\r", which may be the first half of a line break
        self._after_blank = False
        self._n_looks = 0
        self._indent = 0  # of what belongs to the last item; 0: the piece may be no list
        self._fence: re.Match[str] | None = None  # of the code that is open
        self._code: list[str] = []  # its text that nobody took yet
        self._n_taken = 0  # characters of the line that has not ended

    @property
    def language(self) -> str | None:
        """The language of the open code, which may be ""; None where the open piece is no code."""
        return self._fence[3] if self._fence else None

    @property
    def open(self) -> str:
        """The open piece."""
        return "".join([line + "\n" for line in self._lines]) + self._line

    def feed(self, text: str) -> None:
        """Add to the text."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        text = text[: len(text) - len(self._held)].replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = text.split("\n")
        for line in lines:
            self._add(self._line + line)
            self._line, self._n_taken = "", 0
        self._line += rest
        while len(self._line) > MOST_OPEN and not self._fence:
            self._cut()
            self._whole.append(self._line[:MOST_OPEN])
            self._line = self._line[MOST_OPEN:]

    def finish(self) -> None:
        """End the text: what is open becomes whole."""
        self._cut(self._line)
        self._line = ""

    def take_whole(self) -> list[str]:
        """Return the pieces that became whole."""
        whole, self._whole = self._whole, []
        return whole

    def take_code(self) -> str:
        """Return the text that was added to the open code; not yet a line that may close it."""
        code = "".join(self._code)
        self._code.clear()
        if self._fence and not _MAY_CLOSE.match(self._line):
            line = _without(self._line, len(self._fence[1]))
            code += line[self._n_taken :]
            self._n_taken = len(line)
        return code

    def _add(self, line: str) -> None:
        """Add a line that has ended."""
        if self._fence:
            self._add_code(line, self._fence)
            return
        if fence := self._fence_of(line):
            self._cut()
            self._fence = fence
            self._append(line)
            return
        is_blank = _BLANK.match(line) is not None
        indent = 0 if is_blank else _indent(line)
        item = None if _RULE.match(line) else _ITEM.match(line)
        if not is_blank and not indent and self._lines:
            begins = self._after_blank or _HEADING.match(line) or (item and self._indent)
            if begins:
                self._cut()
        if self._size + len(line) > MOST_OPEN:
            self._cut()
        if not self._lines:
            self._indent = len(item[1]) if item else 0
        elif not is_blank and indent < self._indent:
            self._indent = 0
        self._append(line)
        self._after_blank = is_blank

    def _fence_of(self, line: str) -> re.Match[str] | None:
        """Return the fence with which a line begins code that stands in no list or quote."""
        fence = _FENCE.match(line)
        if not fence or not fence[1]:
            return fence
        if (self._indent and len(fence[1]) >= self._indent) or self._n_looks == _MOST_LOOKS:
            return None
        self._n_looks += 1
        last = parse("\n".join([*self._lines, line]))[-1]
        return fence if last.type == "fence" and not last.level else None

    def _add_code(self, line: str, fence: re.Match[str]) -> None:
        mark = fence[2]
        if re.match(rf" {{0,3}}{mark}{mark[0]}*[ \t]*$", line):
            self._append(line)
            self._cut()
            return
        self._append(line)
        self._code.append(_without(line, len(fence[1]))[self._n_taken :] + "\n")

    def _append(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line) + 1

    def _cut(self, rest: str = "") -> None:
        """End the open piece, if it has anything, and begin the next."""
        if rest or any(self._lines):
            self._whole.append("".join([line + "\n" for line in self._lines]) + rest)
        self._lines.clear()
        self._code.clear()
        self._size = self._indent = self._n_looks = 0
        self._after_blank, self._fence = False, None


def _indent(line: str) -> int:
    """Return the columns before the first character."""
    begun = line[: len(line) - len(line.lstrip(" \t"))]
    return len(begun.expandtabs(4))


def _without(line: str, indent: int) -> str:
    """Return a line of code without the indent of its fence."""
    spaces = len(line) - len(line.lstrip(" "))
    return line[min(indent, spaces) :]
