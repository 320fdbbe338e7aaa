"""The engines of this process: one for each file and its settings, shared by all who load it.

A handle counts as one user of an engine; the release of the last one closes it. A forked child
starts with no engines: the threads of the parent's do not exist there.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from . import _core
from .checks import check_integer
from .errors import EngineClosedError

Progress: TypeAlias = Callable[[int, int], None]
_Key: TypeAlias = tuple[str, int, int, "EngineSettings"]  # real path, mtime_ns, size


class EngineSettings(NamedTuple):
    """What an engine is made with beside its file; the defaults are the core's."""

    n_threads: int = 0
    n_ctx: int = 0
    prefix_cache_bytes: int = -1

    @classmethod
    def check(cls, n_threads: Any, n_ctx: Any, prefix_cache_bytes: Any) -> EngineSettings:
        """Return the settings of a caller, where None is the default.

        Raises InvalidRequestError for what is no count.
        """
        return cls(
            _count("n_threads", n_threads, cls().n_threads),
            _count("n_ctx", n_ctx, cls().n_ctx),
            _count("prefix_cache_bytes", prefix_cache_bytes, cls().prefix_cache_bytes, 0, 63),
        )


def _count(name: str, value: Any, default: int, least: int = 1, n_bits: int = 31) -> int:
    if value is None:
        return default
    expected = f"an integer of at least {least} and less than 2**{n_bits}, or None"
    return check_integer(name, value, expected, least, 2**n_bits - 1)


class _SharedEngine:
    """One engine, and the number of handles to it."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.n_handles = 0
        self.loading = threading.Lock()  # the first caller loads, the others wait for it
        self.engine: _core.Engine | None = None


# Reentrant: the garbage collector may release a handle while this thread is acquiring one.
_lock = threading.RLock()
_engines: dict[_Key, _SharedEngine] = {}
# Of a forked child: kept for ever, as a destructor would wait for threads that do not exist here.
_engines_of_parent: list[_SharedEngine] = []


class EngineHandle:
    """One user's access to a shared engine, until released or collected."""

    def __init__(self, shared: _SharedEngine) -> None:
        """Take over one count of `shared`."""
        self._shared: _SharedEngine | None = shared
        self._pid = os.getpid()
        self._file = shared.key[0]

    @property
    def engine(self) -> _core.Engine:
        """The engine; EngineClosedError after release()."""
        shared = self._shared
        if shared is None or shared.engine is None:
            raise EngineClosedError(f"{self._file}: the model was closed; load it again")
        return shared.engine

    def release(self) -> None:
        """Give the engine back; harmless when that was done."""
        shared, self._shared = self._shared, None
        if shared is not None and self._pid == os.getpid():
            _release(shared)

    def __del__(self) -> None:
        """Release what was never closed."""
        self.release()


def acquire_engine(
    path: str, settings: EngineSettings, progress: Progress | None = None
) -> EngineHandle:
    """Return a handle to the engine of this file and these settings, loaded if it was not."""
    shared = _take(_key(path, settings))
    handle = EngineHandle(shared)  # gives the count back if loading fails
    with shared.loading:
        if shared.engine is None:
            shared.engine = _core.Engine(path, progress=progress, **settings._asdict())
    return handle


def _key(path: str, settings: EngineSettings) -> _Key:
    real = os.path.realpath(path)
    try:
        status = os.stat(real)
    except (OSError, ValueError):  # the core says what is wrong with the path
        return real, 0, 0, settings
    return real, status.st_mtime_ns, status.st_size, settings


def _take(key: _Key) -> _SharedEngine:
    with _lock:
        while True:
            shared = _engines.setdefault(key, _SharedEngine(key))
            shared.n_handles += 1
            if _engines.get(key) is shared:  # not released by the garbage collector in between
                return shared


def _release(shared: _SharedEngine) -> None:
    with _lock:
        shared.n_handles -= 1
        if shared.n_handles or _engines.pop(shared.key, None) is None:
            return
    if shared.engine is not None:
        shared.engine.close()


def _close_all() -> None:
    with _lock:
        every = list(_engines.values())
        _engines.clear()
    for shared in every:
        if shared.engine is not None:
            shared.engine.close()


def _start_afresh() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it
    _engines_of_parent.extend(_engines.values())
    _engines.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
