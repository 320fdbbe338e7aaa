"""ggml files of any size without weights: holes that the disk does not store, read as zeros."""

from __future__ import annotations

import struct
from pathlib import Path

from starchat.convert.ggml_writer import MAGIC, tensor_shapes
from starchat.convert.tensor_types import TYPES

from .tiny_model import Shape, vocabulary


def write_sparse(path: Path, type: str, shape: Shape, *, lm_head: bool = True) -> int:
    """Write a file of zeros with the header and the tensors of `shape`; return its size."""
    form = TYPES[type]
    head = (shape.n_vocab, shape.n_ctx, shape.n_embd, shape.n_head, shape.n_layer)
    with path.open("wb") as file:
        file.write(struct.pack("<I7i", MAGIC, *head, 2000 + form.ftype, shape.n_vocab))
        for token in vocabulary(shape.n_vocab):
            file.write(struct.pack("<I", len(token)) + token)
        for name, dims in tensor_shapes(
            n_vocab=shape.n_vocab,
            n_ctx=shape.n_ctx,
            n_embd=shape.n_embd,
            n_layer=shape.n_layer,
            lm_head=lm_head,
        ).items():
            own = TYPES["f32"] if len(dims) == 1 or name == "model/wpe" else form
            encoded = name.encode()
            file.write(struct.pack("<3i", len(dims), len(encoded), own.ggml_id))
            file.write(struct.pack(f"<{len(dims)}i", *reversed(dims)) + encoded)
            n_rows = dims[0] if len(dims) == 2 else 1
            file.seek(n_rows * dims[-1] // own.block_weights * own.block_bytes, 1)
        size = file.tell()
        file.truncate(size)
    return size
