"""The engines of this process: one for each file and settings, on weights that all of a file share.

A handle counts as one user of an engine; the release of the last one closes it, and the last engine
takes the weights with it. A forked child starts with no engines, as it lacks their threads, and
with the weights of its parent.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeAlias

from . import _core
from .checks import check_integer
from .errors import (
    CorruptFileError,
    EngineClosedError,
    InvalidRequestError,
    StarChatError,
    unexpected,
)
from .limits import Limits
from .model_source import FileKey, key_of, opened
from .threads import new_lock

Progress: TypeAlias = Callable[[int, int], None]


class EngineSettings(NamedTuple):
    """What an engine is made with beside its file; the defaults are the core's."""

    n_threads: int = 0
    n_ctx: int = 0
    prefix_cache_bytes: int = -1
    gpu_layers: int = 0  # the last ones and the output; negative: as many as fit
    device: str = ""  # that computes them

    @classmethod
    def check(
        cls,
        n_threads: Any,
        n_ctx: Any,
        prefix_cache_bytes: Any,
        gpu_layers: Any = None,
        device: Any = None,
    ) -> EngineSettings:
        """Return the settings of a caller, where None is the default.

        Raises InvalidRequestError for what is no count, layers or device.
        """
        n_layers = _gpu_layers(gpu_layers)
        return cls(
            _count("n_threads", n_threads, cls().n_threads),
            _count("n_ctx", n_ctx, cls().n_ctx),
            _count("prefix_cache_bytes", prefix_cache_bytes, cls().prefix_cache_bytes, 0, 63),
            n_layers,
            _device(device, n_layers),
        )


_EVERY_LAYER = 2**31 - 1
_LAYERS = 'an integer of at least -1 (-1: all), "auto" or None'


def _gpu_layers(value: Any) -> int:
    name = "gpu_layers"
    if value is None:
        value, name = os.environ.get("STARCHAT_GPU_LAYERS") or 0, "STARCHAT_GPU_LAYERS"
    if value == "auto":
        return -1
    if isinstance(value, str):  # of the environment, or of a command
        value = int(value) if value.removeprefix("-").isdecimal() and len(value) < 10 else value
    n = check_integer(name, value, _LAYERS, -1, _EVERY_LAYER)
    return _EVERY_LAYER if n < 0 else n


def _device(value: Any, n_layers: int) -> str:
    if value is None:
        value = os.environ.get("STARCHAT_DEVICE", "") if n_layers else ""
    if not isinstance(value, str):
        raise unexpected("device", "the name of a device as of starchat devices, or None", value)
    if value and not n_layers and value != "cpu":
        problem = f"device: {value!r} computes no layers: give gpu_layers, too"
        raise InvalidRequestError(problem, param="device")
    return value if n_layers else ""


def _count(name: str, value: Any, default: int, least: int = 1, n_bits: int = 31) -> int:
    if value is None:
        return default
    expected = f"an integer of at least {least} and less than 2**{n_bits}, or None"
    return check_integer(name, value, expected, least, 2**n_bits - 1)


class _Key(NamedTuple):
    """What tells engines apart."""

    file: FileKey
    settings: EngineSettings
    limits: Limits
    draft: FileKey | None  # of the model that guesses


class _SharedFile:
    """The weights of one file, read by the first engine that needs them."""

    def __init__(self) -> None:
        self.loading = new_lock()
        self.weights: _core.Weights | None = None


class _SharedEngine:
    """One engine, and the number of handles to it."""

    def __init__(self, key: _Key, file: _SharedFile, draft: _SharedFile | None) -> None:
        self.key = key
        self.file = file
        self.draft = draft  # kept, so that others can share its weights
        self.n_handles = 0
        self.loading = new_lock()  # the first caller loads, the others wait for it
        self.engine: _core.Engine | None = None


# Reentrant: the garbage collector may release a handle while this thread is acquiring one.
_lock = threading.RLock()
_engines: dict[_Key, _SharedEngine] = {}
_files: weakref.WeakValueDictionary[FileKey, _SharedFile] = weakref.WeakValueDictionary()
MACHINE = ""  # the folder below which the core reads /proc and /sys; another one in tests
# Of a forked child: kept for ever, as a destructor would wait for threads that do not exist here.
_engines_of_parent: list[_SharedEngine] = []


