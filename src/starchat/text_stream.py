"""Bytes of tokens → text up to the first stop string, whatever the borders of the pieces.

Half characters wait for their other half; of the text, only an end that may become a stop
string waits. Both come out by finish(): nothing is lost.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol


class UntilStop:
    """Passes text on, piece by piece, up to the first stop string.

    It is the one that is first complete; of two that end at the same character, the longer one.

    >>> text = UntilStop(["##"])
    >>> text.feed("a#"), text.feed("b#"), text.feed("#c"), text.rest
    ('a', '#b', '', 'c')
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """Stop at any of `stop`."""
        self._stop = tuple(stop)
        self._held = ""  # a suffix of the text that some stop string begins with
        self.stopped = False
        self.rest = ""  # of the piece that brought the stop string, what follows this

    def feed(self, text: str) -> str:
        """Return the text that `text` settles; "" once stopped."""
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
        """Return what waited."""
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
        """Return the free text that `text` settles."""

    def finish(self) -> str:
        """Return the free text that waited."""


class TextStream:
    r"""Decodes one reply piece by piece.

    Bytes that are no UTF-8 become U+FFFD. Stop strings are looked for in free text, not in calls.

    >>> stream = TextStream(stop=["\n\n"])
    >>> stream.feed(b"a\n"), stream.feed(b"\nb"), stream.stopped
    ('a', '', True)
    """

    def __init__(
        self,
        stop: Sequence[str] = (),
        *,
        lead: str = "",
        calls: CallFilter | None = None,
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
        """Return the text that `piece` settles; "" once stopped."""
        return self._settle(self._decode(piece))

    def finish(self) -> str:
        """Return everything that waited; the end of the bytes."""
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
