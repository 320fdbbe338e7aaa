"""What goes wrong with a request, as HTTP says it: a status, a sentence, a name for programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import (
    ConstraintError,
    ContextLengthError,
    CutReplyError,
    DeviceLostError,
    EngineClosedError,
    ForkError,
    InvalidRequestError,
    NumericalError,
    OutOfMemoryError,
    StarChatError,
    UnsupportedFeatureError,
)
from ..limits import without_loading

RETRY_AFTER_S = 2  # of 503, where nothing better is known


class ApiError(Exception):
    """A request that cannot be served; the face that owns its path writes the body.

    code, type and param are those of OpenAI's error object. `fields` has numbers that other faces
    report, such as n_ctx and n_prompt_tokens.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the parts; `type` follows from the status where it is not given."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.type = type or _TYPES.get(status) or ("server_error" if status >= 500 else _INVALID)
        self.param = param
        self.headers = dict(headers or {})
        self.fields = dict(fields or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle whole."""
        return _made, (self.status, self.message, self.__dict__)

    @classmethod
    def unavailable(
        cls, message: str, code: str, retry_after_s: int = RETRY_AFTER_S, **more: Any
    ) -> ApiError:
        """Return a 503 that says when to come again."""
        headers = {"Retry-After": str(retry_after_s)}
        return cls(503, message, code=code, headers=headers, **more)


def _made(status: int, message: str, parts: dict[str, Any]) -> ApiError:
    error = ApiError(status, message)
    error.__dict__.update(parts)
    return error


_INVALID = "invalid_request_error"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "unavailable_error",
    504: "timeout_error",
}
#: class of starchat's error → status and code; the first that fits
_KINDS: tuple[tuple[type[StarChatError], int, str | None], ...] = (
    (ContextLengthError, 400, "context_length_exceeded"),
    (ConstraintError, 400, "invalid_schema"),
    (InvalidRequestError, 400, None),
    (UnsupportedFeatureError, 400, "unsupported_feature"),
    (CutReplyError, 400, "cut_reply"),
    (OutOfMemoryError, 503, "overloaded"),
    (EngineClosedError, 503, "server_shutting_down"),
    (DeviceLostError, 503, "device_lost"),
    (ForkError, 500, "internal_error"),
    (NumericalError, 500, "internal_error"),
)


def api_error(error: BaseException) -> ApiError:
    """Return what HTTP says of an error of starchat's; of any other, that it is ours.

    >>> error = api_error(InvalidRequestError("top_p: expected 0 to 1", param="top_p"))
    >>> error.status, error.code, error.param
    (400, 'invalid_parameter', 'top_p')
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MemoryError):
        problem = f"there is not enough memory now: {error}" if str(error) else "out of memory"
        return ApiError.unavailable(problem, "overloaded")
    if not isinstance(error, StarChatError):
        return _internal("the server failed; its log says where")
    fitting = [(status, code) for kind, status, code in _KINDS if isinstance(error, kind)]
    status, code = fitting[0] if fitting else (500, "internal_error")
    if status == 500:
        return _internal(str(error))
    fields = {key: value for key in ("limit", "got") if (value := getattr(error, key)) is not None}
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return ApiError(
        status,
        without_loading(str(error)),
        code=code or error.code,
        param=error.param,
        headers=headers,
        fields=fields,
    )


@contextmanager
def errors_as(names: Mapping[str, str], places: Sequence[str] = ()) -> Iterator[None]:
    """Raise what is raised within as an ApiError in the client's terms.

    names: of starchat's parameters → what the client calls them.
    places: of each message of the prompt in the client's list of them.
    """
    try:
        yield
    except (ApiError, StarChatError, MemoryError) as problem:
        error = api_error(problem)
        name, renamed = _renamed(error.param or "", names, places)
        if name:
            error.param = renamed + (error.param or "")[len(name) :]
            if error.message.startswith(name):
                error.message = renamed + error.message[len(name) :]
        raise error from problem


def _renamed(param: str, names: Mapping[str, str], places: Sequence[str]) -> tuple[str, str]:
    """Return the beginning of a name of starchat's, and what the client calls it."""
    for name, renamed in names.items():
        if param == name or param.startswith((f"{name}.", f"{name}[")):
            return name, renamed
    place = _PLACE.match(param)
    if place and int(place[1]) < len(places):
        return place[0], places[int(place[1])]
    return "", ""


_PLACE = re.compile(r"messages\[(\d+)\]")


def form_error(problem: Mapping[str, Any]) -> ApiError:
    """Return what HTTP says of a body that is no JSON, or none of the form that a route declares.

    problem: one of the errors that pydantic or FastAPI lists.
    """
    place = [str(part)[:64] for part in problem.get("loc", ()) if part != "body"]
    if problem.get("type") == "json_invalid":
        detail = problem.get("ctx", {}).get("error", "")
        message, param = f"the body is no JSON: {detail} at character {place[-1]}", None
    else:
        param = ".".join(place) or None
        message = f"{param or 'the body'}: {problem.get('msg', 'invalid')}"
    return ApiError(400, message, code="invalid_request", param=param)


def _internal(message: str) -> ApiError:
    # The same request fails again: clients of OpenAI retry 500 unless this header forbids it.
    return ApiError(
        500,
        message,
        code="internal_error",
        type="server_error",
        headers={"x-should-retry": "false"},
    )


def openai_body(error: ApiError) -> dict[str, Any]:
    """Return the body of OpenAI's API, which is also that of paths without a face."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def health_body(message: str) -> dict[str, Any]:
    """Return the body of /health where no requests are served; the form is llama.cpp's."""
    return {"error": {"code": 503, "message": message, "type": _TYPES[503]}}
