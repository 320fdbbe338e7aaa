"""Locks and threads, with OutOfMemoryError where Python raises RuntimeError for want of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import OutOfMemoryError


@contextmanager
def enough_threads() -> Iterator[None]:
    """Raise OutOfMemoryError if a thread or a lock cannot be made within this context."""
    try:
        yield
    except RuntimeError as error:
        if str(error) not in ("can't start new thread", "can't allocate lock"):
            raise
        remedy = "free memory, or raise this process's limits"
        raise OutOfMemoryError(f"{error}: {remedy}") from error


def new_lock() -> threading.Lock:
    """Return a lock that nobody holds."""
    with enough_threads():
        return threading.Lock()
