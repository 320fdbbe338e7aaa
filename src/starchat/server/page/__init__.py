"""The chat page: its files, what it asks, and the headers that bind it to this server.

The files need no key; replies do. static/ has the page, reply.py what it is sent.
"""

from __future__ import annotations

import gzip
import time
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ... import __version__
from ...async_waker import in_worker
from ...errors import InvalidRequestError, shown
from ...sampling import CONSTRAINTS, TOOLS, SamplingParams
from ...types import ModelInfo
from ..errors import ApiError, api_error
from ..events import EventStream
from ..face import Face
from ..service import Prompt, Service, service
from ..settings import ServerSettings
from .markdown import BlockRenderer, pieces
from .reply import ReplyEvents, block

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            *(f"{kind}-src 'self'" for kind in ("script", "style", "connect", "img")),
            *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
            "require-trusted-types-for 'script'",
            "trusted-types starchat",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
#: what the settings of the page offer, of SamplingParams
_PARAMETERS = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty", "repetition_window"),
)
_OPTIONS = (*_PARAMETERS, *CONSTRAINTS, *TOOLS, "schema_limits", "continue_final_message")
_MOST_TEXTS = 500  # of one request to render
_MOST_CHARS = 1 << 20  # of them all: up to 15 s of CPU
_STEP_S = 0.02  # that a worker renders, and then others have their turn


class StaticFile(NamedTuple):
    """A file of the page, as it is sent."""

    content: bytes
    compressed: bytes
    type: str
    etag: str


class ChatForm(BaseModel):
    """What the page asks: a dialogue in starchat's own form, and starchat's options."""

    model_config = ConfigDict(extra="ignore")
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    options: dict[str, Any] = {}


class RenderForm(BaseModel):
    """Replies in Markdown, which the page keeps as they were written."""

    model_config = ConfigDict(extra="ignore")
    texts: Annotated[list[str], Field(max_length=_MOST_TEXTS)]


class RenderedBlock(BaseModel):
    """HTML of a piece; continues: its first list goes on with the last one before it."""

    html: str
    continues: bool


class Rendered(BaseModel):
    """The pieces of each text."""

    replies: list[list[RenderedBlock]]


class Parameter(BaseModel):
    """A sampling parameter that the page offers."""

    name: str
    meaning: str
    default: float | None
    kind: str  # "number", "integer" or "texts"


class PageInfo(BaseModel):
    """What the page shows of the server."""

    model: str
    version: str
    n_ctx: int
    n_params: int
    quantization: str
    parameters: list[Parameter]


def face(settings: ServerSettings) -> Face | None:
    """Return the page's routes; None where the settings switch it off."""
    if not settings.ui:
        return None
    router = APIRouter(tags=["page"])
    for path, file in static_files().items():
        for method in ("GET", "HEAD"):
            router.add_api_route(
                path,
                _sender(file),
                methods=[method],
                response_class=Response,
                responses={200: {"content": {"text/html": {}}}},
                include_in_schema=(path, method) == ("/", "GET"),
            )
    router.include_router(_router())
    return Face("page", router, ("/ui",), public=(*static_files(),))


@cache
def static_files() -> dict[str, StaticFile]:
    """Return the files of the page by their paths."""
    found = {}
    for path in files(__package__).joinpath("static").iterdir():
        kind = _TYPES.get(path.name.rpartition(".")[2])
        if kind:
            content = path.read_bytes()
            compressed = gzip.compress(content, 9, mtime=0)
            etag = f'"{sha256(content).hexdigest()[:16]}"'
            place = "/" if path.name == "index.html" else f"/ui/{path.name}"
            found[place] = StaticFile(content, compressed, kind, etag)
    return found


def _sender(file: StaticFile) -> Callable[[Request], Any]:
    async def send(request: Request) -> Response:
        """Send a file of the page."""
        headers = {**HEADERS, "ETag": file.etag, "Content-Type": file.type}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        content = file.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            content, headers["Content-Encoding"] = file.compressed, "gzip"
        return Response(content, headers=headers)

    return send


def _router() -> APIRouter:
    router = APIRouter(prefix="/ui")

    @router.get("/info", response_model=PageInfo)
    async def info(service: Annotated[Service, Depends(service)]) -> PageInfo:
        """Tell what the page shows: the model, and what can be set."""
        return _info(service.name, service.info, service.settings)

    stream: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

    @router.post("/chat", response_model=None, response_class=Response, responses=stream)
    async def chat(form: ChatForm, service: Annotated[Service, Depends(service)]) -> EventStream:
        """Send a reply as events: rendered blocks, calls of tools, progress, the end."""
        options = _options(form.options)
        begun = ""
        if options.get("continue_final_message"):
            begun = str(form.messages[-1].get("content", ""))
        replies = await service.stream(Prompt(messages=form.messages), options)
        events = ReplyEvents(begun).of(replies)
        return EventStream(events, replies=replies, ping_s=service.settings.sse_ping)

    @router.post("/render", response_model=Rendered)
    async def rendered(form: RenderForm) -> dict[str, Any]:
        """Return replies as the page shows them."""
        if (n_chars := sum(map(len, form.texts))) > _MOST_CHARS:
            problem = f"texts: expected at most {_MOST_CHARS:,} characters, got {n_chars:,}"
            raise ApiError(413, problem, code="request_too_large", param="texts")
        return {"replies": [await _rendered(text) for text in form.texts]}

    return router


async def _rendered(text: str) -> list[dict[str, Any]]:
    """Render a text in short steps: other requests have the worker between them."""
    renderer, blocks = BlockRenderer(), []
    left = deque(await in_worker(lambda: pieces(text)))

    def step() -> None:
        end = time.thread_time() + _STEP_S
        while left and time.thread_time() < end:
            blocks.append(block(renderer.whole(left.popleft())))

    while left:
        await in_worker(step)
    return blocks


def _options(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in _OPTIONS:
            problem = f"{shown(name)}: expected one of {', '.join(_OPTIONS)}"
            raise api_error(InvalidRequestError(problem, param=name[:80], code="unknown_parameter"))
    return given


def _info(name: str, info: ModelInfo, settings: ServerSettings) -> PageInfo:
    parameters = {parameter.name: parameter for parameter in fields(SamplingParams)}
    shown_ones = [_parameter(parameters[name]) for name in _PARAMETERS]
    most = {"default": settings.default_max_tokens, "meaning": "Most tokens of a reply."}
    shown_ones[0] = shown_ones[0].model_copy(update=most)  # the server's own
    return PageInfo(
        model=name,
        version=__version__,
        n_ctx=info.n_ctx,
        n_params=info.n_params,
        quantization=info.quantization,
        parameters=shown_ones,
    )


def _parameter(parameter: Any) -> Parameter:
    is_text, default = "str" in str(parameter.type), parameter.default
    kind = "texts" if is_text else "number" if isinstance(default, float) else "integer"
    return Parameter(
        name=parameter.name,
        meaning=parameter.metadata["meaning"],
        default=None if is_text else default,
        kind=kind,
    )
