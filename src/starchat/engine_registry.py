"""The engines of this process: one for each file and its settings, shared by whoever loads it.

A Lease is one holder's share; the last release closes the engine. A forked child starts with
no engines: the parent's have no thread there.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from . import _core
from .errors import EngineClosedError

Progress: TypeAlias = Callable[[int, int], None]
_Key: TypeAlias = tuple[str, int, int, "Settings"]  # real path, mtime_ns, size


class Settings(NamedTuple):
    """What an engine is made with beside its file; the defaults are the core's."""

    n_threads: int = 0
    n_ctx: int = 0
    prefix_cache_bytes: int = -1


class _Slot:
    """One engine, and how many leases there are on it."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.n_leases = 0
        self.loading = threading.Lock()  # the first to come loads, the others wait for it
        self.engine: _core.Engine | None = None


# Reentrant: the garbage collector may release a lease while this thread is taking one.
_lock = threading.RLock()
_slots: dict[_Key, _Slot] = {}
_of_parent: list[_Slot] = []  # kept for good, so that no destructor waits for a thread of theirs


class Lease:
    """One holder's share of an engine, until released or collected."""

    def __init__(self, slot: _Slot) -> None:
        """Take over one count of `slot`."""
        self._slot: _Slot | None = slot
        self._pid = os.getpid()
        self._file = slot.key[0]

    @property
    def engine(self) -> _core.Engine:
        """The engine; EngineClosedError after release()."""
        slot = self._slot
        if slot is None or slot.engine is None:
            raise EngineClosedError(f"{self._file}: the model was closed; load it again")
        return slot.engine

    def release(self) -> None:
        """Give the share back, once."""
        slot, self._slot = self._slot, None
        if slot is not None and self._pid == os.getpid():
            _release(slot)

    def __del__(self) -> None:
        """Release what was never closed."""
        self.release()


def lease(path: str, settings: Settings, progress: Progress | None = None) -> Lease:
    """Return a share of the engine for this file and these settings, loading it if need be."""
    slot = _take(_key(path, settings))
    share = Lease(slot)  # gives the count back if loading fails
    with slot.loading:
        if slot.engine is None:
            slot.engine = _core.Engine(path, progress=progress, **settings._asdict())
    return share


def _key(path: str, settings: Settings) -> _Key:
    real = os.path.realpath(path)
    try:
        status = os.stat(real)
    except (OSError, ValueError):  # the core says what is wrong with the path
        return real, 0, 0, settings
    return real, status.st_mtime_ns, status.st_size, settings


def _take(key: _Key) -> _Slot:
    with _lock:
        while True:
            slot = _slots.setdefault(key, _Slot(key))
            slot.n_leases += 1
            if _slots.get(key) is slot:  # not released by the garbage collector in between
                return slot


def _release(slot: _Slot) -> None:
    with _lock:
        slot.n_leases -= 1
        if slot.n_leases or _slots.pop(slot.key, None) is None:
            return
    if slot.engine is not None:
        slot.engine.close()


def _close_all() -> None:
    with _lock:
        slots = list(_slots.values())
        _slots.clear()
    for slot in slots:
        if slot.engine is not None:
            slot.engine.close()


def _start_afresh() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it
    _of_parent.extend(_slots.values())
    _slots.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
