"""The hub's cache on the disk: blobs by checksum, snapshots of links to them, names of revisions.

models--OWNER--REPO/blobs/ETAG          the bytes
models--OWNER--REPO/snapshots/COMMIT/…  links to them, by the files' names
models--OWNER--REPO/refs/REVISION       the commit that a branch or tag has
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import FileAccessError
from .files import RepoFile
from .settings import cache_folder

_COMMIT = re.compile(r"[0-9a-f]{40}")
_POLL_S = 0.1


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit's hash, which never changes."""
    return bool(_COMMIT.fullmatch(revision))


class CachedRepo:
    """One repository in the cache."""

    def __init__(self, repo: str) -> None:
        """Look at nothing yet."""
        name = "--".join(["models", *repo.split("/")])
        root = cache_folder()
        self.folder = root / name
        self._locks = root / ".locks" / name

    def commit(self, revision: str) -> str | None:
        """Return the commit that a revision had when it was pulled."""
        if is_commit(revision):
            return revision
        try:
            commit = (self.folder / "refs" / revision).read_text("ascii").strip()
        except (OSError, ValueError):
            return None
        return commit if is_commit(commit) else None

    def snapshot(self, commit: str) -> Path:
        """Return the folder with a commit's files."""
        return self.folder / "snapshots" / commit

    def blob(self, etag: str) -> Path:
        """Return where the bytes with this checksum are."""
        return self.folder / "blobs" / etag

    def files(self, commit: str) -> list[RepoFile]:
        """Return the files of a commit that are here."""
        root = self.snapshot(commit)
        found = []
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):  # a link to nothing
                    size = path.stat().st_size
                    found.append(RepoFile(path.relative_to(root).as_posix(), size))
        return sorted(found, key=lambda file: file.path)

    def has(self, commit: str, file: RepoFile) -> bool:
        """Return whether the bytes of a file of this commit are here."""
        places = [self.snapshot(commit) / file.path]
        if file.etag:
            places.insert(0, self.blob(file.etag))
        for place in places:
            with suppress(OSError):
                if place.stat().st_size == file.size:
                    return True
        return False

    def add(self, commit: str, file: RepoFile) -> None:
        """Give a blob its name in the snapshot of a commit."""
        link, blob = self.snapshot(commit) / file.path, self.blob(file.etag)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists() or (link.exists() and link.samefile(blob)):
            return
        new = link.with_name(f"{link.name}.{os.getpid()}.link")
        with suppress(FileNotFoundError):
            new.unlink()
        try:
            new.symlink_to(os.path.relpath(blob, link.parent))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            os.replace(blob, link)  # this disk has no links: one name is enough
            return
        os.replace(new, link)

    def set_commit(self, revision: str, commit: str) -> None:
        """Note which commit a revision has."""
        if is_commit(revision) or self.commit(revision) == commit:
            return
        ref = self.folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{os.getpid()}.new")
        new.write_text(commit)
        os.replace(new, ref)

    @contextmanager
    def locked(self, etag: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of a blob, which huggingface_hub takes too; `waiting` is called meanwhile.

        The system gives it back when the process ends, however that happens.
        """
        path = self._locks / f"{etag}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
            try:
                while not _try_lock(fd, path):
                    waiting()
                    time.sleep(_POLL_S)
                if _is_at(path, fd):  # else its former holder removed it: lock the new one
                    yield
                    return
            finally:
                os.close(fd)


def _try_lock(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        problem = f"{path}: cannot be locked: {error.strerror}; let HF_HUB_CACHE name a folder on "
        raise FileAccessError(problem + "a disk that has locks", param="path") from None
    return True


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
