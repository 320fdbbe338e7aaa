"""Server-sent events: a response that ends its work when the client goes, and says what failed.

Never compressed. Where nothing was sent for a while, a comment of one line shows proxies that the
connection lives: one line break, as some clients take two for an empty event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from .errors import ApiError, api_error, openai_body
from .json_response import json_bytes
from .request import current_request

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
PING = b":\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
#: What the OpenAPI document says of a stream's answer: the schema of each event.
DESCRIBED: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
            "required": ["data"],
        }
    }
}
_log = logging.getLogger("starchat.server")


def event(data: Any, name: str | None = None) -> bytes:
    r"""Return an event of JSON.

    >>> event({"a": 1}, "message")
    b'event: message\ndata: {"a":1}\n\n'
    """
    begun = f"event: {name}\n".encode() if name else b""
    return b"%bdata: %b\n\n" % (begun, json_bytes(data))


def error_event(error: ApiError) -> bytes:
    """Return how OpenAI's stream ends with an error."""
    return event(openai_body(error)) + DONE


class EventStream(Response):
    """A response that sends events as they come.

    events: an async iterator of whole events, bytes or str. It is closed at the end, also where the
    client goes, so that `async with` in it ends the work at once.
    replies: is entered before the first event and left at the end, however early that is: an
    iterator that was never begun cannot leave what it would have entered.
    on_error: the last bytes of a stream that fails after it has begun.
    ping_s: seconds of silence after which a comment is sent; 0: never.
    content_type: the whole header.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes | str],
        *,
        replies: AbstractAsyncContextManager[Any] | None = None,
        on_error: Callable[[ApiError], bytes | str] = error_event,
        ping_s: float = 15.0,
        content_type: str = HEADERS["content-type"],
    ) -> None:
        """Send nothing yet."""
        self.status_code = 200
        self.background = None
        headers = {**HEADERS, "content-type": content_type}
        # Not by init_headers(), which would add a length.
        self.raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._events = events
        self._replies = replies
        self._on_error = on_error
        self._ping_s = ping_s
        self._sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; cancelling ends the work."""
        watch = asyncio.create_task(self._ping(send)) if self._ping_s else None
        try:
            async with self._replies or nullcontext():
                await self._send_events(send)
            if watch is not None:
                watch.cancel()  # nothing may follow the end, however slowly it is read
            await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if watch is not None:
                watch.cancel()
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()

    async def _send_events(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await self._send(send, start)
        try:
            async for piece in self._events:
                await self._send_bytes(send, piece)
        except Exception as error:
            failed = api_error(error)
            if failed.status == 500:
                _log.exception("a stream failed")
            current_request().log["error"] = failed.code
            await self._send_bytes(send, self._on_error(failed))

    async def _send_bytes(self, send: Send, piece: bytes | str) -> None:
        body = piece.encode("utf-8", "backslashreplace") if isinstance(piece, str) else piece
        await self._send(send, {"type": "http.response.body", "body": body, "more_body": True})

    async def _send(self, send: Send, message: Any) -> None:
        await send(message)
        self._sent = asyncio.get_running_loop().time()

    async def _ping(self, send: Send) -> None:
        """Send a comment wherever there was silence."""
        loop = asyncio.get_running_loop()
        wait_s = self._ping_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._ping_s + self._sent - loop.time()
            if wait_s <= 0:
                await self._send_bytes(send, PING)
                wait_s = self._ping_s
