"""Routes that write errors in a form that their path alone does not tell."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.responses import Response

from ..errors import StarChatError
from .errors import ApiError, api_error, form_error


class ErrorRoute(APIRoute):
    """A route whose class says what becomes of an error."""

    def answer(self, error: ApiError, request: Request) -> Response:
        """Return what answers an error, or raise another one, which the face of the path writes."""
        raise error

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what serves a request."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except (RequestValidationError, ValidationError) as problem:
                error = form_error(problem.errors()[0])
            except (ApiError, StarChatError, MemoryError) as problem:
                error = api_error(problem)
            return self.answer(error, request)

        return answered
