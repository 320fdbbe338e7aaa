"""What answers from the first moment, while the application is imported and made.

FastAPI and the faces take most of a second to import; a thread does it. /health is 503 meanwhile,
and other requests wait: the application answers them, as their faces do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from ..async_waker import in_own_thread
from .errors import ApiError, health_body, openai_body

_HEALTH = ("/health", "/v1/health")


class Front:
    """An ASGI application before another one, which `make` returns."""

    def __init__(
        self,
        make: Callable[[], Any],
        on_made: Callable[[Any], object],
        on_failed: Callable[[], object],
    ) -> None:
        """Make nothing yet.

        make: is called in a thread when the server begins.
        on_made: gets the application before it begins; on_failed is called where there is none.
        """
        self._make, self._on_made, self._on_failed = make, on_made, on_failed
        self._app: Any = None
        self._is_tried = asyncio.Event()  # to make it
        self._lifespan = AsyncExitStack()
        self.failure: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or say that it is too early."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["path"] not in _HEALTH:
            await self._is_tried.wait()
        if self._app is not None:
            await self._app(scope, receive, send)
        else:
            await _answer(scope["path"], send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        beginning = asyncio.ensure_future(self._begin())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        beginning.cancel()
        await self._lifespan.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _begin(self) -> None:
        try:
            app = await in_own_thread(lambda is_wanted: self._make())
            self._on_made(app)
            await self._lifespan.enter_async_context(app.router.lifespan_context(app))
            self._app = app
        except Exception as error:
            self.failure = error
            self._on_failed()
        finally:
            self._is_tried.set()


async def _answer(path: str, send: Any) -> None:
    error = ApiError.unavailable("Loading model", "loading")
    body = health_body(error.message) if path in _HEALTH else openai_body(error)
    text = json.dumps(body).encode()
    headers = {**error.headers, "content-type": "application/json", "content-length": len(text)}
    raw = [(name.lower().encode(), str(value).encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": text})
