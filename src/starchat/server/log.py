"""One line for each request: what was asked, the answer's status, counts and times; never a text
of a prompt or a reply, and no query string, which may hold one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from .metrics import Metrics
from .request import RequestContext, begin_request
from .security import shown

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

GONE = 499  # the client did not wait for its answer; nginx's number
_access = logging.getLogger("starchat.server.access")


class RequestLog:
    """Middleware around all others: begins the request's context, and logs and counts its end."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and write its line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(path=scope["path"])
        begin_request(context)
        id = uuid4().hex
        status = 0

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, answered)
        finally:
            if context.log.pop("gone", False):
                status = GONE
                self._metrics.cancelled.inc()
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            self._metrics.http.labels(method, str(status or 500)).inc()
            if _access.isEnabledFor(logging.INFO):
                parts = {
                    "method": shown(scope["method"]),
                    "path": shown(scope["path"]),
                    "status": status or 500,
                    "seconds": round(time.perf_counter() - context.began, 4),
                    **context.log,
                    "client": shown(scope["client"][0]) if scope.get("client") else None,
                    "id": id,
                }
                _access.info("%s", _line(parts), extra={"parts": parts})


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _line(parts: dict[str, Any]) -> str:
    rest = {name: value for name, value in parts.items() if name not in _FIRST}
    named = "".join(f" {name}={value}" for name, value in rest.items() if value is not None)
    return "{method} {path} {status} {seconds:.3f} s".format(**parts) + named


_FIRST = ("method", "path", "status", "seconds")


class _Formatter(logging.Formatter):
    """Lines for people or programs. Tracebacks have no texts of errors: they may quote a prompt."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # another handler's
        if not self._as_json:
            return super().format(record)
        parts = getattr(record, "parts", None)
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            **(parts or {"message": record.getMessage()}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)

    def formatException(self, ei: Any) -> str:
        if os.environ.get("STARCHAT_TRACEBACK"):
            return super().formatException(ei)
        kind, _, trace = ei
        frames = "".join(traceback.format_tb(trace))
        return f"{frames}{getattr(kind, '__name__', kind)} (STARCHAT_TRACEBACK=1 shows its text)"


@contextmanager
def logging_to_stderr(*, as_json: bool) -> Iterator[None]:
    """Write the server's log, and uvicorn's warnings, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(as_json=as_json))
    loggers = [logging.getLogger(name) for name in ("starchat.server", "uvicorn")]
    for logger, level in zip(loggers, (logging.INFO, logging.WARNING), strict=True):
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