class EngineHandle:
    """One user's access to a shared engine, until released or collected."""

    def __init__(self, shared: _SharedEngine, path: str) -> None:
        """Take over one count of `shared`; `path` is its file's name in errors."""
        self._shared: _SharedEngine | None = shared
        self._pid = os.getpid()
        self._path = path

    @property
    def engine(self) -> _core.Engine:
        """The engine; EngineClosedError after release()."""
        shared = self._shared
        if shared is None or shared.engine is None:
            raise EngineClosedError(f"{self._path}: the model was closed; load it again")
        return shared.engine

    @property
    def path(self) -> str:
        """The file's name, as it was given or found."""
        return self._path

    @property
    def limits(self) -> Limits:
        """What a request may take of the engine; EngineClosedError after release()."""
        if self._shared is None:
            raise EngineClosedError(f"{self._path}: the model was closed; load it again")
        return self._shared.key.limits

    def release(self) -> None:
        """Give the engine back; harmless when that was done."""
        shared, self._shared = self._shared, None
        if shared is not None and self._pid == os.getpid():
            _release(shared)

    def __del__(self) -> None:
        """Release what was never closed, unless Python has ended and emptied its modules."""
        if os is not None:
            self.release()


def acquire_engine(
    path: str,
    settings: EngineSettings,
    progress: Progress | None = None,
    share_weights: bool = True,
    limits: Limits | None = None,
    check_memory: bool = True,
    draft: str | None = None,
) -> EngineHandle:
    """Return a handle to the engine of this file, settings and limits, loaded if it was not.

    share_weights: with other processes; engines of this one always do. check_memory: raise
    OutOfMemoryError where the memory that is free does not suffice. draft: the path of a model that
    guesses ahead, which is read first.
    """
    draft_key = None if draft is None else key_of(draft)
    shared = _take(_Key(key_of(path), settings, limits or Limits(), draft_key))
    handle = EngineHandle(shared, path)  # gives the count back if loading fails
    with shared.loading:
        if shared.engine is None:
            how = progress, share_weights, check_memory
            weights = None if draft is None else _weights(draft, settings, *how)
            shared.engine = _load(shared, path, weights, *how)
    return handle


def _weights(
    path: str,
    settings: EngineSettings,
    progress: Progress | None,
    share_weights: bool,
    check_memory: bool,
) -> _core.Weights:
    """Return the weights of a draft model; its own engine ends here."""
    bare = EngineSettings(n_threads=settings.n_threads, prefix_cache_bytes=0)
    try:
        handle = acquire_engine(path, bare, progress, share_weights, check_memory=check_memory)
    except StarChatError as error:
        error.args = (f"draft: {error}",)
        error.param = "draft" if error.param == "path" else error.param
        raise
    try:
        return handle.engine.weights
    finally:
        handle.release()


def _load(
    shared: _SharedEngine,
    path: str,
    draft: _core.Weights | None,
    progress: Progress | None,
    share_weights: bool,
    check_memory: bool,
) -> _core.Engine:
    (file_key, settings, limits, _), file = shared.key, shared.file
    with file.loading, ExitStack() as files:
        engine = _core.Engine(
            path,
            progress=progress,
            weights=file.weights,
            share_weights=share_weights,
            memory_root=MACHINE if check_memory else None,
            checkpoint=None if file.weights else opened(path, files),
            unread_bytes=min(limits.unread_bytes, 2**63 - 1),
            draft=draft,
            **settings._asdict(),
        )
        # Now, as a later import by a worker thread could meet a fork, or the end of Python.
        import numpy  # noqa: F401

        is_made_of_files = os.path.isdir(path)
        state = key_of(path) if is_made_of_files else engine.weights.identity
        if state == file_key:  # not replaced since it was examined
            file.weights = engine.weights
        elif is_made_of_files:  # they may be of two models
            engine.close()
            raise CorruptFileError(
                f"{path}: files changed while they were read; load it again when it is complete"
            )
        return engine


def _take(key: _Key) -> _SharedEngine:
    with _lock:
        file = _files.setdefault(key.file, _SharedFile())
        draft = None if key.draft is None else _files.setdefault(key.draft, _SharedFile())
        while True:
            shared = _engines.setdefault(key, _SharedEngine(key, file, draft))
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
    for key, file in [*_files.items()]:
        file.loading = threading.Lock()
        if file.weights is None:  # a thread of the parent was reading it
            del _files[key]


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
