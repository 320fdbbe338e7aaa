"""From a model's name to its path: what the cache has, asking nobody."""

from __future__ import annotations

import os

from ..errors import ModelFileError
from .cache import CachedRepo, is_commit
from .files import choose
from .memory import free_bytes
from .names import HubName
from .settings import is_offline


def find(name: HubName) -> str | None:
    """Return the path of a model that is in the cache, asking nobody; None where it is not."""
    repo = CachedRepo(name.repo)
    commit = repo.commit(name.revision)
    if commit and (path := _in_snapshot(repo, commit, name)):
        return path
    if is_offline() and not is_commit(name.revision) and commit:
        older = sorted(repo.folder.glob("snapshots/*"), key=os.path.getmtime, reverse=True)
        return next(filter(None, (_in_snapshot(repo, each.name, name) for each in older)), None)
    return None


def _in_snapshot(repo: CachedRepo, commit: str, name: HubName) -> str | None:
    try:
        model = choose(repo.files(commit), name, free_bytes(), lambda model: True).model
    except ModelFileError:  # it, or a part of it, is not here
        return None
    return str(repo.snapshot(commit) / model.path)
