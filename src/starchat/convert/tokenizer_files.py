"""The tokens and merges of a folder, from tokenizer.json or vocab.json with merges.txt."""

from __future__ import annotations

from array import array
from typing import Any

from .. import _core
from ..errors import CorruptFileError, FileAccessError, UnsupportedFormatError
from .folder import Folder, FolderReadByCore
from .vocabulary import from_letters

__all__ = ["folder_tokenizer", "for_core", "read_tokens"]

Merges = list[tuple[bytes, bytes]]
_MOST_IDS = 1 << 24


def folder_tokenizer(path: str) -> _core.Tokenizer:
    """Return the tokenizer of a folder by nothing but the core's calls: event loops allow them."""
    return _core.Tokenizer(*for_core(path, *read_tokens(FolderReadByCore(path))))


def for_core(
    path: str, tokens: list[bytes], kinds: list[int], merges: Merges
) -> tuple[list[bytes], bytes, bytes, bytes]:
    """Return tokens, ids of control tokens and of added ones, and merges as the core takes them."""
    control = [id for id, token in enumerate(tokens) if kinds[id] == 3 or not token]
    added = [id for id, kind in enumerate(kinds) if kind == 4]
    ids: dict[bytes, int] = {}  # of repeated bytes the first ordinary one
    for wanted in (1,), (4,), (3, 5):
        for id, token in enumerate(tokens):
            if kinds[id] in wanted:
                ids.setdefault(token, id)
    triples: list[int] = []
    try:
        for left, right in merges:
            triples += ids[left], ids[right], ids[left + right]
    except KeyError as error:
        problem = f"{path}: a merge of the tokenizer has no token: {str(error)[:60]}"
        raise CorruptFileError(f"{problem}; download it again") from None
    as_bytes = [array("i", numbers).tobytes() for numbers in (control, added, triples)]
    return tokens, as_bytes[0], as_bytes[1], as_bytes[2]


def read_tokens(
    folder: Folder, n_vocab: int | None = None
) -> tuple[list[bytes], list[int], Merges]:
    """Return token and kind of each id, and merges; ids without a token are unused.

    n_vocab: rows of the model; None: as many as there are ids.
    """
    added: dict[int, tuple[str, bool]] = {}
    try:
        if folder.has("tokenizer.json"):
            whole = folder.json("tokenizer.json")
            vocab, merges = whole["model"]["vocab"], whole["model"]["merges"]
            for each in whole["added_tokens"]:
                added[each["id"]] = each["content"], bool(each["special"])
                _check_added(folder, each)
        else:
            vocab = folder.json("vocab.json")
            lines = folder.read("merges.txt", "download it too").decode().splitlines()
            merges = [line for line in lines if line and not line.startswith("#version")]
        if folder.has("added_tokens.json"):
            special = _special_names(folder)
            for text, id in folder.json("added_tokens.json").items():
                added.setdefault(id, (text, special is None or text in special))
        for id in (*vocab.values(), *added):
            _check_id(folder, id, n_vocab or _MOST_IDS)
        n_ids = n_vocab or 1 + max((*vocab.values(), *added))
        tokens, kinds = [b""] * n_ids, [5] * n_ids
        for text, id in vocab.items():
            if id not in added:
                tokens[id], kinds[id] = from_letters(text), 1
        for id, (text, is_special) in added.items():
            tokens[id], kinds[id] = text.encode(), 3 if is_special else 4
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        return tokens, kinds, [(from_letters(left), from_letters(right)) for left, right in pairs]
    except FileAccessError as error:
        problem = f"{folder}: no tokenizer.json, and no vocab.json with merges.txt"
        raise FileAccessError(f"{problem} ({error}); download them too") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{folder}: the tokenizer is malformed ({type(error).__name__}: {error})"
        raise CorruptFileError(f"{problem}; download it again") from None


def _check_added(folder: Folder, token: dict[str, Any]) -> None:
    options = [name for name in ("lstrip", "rstrip", "single_word") if token.get(name)]
    if options and not token["special"]:
        raise UnsupportedFormatError(
            f"{folder.path_of('tokenizer.json')}: the added token {token['content'][:40]!r} has "
            f"{', '.join(options)}, expected one that takes no space beside it and is found within "
            "words; set it to false if that is right for your texts"
        )


def _special_names(folder: Folder) -> set[str] | None:
    """Return the control tokens by the files beside vocab.json; None if there are none."""
    if folder.has("tokenizer_config.json"):
        decoder = folder.json("tokenizer_config.json").get("added_tokens_decoder")
        if isinstance(decoder, dict):
            return {each["content"] for each in decoder.values() if each["special"]}
    if not folder.has("special_tokens_map.json"):
        return None
    names = set()
    for value in folder.json("special_tokens_map.json").values():
        for each in value if isinstance(value, list) else [value]:
            names.add(each["content"] if isinstance(each, dict) else str(each))
    return names


def _check_id(folder: Folder, id: Any, n_vocab: int) -> None:
    if type(id) is not int or not 0 <= id < n_vocab:
        raise CorruptFileError(
            f"{folder}: the tokenizer has the id {str(id)[:20]}, but the model has {n_vocab:,} rows"
        )
