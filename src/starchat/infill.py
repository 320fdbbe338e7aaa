"""The prompt for what belongs between two texts (Bavarian et al. 2022, prefix-suffix-middle)."""

from __future__ import annotations

from . import _core
from .errors import UnsupportedFeatureError

_SPELLINGS = ("<fim_{}>", "<fim-{}>")  # StarCoder's and SantaCoder's
_PARTS = ("prefix", "suffix", "middle")


def infill_prompt(prefix: str, suffix: str, tokenizer: _core.Tokenizer, file: str) -> list[int]:
    """Return the token ids; `file` is the model's, for the error.

    Raises UnsupportedFeatureError where the vocabulary has no tokens for it.
    """
    for spelling in _SPELLINGS:
        ids = [tokenizer.find(spelling.format(part)) for part in _PARTS]
        found = [id for id in ids if id is not None]
        if len(found) == len(_PARTS):
            before, after, middle = found
            encode = tokenizer.encode
            return [before, *encode(prefix), after, *encode(suffix), middle]
    raise UnsupportedFeatureError(
        f"{file}: this vocabulary has no <fim_prefix>, <fim_suffix> and <fim_middle>: infill needs "
        "a StarCoder or SantaCoder file"
    )
