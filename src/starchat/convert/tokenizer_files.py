"""The tokens and merges of a folder, from tokenizer.json or vocab.json with merges.txt."""

from __future__ import annotations

from typing import Any

from ..errors import CorruptFileError, FileAccessError
from .folder import Folder
from .vocabulary import from_letters

__all__ = ["read_tokens"]


def read_tokens(
    folder: Folder, n_vocab: int
) -> tuple[list[bytes], list[int], list[tuple[bytes, bytes]]]:
    """Return token and kind of each id, and merges; ids without a token are unused."""
    added: dict[int, tuple[str, bool]] = {}
    try:
        if folder.has("tokenizer.json"):
            whole = folder.json("tokenizer.json")
            vocab, merges = whole["model"]["vocab"], whole["model"]["merges"]
            for each in whole["added_tokens"]:
                added[each["id"]] = each["content"], bool(each["special"])
        else:
            vocab = folder.json("vocab.json")
            lines = folder.read("merges.txt", "download it too").decode().splitlines()
            merges = [line for line in lines if line and not line.startswith("#version")]
        if folder.has("added_tokens.json"):
            for text, id in folder.json("added_tokens.json").items():
                added.setdefault(id, (text, True))
        tokens, kinds = [b""] * n_vocab, [5] * n_vocab
        for text, id in vocab.items():
            if id in added:
                continue
            _check_id(folder, id, n_vocab)
            tokens[id], kinds[id] = from_letters(text), 1
        for id, (text, is_special) in added.items():
            _check_id(folder, id, n_vocab)
            tokens[id], kinds[id] = text.encode(), 3 if is_special else 4
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        return tokens, kinds, [(from_letters(left), from_letters(right)) for left, right in pairs]
    except FileAccessError as error:
        problem = f"{folder}: no tokenizer.json, and no vocab.json with merges.txt"
        raise FileAccessError(f"{problem} ({error}); download them too") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{folder}: the tokenizer is malformed ({type(error).__name__}: {error})"
        raise CorruptFileError(f"{problem}; download it again") from None


def _check_id(folder: Folder, id: Any, n_vocab: int) -> None:
    if type(id) is not int or not 0 <= id < n_vocab:
        raise CorruptFileError(
            f"{folder}: the tokenizer has the id {str(id)[:20]}, but the model has {n_vocab:,} rows"
        )
