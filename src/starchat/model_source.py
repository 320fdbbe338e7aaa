"""What a path names: a model file, which the core opens, or a folder, which convert/ reads.

Imports no numpy: a folder's reader is imported where a folder is. What event loops ask for (context
and tokenizer) is read by the core's calls alone.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import TypeAlias

from . import _core
from .errors import CorruptFileError, StarChatError

__all__ = ["FileKey", "context_size", "key_of", "opened", "read_tokenizer"]

_MAX_CONFIG = 1 << 20  # bytes
#: Of what a model is read from: a path, or for each file device, inode, size in bytes, mtime in ns.
FileKey: TypeAlias = "tuple[tuple[int, int, int, int], ...] | str"


def key_of(path: str) -> FileKey:
    """Return what changes with the files; the path itself where the core says what is wrong."""
    try:
        return _core.file_state(os.fsencode(path))[2]
    except (StarChatError, OSError, ValueError):
        return path


def opened(path: str, files: ExitStack) -> _core.Checkpoint | None:
    """Return the model in a folder; None for a file. `files` closes what it reads from."""
    if not os.path.isdir(path):
        return None
    from .convert.direct import open_checkpoint

    for entry in os.scandir(path):
        _core.wait_until_writes_show(os.fsencode(entry.path))
    return open_checkpoint(path, files)


def context_size(path: str) -> int:
    """Return the tokens of context by a file's header, or a folder's config.json."""
    name = os.fsencode(path)
    if not _core.file_state(name)[1]:
        return _core.context_size(name)
    config = os.path.join(path, "config.json")
    try:
        n_positions = json.loads(_core.read_file(os.fsencode(config), _MAX_CONFIG))["n_positions"]
        return int(n_positions)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CorruptFileError(f"{config}: no n_positions ({error})") from None


def read_tokenizer(path: str) -> _core.Tokenizer:
    """Return the tokenizer of a file or folder, without its weights."""
    name = os.fsencode(path)
    if not _core.file_state(name)[1]:
        return _core.read_tokenizer(name)
    from .convert.tokenizer_files import folder_tokenizer

    return folder_tokenizer(path)
