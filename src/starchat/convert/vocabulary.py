"""Vocabularies: tokens as bytes and in GPT-2's letters, merges from the order of ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["from_letters", "ordinary", "rebuilt_merges", "to_letters"]

# Bytes that print stand for themselves, the others for the letters from U+0100 on.
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_LETTERS = {byte: chr(byte) for byte in _PRINTED}
for _byte in range(256):
    _LETTERS.setdefault(_byte, chr(256 + len(_LETTERS) - len(_PRINTED)))
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def to_letters(token: bytes) -> str:
    """Return a token as GPT-2's vocabularies spell it.

    >>> to_letters(b" a")
    'Ġa'
    """
    return "".join([_LETTERS[byte] for byte in token])


def from_letters(text: str) -> bytes:
    """Return the bytes of a token; KeyError for a letter that stands for no byte.

    >>> from_letters("Ġa")
    b' a'
    """
    return bytes([_BYTES[letter] for letter in text])


def ordinary(tokens: Sequence[bytes], kinds: Sequence[int]) -> list[bytes]:
    """Return the tokens that merges may make: added ones can be of the trained vocabulary, too."""
    return [token for token, kind in zip(tokens, kinds, strict=True) if kind in (1, 4)]


def rebuilt_merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the merges of the ordinary tokens, in id order: a merge's rank is its token's id.

    The earlier merges leave two pieces of a token: these are what its own merge joins. A token
    that they leave in more pieces has none.

    >>> rebuilt_merges([b"a", b"b", b"c", b"ab", b"abc"])
    [(b'a', b'b'), (b'ab', b'c')]
    """
    ranks: dict[tuple[bytes, bytes], int] = {}
    for token in tokens:
        if len(token) < 2:
            continue
        pieces = [token[at : at + 1] for at in range(len(token))]
        while len(pieces) > 2:
            pairs = [ranks.get(pair, len(ranks)) for pair in itertools.pairwise(pieces)]
            rank = min(pairs)
            if rank == len(ranks):
                break
            at = pairs.index(rank)
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        if len(pieces) == 2:
            ranks.setdefault((pieces[0], pieces[1]), len(ranks))
    return list(ranks)
