"""A folder as the core loads it: bytes that its files have are read from there, others are made."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import numpy as np

from .. import _core
from ..errors import CorruptFileError
from .hugging_face import open_folder
from .tensor_types import quantize
from .tensors import REQUANTIZED, Checkpoint, StoredTensor

__all__ = ["open_checkpoint"]


def open_checkpoint(path: str, files: ExitStack) -> _core.Checkpoint:
    """Return the model in a folder, each tensor in its nearest type; `files` closes what it reads.

    Nothing is made before it is needed, and one block of rows at a time: the files and the packed
    weights are all there is.
    """
    model = open_folder(path, files)
    index = {fd: at for at, (_, fd) in enumerate(model.files)}
    return _core.Checkpoint(
        os.fsencode(path),
        [(os.fsencode(name), fd) for name, fd in model.files],
        {
            "n_vocab": len(model.tokens),
            "n_ctx": model.n_ctx,
            "n_embd": model.n_embd,
            "n_inner": model.n_inner,
            "n_layer": model.n_layer,
            "n_head": model.n_head,
            "n_kv_head": 1 if model.is_multi_query else model.n_head,
            "norm_eps": model.epsilon,
        },
        model.tokens,
        np.array(_control_ids(model), "=i4").tobytes(),
        np.array(_merges(path, model), "=i4").tobytes(),
        [(name, *_nearest(tensor, index)) for name, tensor in model.tensors.items()],
    )


def _control_ids(model: Checkpoint) -> list[int]:
    kinds = zip(model.tokens, model.kinds, strict=True)
    return [id for id, (token, kind) in enumerate(kinds) if kind == 3 or not token]


def _merges(path: str, model: Checkpoint) -> list[tuple[int, int, int]]:
    """Return the ids of left, right and merged tokens, by rank; [] where ids have that order."""
    if model.has_rebuilt_merges():
        return []
    ids = {token: id for id, token in enumerate(model.tokens)}
    try:
        return [(ids[left], ids[right], ids[left + right]) for left, right in model.merges]
    except KeyError as error:
        problem = f"{path}: a merge of the tokenizer has no token: {str(error)[:60]}"
        raise CorruptFileError(f"{problem}; download it again") from None


def _nearest(
    tensor: StoredTensor, index: dict[int, int]
) -> tuple[str, tuple[int, ...], Any, bytes]:
    """Return type, shape, where its rows are or who makes them, and the order of its columns."""
    if tensor.places:
        places = [(index[place.fd], place.offset, place.n_bytes) for place in tensor.places]
        return tensor.type, tensor.shape, places, b""
    if tensor.reordered:
        columns, order = tensor.reordered
        return columns.type, columns.shape, columns.read, order.astype("=i4").tobytes()
    if not tensor.is_requantized:
        return tensor.type, tensor.shape, tensor.read, b""

    def read(start: int, stop: int) -> Any:
        return quantize(tensor.floats(start, stop), REQUANTIZED)

    return REQUANTIZED, tensor.shape, read, b""
