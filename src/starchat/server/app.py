"""The application: the walls around the faces, and what belongs to none of them.

A request goes through security and disconnect, then to the route of its face, whose handler asks
the service. Whatever is wrong is written as the face that owns the path writes errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match

from .. import __version__
from ..errors import StarChatError
from ..model import StarChat
from . import course, kobold, llama_cpp, openai, page, tgi, tokenize
from .disconnect import Disconnects
from .errors import RETRY_AFTER_S, ApiError, api_error, form_error, health_body
from .face import Face, Faces
from .json_response import Json
from .log import METHODS, RequestLog
from .metrics import CONTENT_TYPE
from .request import current_request
from .security import Security
from .service import Service
from .settings import ServerSettings

#: Paths that GET reads without a key, beside those that faces name.
PUBLIC = ("/health", "/v1/health")
#: Each face's module has such a function; None where the settings switch the face off.
FACES: tuple[Callable[[ServerSettings], Face | None], ...] = (
    openai.face,
    tgi.face,
    tokenize.face,
    course.face,
    llama_cpp.face,
    kobold.face,
    page.face,
)


def create_app(settings: ServerSettings | None = None, model: StarChat | None = None) -> FastAPI:
    """Return the application; without a model, it loads the settings' one once it runs.

    app.state has settings, service and faces.
    """
    settings = (settings or ServerSettings()).check()
    service = Service(settings, model)
    faces = Faces([face for make in FACES if (face := make(settings)) is not None])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = None if service.status == "ready" else asyncio.create_task(_load(app))
        try:
            yield
        finally:
            if loading is not None:
                loading.cancel()
            service.close()

    app = FastAPI(
        title="starchat",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=Json,
    )
    app.state.settings, app.state.service, app.state.faces = settings, service, faces
    app.state.on_loaded = None  # is called with the service once it is loaded, or failed
    app.include_router(_router(settings))
    for face in faces.all:
        app.include_router(face.router)
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        ApiError: _answer,
        StarChatError: _answer,
        RequestValidationError: _invalid,
        HTTPException: _http_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Disconnects)
    app.add_middleware(Security, settings=settings, faces=faces, public=PUBLIC)
    app.add_middleware(RequestLog, metrics=service.metrics)  # the last one is the outermost
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the description of all routes, with errors as faces write them."""
    if app.openapi_schema is None:
        described = FastAPI.openapi(app)
        for path, operations in described["paths"].items():
            face = app.state.faces.of(path)
            for operation in operations.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]  # FastAPI's, of which faces know nothing
                description = f"An error, as {face.name if face else 'OpenAI'} has them"
                content: dict[str, Any] = {"application/json": {"schema": {}}}
                error = {"description": description, "content": content}
                operation["responses"].setdefault("default", error)
        for unused in ("HTTPValidationError", "ValidationError"):
            described.get("components", {}).get("schemas", {}).pop(unused, None)
        if app.state.settings.api_key:
            schemes = described.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["key"] = {"type": "http", "scheme": "bearer"}
            described["security"] = [{"key": []}]
    schema: dict[str, Any] = app.openapi_schema or {}
    return schema


async def _load(app: FastAPI) -> None:
    service: Service = app.state.service
    await service.load()
    if app.state.on_loaded is not None:
        app.state.on_loaded(service)


def _router(settings: ServerSettings) -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.head("/health", response_model=None, include_in_schema=False)
    @router.get("/health", response_model=None)
    @router.get("/v1/health", response_model=None)
    async def health(request: Request) -> dict[str, Any] | Json:
        """Tell whether requests are served; the form is llama.cpp's."""
        status = request.app.state.service.status
        if status == "ready":
            return {"status": "ok"}
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        return Json(health_body(_NOT_READY[status]), 503, headers=headers)

    if settings.metrics:

        @router.get("/metrics", response_class=PlainTextResponse)
        async def metrics(request: Request) -> Response:
            """Return figures in Prometheus' text format."""
            text = request.app.state.service.metrics.text()
            return Response(text, media_type=CONTENT_TYPE)

    return router


_NOT_READY = {
    "loading": "Loading model",
    "failed": "The model could not be loaded",
    "draining": "The server is shutting down",
}


async def _answer(request: Request, problem: BaseException) -> Response:
    error = api_error(problem)
    current_request().log["error"] = error.code
    body = request.app.state.faces.error_body(request.url.path, error)
    return Json(body, error.status, headers=error.headers)


async def _invalid(request: Request, problem: RequestValidationError) -> Response:
    """Answer what is no JSON, or none of the form that a route declares: 400, never 422."""
    return await _answer(request, form_error(problem.errors()[0]))


def _methods_of(request: Request) -> list[str]:
    """Return the methods of a path; the router names those of the first route with it alone."""
    return [
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


async def _http_error(request: Request, problem: HTTPException) -> Response:
    """Answer 404, 405 and the like, which the router raises."""
    status = HTTPStatus(problem.status_code)
    place = f"{request.method} {request.url.path}"
    messages = {404: f"no such path: {place}", 405: f"this path has no such method: {place}"}
    message = messages.get(status, str(problem.detail))
    code = status.phrase.lower().replace(" ", "_")
    headers = dict(problem.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods_of(request))
    return await _answer(request, ApiError(status, message, code=code, headers=headers))
