"""How routes are described in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from ..events import DESCRIBED
from .answers import ErrorBody

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
