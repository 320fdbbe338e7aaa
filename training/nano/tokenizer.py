"""Trains starchat-nano's byte-level BPE, laid out like StarCoder's vocabulary.

Id 0 is <|endoftext|>, then the 256 bytes, then merges in order (a merged token's rank is its
id), then the four role tokens. Digits stand alone; words follow GPT-2's pattern. A word has the
same tokens after a blank and at the start of a JSON string, so that it can be copied: merges with
a word's blank come last, and only for the most frequent first tokens.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from agents import agent_dialogue, as_dialogue, json_dialogue
from code_contexts import code_dialogue
from dialogues import Dialogue, dialogue
from filler import passage
from starchat._core import read_tokenizer

END_OF_TEXT = "<|endoftext|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
N_VOCAB = 2560
N_BLANK_MERGES = 450
_BLANK = "Ġ"  # the blank in GPT-2's alphabet
_WORD_BLANK = tokenizers.Regex("^Ġ(?=[^ĠĊĉ])")
_PIECES = [
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
]


def train_tokenizer(seed: int = 0, n_dialogues: int = 6_000) -> tokenizers.Tokenizer:
    """Train the tokenizer on generated dialogues and filler; the same seed, the same tokens."""
    words = pre_tokenizers.Sequence([*_PIECES, pre_tokenizers.Split(_WORD_BLANK, "isolated")])
    first = tokenizers.Tokenizer(models.BPE())
    first.pre_tokenizer = words
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB - len(ROLES) - N_BLANK_MERGES,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    first.train_from_iterator(_texts(seed, n_dialogues), trainer)
    counts: Counter[str] = Counter()
    for text in _texts(seed, n_dialogues // 4):
        tokens = first.encode(text).tokens
        counts.update(after for blank, after in pairwise(tokens) if blank == _BLANK)
    after_blank = [t for t, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    after_blank = [t for t in after_blank if t[0] not in _BLANK + "ĊĉĠ0123456789"]
    state = json.loads(first.to_str())["model"]
    vocab: dict[str, int] = state["vocab"]
    merges = [tuple(merge) for merge in state["merges"]]
    for token in after_blank[:N_BLANK_MERGES]:
        vocab[_BLANK + token] = len(vocab)
        merges.append((_BLANK, token))
    return _tokenizer(vocab, merges)


def tokenizer_of(file: str | os.PathLike[str]) -> tokenizers.Tokenizer:
    """Return the tokenizer of a model that was trained here, as a draft model must have.

    The generators of dialogues have changed since, and with them the vocabulary that they give.
    """
    core = read_tokenizer(os.fsencode(file))
    words = [core.token_bytes(i) for i in range(N_VOCAB)]
    ranks = {word: i for i, word in enumerate(words)}
    character_of = {byte: letter for letter, byte in _bytes_of_characters().items()}

    def text(word: bytes) -> str:
        return "".join(character_of[byte] for byte in word)

    merges = []
    for rank, word in enumerate(words[: -len(ROLES)]):
        parts = [word[i : i + 1] for i in range(len(word))]
        if rank == 0 or len(parts) == 1:
            continue
        while len(parts) > 2:  # what was merged before
            pairs = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            i = pairs.index(min(pairs))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        merges.append((text(parts[0]), text(parts[1])))
    vocab = {text(word): rank for rank, word in enumerate(words[: -len(ROLES)]) if rank}
    vocab[END_OF_TEXT] = 0
    return _tokenizer(vocab, merges)


def _tokenizer(vocab: dict[str, int], merges: Sequence[tuple[str, ...]]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_PIECES)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT, *ROLES])
    if tokenizer.get_vocab_size() != N_VOCAB:
        raise RuntimeError(f"{tokenizer.get_vocab_size()} tokens were trained, not {N_VOCAB}")
    return tokenizer


def _texts(seed: int, n_dialogues: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer {seed}")
    for i in range(n_dialogues):
        yield from dialogue(rng).texts()
        yield passage(rng, 60)
        make = (agent_dialogue, code_dialogue, agent_dialogue, json_dialogue)[i % 4]
        yield from as_dialogue(make(rng)).texts()


class Encoder:
    """Turns dialogues into ids as the engine does: text segments between role ids."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # "<|end|>" in a message is plain text
        vocab = tokenizer.get_vocab()
        self.system, self.user, self.assistant, self.end = (vocab[role] for role in ROLES)
        self._cache: dict[str, list[int]] = {}

    def text(self, text: str) -> list[int]:
        """Encode plain text; the spelling of a control token in it stays plain text."""
        ids = self._cache.get(text)
        if ids is None:
            ids = self._tokenizer.encode(text).ids
            if len(self._cache) < 100_000:
                self._cache[text] = ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a reply's ids, without the newline after the role token."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text.removeprefix("\n")

    def prompt(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Encode (role, content) messages up to where the assistant's reply begins."""
        ids, _ = self.dialogue(Dialogue(tuple(messages)))
        return [*ids, self.assistant]

    def dialogue(self, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
        """Encode a dialogue → ids, and which of them the model is to learn to write."""
        ids: list[int] = []
        learned: list[bool] = []
        roles = {"system": self.system, "user": self.user, "assistant": self.assistant}
        newline = self.text("\n")
        for i, (role, content) in enumerate(dialogue.messages):
            body = [*self.text("\n" + content), self.end]
            ids += [roles[role], *body, *newline]
            learns = role == "assistant" and i in dialogue.learned
            n_given = len(self.text("\n" + dialogue.given[i])) if i in dialogue.given else 0
            learns_each = [learns] * len(body)
            if learns and i in dialogue.open:
                learns_each[:-1] = self._overlaps("\n" + content, dialogue.open[i])
            learned += [False, *[False] * n_given, *learns_each[n_given:]]
            learned += [False] * len(newline)
        return ids, learned

    def _overlaps(self, text: str, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Tell of each token of a reply whether one of the spans, without the newline, has it."""
        return [
            any(start < end + 1 and stop > begin + 1 for begin, end in spans)
            for start, stop in self._tokenizer.encode(text).offsets
        ]


def vocabulary(tokenizer: tokenizers.Tokenizer) -> list[bytes]:
    """Return the raw bytes of every token in id order; control tokens as their text."""
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    byte_of = _bytes_of_characters()
    control = {END_OF_TEXT, *ROLES}
    return [
        token.encode() if token in control else bytes(byte_of[character] for character in token)
        for token in tokens
    ]


def _bytes_of_characters() -> dict[str, int]:
    """Return GPT-2's alphabet: printable bytes stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(0x100 + i): byte for i, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
