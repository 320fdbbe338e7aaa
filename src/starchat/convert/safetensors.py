"""Reads safetensors: u64 length of a JSON header, the header, the data that it tiles exactly."""

from __future__ import annotations

import json
import os
import struct
from itertools import pairwise
from math import prod
from typing import Any

from ..errors import CorruptFileError
from .tensors import StoredTensor, in_file, read_at

__all__ = ["read_safetensors"]

_MAX_HEADER = 100_000_000  # bytes: the format's own bound
#: dtype in the file → name, bytes of an element
_TYPES = {
    "F32": ("f32", 4),
    "F16": ("f16", 2),
    "BF16": ("bf16", 2),
    **{name: (name.lower(), int(name[1:]) // 8) for name in ("F64", "I64", "I32", "I16", "I8")},
    **{name: (name.lower(), int(name[1:]) // 8) for name in ("U64", "U32", "U16", "U8")},
    "BOOL": ("bool", 1),
}


def read_safetensors(fd: int, path: str) -> dict[str, StoredTensor]:
    """Return the tensors of an open file; CorruptFileError for one that contradicts itself."""
    size = os.fstat(fd).st_size
    (n_header,) = struct.unpack("<Q", read_at(fd, 8, 0, path))
    if n_header > min(_MAX_HEADER, size - 8):
        raise CorruptFileError(
            f"{path}: the header has {n_header:,} bytes, expected at most "
            f"{min(_MAX_HEADER, size - 8):,}: no safetensors file, or cut; download it again"
        )
    try:
        header = json.loads(read_at(fd, n_header, 8, path))
        entries = {name: _entry(value) for name, value in _items(header) if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        problem = f"{path}: the header is malformed ({type(error).__name__}: {error})"
        raise CorruptFileError(f"{problem}; download it again") from None
    data = 8 + n_header
    ranges = sorted((begin, end, name) for name, (_, _, _, begin, end) in entries.items())
    for (_, end, name), (begin, _, following) in pairwise([(0, 0, "the header"), *ranges]):
        if begin != end:
            raise CorruptFileError(
                f"{path}: {following} begins at byte {begin:,} of the data, expected {end:,}, "
                f"where {name} ends; download it again"
            )
    expected = data + (ranges[-1][1] if ranges else 0)
    if size != expected:
        raise CorruptFileError(
            f"{path}: has {size:,} bytes, expected {expected:,}: the download was cut, or went "
            "wrong; download it again"
        )
    return {
        name: in_file(fd, path, data + begin, kind, shape, _row_bytes(shape, width))
        for name, (kind, width, shape, begin, _) in entries.items()
    }


def _items(header: Any) -> list[tuple[str, Any]]:
    if not isinstance(header, dict):
        raise TypeError("expected an object")
    return list(header.items())


def _entry(value: Any) -> tuple[str, int, tuple[int, ...], int, int]:
    begin, end = value["data_offsets"]
    shape = tuple(value["shape"])
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise TypeError("offsets and shapes are whole numbers from 0")
    if value["dtype"] not in _TYPES:
        kind, width = f"safetensors' {value['dtype']}"[:40], 1
        return kind, width, (max(end - begin, 0),), begin, end
    kind, width = _TYPES[value["dtype"]]
    if end - begin != prod(shape) * width:
        raise ValueError(f"{list(shape)} of {kind} in {end - begin:,} bytes")
    return kind, width, shape, begin, end


def _row_bytes(shape: tuple[int, ...], width: int) -> int:
    return (prod(shape[1:]) if len(shape) > 1 else prod(shape)) * width
