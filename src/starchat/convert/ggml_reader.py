"""A ggml `starcoder` file as a Checkpoint: the core says where its tensors are."""

from __future__ import annotations

import os
from contextlib import ExitStack

import numpy as np

from .. import _core
from .tensor_types import TYPES
from .tensors import Checkpoint, StoredTensor, gathered, in_file
from .vocabulary import rebuilt_merges

__all__ = ["open_ggml"]


def open_ggml(path: str, files: ExitStack) -> Checkpoint:
    """Return the model in a file that the core has found whole; `files` closes it."""
    content = _core.inspect(path, None)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    files.callback(os.close, fd)
    n_embd, n_head = content["n_embd"], content["n_head"]
    tensors: dict[str, StoredTensor] = {}
    for stored in content["tensors"]:
        type, shape = stored["type"], stored["shape"]
        row_bytes = TYPES[type].row_bytes(shape[-1])
        tensors[stored["name"]] = in_file(fd, path, stored["offset"], type, shape, row_bytes)
    if content["multi_query"]:
        head_dim = n_embd // n_head
        index = np.arange(n_embd + head_dim)  # q and the first of the equal key heads,
        index = np.concatenate([index, 2 * n_embd + np.arange(head_dim)])  # then of values
        for name, tensor in tensors.items():
            if "/attn/c_attn/" in name:
                tensors[name] = gathered(tensor, index)
    tokenizer = _core.read_tokenizer(os.fsencode(path))
    tokens = [tokenizer.token_bytes(id) for id in range(len(tokenizer))]
    seen: set[bytes] = set()
    kinds = []
    for id, token in enumerate(tokens):
        repeats = token in seen  # how files pad a short vocabulary
        seen.add(token)
        kinds.append(5 if repeats or not token else 3 if tokenizer.is_special(id) else 1)
    return Checkpoint(
        content["n_ctx"],
        n_embd,
        n_head,
        content["n_layer"],
        1e-5,
        tokens,
        kinds,
        rebuilt_merges([token for token, kind in zip(tokens, kinds, strict=True) if kind == 1]),
        tensors,
        {"name": os.path.basename(path).partition(".")[0]},
    )
