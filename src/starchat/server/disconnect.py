"""Middleware that cancels a request's handler when its client goes, streaming or not.

Neither uvicorn nor FastAPI does so for handlers that answer in one piece.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .request import current_request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Disconnects:
    """Runs the application in a task of its own, and ends it with the connection."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; return when it is answered, or nobody waits for the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[Message] = loop.create_future()
        body = await receive()  # the whole, by security.py: what follows is the client's going
        is_read = False

        async def wait() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                pass
            gone.set_result(message)

        async def watched_receive() -> Message:
            nonlocal is_read
            if is_read:
                return await asyncio.shield(gone)
            is_read = True
            return body

        watch = loop.create_task(wait())
        serving: asyncio.Task[Any] = loop.create_task(
            self._app(scope, watched_receive, send)  # type: ignore[arg-type]
        )
        try:
            await asyncio.wait((serving, gone), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
                return
            current_request().log["gone"] = True
            serving.cancel()
            await asyncio.wait((serving,))
            if not serving.cancelled():
                serving.exception()  # nobody is left who could be told
        finally:
            watch.cancel()
            if not serving.done():  # the server ends
                serving.cancel()
            gone.cancel()
