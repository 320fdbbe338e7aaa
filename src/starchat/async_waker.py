"""Wakes async streams: one thread of the process waits for news from every engine.

The default executor has few workers, and a waiting stream would occupy one; this thread serves
any number of streams in any number of event loops.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, TypeVar
from weakref import WeakValueDictionary

from . import _core
from .errors import UnsupportedFeatureError
from .worker import Job, Wakeable, start_thread, workers

T = TypeVar("T")

if TYPE_CHECKING:
    import asyncio  # not at run time: it would double the time of `import starchat`


class AsyncWaker:
    """Wakes the stream that news is for, while the stream exists."""

    def __init__(self, queue: _core.ReadyQueue | None = None) -> None:
        """Start the thread, on a queue of its own by default."""
        self.queue = queue or _core.ReadyQueue()
        self._keys = itertools.count(1)
        self._readers: WeakValueDictionary[int, Wakeable] = WeakValueDictionary()
        self._thread = start_thread(self._run, "starchat-waker")

    def new_key(self) -> int:
        """Return a key to submit a sequence with."""
        return next(self._keys)

    def attach(self, key: int, reader: Wakeable) -> None:
        """Wake `reader` whenever there is news for `key`; a weak reference to it is kept."""
        self._readers[key] = reader

    def close(self) -> None:
        """End the thread."""
        self.queue.close()
        if self._thread:
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        keys: list[int] = []
        while True:
            try:
                keys = keys or self.queue.wait()
                if not keys:
                    return
                while keys:
                    if reader := self._readers.get(keys[0]):
                        reader.wake()
                    del keys[0]  # not before: a reader that was not woken would wait for ever
                    reader = None  # else the last one would stay alive until the next news
            except MemoryError:
                time.sleep(0.01)


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of the caller; raise UnsupportedFeatureError outside asyncio."""
    from asyncio import get_running_loop

    try:
        return get_running_loop()
    except RuntimeError:
        problem = "asynchronous methods need an event loop of asyncio, and none is running here"
        remedy = "elsewhere call the other methods in a thread"
        example = "with trio: `await trio.to_thread.run_sync(model.complete, prompt)`"
        raise UnsupportedFeatureError(f"{problem}; {remedy}, {example}") from None


class _Waiting:
    """A task that waits for a worker."""

    #: Strong references, as asyncio has only weak ones to tasks.
    waiting: ClassVar[set[_Waiting]] = set()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.end = loop.create_future()
        self.waiting.add(self)

    def wake(self) -> None:
        self.waiting.discard(self)
        with suppress(RuntimeError):  # the loop was closed, and its tasks with it
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.end.done():
            self.end.set_result(None)


async def in_worker(call: Callable[[], T]) -> T:
    """Return what a call returns that a worker thread makes, or raise what it raises."""

    def run(job: Job[T]) -> T:
        with workers.python:
            return call()

    return await _end_of(run, workers.submit)


async def in_own_thread(call: Callable[[Callable[[], bool]], T]) -> T:
    """Do the same in a thread of its own, for a call of minutes, such as a download.

    The call is given a function that tells whether somebody still waits for it.
    """

    def run(job: Job[T]) -> T:
        return call(lambda: job.is_wanted)

    return await _end_of(run, lambda job: start_thread(job.run, "starchat-download"))


async def _end_of(call: Callable[[Job[T]], T], start: Callable[[Job[T]], object]) -> T:
    waiting = _Waiting(running_loop())
    job = Job(call, waiting)
    try:
        start(job)
        await waiting.end
    except BaseException:
        job.cancel()
        raise
    finally:
        waiting.waiting.discard(waiting)
    return job.result()


_lock = threading.Lock()
_shared: AsyncWaker | None = None


def shared_waker() -> AsyncWaker:
    """Return the waker of this process, started on first use."""
    global _shared
    waker = _shared
    if waker is None:  # else an event loop does not wait for the lock
        with _lock:
            waker = _shared
            if waker is None:
                waker = _shared = AsyncWaker()
                # Here, so that it runs before the handler that the queue registered for itself.
                atexit.register(_close_shared)
    return waker


def _close_shared() -> None:
    if _shared is not None:
        _shared.close()


def _start_afresh() -> None:
    global _lock, _shared
    _lock = threading.Lock()
    _shared = None  # its thread stayed in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
