"""/tokenize, which two protocols share: a body with `inputs` is text-generation-inference's, one
with `content` llama.cpp's. Answers and errors have the form of the body's protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from ..async_waker import in_worker
from . import llama_cpp, tgi
from .error_route import ErrorRoute
from .errors import ApiError
from .face import Face
from .json_response import Json, json_bytes
from .raw_request import SpecialTokens
from .request import current_request
from .service import Service, service
from .settings import ServerSettings

_AT_ONCE = 1024  # tokens that are written before other requests have their turn


class TokenizeForm(SpecialTokens):
    """The body of text-generation-inference: a raw prompt, read as /generate reads it."""

    inputs: str


class InputToken(BaseModel):
    """A token, and the characters of the text that it has a part of."""

    id: int
    text: str
    start: int
    stop: int


def spans(text: str, pieces: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield which characters of a text its tokens have a part of: the first, and that behind.

    What the reader of a prompt leaves out, white space before a frame and the marks of escape(), is
    in no token.

    >>> [*spans("aä", [b"a\\xc3", b"\\xa4"])], [*spans("  <a", [b"<", b"a"])]
    ([(0, 2), (1, 2)], [(2, 3), (3, 4)])
    """
    n_read = sum(map(_n_begun, pieces))
    places: Sequence[int] = range(n_read)
    if n_read < len(text):
        read, at = b"".join(pieces).decode("utf-8", "surrogatepass"), -1
        places = [at := text.index(character, at + 1) for character in read]
    n = 0  # characters that have begun
    for piece in pieces:
        first = n - (not _begins(piece[0])) if piece else n
        n += _n_begun(piece)
        yield (places[first], places[n - 1] + 1) if first < n else (n, n)


def _begins(byte: int) -> bool:
    return byte & 0xC0 != 0x80


def _n_begun(piece: bytes) -> int:
    """Return how many characters of UTF-8 begin in some bytes."""
    return sum(map(_begins, piece))


class Route(ErrorRoute):
    """A route whose errors have the form of the body's protocol."""

    def answer(self, error: ApiError, request: Request) -> Response:
        """Answer as llama.cpp does; raise the error as the other API has it."""
        if not getattr(request.state, "is_llama_cpp", False):
            raise tgi.tgi_error(error, request)
        current_request().log["error"] = error.code
        return Json(llama_cpp.error_body(error), error.status, headers=error.headers)


router = APIRouter(tags=["text-generation-inference", "llama.cpp"], route_class=Route)
_FORMS = (TokenizeForm, llama_cpp.TokenizeForm)
_BODY = {"anyOf": [form.model_json_schema() for form in _FORMS]}
_BODIES = {"requestBody": {"content": {"application/json": {"schema": _BODY}}}}


@router.post(
    "/tokenize",
    response_model=None,
    responses={200: {"model": list[InputToken] | dict[str, list[Any]]}},
    openapi_extra=_BODIES,
)
async def tokenize(
    body: Annotated[dict[str, Any], Body()],
    request: Request,
    service: Annotated[Service, Depends(service)],
) -> Response:
    """Return the tokens of a text."""
    if body.get("inputs") is None and body.get("content") is not None:
        request.state.is_llama_cpp = True
        of_llama_cpp = llama_cpp.TokenizeForm.model_validate(body, strict=True)
        return Json(await llama_cpp.tokenized(of_llama_cpp, service))
    form = TokenizeForm.model_validate(body, strict=True)
    ids = await service.tokenize(form.inputs, form.allowed)

    def places() -> list[tuple[int, int]]:
        return [*spans(form.inputs, [service.token_bytes(id) for id in ids])]

    found = places() if len(ids) < _AT_ONCE else await in_worker(places)
    return StreamingResponse(_written(form.inputs, ids, found), media_type="application/json")


async def _written(
    text: str, ids: Sequence[int], places: Sequence[tuple[int, int]]
) -> AsyncIterator[bytes]:
    """Yield a list of JSON, some tokens at a time: a long one holds up nobody."""
    tokens = zip(ids, places, strict=True)
    yield b"["
    for begin in range(0, len(ids), _AT_ONCE):
        some = [
            {"id": id, "text": text[start:stop], "start": start, "stop": stop}
            for id, (start, stop) in islice(tokens, _AT_ONCE)
        ]
        yield (b"," if begin else b"") + json_bytes(some)[1:-1]
        await asyncio.sleep(0)
    yield b"]"


def face(settings: ServerSettings) -> Face:
    """Return the face of the shared path."""
    return Face("tokenize", router, ("/tokenize",), tgi.error_body)
