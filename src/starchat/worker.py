"""Worker threads for event loops: long prompts and grammars are prepared here, not in the loop.

asyncio's executor is not used: it has few threads, and a program waits for them at its end. These
threads start when there is work, end with it, and never hold up the end of the program.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Generic, Protocol, TypeVar, cast
from weakref import ref

from .errors import ForkError
from .threads import enough_threads

T = TypeVar("T")

MOST_THREADS = 8  # a compile holds one for seconds, at worst


class Wakeable(Protocol):
    """A reader that waits in an event loop."""

    def wake(self) -> None:
        """Continue the reader; called from another thread; must not wait.

        After a MemoryError it is called again.
        """


def _unpatched(module: str, name: str) -> Any:
    """Return a function of Python's, where gevent may have put one of greenlets in its place."""
    gevent = sys.modules.get("gevent.monkey")
    return gevent.get_original(module, name) if gevent else getattr(sys.modules[module], name)


def start_thread(run: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a daemon thread of the system; None under gevent, whose threads are greenlets.

    Raises OutOfMemoryError where the system gives no thread.
    """
    gevent = sys.modules.get("gevent.monkey")
    with enough_threads():
        if gevent is not None and gevent.is_object_patched("threading", "_start_new_thread"):
            # A Thread would be a greenlet, and its wait would stop every other one.
            gevent.get_original("_thread", "start_new_thread")(run, ())
            return None
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread


class Job(Generic[T]):
    """One call that a worker makes for a reader, which is woken at its end."""

    def __init__(self, call: Callable[[Job[T]], T], reader: Wakeable) -> None:
        """Keep a weak reference to `reader`: without it, nobody wants the result."""
        self._call: Callable[[Job[T]], T] | None = call
        self._reader = ref(reader)
        self._context = copy_context()
        self._pid = os.getpid()
        self._is_done = self._is_cancelled = False
        self._value: T | None = None
        self._error: BaseException | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for the result: a call looks between its steps."""
        return not self._is_cancelled and self._reader() is not None

    def cancel(self) -> None:
        """Begin no further step, and drop the result."""
        self._is_cancelled = True
        self._value = None

    @property
    def is_done(self) -> bool:
        """Whether result() has something; ForkError in a child, which lacks the thread."""
        if self._pid != os.getpid():
            raise ForkError("this request was being prepared in the parent process: ask again")
        return self._is_done

    def result(self) -> T:
        """Return what the call returned, or raise what it raised; once."""
        (value, self._value), (error, self._error) = (self._value, None), (self._error, None)
        if error is not None:
            raise error
        return cast(T, value)

    def run(self) -> None:
        """Make the call, in a worker."""
        try:
            if self._call is not None and self.is_wanted:
                self._value = self._context.run(self._call, self)
        except BaseException as error:
            self._error = error
        self._call = None  # it holds the prompt
        if self._is_cancelled:
            self._value = None
        self._is_done = True
        while True:
            try:
                if reader := self._reader():
                    reader.wake()
                return
            except MemoryError:  # else the reader would wait for ever
                time.sleep(0.01)


class Workers:
    """Runs jobs, the first come first, in a few threads."""

    def __init__(self, most_threads: int = MOST_THREADS) -> None:
        """Start no thread yet."""
        lock = _unpatched("_thread", "allocate_lock")
        self._most = most_threads
        self._lock = lock()
        self._jobs: deque[Job[Any]] = deque()
        self._n_threads = 0
        #: For steps in Python: an event loop waits up to 5 ms for the GIL for each thread of them.
        self.python = lock()

    def submit(self, job: Job[Any]) -> None:
        """Run a job as soon as a thread is free; OutOfMemoryError where there can be none."""
        with self._lock:
            self._jobs.append(job)
            if self._n_threads == self._most:
                return
            self._n_threads += 1
        try:
            start_thread(self._run, "starchat-worker")
        except MemoryError:
            with self._lock:
                self._n_threads -= 1
                if self._n_threads == 0:  # else another thread will come to it
                    self._jobs.remove(job)
                    raise

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._n_threads -= 1
                    return
                job = self._jobs.popleft()
            job.run()
            del job  # else its result would live until the next one


workers = Workers()


def _start_afresh() -> None:
    workers.__init__()  # type: ignore[misc]  # its threads stayed in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
