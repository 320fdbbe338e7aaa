"""Waiting for a server that is busy or away, and giving up when nothing comes any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from ..errors import DownloadError

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0
TRIES = 5  # without a new byte
RETRIED = frozenset({408, 429, 500, 502, 503, 504})

_TICK_S = 0.2


class Headers(Protocol):
    """Headers of an answer, whatever library read them."""

    def get(self, name: str, /) -> Any:
        """Return the value of one, None where it is missing."""


class Retries:
    """Counts failures in a row; each makes the next wait twice as long."""

    def __init__(self, say: Callable[[str], None], is_wanted: Callable[[], bool]) -> None:
        """Tell people by `say`; raise DownloadError as soon as nobody wants the result."""
        self._say = say
        self._is_wanted = is_wanted
        self._n_failures = 0

    def progressed(self) -> None:
        """Something came: begin to count again."""
        self._n_failures = 0

    def check_wanted(self) -> None:
        """Raise DownloadError where the caller has given up."""
        if not self._is_wanted():
            raise DownloadError("the download was cancelled; what came is kept")

    def wait(self, problem: str, kept: str = "", after_s: float | None = None) -> None:
        """Wait before the next try; raise DownloadError after too many, or for too long a wait."""
        self._n_failures += 1
        remedy = f"{kept}; try again later" if kept else "try again later"
        if self._n_failures >= TRIES:
            raise DownloadError(f"{problem} ({TRIES} tries in a row): {remedy}", param="path")
        wait_s = FIRST_WAIT_S * 2 ** (self._n_failures - 1) if after_s is None else after_s
        if wait_s > LONGEST_WAIT_S:
            raise DownloadError(
                f"{problem}: it asks to wait {wait_s:,.0f} s; {remedy}", param="path"
            )
        self._say(f"{problem}: next try in {wait_s:.0f} s")
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            self.check_wanted()
            time.sleep(min(left, _TICK_S))


def asked_wait(headers: Headers) -> float | None:
    """Return the seconds that a server asks to wait, by Retry-After or the hub's RateLimit.

    >>> asked_wait({"Retry-After": "7"}), asked_wait({"RateLimit": '"api";r=0;t=55'})
    (7.0, 55.0)
    """
    if after := headers.get("Retry-After"):
        try:
            return max(0.0, float(after))
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return None
    for field in (headers.get("RateLimit") or "").split(";"):
        key, _, value = field.strip().partition("=")
        if key == "t" and value.isdigit():
            return float(value)
    return None
