"""Writes ggml `starcoder` files: streaming, deterministic.

Used to ship the embedded model, by tests and by benchmarks; the reader is cpp/format.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .._core import TensorType
from ..atomic_file import Output, atomic_file
from . import tensor_types
from .tensor_types import quantize

__all__ = [
    "TYPES",
    "TensorSource",
    "tensor_shapes",
    "tile_multi_query",
    "write_ggml",
]

Array: TypeAlias = npt.NDArray[Any]
#: A whole tensor, or row blocks of it in order (a callable makes them when their turn comes).
#: Floats are quantized on the way; uint8 arrays (rows, bytes) count as already quantized.
TensorSource: TypeAlias = Array | Iterable[Array] | Callable[[], Iterable[Array]]

MAGIC = 0x67676D6C
_CHUNK = 1 << 20  # weights quantized at a time: bounds the temporaries


#: The core's types that files can have, by name.
TYPES: Mapping[str, TensorType] = {
    name: type for name, type in tensor_types.TYPES.items() if type.ftype >= 0
}


def _type(name: str) -> TensorType:
    if name not in TYPES:
        raise ValueError(f"ggml files have no type {name!r}, expected one of {', '.join(TYPES)}")
    return TYPES[name]


def tensor_shapes(
    *, n_vocab: int, n_ctx: int, n_embd: int, n_layer: int, lm_head: bool = True
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a file, (rows, cols) or (n,), in the file's order."""
    shapes: dict[str, tuple[int, ...]] = {
        "model/wte": (n_vocab, n_embd),
        "model/wpe": (n_ctx, n_embd),
    }
    for layer in range(n_layer):
        block = f"model/h{layer}"
        shapes |= {f"{block}/ln_1/g": (n_embd,), f"{block}/ln_1/b": (n_embd,)}
        shapes |= _linear(f"{block}/attn/c_attn", 3 * n_embd, n_embd)
        shapes |= _linear(f"{block}/attn/c_proj", n_embd, n_embd)
        shapes |= {f"{block}/ln_2/g": (n_embd,), f"{block}/ln_2/b": (n_embd,)}
        shapes |= _linear(f"{block}/mlp/c_fc", 4 * n_embd, n_embd)
        shapes |= _linear(f"{block}/mlp/c_proj", n_embd, 4 * n_embd)
    shapes |= {"model/ln_f/g": (n_embd,), "model/ln_f/b": (n_embd,)}
    if lm_head:
        shapes["model/lm_head"] = (n_vocab, n_embd)
    return shapes


def _linear(name: str, n_out: int, n_in: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/w": (n_out, n_in), f"{name}/b": (n_out,)}


def tile_multi_query(c_attn: Array, n_head: int) -> Array:
    """Return c_attn with its one K head and one V head repeated `n_head` times, as files store it.

    Rows of the weight (n_embd + 2·head_dim, n_embd), or of the bias → 3·n_embd rows:
    q, then `n_head` copies of k, then `n_head` copies of v.
    """
    head_dim, rest = divmod(len(c_attn), n_head + 2)
    if rest:
        raise ValueError(f"c_attn has {len(c_attn)} rows, expected (n_head + 2)·head_dim")
    q, k, v = np.split(c_attn, [n_head * head_dim, (n_head + 1) * head_dim])
    return np.concatenate([q, *[k] * n_head, *[v] * n_head])


def write_ggml(
    path: str | os.PathLike[str],
    *,
    n_ctx: int,
    n_embd: int,
    n_head: int,
    n_layer: int,
    vocab: Sequence[bytes],
    tensors: Mapping[str, TensorSource],
    type: str,
    version: int = 2,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Write a ggml `starcoder` file; it appears under `path` only when it is complete.

    `tensors` holds the file's own names (`tensor_shapes`; `model/lm_head` may be absent) and
    their values (`TensorSource`). Matrices become `type`; norms, biases and `model/wpe`
    stay f32. `report` is told the bytes that are written, and all there are.
    Raises ValueError for missing, unknown or misshapen tensors.
    """
    form = _type(type)
    n_vocab = len(vocab)
    shapes = tensor_shapes(
        n_vocab=n_vocab,
        n_ctx=n_ctx,
        n_embd=n_embd,
        n_layer=n_layer,
        lm_head="model/lm_head" in tensors,
    )
    if wrong := shapes.keys() ^ tensors.keys():
        missing = sorted(shapes.keys() - tensors.keys())
        raise ValueError(f"missing tensors {missing}, unknown tensors {sorted(wrong - {*missing})}")
    kinds = {
        name: "f32" if len(shape) == 1 or name == "model/wpe" else type
        for name, shape in shapes.items()
    }
    head = (MAGIC, n_vocab, n_ctx, n_embd, n_head, n_layer, version * 1000 + form.ftype, n_vocab)
    begin = struct.pack("<I7i", *head)
    begin += b"".join([struct.pack("<I", len(token)) + token for token in vocab])
    total = len(begin) + sum(
        12 + 4 * len(shape) + len(name.encode()) + _n_rows(shape) * _row_bytes(kinds[name], shape)
        for name, shape in shapes.items()
    )

    def written(n_bytes: int) -> None:
        if report:
            report(n_bytes, total)

    with atomic_file(path, total, written) as file:
        file.write(begin)
        for name, shape in shapes.items():
            _write_tensor(file, name, shape, tensors[name], kinds[name])


def _n_rows(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 2 else 1


def _row_bytes(type: str, shape: tuple[int, ...]) -> int:
    return _type(type).row_bytes(shape[-1])


def _write_tensor(
    file: Output, name: str, shape: tuple[int, ...], source: TensorSource, type: str
) -> None:
    encoded = name.encode()
    file.write(struct.pack("<3i", len(shape), len(encoded), _type(type).ggml_id))
    file.write(struct.pack(f"<{len(shape)}i", *reversed(shape)) + encoded)
    n_rows, row_bytes = _n_rows(shape), _row_bytes(type, shape)
    done = 0
    for rows in _row_blocks(source, shape):
        is_raw = rows.dtype == np.uint8
        width = row_bytes if is_raw else shape[-1]
        if rows.ndim != 2 or rows.shape[1] != width or done + len(rows) > n_rows:
            raise ValueError(
                f"{name}: {rows.dtype} rows {done} onwards have shape {list(rows.shape)}, "
                f"expected at most [{n_rows - done}, {width}]"
            )
        step = max(1, _CHUNK // shape[-1])
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            file.write((np.ascontiguousarray(part) if is_raw else quantize(part, type)).data)
        done += len(rows)
    if done != n_rows:
        raise ValueError(f"{name}: {done} rows given, expected {n_rows}")


def _row_blocks(source: TensorSource, shape: tuple[int, ...]) -> Iterator[Array]:
    if callable(source):
        source = source()
    blocks = [source] if isinstance(source, np.ndarray) else source
    for block in blocks:
        yield block[None] if len(shape) == 1 and block.ndim == 1 else block
