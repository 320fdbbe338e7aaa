"""The paths of text-generation-inference and of the Inference API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from ... import __version__
from ...errors import InvalidRequestError
from ..error_route import ErrorRoute
from ..errors import ApiError, errors_as
from ..events import EventStream, event
from ..face import Face
from ..json_response import Json
from ..openai import chat
from ..service import Prompt, Service, service
from ..settings import MOST_REPLIES, MOST_STOPS, ServerSettings
from .answers import Error, Generated, Info, Reply, StreamEvent, StreamWriter, generated, prefill
from .forms import Asked, CompatibleForm, GenerateForm

#: of starchat's parameters → what this API calls them
_NAMES = {"prompt": "inputs", "json_schema": "grammar.value", "regex": "grammar.value"}
Served = Annotated[Service, Depends(service)]
# Some clients compare the whole header.
_EVENTS = "text/event-stream"


class Route(ErrorRoute):
    """A route with the statuses of text-generation-inference."""

    def answer(self, error: ApiError, request: Request) -> Response:
        """Raise the error as this API has it."""
        raise tgi_error(error, request)


def tgi_error(error: ApiError, request: Request) -> ApiError:
    """Return an error with the status and the words that this API has for it."""
    if error.code == "loading":
        name = request.app.state.service.name
        message = f"Model {name} is currently loading"
        return ApiError(503, message, code=error.code, headers=error.headers)
    status = {400: 422, 500: 424}.get(error.status, error.status)
    if error.code == "overloaded":
        status = 429
    begin = {422: "Input validation error: ", 424: "Request failed during generation: "}
    message = begin.get(status, "") + error.message
    return ApiError(status, message, code=error.code, param=error.param, headers=error.headers)


def error_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error: its text is a string, by itself."""
    if error.code == "loading":
        return {"error": error.message, "estimated_time": 20.0}
    kind = _KINDS.get(error.status) or error.code or "validation"
    return {"error": error.message, "error_type": kind}


_KINDS = {
    **dict.fromkeys((400, 413, 422), "validation"),
    **dict.fromkeys((429, 503), "overloaded"),
    **dict.fromkeys((424, 500), "generation"),
    504: "incomplete_generation",
}


def _documented(answer: Any, *, events: bool = False) -> dict[str, Any]:
    responses: dict[int | str, dict[str, Any]] = {200: {"model": answer}}
    if events:
        responses[200]["content"] = {_EVENTS: {"schema": StreamEvent.model_json_schema()}}
    for status, meaning in _ERRORS.items():
        responses[status] = {"model": Error, "description": meaning}
    return {"response_model": None, "responses": responses}


_ERRORS = {
    "4XX": "422: what is asked cannot be served. 424: the model failed. 429: no place now.",
    "503": "The model is being loaded, or the server ends.",
    "504": "The request took too long.",
}
router = APIRouter(tags=["text-generation-inference"], route_class=Route)
# Where InferenceClient asks for a chat whose model is a whole address.
router.include_router(chat.router, prefix="/models/{owner}/{name}/v1", include_in_schema=False)


@router.post("/generate", **_documented(Generated))
async def generate(form: GenerateForm, service: Served) -> Response:
    """Answer a raw prompt."""
    return Json(await _whole(form, service, echoes=False))


@router.post("/generate_stream", **_documented(StreamEvent, events=True))
async def generate_stream(form: GenerateForm, service: Served) -> Response:
    """Answer a raw prompt as it is written."""
    return await _stream(form, service, echoes=False)


_COMPATIBLE = _documented(list[Generated], events=True)


@router.post("/", **_COMPATIBLE)
async def compatible(form: CompatibleForm, service: Served) -> Response:
    """Answer a raw prompt as the Inference API does: a list of one, by default with the prompt."""
    if form.stream:
        return await _stream(form, service, echoes=True)
    return Json([await _whole(form, service, echoes=True)])


@router.post("/models/{name}", **_COMPATIBLE)
async def of_name(name: str, form: CompatibleForm, service: Served) -> Response:
    """Answer a raw prompt, as / does."""
    _check_model(name, service)
    return await compatible(form, service)


@router.post("/models/{owner}/{name}", **_COMPATIBLE)
async def of_owner(owner: str, name: str, form: CompatibleForm, service: Served) -> Response:
    """Answer a raw prompt, as / does."""
    return await of_name(f"{owner}/{name}", form, service)


