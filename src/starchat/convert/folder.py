"""A folder of a model: its files, each opened once, and those of them that are JSON."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import Any

from .. import _core
from ..errors import CorruptFileError, FileAccessError, ModelFileError
from .tensors import read_at

__all__ = ["Folder", "FolderReadByCore"]

_MAX_JSON = 256 << 20  # bytes
_POINTER = b"version https://git-lfs.github.com/spec/"


class Folder:
    """Opens files by name; `files` closes them. Every one that was read is known."""

    def __init__(self, path: str, files: ExitStack) -> None:
        """Open nothing yet."""
        self.path = path
        self.opened: dict[str, int] = {}  # name → file descriptor
        self._files = files

    def __str__(self) -> str:
        """Return the path."""
        return self.path

    def path_of(self, name: str) -> str:
        """Return the path of a file."""
        return os.path.join(self.path, name)

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return os.path.exists(self.path_of(name))

    def names(self, end: str) -> list[str]:
        """Return the names with this end, sorted."""
        try:
            return sorted(name for name in os.listdir(self.path) if name.endswith(end))
        except OSError as error:
            raise FileAccessError(f"{self.path}: cannot be read: {error.strerror}") from None

    def open(self, name: str, remedy: str) -> int:
        """Return the descriptor of a file, opened for as long as the folder is used."""
        if name in self.opened:
            return self.opened[name]
        path = self.path_of(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            problem = f"{path}: cannot be opened: {error.strerror}; {remedy}"
            raise FileAccessError(problem) from None
        self._files.callback(os.close, fd)
        self.opened[name] = fd
        _check_pointer(path, os.pread(fd, len(_POINTER), 0))
        return fd

    def read(self, name: str, remedy: str) -> bytes:
        """Return a small file."""
        fd, path = self.open(name, remedy), self.path_of(name)
        size = os.fstat(fd).st_size
        _check_size(path, size)
        return bytes(read_at(fd, size, 0, path))

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file."""
        path = self.path_of(name)
        try:
            value = json.loads(self.read(name, "download it too"))
        except (ValueError, RecursionError) as error:
            raise CorruptFileError(f"{path}: expected JSON: {error}; download it again") from None
        if not isinstance(value, dict):
            raise CorruptFileError(f"{path}: expected a JSON object; download it again")
        return value


class FolderReadByCore(Folder):
    """Reads small files whole, by calls of the core alone, and keeps none of them open."""

    def __init__(self, path: str) -> None:
        """Open nothing."""
        super().__init__(path, ExitStack())

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        try:
            _core.file_state(os.fsencode(self.path_of(name)))
        except (ModelFileError, OSError):
            return False
        return True

    def read(self, name: str, remedy: str) -> bytes:
        """Return a small file."""
        path = self.path_of(name)
        data = _core.read_file(os.fsencode(path), _MAX_JSON + 1)
        _check_pointer(path, data[: len(_POINTER)])
        _check_size(path, len(data))
        return data


def _check_pointer(path: str, head: bytes) -> None:
    if head == _POINTER:
        raise FileAccessError(
            f"{path}: is a pointer of Git LFS, not the file: `git lfs pull` downloads it"
        )


def _check_size(path: str, size: int) -> None:
    if size > _MAX_JSON:
        raise CorruptFileError(f"{path}: larger than {_MAX_JSON >> 20} MB")
