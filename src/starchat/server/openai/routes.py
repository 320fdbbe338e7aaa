"""What routes have in common: their description in the OpenAPI document, and how they answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from starlette.responses import Response

from ...types import Completion
from ..errors import ApiError
from ..events import DESCRIBED, EventStream, error_event
from ..json_response import Json
from ..service import Replies, Service
from .answers import ErrorBody
from .forms import ReplyForm
from .options import Asked

_ERRORS = {
    "4XX": "What is wrong with the request: 400, 401, 403, 404, 405, 413, 415.",
    "500": "The server failed.",
    "503": "No place now, the model is being loaded, or the server ends: see Retry-After.",
    "504": "The request took too long.",
}


def documented(answer: Any, *, events: bool = False) -> dict[str, Any]:
    """Return what a route's decorator takes: its answer, or a stream's events, and its errors.

    Handlers write their answers themselves: nothing is validated or copied on the way out.
    """
    responses: dict[int | str, dict[str, Any]] = {200: {"model": answer}}
    if events:
        responses[200]["content"] = DESCRIBED
    for status, meaning in _ERRORS.items():
        responses[status] = {"model": ErrorBody, "description": meaning}
    return {"response_model": None, "responses": responses}


class Writer(Protocol):
    """Writes replies in the form of one endpoint."""

    def whole(self, completion: Completion) -> Any:
        """Return the JSON of an answer without a stream."""

    def events(self, replies: Replies) -> AsyncIterator[bytes]:
        """Yield the events of a stream."""


async def answer(
    form: ReplyForm,
    asked: Asked,
    writer: Writer,
    service: Service,
    on_error: Callable[[ApiError], bytes | str] = error_event,
) -> Response:
    """Return the replies of a dialogue, whole or as events; on_error as in EventStream."""
    if not form.stream:
        with asked.errors():
            completion = await service.result(asked.prompt, asked.options)
        return Json(writer.whole(completion))
    with asked.errors():
        replies = await service.stream(asked.prompt, asked.options)
    ping_s = service.settings.sse_ping
    return EventStream(writer.events(replies), replies=replies, on_error=on_error, ping_s=ping_s)
