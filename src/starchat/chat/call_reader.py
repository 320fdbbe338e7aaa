"""A reply's text → free text and tool calls, however the text is cut into pieces.

Text that may become the marker of a call is held back, so that no part of a call is ever given
out as text. Every reply that the grammar of tools.py allows can be read; another one is no error,
but has a call that stays unfinished.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..text_stream import StopStrings, UntilStop
from ..types import ToolCall, ToolCallChunk
from .tools import CALL, call_line, reply_text

_HEAD = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": (?=\{)')
_NEXT = "\n" + CALL
_CALL_BEGINS = StopStrings([_NEXT])
_LARGEST = sys.float_info.max
_OUTSIDE_STRINGS = re.compile(r'["{}]')
_IN_STRINGS = re.compile(r'["\\]')


class CallReader:
    r"""Reads one reply, from its first character on.

    >>> reader = CallReader()
    >>> reader.feed('Let me see.\n<tool_call>{"name": "add", "arguments": {"a": 1}}')
    'Let me see.'
    >>> [(call.name, call.arguments) for call in reader.calls], reader.finish()
    ([('add', {'a': 1})], '')
    """

    def __init__(self, forced: bool = False) -> None:
        """Begin a reply; in the text of a forced one, no marker can begin, so none is text."""
        self._forced = forced
        self.calls: list[ToolCall] = []  # whole ones
        self._fresh: list[ToolCallChunk] = []
        self._text = UntilStop(_CALL_BEGINS)
        self._text.feed("\n")  # so that a call at the very start follows a line break, as others do
        self._drop_newline = True  # leaves that one out
        self._id = self._name = self._arguments = ""  # of the call that is being read
        self._end = _ObjectEnd()
        self._rest = ""  # fed and not read yet
        # The next step; returns whether it read something.
        self._read: Callable[[CallReader], bool] = CallReader._read_head

    @property
    def began(self) -> bool:
        """Whether a call has begun: no text will follow."""
        return self._text.stopped

    @property
    def unfinished(self) -> bool:
        """Whether the reply ends within a call, or one that cannot be read."""
        return self.began and (self._read != CallReader._read_next or bool(self._rest))

    @property
    def has_fresh(self) -> bool:
        """Whether take() has something to give."""
        return bool(self._fresh)

    def feed(self, text: str) -> str:
        """Add `text`; return what is certain to be no call."""
        free = ""
        if self.began:
            self._rest += text
        else:
            free = self._free(self._text.feed(text))
            self._rest = self._text.rest
        while self._rest and self._read(self):
            pass
        return free

    def finish(self) -> str:
        """Return the text that was held back."""
        waited = self._free(self._text.finish())
        return "" if self._forced else waited

    def take(self) -> tuple[ToolCallChunk, ...]:
        """Return the pieces of calls that were read since the last time."""
        fresh, self._fresh = tuple(self._fresh), []
        return fresh

    def _free(self, text: str) -> str:
        if text and self._drop_newline:
            self._drop_newline = False
            return text[1:]
        return text

    def _read_head(self) -> bool:
        if not (head := _HEAD.match(self._rest)):
            return False
        try:
            self._name = json.loads(head[1])
        except ValueError:
            return False
        self._rest = self._rest[head.end() :]
        self._id, self._arguments = f"call_{secrets.token_hex(12)}", ""
        self._fresh.append(ToolCallChunk(len(self.calls), self._id, self._name, ""))
        self._end = _ObjectEnd()
        self._read = CallReader._read_arguments
        return True

    def _read_arguments(self) -> bool:
        end = self._end.find(self._rest)
        piece = self._rest if end is None else self._rest[:end]
        self._rest = self._rest[len(piece) :]
        self._arguments += piece
        last = self._fresh[-1] if self._fresh else None
        if last and last.id is None:
            self._fresh[-1] = replace(last, arguments=last.arguments + piece)
        else:
            self._fresh.append(ToolCallChunk(len(self.calls), None, None, piece))
        if end is not None:
            self._read = CallReader._read_close
        return True

    def _read_close(self) -> bool:
        arguments = load_object(self._arguments)
        if self._rest[0] != "}" or arguments is None:
            return False
        self._rest = self._rest[1:]
        self.calls.append(ToolCall(self._id, self._name, arguments))
        self._read = CallReader._read_next
        return True

    def _read_next(self) -> bool:
        if not self._rest.startswith(_NEXT):
            return False
        self._rest = self._rest[len(_NEXT) :]
        self._read = CallReader._read_head
        return True


class _ObjectEnd:
    """Finds where a JSON object ends that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, piece: str) -> int | None:
        """Return the index behind the object's last brace, None if it is in no piece so far."""
        position = 0
        while position < len(piece):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            sign = (_IN_STRINGS if self._in_string else _OUTSIDE_STRINGS).search(piece, position)
            if not sign:
                return None
            position = sign.end()
            if sign[0] == '"':
                self._in_string = not self._in_string
            elif sign[0] == "\\":
                self._escaped = True
            else:
                self._depth += 1 if sign[0] == "{" else -1
                if self._depth == 0:
                    return position
        return None


def load_object(text: str) -> dict[str, Any] | None:
    """Return the object of a JSON text; None for what Python cannot hold.

    That is an integer of more than 4,300 digits, or lists that are nested thousands deep.
    """
    try:
        # NaN and Infinity are no JSON: int refuses them
        value = json.loads(text, parse_float=_finite, parse_constant=int)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _finite(text: str) -> float:
    """Return a float; the largest one for 1e999, as infinity has no JSON."""
    return max(-_LARGEST, min(float(text), _LARGEST))


def restated(text: str) -> str | None:
    """Return a reply's text as a prompt shows it; None if it ends within a call.

    >>> restated('<tool_call>{"name": "add", "arguments": {"a": 1e1}}')
    '<tool_call>{"name": "add", "arguments": {"a": 10.0}}'
    """
    reader = CallReader()
    free = reader.feed(text) + reader.finish()
    if reader.unfinished:
        return None
    lines = [call_line("reply", call.name, call.arguments) for call in reader.calls]
    return reply_text(free, lines)
