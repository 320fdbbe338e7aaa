"""What a path names: a model file, which the core opens, or a folder, which convert/ reads.

Imports no numpy: a folder's reader is imported where a folder is.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import TypeAlias

from . import _core
from .errors import CorruptFileError

__all__ = ["FileKey", "context_size", "is_folder", "key_of", "opened", "read_tokenizer"]

_MAX_CONFIG = 1 << 20  # bytes
#: Of what a model is read from: a path, or for each file device, inode, size in bytes, mtime in ns.
FileKey: TypeAlias = "tuple[tuple[int, int, int, int], ...] | str"


def is_folder(path: str) -> bool:
    """Return whether it is a folder of a model."""
    return os.path.isfile(os.path.join(path, "config.json"))


def key_of(path: str) -> FileKey:
    """Return what changes with the files; the path itself where the core says what is wrong."""
    try:
        states = map(os.stat, _files(path))
        return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in states)
    except (OSError, ValueError):
        return path


def _files(path: str) -> list[bytes]:
    name = os.fsencode(path)
    if not is_folder(path):
        return _core.shard_paths(name)
    return sorted(entry.path for entry in os.scandir(name) if entry.is_file())


def opened(path: str, files: ExitStack) -> _core.Checkpoint | None:
    """Return the model in a folder; None for a file. `files` closes what it reads from."""
    if not is_folder(path):
        return None
    from .convert.direct import open_checkpoint

    for file in _files(path):
        _core.wait_until_writes_show(file)
    return open_checkpoint(path, files)


def context_size(path: str) -> int:
    """Return the tokens of context by a file's header, or a folder's config.json."""
    name = os.fsencode(path)
    if not _core.file_state(name)[3]:
        return _core.context_size(name)
    config = os.path.join(path, "config.json")
    try:
        n_positions = json.loads(_core.read_file(os.fsencode(config), _MAX_CONFIG))["n_positions"]
        return int(n_positions)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CorruptFileError(f"{config}: no n_positions ({error})") from None


def read_tokenizer(path: str) -> _core.Tokenizer:
    """Return the tokenizer of a file or folder, without its weights."""
    if not _core.file_state(os.fsencode(path))[3]:  # asks the core, for event loops
        return _core.read_tokenizer(os.fsencode(path))
    with ExitStack() as files:
        checkpoint = opened(path, files)
        return checkpoint.tokenizer() if checkpoint else _core.read_tokenizer(os.fsencode(path))
