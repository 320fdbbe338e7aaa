"""What the walls know of a request, for those behind them: whose it is, how long it may take, and
what its line in the log says. One for each request, found by the task that serves it.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RequestContext:
    """Written by the middleware and the service, read by the log and the metrics."""

    path: str = ""
    salt: str | None = None  # of the prefix cache: each key has its own
    read_timeout_s: float = 0.0  # of the client between two pieces of an answer; 0: unknown
    began: float = field(default_factory=time.perf_counter)
    log: dict[str, Any] = field(default_factory=dict)  # counts and times, never a text of a prompt


_current: ContextVar[RequestContext | None] = ContextVar("starchat_request", default=None)


def current_request() -> RequestContext:
    """Return the context of the request that this task serves; an empty one outside of any."""
    context = _current.get()
    if context is None:
        context = RequestContext()
        _current.set(context)
    return context


def begin_request(context: RequestContext) -> None:
    """Make a context that of this task, and of the tasks that it starts."""
    _current.set(context)
