"""From a model's name to its path: what a hub serves, file by file, into the cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ..errors import DownloadError, FileAccessError
from .cache import CachedRepo
from .download import download
from .files import Model, RepoFile, choose, model_files
from .find import find
from .memory import free_bytes
from .names import HubName
from .remote import RemoteRepo
from .retries import Retries
from .settings import cache_folder, is_offline

Report: TypeAlias = Callable[[int, int], None]

_RESERVE = 20  # a twentieth of what is fetched stays free on the disk


def pull(
    name: HubName,
    report: Report | None = None,
    say: Callable[[str], None] = lambda text: None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> str:
    """Return the path of a model, fetched or renewed from the hub.

    report: is told the bytes that are there, and all that are to be fetched. say: is told what
    people may want to know, such as why a quantization was chosen. is_wanted: is asked at each
    step; where it says no, DownloadError is raised. What came is kept in any case.
    """
    if is_offline():
        if path := find(name):
            return path
        problem = f"{name}: is not in {cache_folder()}, and HF_HUB_OFFLINE forbids to fetch it"
        raise FileAccessError(problem, param="path")
    try:
        return _Pull(name, report, say, is_wanted).run()
    except OSError as error:
        if isinstance(error, (FileAccessError, DownloadError)):
            raise
        problem = f"{error.filename or cache_folder()}: {error.strerror or error}; "
        problem += "HF_HUB_CACHE names the folder of the cache"
        raise FileAccessError(f"{name}: cannot be stored: {problem}", param="path") from None


class _Pull:
    """One model on its way."""

    def __init__(
        self,
        name: HubName,
        report: Report | None,
        say: Callable[[str], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._name = name
        self._report = report
        self._say = say
        self._retries = Retries(say, is_wanted)
        self._cache = CachedRepo(name.repo)
        self._commit = ""
        self._done = self._total = 0

    def run(self) -> str:
        remote = RemoteRepo(self._name, self._retries)
        commit, listed = remote.files()
        self._commit = commit
        if not (self._name.path or self._name.quant):  # sizes decide
            unsized = {f.path for m in model_files(listed) for f in m.files if f.size is None}
            listed = [
                remote.with_metadata(file, commit) if file.path in unsized else file
                for file in listed
            ]
        choice = choose(listed, self._name, free_bytes(), self._is_here)
        model = choice.model
        if choice.reason:
            self._say(": ".join(filter(None, [str(self._name), model.path, choice.reason])))
        files = [
            file if self._has(file) else remote.with_metadata(file, commit) for file in model.files
        ]
        missing = [file for file in files if not self._has(file)]
        self._total = sum(file.size or 0 for file in missing)
        self._check_room(missing)
        for file in missing:
            self._fetch(file, remote, commit)
        chosen = {file.path: file for file in files}
        for file in listed:  # others that are here already get their names in this commit, too
            file = chosen.get(file.path, file)
            if self._has(file):
                self._cache.add(commit, file)
        self._cache.set_commit(self._name.revision, commit)
        return str(self._cache.snapshot(commit) / model.path)

    def _has(self, file: RepoFile) -> bool:
        return self._cache.has(self._commit, file)

    def _is_here(self, model: Model) -> bool:
        return all(self._has(file) for file in model.files)

    def _part(self, file: RepoFile) -> Path:
        """Return where a blob is until it is whole; huggingface_hub has other names for its own."""
        return self._cache.blob(f"{file.etag}.starchat.incomplete")

    def _check_room(self, missing: list[RepoFile]) -> None:
        kept = 0
        for file in missing:
            part = self._part(file)
            if part.exists():
                kept += min(part.stat().st_size, file.size or 0)
        needed = self._total - kept
        folder = self._cache.folder
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if needed + needed // _RESERVE > free:
            raise FileAccessError(
                f"{self._name}: needs {needed:,} bytes and a twentieth more, the disk of "
                f"{cache_folder()} has {free:,} free: make room, choose a smaller quantization, "
                "or let HF_HUB_CACHE name a folder on another disk",
                param="path",
                limit=free,
                got=needed,
            )

    def _fetch(self, file: RepoFile, remote: RemoteRepo, commit: str) -> None:
        part, blob = self._part(file), self._cache.blob(file.etag)
        blob.parent.mkdir(parents=True, exist_ok=True)
        has_said = False

        def wait() -> None:
            nonlocal has_said
            if not has_said:
                self._say(f"{self._name}: another process is fetching it: waiting")
            has_said = True
            self._retries.check_wanted()
            if part.exists():
                self._tell(part.stat().st_size)

        with self._cache.locked(file.etag, wait):
            if not self._has(file):  # else another process was faster
                url = remote.url(file.path, commit)
                download(file, url, remote.headers, part, self._name, self._retries, self._tell)
                os.replace(part, blob)
                self._cache.add(commit, file)
        self._done += file.size or 0
        self._tell(0)

    def _tell(self, n_bytes: int) -> None:
        if self._report:
            self._report(self._done + n_bytes, self._total)
