"""Named, typed tensors that are read in blocks of rows: what every source gives and writers take.

Rows are bytes of their type, so that nothing changes on the way where both sides know the type.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import CorruptFileError, UnsupportedFormatError
from .tensor_types import TYPES, dequantize, quantize
from .vocabulary import ordinary, rebuilt_merges

__all__ = ["Checkpoint", "Loss", "StoredTensor", "gathered", "read_at", "stacked", "transposed"]

Bytes = npt.NDArray[np.uint8]
REQUANTIZED = "q8_0"  # what act-order GPTQ becomes, whose groups no block has
BLOCK_BYTES = 64 << 20  # of rows, as floats: bounds the memory
_FLOATS = frozenset(name for name, type in TYPES.items() if type.block_weights == 1)


class Place(NamedTuple):
    """Consecutive bytes of an open file."""

    fd: int
    path: str
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """One tensor; a vector is one row. Types that are none of TYPES are bytes an element."""

    type: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Bytes]  # rows [start, stop) → (rows, bytes of a row)
    is_requantized: bool = False  # its loss is measured
    places: tuple[Place, ...] = ()  # of its rows, one after the other; none: no file has them
    #: The same weights without loss, with columns in another order: column i is column order[i].
    reordered: tuple[StoredTensor, npt.NDArray[np.intp]] | None = None

    @property
    def n_rows(self) -> int:
        """Rows: 1 of a vector."""
        return self.shape[0] if len(self.shape) > 1 else 1

    def floats(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows as float32."""
        return _floats(self.read(start, stop), self.type)

    def blocks(self, type: str, loss: Loss) -> Iterator[Bytes]:
        """Return all rows as bytes of `type`, in blocks."""
        step = max(1, BLOCK_BYTES // (4 * self.shape[-1]))
        for start in range(0, self.n_rows, step):
            stored = self.read(start, min(self.n_rows, start + step))
            if type == self.type:
                yield stored
                continue
            values = _floats(stored, self.type)
            made = quantize(values, type)
            if self.is_requantized or (type in _FLOATS and self.type in _FLOATS):
                loss.add(values, _floats(made, type), self.is_requantized)
            yield made


@dataclass
class Loss:
    """What conversion lost: floats that the new type lacks, and the error of requantization."""

    changed: int = 0
    total: int = 0
    #: Matrices whose rows the wanted blocks do not divide: wanted type, given type, columns.
    replaced: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    _error: float = field(default=0, repr=False)
    _power: float = field(default=0, repr=False)

    def add(self, before: Any, after: Any, is_requantized: bool) -> None:
        """Count a block."""
        if not is_requantized:
            self.changed += int(np.count_nonzero(before != after))
            self.total += before.size
            return
        self._error += float(np.square(before - after, dtype=np.float64).sum())
        self._power += float(np.square(before, dtype=np.float64).sum())

    @property
    def nmse(self) -> float | None:
        """The squared error of requantized weights, as a share of their squares."""
        return self._error / self._power if self._power else None


@dataclass(frozen=True)
class Checkpoint:
    """A GPTBigCode model: names as in ggml files, key and value heads kept once."""

    n_ctx: int
    n_embd: int
    n_inner: int
    n_head: int
    n_layer: int
    epsilon: float
    tokens: list[bytes]  # one for each row of wte; b"" has no token
    kinds: list[int]  # of GGUF: 1 normal, 3 control, 4 user-defined, 5 unused
    merges: list[tuple[bytes, bytes]]
    tensors: Mapping[str, StoredTensor]
    about: Mapping[str, str]  # name, license, chat_template
    files: Sequence[tuple[str, int]]  # paths and descriptors of what was read

    @property
    def is_multi_query(self) -> bool:
        """Whether all query heads share one key head and one value head."""
        rows = self.tensors["model/h0/attn/c_attn/w"].shape[0]
        return rows == self.n_embd + 2 * (self.n_embd // self.n_head)

    def has_rebuilt_merges(self) -> bool:
        """Return whether the order of ids says the merges: the core knows no others."""
        return self.merges == rebuilt_merges(ordinary(self.tokens, self.kinds))


def _floats(rows: Bytes, type: str) -> npt.NDArray[np.float32]:
    if type not in TYPES:
        raise UnsupportedFormatError(f"tensors of type {type}: expected f32, f16 or bf16")
    return dequantize(rows, type)


# ---- files --------------------------------------------------------------------------------------


def read_at(fd: int, n_bytes: int, offset: int, path: str) -> bytearray:
    """Return bytes of a file, all of them."""
    data = bytearray(n_bytes)
    view = memoryview(data)
    done = 0
    while done < n_bytes:
        got = os.preadv(fd, [view[done:]], offset + done)
        if not got:
            raise CorruptFileError(
                f"{path}: ends at byte {offset + done:,}, expected {offset + n_bytes:,}: the file "
                "is cut; download it again"
            )
        done += got
    return data


def in_file(
    fd: int, path: str, offset: int, type: str, shape: tuple[int, ...], row_bytes: int
) -> StoredTensor:
    """Return the tensor at `offset` of an open file."""
    n_rows = shape[0] if len(shape) > 1 else 1
    return _at(type, shape, [Place(fd, path, offset, n_rows * row_bytes)])


def _at(type: str, shape: tuple[int, ...], places: Sequence[Place]) -> StoredTensor:
    n_rows = shape[0] if len(shape) > 1 else 1
    row_bytes = sum(place.n_bytes for place in places) // max(n_rows, 1)

    def read(start: int, stop: int) -> Bytes:
        parts = [
            read_at(part.fd, part.n_bytes, part.offset, part.path)
            for part in _part(places, start * row_bytes, stop * row_bytes)
        ]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return np.frombuffer(data, np.uint8).reshape(stop - start, row_bytes)

    return StoredTensor(type, shape, read, places=tuple(places))


def _part(places: Sequence[Place], start: int, stop: int) -> list[Place]:
    """Return where bytes [start, stop) of all are."""
    found = []
    for place in places:
        first, last = max(start, 0), min(stop, place.n_bytes)
        if first < last:
            found.append(place._replace(offset=place.offset + first, n_bytes=last - first))
        start, stop = start - place.n_bytes, stop - place.n_bytes
    return found


# ---- other orders of rows -----------------------------------------------------------------------


def gathered(tensor: StoredTensor, index: npt.NDArray[np.intp]) -> StoredTensor:
    """Return the rows of a matrix, or the elements of a vector, at `index`."""
    shape = (len(index), *tensor.shape[1:])
    if tensor.places:
        width = sum(place.n_bytes for place in tensor.places) // tensor.shape[0]
        places = [
            place
            for first, last in _runs(index)
            for place in _part(tensor.places, first * width, last * width)
        ]
        return _at(tensor.type, shape, places)

    def read(start: int, stop: int) -> Bytes:
        return np.concatenate([tensor.read(*run) for run in _runs(index[start:stop])])

    reordered = tensor.reordered and (gathered(tensor.reordered[0], index), tensor.reordered[1])
    return StoredTensor(tensor.type, shape, read, tensor.is_requantized, reordered=reordered)


def _runs(index: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return the ranges [first, last) of consecutive numbers."""
    starts = np.flatnonzero(np.diff(index, prepend=-2) != 1)
    ends = [*starts[1:], len(index)]
    return [(int(index[a]), int(index[b - 1]) + 1) for a, b in zip(starts, ends, strict=True)]


def stacked(first: StoredTensor, second: StoredTensor) -> StoredTensor:
    """Return the rows of both, or the elements of two vectors."""
    shape = (first.shape[0] + second.shape[0], *first.shape[1:])
    if first.places and second.places:
        return _at(first.type, shape, [*first.places, *second.places])
    n = first.n_rows

    def read(start: int, stop: int) -> Bytes:
        parts = []
        if start < n:
            parts.append(first.read(start, min(stop, n)))
        if stop > n:
            parts.append(second.read(max(start, n) - n, stop - n))
        return np.concatenate(parts)

    return StoredTensor(first.type, shape, read)


def transposed(tensor: StoredTensor) -> StoredTensor:
    """Return a matrix of floats with rows and columns exchanged; it is in memory while read."""
    n_in, n_out = tensor.shape
    kept: list[Any] = []

    def read(start: int, stop: int) -> Bytes:
        if not kept:
            kept.append(tensor.read(0, n_in).reshape(n_in, n_out, -1))
        rows = np.ascontiguousarray(kept[0][:, start:stop].swapaxes(0, 1))
        if stop == n_out:
            kept.clear()
        return rows.reshape(stop - start, -1)

    return StoredTensor(tensor.type, (n_out, n_in), read)
