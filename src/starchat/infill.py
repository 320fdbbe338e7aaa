"""The prompt for what belongs between two texts (Bavarian et al. 2022, prefix-suffix-middle)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import _core
from .errors import UnsupportedFeatureError

#: Before the prefix, before the suffix, before the middle: StarCoder's and SantaCoder's spelling.
FIM_SPELLINGS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
)


def infill_prompt(prefix: str, suffix: str, tokenizer: _core.Tokenizer, file: str) -> list[int]:
    """Return the token ids; `file` is the model's name, for the error.

    Raises UnsupportedFeatureError where the vocabulary has no tokens for it.
    """
    for before, after, middle in _known_spellings(tokenizer):
        encode = tokenizer.encode
        return [before, *encode(prefix), after, *encode(suffix), middle]
    raise UnsupportedFeatureError(
        f"{file}: this vocabulary has no <fim_prefix>, <fim_suffix> and <fim_middle>: infill needs "
        "a StarCoder or SantaCoder file",
        param="suffix",
    )


def infill_end_ids(prompt: Sequence[int], tokenizer: _core.Tokenizer) -> list[int]:
    """Return the ids of the tokens that end a reply to a prompt with a gap, [] without a gap."""
    return next((ids for ids in _known_spellings(tokenizer) if ids[-1] in prompt), [])


def _known_spellings(tokenizer: _core.Tokenizer) -> Iterator[list[int]]:
    """Yield the ids of the spellings whose three tokens the vocabulary has."""
    for tokens in FIM_SPELLINGS:
        found = [id for token in tokens if (id := tokenizer.find(token)) is not None]
        if len(found) == len(tokens):
            yield found
