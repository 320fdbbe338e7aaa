"""Models that are loaded on first use: what an adapter keeps instead of gigabytes.

Constructing, copying and pickling a Loader is cheap, and so is loading a model that the process
already has: engines are shared (engine_registry.py). A forked child starts with no models.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from .async_waker import in_own_thread, running_loop
from .limits import Limits
from .model import StarChat
from .model_path import model_name, model_path
from .threads import new_lock

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Key: TypeAlias = tuple[str | None, frozenset[tuple[str, Any]]]


class LoadSettings(TypedDict, total=False):
    """How a model is loaded: keywords of StarChat.load, None as if it were not given."""

    n_threads: int | None
    n_ctx: int | None
    limits: Limits | None
    check_memory: bool
    draft: str | None
    gpu_layers: int | Literal["auto"] | None
    device: str | None


class Loader:
    """Loads each model once, whatever the number of threads that ask. Copies are empty.

    >>> Loader().load(n_ctx=512).info.n_ctx
    512
    """

    def __init__(self) -> None:
        """Load nothing yet."""
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = new_lock()
        self._models: dict[_Key, StarChat] = {}
        self._pid = os.getpid()  # last: no thread sees the new id with old models

    def __reduce__(self) -> tuple[type[Loader], tuple[()]]:
        """Copy and pickle without what is loaded."""
        return Loader, ()

    def loaded(self, path: str | None = None, **settings: Unpack[LoadSettings]) -> StarChat | None:
        """Return the model if it is there; never waits."""
        if self._pid != os.getpid():  # models of the parent, whose threads may hold the lock
            self._start_afresh()
        return self._models.get(_key(path, settings))

    def load(self, path: str | None = None, **settings: Unpack[LoadSettings]) -> StarChat:
        """Return the model, loaded now if it was not; errors as those of StarChat.load."""
        if model := self.loaded(path, **settings):
            return model  # without waiting for others that load
        with self._lock:
            model = self.loaded(path, **settings)
            if model is None:
                model = StarChat.load(path, **settings)
                self._models[_key(path, settings)] = model
            return model

    async def aload(self, path: str | None = None, **settings: Unpack[LoadSettings]) -> StarChat:
        """Return what load() returns, without blocking the event loop while weights are read."""
        model = self.loaded(path, **settings)
        if model is None:
            for each in (settings.get("draft"), path):
                if model_name(each):  # a thread that a program does not wait for at its end
                    await in_own_thread(partial(model_path, each, None))
            load = partial(self.load, path, **settings)
            model = await running_loop().run_in_executor(None, load)
        return model


def _key(path: str | None, settings: LoadSettings) -> _Key:
    given = {name: value for name, value in settings.items() if value is not None}
    return path, frozenset(given.items())
