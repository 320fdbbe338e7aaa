"""Bytes of tokens → text up to the first stop string, however the bytes are cut into pieces.

The bytes of an incomplete character are held back, and so is an end of the text that may become
a stop string. finish() returns both.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Protocol


class StopStrings:
    """Stop strings as an automaton (Aho & Corasick 1975): their number costs a character nothing.

    A state is the longest end of the text with which some stop string begins; 0 is none. Immutable:
    the replies of a request share one.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """Build the automaton of `stop`."""
        self._next: dict[int, int] = {}  # state << 21 | character → the state behind it
        self.depth = [0]  # characters of the state
        self.match = [0]  # characters of the longest stop string that ends here; 0: none does
        for string in stop:
            self._add(string)
        self._shorter = self._links()  # the state that remains where there is no edge
        firsts = {string[0] for string in stop}
        self._begin = re.compile(f"[{''.join(map(re.escape, firsts))}]" if firsts else "(?!)")

    def _add(self, string: str) -> None:
        state = 0
        for character in string:
            below = self._next.setdefault(state << 21 | ord(character), len(self.depth))
            if below == len(self.depth):
                self.depth.append(self.depth[state] + 1)
                self.match.append(0)
            state = below
        self.match[state] = self.depth[state]

    def _links(self) -> list[int]:
        """Return the longest proper end of each state that is a state too."""
        links = [0] * len(self.depth)
        # Shorter states first: theirs are needed.
        for edge, below in sorted(self._next.items(), key=lambda item: self.depth[item[1]]):
            if state := edge >> 21:
                links[below] = self._after(links[state], chr(edge & 0x1FFFFF), links)
                self.match[below] = self.match[below] or self.match[links[below]]
        return links

    def _after(self, state: int, character: str, links: list[int]) -> int:
        while (below := self._next.get(state << 21 | ord(character))) is None and state:
            state = links[state]
        return below or 0

    def scan(self, text: str, state: int) -> tuple[int, int]:
        """Return the state behind `text`, and the index behind the first stop string, 0 if none."""
        position, n = 0, len(text)
        while position < n:
            if state == 0:  # to a character with which some stop string begins
                begin = self._begin.search(text, position)
                if begin is None:
                    return 0, 0
                position = begin.start()
            state = self._after(state, text[position], self._shorter)
            position += 1
            if self.match[state]:
                return state, position
        return state, 0


class UntilStop:
    """Passes text on, piece by piece, up to the first stop string.

    The first one is that which ends first; of two that end at the same character, the longer one.

    >>> text = UntilStop(StopStrings(["##"]))
    >>> text.feed("a#"), text.feed("b#"), text.feed("#c"), text.rest
    ('a', '#b', '', 'c')
    >>> text.found
    '##'
    """

    def __init__(self, stop: StopStrings) -> None:
        """Stop at any of `stop`."""
        self._stop = stop
        self._state = 0
        self._held = ""  # the characters of the state
        self.stopped = False
        self.found = ""  # the stop string
        self.rest = ""  # what follows the stop string in its piece

    def feed(self, text: str) -> str:
        """Add `text`; return what is certain to be no stop string, "" once stopped."""
        if self.stopped or not text:
            return ""
        self._state, end = self._stop.scan(text, self._state)
        if end:
            self.stopped = True
            passed = self._held + text[:end]
            self._held, self.rest = "", text[end:]
            n_passed = len(passed) - self._stop.match[self._state]
            self.found = passed[n_passed:]
            return passed[:n_passed]
        text = self._held + text
        n_passed = len(text) - self._stop.depth[self._state]
        self._held = text[n_passed:]
        return text[:n_passed]

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held, self._state = self._held, "", 0
        return held


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
        self,
        stop: Sequence[str] | StopStrings = (),
        *,
        lead: str = "",
        calls: CallFilter | None = None,
    ) -> None:
        """Stop at any of `stop`; leave out the character `lead` where the text begins with it."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._text = UntilStop(stop if isinstance(stop, StopStrings) else StopStrings(stop))
        self._lead = lead
        self._calls = calls

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._text.stopped

    @property
    def found(self) -> str:
        """The stop string that was found, "" without any."""
        return self._text.found

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
