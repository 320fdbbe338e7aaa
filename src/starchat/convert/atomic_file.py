"""A file that has its name only when it is complete and on the disk."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import FileAccessError

__all__ = ["Output", "atomic_file"]

_ABANDONED_S = 60  # since the last write, for a file that nobody has locked
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
) -> Iterator[Output]:
    """Return what writes NAME.part-PID; it is renamed to NAME at the end, removed on an error.

    What killed runs have left of the same file is removed first, so that its room is free.

    Raises FileAccessError, before the first byte where the disk has no room for `n_bytes`.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.part-{os.getpid()}")
    _remove_abandoned(path)
    try:
        free = shutil.disk_usage(path.parent).free
        if n_bytes is not None and n_bytes > free:
            raise FileAccessError(
                f"{path}: needs {n_bytes:,} bytes, the disk has {free:,} free: make room, or "
                "choose a smaller type",
                param="target",
                limit=free,
                got=n_bytes,
            )
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
        if isinstance(error, FileAccessError):
            raise
        raise FileAccessError(
            f"{path}: cannot be written: {error.strerror or error}", param="target"
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink()


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