@router.get("/info", **_documented(Info))
async def info(service: Served) -> Response:
    """Tell what is served, and its bounds."""
    n_ctx, settings = service.info.n_ctx, service.settings
    about = Info(
        model_id=service.name,
        max_concurrent_requests=settings.max_running + settings.max_queue,
        max_best_of=MOST_REPLIES,
        max_stop_sequences=MOST_STOPS,
        max_input_tokens=n_ctx - 1,
        max_total_tokens=n_ctx,
        version=__version__,
    )
    return Json(about.model_dump())


@router.get("/models/{owner}/{name}/info", **_documented(Info))
async def info_of(owner: str, name: str, service: Served) -> Response:
    """Tell what is served, and its bounds."""
    return await info(service)


@router.get("/ping", response_class=Response, responses={503: {"model": Error}})
async def ping(service: Served) -> Response:
    """Tell whether requests are served: 200, without a body."""
    if service.status == "ready":
        return Response()
    return Json({"error": f"unhealthy: {service.status}", "error_type": "healthcheck"}, 503)


def _check_model(name: str, service: Service) -> None:
    if service.settings.strict_model and name != service.name:
        problem = f"the model {name} is not served here; {service.name} is"
        raise ApiError(404, problem, code="model_not_found", param="model")


async def _prompt(form: GenerateForm, asked: Asked, service: Service) -> Prompt:
    """Return the prompt; as ids where some are cut off, or are told."""
    parameters = asked.parameters
    if not form.inputs:
        raise InvalidRequestError("`inputs` cannot be empty", param="inputs")
    allowed, most = parameters.allow_special, parameters.truncate or 0
    if most <= 0 and not _has_prefill(asked):
        return Prompt(text=form.inputs, allow_special=allowed)
    ids = await service.tokenize(form.inputs, allowed)
    return Prompt(text=ids[-most:] if most > 0 else ids)


def _has_prefill(asked: Asked) -> bool:
    return bool(asked.parameters.details and asked.parameters.decoder_input_details)


async def _whole(form: GenerateForm, service: Service, *, echoes: bool) -> dict[str, Any]:
    asked = Asked.of(form.parameters, is_stream=False)
    prompt = await _prompt(form, asked, service)
    with errors_as(_NAMES):
        completion = await service.result(prompt, asked.options)
    prompt_tokens = []
    if _has_prefill(asked) and prompt.text:
        ids: Any = prompt.text
        first = ids[0], await service.detokenize(ids[:1])
        prompt_tokens = prefill(first, await service.score(ids) if len(ids) > 1 else ())
    control = _control(service)
    return generated(completion, asked, control, _echo(form, asked, echoes), prompt_tokens)


async def _stream(form: GenerateForm, service: Service, *, echoes: bool) -> Response:
    asked = Asked.of(form.parameters, is_stream=True)
    prompt = await _prompt(form, asked, service)
    control, settings = _control(service), service.settings
    with errors_as(_NAMES):
        replies = await service.stream(prompt, asked.options)
    n_room = service.info.n_ctx - replies.prompt_progress[1]
    n_most = min(asked.options["max_tokens"] or settings.default_max_tokens, n_room)
    writer = StreamWriter(Reply(asked, control, n_most), asked, _echo(form, asked, echoes))

    async def events() -> AsyncIterator[bytes]:
        async for chunk in replies:
            for told in writer.events(chunk):
                yield event(told)

    return EventStream(
        events(),
        replies=replies,
        on_error=_error_event,
        ping_s=settings.sse_ping,
        content_type=_EVENTS,
    )


def _control(service: Service) -> dict[int, str]:
    return {id: name for name, id in service.special_tokens.items()}


def _error_event(error: ApiError) -> bytes:
    if error.code == "server_shutting_down":
        error = ApiError(504, error.message, code=error.code)  # what was begun is cut
    return event(error_body(error))


def _echo(form: GenerateForm, asked: Asked, default: bool) -> str:
    """Return what a text begins with: the prompt, where it is wanted."""
    wanted = asked.parameters.return_full_text
    return form.inputs if (default if wanted is None else wanted) else ""


def face(settings: ServerSettings) -> Face:
    """Return Hugging Face's face."""
    return Face(
        "tgi",
        router,
        ("/", "/generate", "/generate_stream", "/info", "/models/", "/ping"),
        error_body,
        public=("/ping",),
    )
