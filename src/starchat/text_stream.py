"""Bytes of tokens → text up to the first stop string, whatever the borders of the pieces.

Half characters wait for their other half; of the text, only an end that may become a stop
string waits. Both come out by finish(): nothing is lost.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    r"""Decodes one reply piece by piece.

    A stop string ends the text where it is first complete; of two that end at the same
    character, the longer one. Bytes that are no UTF-8 become U+FFFD.

    >>> stream = TextStream(stop=["\n\n"])
    >>> stream.feed(b"a\n"), stream.feed(b"\nb"), stream.stopped
    ('a', '', True)
    """

    def __init__(self, stop: Sequence[str] = (), *, drop_newline: bool = False) -> None:
        """Stop at any of `stop`; leave out one newline at the very start if `drop_newline`."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stop = tuple(stop)
        self._drop_newline = drop_newline
        self._held = ""  # decoded, not given out: a suffix that some stop string begins with
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Return the text that `piece` settles; "" once stopped."""
        return self._settle(self._decode(piece))

    def finish(self) -> str:
        """Return everything that waited; the end of the bytes."""
        text = self._settle(self._decode(b"", True))
        held, self._held = self._held, ""
        return text + held

    def _settle(self, fresh: str) -> str:
        if self.stopped or not fresh:
            return ""
        if self._drop_newline:
            fresh = fresh.removeprefix("\n")
            self._drop_newline = False
        text = self._held + fresh
        matches = [
            (start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0
        ]
        if matches:
            self.stopped = True
            self._held = ""
            return text[: min(matches)[1]]
        n_held = self._n_held(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def _n_held(self, text: str) -> int:
        """Return the length of the longest suffix that is a prefix of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
