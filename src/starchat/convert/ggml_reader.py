"""A ggml `starcoder` file as a Checkpoint: the core says where its tensors are."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack

import numpy as np

from .. import _core
from ..errors import CorruptFileError
from .ggml_writer import TYPES
from .tensors import Checkpoint, StoredTensor, gathered, in_file, read_at
from .vocabulary import rebuilt_merges

__all__ = ["open_ggml"]


def open_ggml(path: str, files: ExitStack) -> Checkpoint:
    """Return the model in a file that the core has found whole; `files` closes it."""
    content = _core.inspect(path, None)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    files.callback(os.close, fd)
    n_embd, n_head = content["n_embd"], content["n_head"]
    tokens, offset = _vocabulary(fd, path, content["vocabulary"]["n_tokens"])
    tensors: dict[str, StoredTensor] = {}
    for _ in content["tensors"]:
        n_dims, n_name, type_id = struct.unpack("<3i", read_at(fd, 12, offset, path))
        ne = struct.unpack(f"<{n_dims}i", read_at(fd, 4 * n_dims, offset + 12, path))
        offset += 12 + 4 * n_dims
        name = read_at(fd, n_name, offset, path).decode()
        type = next(name for name, form in TYPES.items() if form.id == type_id)
        row_bytes = TYPES[type].row_bytes(ne[0])
        shape = tuple(reversed(ne))
        tensors[name] = in_file(fd, path, offset + n_name, type, shape, row_bytes)
        offset += n_name + row_bytes * (ne[1] if n_dims > 1 else 1)
    if content["multi_query"]:
        head_dim = n_embd // n_head
        index = np.arange(n_embd + head_dim)  # q and the first of the equal key heads,
        index = np.concatenate([index, 2 * n_embd + np.arange(head_dim)])  # then of values
        for name, tensor in tensors.items():
            if "/attn/c_attn/" in name:
                tensors[name] = gathered(tensor, index)
    tokenizer = _core.Tokenizer(tokens)
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


def _vocabulary(fd: int, path: str, n_tokens: int) -> tuple[list[bytes], int]:
    offset = 32  # of magic, six numbers and the count
    size = os.fstat(fd).st_size
    head = read_at(fd, min(size, 64 << 20), 0, path)
    tokens = []
    for _ in range(n_tokens):
        (n_bytes,) = struct.unpack_from("<I", head, offset)
        offset += 4 + n_bytes
        if offset > len(head):
            raise CorruptFileError(f"{path}: the vocabulary has more than {len(head):,} bytes")
        tokens.append(bytes(head[offset - n_bytes : offset]))
    return tokens, offset
