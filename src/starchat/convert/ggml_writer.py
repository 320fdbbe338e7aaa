"""Writes ggml `starcoder` files and their quantized blocks: numpy only, streaming, deterministic.

Used to ship the embedded model, by tests and by benchmarks; the reader is cpp/format.
Blocks are bit-identical to those of ggml's own quantizers, for finite weights.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .._core import tensor_types
from .atomic_file import Output, atomic_file

__all__ = [
    "TYPES",
    "TensorSource",
    "TensorType",
    "dequantize",
    "quantize",
    "tensor_shapes",
    "tile_multi_query",
    "write_ggml",
]

Array: TypeAlias = npt.NDArray[Any]
#: A whole tensor, or row blocks of it in order (a callable makes them when their turn comes).
#: Floats are quantized on the way; uint8 arrays (rows, bytes) count as already quantized.
TensorSource: TypeAlias = Array | Iterable[Array] | Callable[[], Iterable[Array]]

MAGIC = 0x67676D6C
_BLOCK = 32  # weights per block
_CHUNK = 1 << 20  # weights quantized at a time: bounds the temporaries


@dataclass(frozen=True)
class TensorType:
    """One tensor type: its numbers in the file and the layout of 32 weights (or of one float)."""

    id: int
    ftype: int
    layout: np.dtype[Any]
    bits: int
    n_weights: int  # per layout

    def row_bytes(self, n_cols: int) -> int:
        """Return the size of a row of `n_cols` weights."""
        if n_cols % self.n_weights:
            raise ValueError(f"rows of {n_cols} weights do not divide into blocks of {_BLOCK}")
        return n_cols // self.n_weights * self.layout.itemsize


def _layout(*fields: tuple[str, str] | tuple[str, str, tuple[int]]) -> np.dtype[Any]:
    return np.dtype(list(fields))


_D, _M, _QH, _QS = ("d", "<f2"), ("m", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))
_LAYOUTS: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "q4_0": _layout(_D, _QS),
    "q4_1": _layout(_D, _M, _QS),
    "q5_0": _layout(_D, _QH, _QS),
    "q5_1": _layout(_D, _M, _QH, _QS),
    "q8_0": _layout(_D, ("qs", "i1", (_BLOCK,))),
}
#: Those of the core's types that can be written, by name.
TYPES: Mapping[str, TensorType] = {
    type.name: TensorType(
        type.ggml_id, type.ftype, _LAYOUTS[type.name], type.bits, type.block_weights
    )
    for type in tensor_types()
    if type.name in _LAYOUTS
}


def _type(name: str) -> TensorType:
    if name not in TYPES:
        raise ValueError(f"unknown tensor type {name!r}, expected one of {', '.join(TYPES)}")
    return TYPES[name]


# ---- blocks ---------------------------------------------------------------------------------


def quantize(array: Array, type: str) -> npt.NDArray[np.uint8]:
    """Return the rows of `array` as bytes of `type`.

    Shape (…, n_cols) → (…, row bytes); n_cols is a multiple of 32 for the quantized types.
    Raises ValueError for weights that are not finite or too large for a half-precision scale.

    >>> quantize(np.ones((2, 64), np.float32), "q4_0").shape
    (2, 36)
    """
    form = _type(type)
    array = np.asarray(array, np.float32)
    shape = (*array.shape[:-1], form.row_bytes(array.shape[-1]))
    weights = array.reshape(-1, form.n_weights)
    out = np.empty(len(weights), form.layout)
    step = _CHUNK // form.n_weights
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # checked afterwards
        for start in range(0, len(out), step):
            chunk, target = weights[start : start + step], out[start : start + step]
            scales = [target]
            if form.layout.names is None:
                target[:] = chunk[:, 0]
            else:
                _fill_blocks(form, chunk, target)
                scales = [target[name] for name in ("d", "m") if name in form.layout.names]
            if not all(np.isfinite(values).all() for values in scales):
                raise ValueError(f"weights are not finite, or too large for {type}")
    return out.view(np.uint8).reshape(shape)


def _fill_blocks(form: TensorType, x: npt.NDArray[np.float32], out: Array) -> None:
    """Quantize x (n, 32) into out (n,), in the arithmetic order of ggml's reference."""
    names = form.layout.names or ()
    levels = 1 << form.bits
    low = np.float32(0)
    if form.bits == 8:
        d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    elif "m" in names:
        low = x.min(axis=1, keepdims=True)
        d = (x.max(axis=1, keepdims=True) - low) / np.float32(levels - 1)
        out["m"] = low[:, 0]
    else:  # the weight farthest from zero becomes the lowest level, whatever its sign
        farthest = np.abs(x).argmax(axis=1)[:, None]
        d = np.take_along_axis(x, farthest, axis=1) / np.float32(-(levels // 2))
    out["d"] = d[:, 0]
    inverse = np.float32(1) / d
    inverse[~np.isfinite(inverse)] = 0  # d is 0, or so small that it is 0 in half precision
    scaled = (x - low) * inverse
    if form.bits == 8:  # round half away from zero
        size = np.abs(scaled)
        whole = np.floor(size)
        out["qs"] = np.copysign(whole + (size - whole >= np.float32(0.5)), scaled)
        return
    middle = np.float32(0.5 if "m" in names else levels // 2 + 0.5)
    q = (scaled + middle).astype(np.uint8)
    np.minimum(q, levels - 1, out=q)
    out["qs"] = q[:, :16] & 15 | q[:, 16:] << 4
    if form.bits == 5:
        out["qh"] = np.packbits(q >> 4, axis=1, bitorder="little")


def dequantize(data: npt.NDArray[np.uint8], type: str) -> npt.NDArray[np.float32]:
    """Return the weights in `data`: shape (…, row bytes) → float32 (…, n_cols).

    >>> dequantize(quantize(np.full((1, 32), 127, np.float32), "q8_0"), "q8_0").shape
    (1, 32)
    """
    form = _type(type)
    data = np.ascontiguousarray(data, np.uint8)
    if data.shape[-1] % form.layout.itemsize:
        raise ValueError(f"rows of {data.shape[-1]} bytes do not divide into {type} blocks")
    shape = (*data.shape[:-1], data.shape[-1] // form.layout.itemsize * form.n_weights)
    blocks = data.reshape(-1).view(form.layout)
    names = form.layout.names
    if names is None:
        return blocks.astype(np.float32).reshape(shape)
    d = blocks["d"].astype(np.float32)[:, None]
    if form.bits == 8:
        return (blocks["qs"].astype(np.float32) * d).reshape(shape)
    q = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    if form.bits == 5:
        q |= np.unpackbits(blocks["qh"], axis=1, bitorder="little") << 4
    if "m" in names:
        weights = q.astype(np.float32) * d + blocks["m"].astype(np.float32)[:, None]
    else:
        weights = (q.astype(np.float32) - np.float32(1 << form.bits - 1)) * d
    return weights.reshape(shape)


# ---- files ----------------------------------------------------------------------------------


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
    file.write(struct.pack("<3i", len(shape), len(encoded), _type(type).id))
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
