"""The memory that a model may take."""

from __future__ import annotations

import os
from contextlib import suppress

from .._core.machine import free_memory


def free_bytes() -> int | None:
    """Return how much memory is free; None where the system does not say."""
    if free := free_memory():
        return free[0]
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
