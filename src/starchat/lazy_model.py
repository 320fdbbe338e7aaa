"""Models that are loaded on first use: what an adapter keeps instead of gigabytes.

Constructing, copying and pickling a Loader is cheap, and so is loading a model that the process
already has: engines are shared (engine_registry.py). A forked child starts with no models.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TypeAlias

from .async_waker import in_own_thread, running_loop
from .limits import Limits
from .model import StarChat
from .model_path import model_name, model_path
from .threads import new_lock

_Key: TypeAlias = tuple[str | None, int | None, int | None, Limits | None, bool, str | None]


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

    def loaded(
        self,
        path: str | None = None,
        n_threads: int | None = None,
        n_ctx: int | None = None,
        limits: Limits | None = None,
        check_memory: bool = True,
        draft: str | None = None,
    ) -> StarChat | None:
        """Return the model if it is there; never waits."""
        if self._pid != os.getpid():  # models of the parent, whose threads may hold the lock
            self._start_afresh()
        return self._models.get((path, n_threads, n_ctx, limits, check_memory, draft))

    def load(
        self,
        path: str | None = None,
        n_threads: int | None = None,
        n_ctx: int | None = None,
        limits: Limits | None = None,
        check_memory: bool = True,
        draft: str | None = None,
    ) -> StarChat:
        """Return the model, loaded now if it was not; errors as those of StarChat.load."""
        if model := self.loaded(path, n_threads, n_ctx, limits, check_memory, draft):
            return model  # without waiting for others that load
        with self._lock:
            model = self.loaded(path, n_threads, n_ctx, limits, check_memory, draft)
            if model is None:
                model = StarChat.load(
                    path,
                    n_threads=n_threads,
                    n_ctx=n_ctx,
                    limits=limits,
                    check_memory=check_memory,
                    draft=draft,
                )
                self._models[path, n_threads, n_ctx, limits, check_memory, draft] = model
            return model

    async def aload(
        self,
        path: str | None = None,
        n_threads: int | None = None,
        n_ctx: int | None = None,
        limits: Limits | None = None,
        check_memory: bool = True,
        draft: str | None = None,
    ) -> StarChat:
        """Return what load() returns, without blocking the event loop while weights are read."""
        model = self.loaded(path, n_threads, n_ctx, limits, check_memory, draft)
        if model is None:
            for each in (draft, path):
                if model_name(each):  # a thread that a program does not wait for at its end
                    await in_own_thread(partial(model_path, each, None))
            arguments = path, n_threads, n_ctx, limits, check_memory, draft
            model = await running_loop().run_in_executor(None, self.load, *arguments)
        return model
