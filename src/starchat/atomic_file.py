"""A file that has its name only when it is complete and on the disk."""

from __future__ import annotations

import errno
import fcntl
import glob
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import FileAccessError

__all__ = ["Output", "atomic_file", "check_target"]

_ABANDONED_S = 60  # since the last write, for a file that nobody has locked
_numbers = itertools.count(1)  # of the files that this process writes
_SYNC_BYTES = 64 << 20  # written at a time, so that the last sync, and Ctrl-C, need not wait


class Output:
    """Writes bytes, counts them and syncs on the way."""

    def __init__(self, fd: int, report: Callable[[int], None] | None = None) -> None:
        """Write to an open file; `report` is told how many bytes are written."""
        self.fd = fd
        self.n_bytes = 0
        self._synced = 0
        self._report = report

    def write(self, data: Any) -> None:
        """Write all of a buffer."""
        view = memoryview(data).cast("B")
        while view:
            written = os.write(self.fd, view[:_SYNC_BYTES])
            view = view[written:]
            self.n_bytes += written
            if self.n_bytes - self._synced >= _SYNC_BYTES:
                os.fdatasync(self.fd)
                self._synced = self.n_bytes
            if self._report:
                self._report(self.n_bytes)


@contextmanager
def atomic_file(
    path: str | os.PathLike[str],
    n_bytes: int | None = None,
    report: Callable[[int], None] | None = None,
    *,
    param: str = "target",
    remedy: str = "make room, or choose a smaller type",
) -> Iterator[Output]:
    """Return what writes NAME.part-PID-N; it is renamed to NAME at the end, removed on an error.

    What killed runs have left of the same file is removed first, so that its room is free.

    Raises FileAccessError, before the first byte where the disk has no room for `n_bytes`; `param`
    and `remedy` are what it says of the argument at fault.
    """
    path = Path(path)
    _remove_abandoned(path)
    check_target(path, n_bytes, param=param, remedy=remedy)
    partial = path.with_name(f"{path.name}.part-{os.getpid()}-{next(_numbers)}")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            with suppress(OSError):  # a file system without locks: others leave it alone, too
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Output(fd, report)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if isinstance(error, FileAccessError):  # of what is read meanwhile
            raise
        raise _not_writable(path, error, param) from None
    finally:
        with suppress(OSError):
            partial.unlink()


def check_target(
    path: str | os.PathLike[str], n_bytes: int | None, *, param: str, remedy: str
) -> None:
    """Raise FileAccessError where a file of this name and size cannot be written.

    For what comes before a computation that is to be written: atomic_file() looks again.
    """
    path = Path(path)
    try:
        if "\0" in str(path):
            raise ValueError("a NUL in the name")
        free = shutil.disk_usage(path.parent).free
        if path.exists() and not path.is_file():
            kind = errno.EISDIR if path.is_dir() else errno.EINVAL
            raise OSError(kind, os.strerror(kind))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:
        raise _not_writable(path, error, param) from None
    if n_bytes is not None and n_bytes > free:
        raise FileAccessError(
            f"{path}: needs {n_bytes:,} bytes, the disk has {free:,} free: {remedy}",
            param=param,
            limit=free,
            got=n_bytes,
        )


def _not_writable(path: Path, error: Exception, param: str) -> FileAccessError:
    problem = getattr(error, "strerror", None) or error
    return FileAccessError(f"{path}: cannot be written: {problem}", param=param)


def _remove_abandoned(path: Path) -> None:
    for partial in path.parent.glob(f"{glob.escape(path.name)}.part-*"):
        with suppress(OSError):
            fd = os.open(partial, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError while its writer lives
                if time.time() - os.fstat(fd).st_mtime > _ABANDONED_S:
                    partial.unlink()
            finally:
                os.close(fd)
