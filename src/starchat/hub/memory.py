"""The memory that a model may take."""

from __future__ import annotations

import os
from contextlib import suppress


def free_bytes() -> int | None:
    """Return how much memory is free; None where the system does not say."""
    with suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
