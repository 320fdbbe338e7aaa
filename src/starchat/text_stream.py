"""Bytes of tokens → text up to the first stop string, however the bytes are cut into pieces.

The bytes of an incomplete character are held back, and so is an end of the text that may become
a stop string. finish() returns both.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol


class UntilStop:
    """Passes text on, piece by piece, up to the first stop string.

    The first one is that which ends first; of two that end at the same character, the longer one.

    >>> text = UntilStop(["##"])
    >>> text.feed("a#"), text.feed("b#"), text.feed("#c"), text.rest
    ('a', '#b', '', 'c')
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """Stop at any of `stop`."""
        self._stop = tuple(stop)
        self._held = ""  # an end of the text with which some stop string begins
        self.stopped = False
        self.rest = ""  # what follows the stop string in its piece

    def feed(self, text: str) -> str:
        """Add `text`; return what is certain to be no stop string, "" once stopped."""
        if self.stopped or not text:
            return ""
        text = self._held + text
        matches = [
            (start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0
        ]
        if matches:
            end, start = min(matches)
            self.stopped = True
            self._held, self.rest = "", text[end:]
            return text[:start]
        n_held = self._n_held(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held

    def _n_held(self, text: str) -> int:
        """Return the length of the longest suffix that is a prefix of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0


class CallFilter(Protocol):
    """What takes tool calls out of a reply's text (call_reader.py)."""

    @property
    def began(self) -> bool:
        """Whether a call has begun: no text will follow."""

    def feed(self, text: str, /) -> str:
        """Add `text`; return what is certain to be no call."""

    def finish(self) -> str:
        """Return the text that was held back."""


class TextStream:
    r"""Decodes one reply piece by piece.

    Bytes that are no UTF-8 become U+FFFD. Stop strings are looked for in free text, not in calls.

    >>> stream = TextStream(stop=["\n\n"])
    >>> stream.feed(b"a\n"), stream.feed(b"\nb"), stream.stopped
    ('a', '', True)
    """

    def __init__(
        self, stop: Sequence[str] = (), *, lead: str = "", calls: CallFilter | None = None
    ) -> None:
        """Stop at any of `stop`; leave out the character `lead` where the text begins with it."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._text = UntilStop(stop)
        self._lead = lead
        self._calls = calls

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._text.stopped

    def feed(self, piece: bytes) -> str:
        """Add `piece`; return the text that is certain by now, "" once stopped."""
        return self._settle(self._decode(piece))

    def finish(self) -> str:
        """Return everything that was held back, at the end of the bytes."""
        text = self._settle(self._decode(b"", True))
        if self._calls:
            text += self._text.feed(self._calls.finish())
        return text + self._text.finish()

    def _settle(self, fresh: str) -> str:
        if fresh:
            fresh, self._lead = fresh.removeprefix(self._lead), ""
        if not self._calls:
            return self._text.feed(fresh)
        text = self._text.feed(self._calls.feed(fresh))
        return text + self._text.finish() if self._calls.began else text
