"""A folder as the core loads it: bytes that its files have are read from there, others are made."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from .. import _core
from .hugging_face import open_folder
from .tensor_types import quantize
from .tensors import REQUANTIZED, StoredTensor
from .tokenizer_files import for_core

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
        *for_core(path, model.tokens, model.kinds, model.merges),
        [(name, *_nearest(tensor, index)) for name, tensor in model.tensors.items()],
    )


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
