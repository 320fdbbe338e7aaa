"""A ggml or GGUF file, or the shards of one, as a Checkpoint: the core says where tensors are."""

from __future__ import annotations

import os
from contextlib import ExitStack

import numpy as np

from .. import _core
from .gguf_writer import ggml_name
from .tensor_types import TYPES
from .tensors import Checkpoint, StoredTensor, gathered, in_file
from .vocabulary import ordinary, rebuilt_merges

__all__ = ["open_file"]


def open_file(path: str, files: ExitStack) -> Checkpoint:
    """Return the model in a file that the core has found whole; `files` closes it."""
    content = _core.inspect(path, None)
    parts = []
    for name in content["files"]:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        files.callback(os.close, fd)
        parts.append((name, fd))
    is_gguf = content["format"] == "gguf"
    n_embd, n_head = content["n_embd"], content["n_head"]
    tensors: dict[str, StoredTensor] = {}
    for stored in content["tensors"]:
        type, shape = stored["type"], stored["shape"]
        row_bytes = TYPES[type].row_bytes(shape[-1])
        part, fd = parts[stored["file"]]
        name = ggml_name(stored["name"]) if is_gguf else stored["name"]
        tensors[name] = in_file(fd, part, stored["offset"], type, shape, row_bytes)
    if content["multi_query"] and not is_gguf:
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
        if tokenizer.is_added(id):
            kinds.append(4)
        else:
            kinds.append(5 if repeats or not token else 3 if tokenizer.is_special(id) else 1)
    merges = _core.read_merges(os.fsencode(path)) or rebuilt_merges(ordinary(tokens, kinds))
    about = {"name": os.path.basename(path).partition(".")[0]}
    for key, text in content["metadata"].items():
        about[key.rpartition(".")[2]] = text
    return Checkpoint(
        content["n_ctx"],
        n_embd,
        tensors["model/h0/mlp/c_fc/w"].shape[0],
        n_head,
        content["n_layer"],
        float(str(np.float32(content["norm_eps"]))),  # the shortest number that is this one
        tokens,
        kinds,
        merges,
        tensors,
        about,
        parts,
    )
