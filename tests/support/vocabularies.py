"""Texts and byte-pair vocabularies made by algorithms of this file alone, the same in every run.

They stand for StarChat's files, which are not in the repository: control tokens first, the 256
bytes, merges in the order in which they were learned, the roles last.
"""

from __future__ import annotations

import heapq
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

CONTROL_FIRST = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
CONTROL_LAST = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
BYTES = [bytes([value]) for value in range(256)]

Pair = tuple[bytes, bytes]


# ---- texts ----------------------------------------------------------------------------------

_KEYWORDS = ["def", "return", "if", "else", "for", "in", "while", "class", "import", "int", "void"]
_SIGNS = ["==", "!=", "+=", "->", "=>", "::", "&&", "||", "//", *"=.,;:()[]{}<>+-*/%&|!'\"#_$@"]
_SPACES = [" ", "  ", "\t", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2003", " \n ", "\x0b", "\x85"]
_ONSETS = ["ch", "st", "th", "tr", *"bcdfghklmnprstvwz"]
_VOWELS = ["ai", "ea", "ou", *"aeiou"]
_ALPHABETS = ["абвгдежзийклмноп", "αβγδεζηθικλμ", "אבגדהוז", "ابتثجح", "कखगघङच", "éèüñçßøåœ"]
_IDEOGRAPHS = "数字文本中国人東京語日本한국어"
_RARE = ["😀", "👍🏽", "e\u0301", "\u200d", "\ufeff", "½", "Ⅷ", "٣", "\U0001d49c", "\U000e0041"]


def _words(rng: random.Random, n: int) -> list[str]:
    words = []
    for _ in range(n):
        n_syllables = 1 + int(3 * rng.random() ** 2)
        word = "".join(_pick(rng, _ONSETS) + _pick(rng, _VOWELS) for _ in range(n_syllables))
        words.append(word + _pick(rng, ["", "", "n", "r", "s", "t", "ing"]))
    return words


def _pick(rng: random.Random, items: list[str] | str) -> str:
    """Return one of the items; random() alone gives the same in every version of Python."""
    return items[int(rng.random() * len(items))]


def _up_to(rng: random.Random, n: int) -> int:
    return 1 + int(n * rng.random())


def documents(n: int, seed: str = "documents", n_lines: int = 40) -> Iterator[str]:
    """Yield texts that look like code and prose in several scripts, with rare characters."""
    rng = random.Random(seed)
    words = _words(random.Random("words"), 3000)
    makers = [
        lambda: words[int(len(words) * rng.random() ** 3)],  # a few words are frequent
        lambda: _pick(rng, _KEYWORDS),
        lambda: _pick(rng, _SIGNS),
        lambda: str(int(10 ** (6 * rng.random()))),
        lambda: _pick(rng, words).capitalize() + _pick(rng, ["'s", "'ll", "_"]),
        lambda: "".join(
            _pick(rng, _pick(rng, _ALPHABETS)) for _ in range(int(1 + 8 * rng.random()))
        ),
        lambda: _pick(rng, _IDEOGRAPHS) + _pick(rng, _IDEOGRAPHS),
        lambda: _pick(rng, _RARE + _SPACES),
    ]
    weights = [0.45, 0.6, 0.8, 0.86, 0.92, 0.96, 0.98, 1.0]  # cumulative
    for _ in range(n):
        lines = []
        for _ in range(n_lines):
            parts = ["    " * int(4 * rng.random())]
            for _ in range(_up_to(rng, 12)):
                chance = rng.random()
                parts.append(next(m for m, w in zip(makers, weights, strict=True) if chance < w)())
                parts.append("" if rng.random() < 0.15 else " ")
            lines.append("".join(parts))
        yield "\n".join(lines)


# ---- byte-pair encoding ---------------------------------------------------------------------


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and the merges that made them, in order."""

    tokens: tuple[bytes, ...]
    merges: tuple[Pair, ...]


def with_merges(merges: Iterable[Pair], alphabet: Iterable[bytes] = BYTES) -> Vocabulary:
    """Return a vocabulary laid out as StarChat's."""
    merges = tuple(merges)
    tokens = [name.encode() for name in CONTROL_FIRST]
    tokens += [*alphabet, *(left + right for left, right in merges)]
    tokens += [name.encode() for name in CONTROL_LAST]
    return Vocabulary(tuple(tokens), merges)


def learn_merges(texts: Iterable[str], n_merges: int) -> list[Pair]:
    """Learn merges as byte-pair encoding does: again and again the most frequent pair.

    Of equally frequent pairs the one of lowest bytes is taken. A pair that spells a token which is
    already there is left out, so that a vocabulary has each token once.
    """
    pieces = Counter(
        piece.encode()
        for text in texts
        for piece in re.findall(r" ?[^\W\d_]+|\d| ?[^\s\w]+|_|\s+", text)
    )
    words = [[bytes([byte]) for byte in piece] for piece in pieces]
    counts = list(pieces.values())
    n_of: Counter[Pair] = Counter()
    words_of: defaultdict[Pair, set[int]] = defaultdict(set)
    for i, word in enumerate(words):
        for pair in pairwise(word):
            n_of[pair] += counts[i]
            words_of[pair].add(i)
    queue = [(-n, pair) for pair, n in n_of.items()]
    heapq.heapify(queue)
    merges: list[Pair] = []
    known: set[bytes] = set()
    while queue and len(merges) < n_merges:
        n, pair = heapq.heappop(queue)
        if -n != n_of[pair] or n == 0 or pair[0] + pair[1] in known:  # -n: counted anew since
            continue
        known.add(pair[0] + pair[1])
        merges.append(pair)
        changed: set[Pair] = set()
        for i in words_of.pop(pair):
            for old in pairwise(words[i]):
                n_of[old] -= counts[i]
                changed.add(old)
            words[i] = _merged(words[i], pair)
            for new in pairwise(words[i]):
                n_of[new] += counts[i]
                words_of[new].add(i)
                changed.add(new)
        for other in changed:
            heapq.heappush(queue, (-n_of[other], other))
    return merges


def _merged(parts: list[bytes], pair: Pair) -> list[bytes]:
    merged: list[bytes] = []
    i = 0
    while i < len(parts):
        if parts[i : i + 2] == [*pair]:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


@cache
def learned(n_merges: int, all_bytes: bool = True) -> Vocabulary:
    """Return a vocabulary learned from documents; without all bytes, rare ones have no token."""
    texts = list(documents(40, "learned"))
    merges = learn_merges(texts, n_merges)
    if all_bytes:
        return with_merges(merges)
    used = {byte for pair in merges for byte in pair[0] + pair[1]}
    return with_merges(merges, [byte for byte in BYTES if byte[0] in used])


def edges() -> Vocabulary:
    """Return a vocabulary whose ids show where a text was split, whatever its code points are.

    Bytes of longer characters merge with a blank before them, with a "=" behind them, and the last
    of one character with the first of the next. So " c=cc" has other ids for each class of c.
    """
    first, later = BYTES[0xC2:0xF5], BYTES[0x80:0xC0]
    merges = [(b" ", byte) for byte in first]
    merges += [(byte, right) for byte in later for right in (b"=", *first)]
    return with_merges(merges)
