"""Hugging Face's tokenizer over a vocabulary, beside ours, which gets the tokens and no merges."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat._core import Tokenizer
from support.vocabularies import CONTROL_FIRST, CONTROL_LAST, Vocabulary, edges, learned

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TOKENIZER_JSON = DATA / "starchat-tokenizer.json"
REFERENCE = DATA / "starcoder-token-ids.jsonl"
NEEDS_DATA = pytest.mark.skipif(
    not (TOKENIZER_JSON.exists() and REFERENCE.exists()),
    reason=f"StarChat's own tokenizer.json and its reference ids are not in {DATA}",
)


def library() -> Any:
    return pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is the oracle")


def _pairs(merges: list[str | list[str]]) -> list[list[str]]:
    """Return merges as pairs; older versions of the library have them as one string."""
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


class Oracle:
    """A Hugging Face tokenizer and ours, rebuilt from its vocabulary alone."""

    def __init__(self, theirs: Any) -> None:
        self.serialized = serialized = theirs.to_str()
        self._with_special = library().Tokenizer.from_str(serialized)
        self._plain = library().Tokenizer.from_str(serialized)
        self._plain.encode_special_tokens = True  # their name for: control tokens are plain text
        names = sorted(self._plain.get_vocab().items(), key=lambda item: item[1])
        assert [id for _, id in names] == list(range(len(names)))
        characters = {char: bytes([byte]) for byte, char in byte_characters().items()}
        added = {each["content"]: each for each in json.loads(serialized)["added_tokens"]}
        self.vocabulary = [
            name.encode() if name in added else b"".join(characters[char] for char in name)
            for name, _ in names
        ]
        self.added_ids = [each["id"] for each in added.values() if not each["special"]]
        self.merges = [
            (
                b"".join(characters[char] for char in left),
                b"".join(characters[char] for char in right),
            )
            for left, right in _pairs(json.loads(serialized)["model"]["merges"])
        ]
        self.ours = Tokenizer(self.vocabulary, added_ids=np.array(self.added_ids, "=i4").tobytes())

    def theirs(self, text: str, allow_special: bool = False) -> list[int]:
        encoder = self._with_special if allow_special else self._plain
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
        return ids

    def check(self, text: str, allow_special: bool = False) -> None:
        assert self.ours.encode(text, allow_special) == self.theirs(text, allow_special)


@cache
def byte_characters() -> dict[int, str]:
    """Return the printable character that GPT-2's vocabulary files write for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def hugging_face(vocabulary: Vocabulary) -> Any:
    """Return their tokenizer for a vocabulary and its merges, split as StarCoder's splits."""
    tokenizers = library()
    characters = byte_characters()

    def name(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    control = {text.encode() for text in (*CONTROL_FIRST, *CONTROL_LAST)}
    ids = {
        token.decode() if token in control else name(token): id
        for id, token in enumerate(vocabulary.tokens)
    }
    merges = [(name(left), name(right)) for left, right in vocabulary.merges]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([*CONTROL_FIRST, *CONTROL_LAST])
    return tokenizer


@cache
def learned_oracle(all_bytes: bool = True) -> Oracle:
    """Return the oracle over a learned vocabulary; without all bytes, most have no token."""
    return Oracle(hugging_face(learned(3000 if all_bytes else 600, all_bytes)))


#: Tokens that a fine-tune adds without calling them special: they overlap each other, control
#: tokens and words; "def" is of the vocabulary.
ADDED = [
    "def",
    "<tool>",
    "<tool>x",
    "ab",
    "abc",
    "bc",
    " the",
    "é",
    "\n\n\n",
    "|>x",
    "x<|end|",
    "文",
]


@cache
def added_oracle(*more: str) -> Oracle:
    tokenizer = hugging_face(learned(600))
    tokenizer.add_tokens([*ADDED, *more])
    return Oracle(tokenizer)


@cache
def edges_oracle() -> Oracle:
    return Oracle(hugging_face(edges()))


@cache
def starchat_oracle() -> Oracle:
    return Oracle(library().Tokenizer.from_file(str(TOKENIZER_JSON)))
