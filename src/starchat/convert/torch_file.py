"""Reads tensors of PyTorch .bin files without unpickling: a machine for a few harmless opcodes.

A file is a zip archive of `*/data.pkl` and of stored (not compressed) `*/data/K`. Nothing in it is
executed; a name that is none of tensors' own is refused.
"""

from __future__ import annotations

import os
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import CorruptFileError, ModelFileError, UnsupportedFormatError
from .tensors import StoredTensor, in_file, read_at

__all__ = ["read_torch"]

_MAX_PICKLE = 64 << 20  # bytes: a checkpoint of 15B has 100 KB
_STORAGES = {
    "HalfStorage": ("f16", 2),
    "BFloat16Storage": ("bf16", 2),
    "FloatStorage": ("f32", 4),
    "IntStorage": ("i32", 4),
    "LongStorage": ("i64", 8),
    "ByteStorage": ("u8", 1),
    "BoolStorage": ("bool", 1),
}
_DICT, _TENSOR, _PARAMETER = (
    *("collections OrderedDict", "torch._utils _rebuild_tensor_v2"),
    "torch._utils _rebuild_parameter",
)
_NAMES = {_DICT, _TENSOR, _PARAMETER, *(f"torch {name}" for name in _STORAGES)}
_MARK = object()


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    type: str
    width: int
    key: str
    n_elements: int


@dataclass(frozen=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]


def read_torch(fd: int, path: str) -> dict[str, StoredTensor]:
    """Return the tensors of an open file; tied ones are views of one storage."""
    if read_at(fd, min(4, os.fstat(fd).st_size), 0, path) != b"PK\3\4":
        raise UnsupportedFormatError(
            f"{path}: no zip archive, so of PyTorch before 1.6, or cut; save it again with a "
            "newer PyTorch, or take the safetensors files"
        )
    try:
        with os.fdopen(os.dup(fd), "rb") as file, zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} files data.pkl, expected one")
        (name,) = pickles
        offset, size = _entry(fd, path, entries, name)
        if size > _MAX_PICKLE:
            raise ValueError(f"{name} has {size:,} bytes, expected at most {_MAX_PICKLE:,}")
        views = _Machine().run(bytes(read_at(fd, size, offset, path)))
        folder = name.removesuffix("data.pkl")
        return {key: _tensor(fd, path, entries, folder, view) for key, view in views.items()}
    except ModelFileError as error:
        if str(error).startswith(path):
            raise
        raise type(error)(f"{path}: {error}") from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    except (zipfile.BadZipFile, NotImplementedError, struct.error, EOFError) as error:
        problem = str(error)
    raise CorruptFileError(f"{path}: malformed or cut ({problem[:200]}); download it again")


def _entry(fd: int, path: str, entries: dict[str, zipfile.ZipInfo], name: str) -> tuple[int, int]:
    """Return offset and size of a stored file of the archive."""
    entry = entries[name]
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise UnsupportedFormatError(f"{name} is compressed, expected stored: save it again")
    head = read_at(fd, 30, entry.header_offset, path)
    if head[:4] != b"PK\3\4":
        raise ValueError(f"{name} has no header")
    n_name, n_extra = struct.unpack_from("<2H", head, 26)
    offset = entry.header_offset + 30 + n_name + n_extra
    if offset + entry.file_size > os.fstat(fd).st_size:
        raise ValueError(f"{name} ends beyond the file")
    return offset, entry.file_size


def _tensor(
    fd: int, path: str, entries: dict[str, zipfile.ZipInfo], folder: str, view: _View
) -> StoredTensor:
    storage = view.storage
    offset, size = _entry(fd, path, entries, f"{folder}data/{storage.key}")
    end = (view.offset + prod(view.shape)) * storage.width
    if end > size:
        raise ValueError(f"a tensor of {end:,} bytes in a storage of {size:,}")
    columns = prod(view.shape[1:]) if len(view.shape) > 1 else prod(view.shape)
    at = offset + view.offset * storage.width
    return in_file(fd, path, at, storage.type, view.shape, columns * storage.width)


class _Machine:
    """Runs the opcodes that a dictionary of tensors needs; values are data only."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> dict[str, _View]:
        """Return the tensors by name."""
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        state = self._stack.pop()
        if not isinstance(state, dict):
            raise UnsupportedFormatError("expected a dictionary of tensors")
        for name, view in state.items():
            if not isinstance(name, str) or not isinstance(view, _View):
                raise UnsupportedFormatError(
                    f"{str(name)[:80]!r} is no tensor, expected a dictionary of tensors only: "
                    "save model.state_dict()"
                )
        return state

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in _VALUES:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            if argument not in _NAMES:
                raise UnsupportedFormatError(
                    f"the pickle asks for {str(argument).replace(' ', '.')[:120]}, which is no "
                    "part of a tensor: nothing was executed; take safetensors files instead"
                )
            stack.append(_Global(argument))
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_built(stack.pop(), arguments))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            items = self._marked()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "APPENDS":
            items = self._marked()
            stack[-1].extend(items)
        elif name == "BUILD":  # the attribute _metadata of a state_dict
            if not isinstance(stack.pop(), dict) or not isinstance(stack[-1], dict):
                raise UnsupportedFormatError("the pickle sets the state of an object")
        elif name != "PROTO":
            raise UnsupportedFormatError(
                f"the pickle has the opcode {name}, which tensors do not need: nothing was "
                "executed; take safetensors files instead"
            )

    def _marked(self) -> list[Any]:
        at = max(index for index, value in enumerate(self._stack) if value is _MARK)
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}


def _storage(identity: Any) -> _Storage:
    kind, storage, key, _, n_elements = identity
    name = storage.name.removeprefix("torch ") if isinstance(storage, _Global) else ""
    if kind != "storage" or name not in _STORAGES or not isinstance(key, str):
        raise ValueError("a persistent id that is no storage")
    return _Storage(*_STORAGES[name], key, _natural(n_elements))


def _built(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Global) else ""
    if name == _DICT and arguments == ():
        return {}
    if name == _PARAMETER and isinstance(arguments[0], _View):
        return arguments[0]
    if name != _TENSOR:
        raise UnsupportedFormatError("the pickle calls what is no part of a tensor")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    shape = tuple(map(_natural, shape))
    for axis, stride in enumerate(strides):
        if shape[axis] > 1 and stride != prod(shape[axis + 1 :]):
            raise UnsupportedFormatError(
                f"a tensor {list(shape)} with strides {list(strides)}: save it contiguous"
            )
    return _View(storage, _natural(offset), shape)


def _natural(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 48:
        raise ValueError(f"{str(number)[:40]}: expected a whole number from 0")
    return number
