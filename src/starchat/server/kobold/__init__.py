"""KoboldAI's API, as KoboldCpp's clients, SillyTavern and KoboldAI Lite use it.

forms.py reads bodies, generations.py knows what is being written. Base URLs end in /api.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Depends
from starlette.responses import Response

from ..errors import ApiError, errors_as
from ..events import DESCRIBED, EventStream, event
from ..face import Face
from ..json_response import Json
from ..raw_request import Asked
from ..service import Service, service
from ..settings import ServerSettings
from .forms import GenerateForm, IdsForm, KeyForm, TextForm
from .generations import Generation, Generations

# Clients send stop sequences from 1.2.2 on; of KoboldCpp, they expect streams from 1.30 on, counts
# of tokens from 1.41, grammars from 1.44, and min_p from 1.48.
API_VERSION = "1.2.5"
KOBOLDCPP_VERSION = "1.102"

_generations: WeakKeyDictionary[Service, Generations] = WeakKeyDictionary()


def face(settings: ServerSettings) -> Face | None:
    """Return the face, unless it is switched off."""
    if not settings.kobold:
        return None
    router = APIRouter(tags=["KoboldAI"])
    router.include_router(_standard, prefix="/api/v1")
    router.include_router(_standard, prefix="/api/latest", include_in_schema=False)
    router.include_router(_extra, prefix="/api/extra")
    return Face("kobold", router, ("/api",), error_body)


def error_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error, whose `msg` clients show.

    >>> error_body(ApiError(503, "come again later", code="overloaded"))
    {'detail': {'msg': 'come again later', 'type': 'service_unavailable'}}
    """
    types = {400: "bad_input", 503: "service_unavailable"}
    return {"detail": {"msg": error.message, "type": types.get(error.status, error.code)}}


_standard, _extra = APIRouter(), APIRouter()
_Service = Annotated[Service, Depends(service)]


async def _of_service(service: _Service) -> Generations:
    return _generations.setdefault(service, Generations())


_Generations = Annotated[Generations, Depends(_of_service)]

# ---- generating -----------------------------------------------------------------------------


@_standard.post("/generate", response_model=None)
async def generate(form: GenerateForm, service: _Service, generations: _Generations) -> Response:
    """Return how a prompt goes on."""
    async with generations.begin(form.genkey) as generation:
        asked = await _submitted(form, service, generation)
        pieces = [piece async for piece in _pieces(form, asked, generation, generations)]
    text = "".join([piece.pop("token") for piece in pieces])
    return Json({"results": [{"text": text, **pieces[-1]}]})


@_extra.post("/generate/stream", response_model=None, responses={200: {"content": DESCRIBED}})
async def stream(form: GenerateForm, service: _Service, generations: _Generations) -> Response:
    """Return how a prompt goes on, as events of the name "message"."""
    generation = generations.begin(form.genkey)
    try:
        asked = await _submitted(form, service, generation)
    except BaseException:
        await generation.end()
        raise
    pieces = _pieces(form, asked, generation, generations)
    events = (event(piece, "message") async for piece in pieces)
    ping_s = service.settings.sse_ping
    return EventStream(events, replies=generation, on_error=_error_event, ping_s=ping_s)


async def _submitted(form: GenerateForm, service: Service, generation: Generation) -> Asked:
    prompt, asked = await form.asked(service)
    await generation.submit(asked.stream(prompt, service))
    return asked


async def _pieces(
    form: GenerateForm, asked: Asked, generation: Generation, generations: Generations
) -> AsyncIterator[dict[str, Any]]:
    """Yield a reply's texts; the last one says why it ended, and what it took."""
    warnings = {"warnings": asked.warnings} if asked.warnings else {}
    async for chunk in generation.chunks():
        text = chunk.text
        if chunk.finish_reason is None:
            yield {"token": text, "finish_reason": None}
            continue
        if form.trim_stop is False:
            text += chunk.stop_string
        generations.ended(chunk, asked.options["seed"])
        counts = {}
        if usage := chunk.usage:
            names = ("prompt_tokens", "completion_tokens")
            counts = {name: getattr(usage, name) for name in names}
        yield {"token": text, "finish_reason": chunk.finish_reason, **counts, **warnings}
        return
    yield {"token": "", "finish_reason": "abort", **warnings}


def _error_event(error: ApiError) -> bytes:
    return event(error_body(error), "error")


@_extra.get("/generate/check")
async def check_nameless(generations: _Generations) -> dict[str, Any]:
    """Return what the only generation without a key has written so far."""
    return {"results": [{"text": generations.text(None)}]}


@_extra.post("/generate/check")
async def check(generations: _Generations, form: KeyForm | None = None) -> dict[str, Any]:
    """Return what the generation of a key has written so far."""
    return {"results": [{"text": generations.text(form.genkey if form else None)}]}


@_extra.post("/abort")
async def abort(generations: _Generations, form: KeyForm | None = None) -> dict[str, str]:
    """End the generation of a key.

    Without a key nothing ends: such a client has closed its connection, which did.
    """
    if form is None or not form.genkey:
        return {"success": "true", "done": "true"}
    found = "true" if await generations.abort(form.genkey) else "false"
    return {"success": found, "done": found}


# ---- tokens ---------------------------------------------------------------------------------


@_extra.post("/tokencount")
@_extra.post("/tokenize")
async def tokencount(form: TextForm, service: _Service) -> dict[str, Any]:
    """Return the token ids of a text, read as prompts are, and their number."""
    ids = await service.tokenize(form.prompt, form.allowed)
    return {"value": len(ids), "ids": ids}


@_extra.post("/detokenize")
async def detokenize(form: IdsForm, service: _Service) -> dict[str, Any]:
    """Return the text of token ids."""
    with errors_as({"token_ids": "ids"}):
        return {"result": await service.detokenize(form.ids), "success": True}


# ---- what the server is ---------------------------------------------------------------------


@_standard.get("/info/version")
async def api_version() -> dict[str, str]:
    """Return the version of KoboldAI's API."""
    return {"result": API_VERSION}


@_extra.get("/version")
async def version(service: _Service) -> dict[str, Any]:
    """Return which of KoboldCpp's versions clients may take this server for."""
    absent = ("txt2img", "vision", "audio", "transcribe", "multiplayer", "websearch", "tts")
    return {
        "result": "KoboldCpp",
        "version": KOBOLDCPP_VERSION,
        "protected": bool(service.settings.api_key),
        **dict.fromkeys(absent, False),
    }


@_standard.get("/model")
async def model(service: _Service) -> dict[str, str]:
    """Return the model's name."""
    return {"result": f"koboldcpp/{service.name}"}


@_standard.get("/config/max_length")
async def max_length(service: _Service) -> dict[str, int]:
    """Return how many tokens a reply has at most where a request does not say."""
    return {"value": min(service.settings.default_max_tokens, service.info.n_ctx)}


@_standard.get("/config/max_context_length")
@_extra.get("/true_max_context_length")
async def max_context_length(service: _Service) -> dict[str, int]:
    """Return how many tokens prompt and reply may have."""
    return {"value": service.info.n_ctx}


@_standard.get("/config/soft_prompt")
async def soft_prompt() -> dict[str, str]:
    """Return that there is none."""
    return {"value": ""}


@_standard.get("/config/soft_prompts_list")
async def soft_prompts() -> dict[str, list[Any]]:
    """Return that there are none."""
    return {"values": []}


@_extra.get("/perf")
async def perf(service: _Service, generations: _Generations) -> dict[str, Any]:
    """Return figures of the generation that ended last, and of the server."""
    now, usage, admission = time.monotonic(), generations.last_usage, service.admission
    n_prompt = usage.prompt_tokens - usage.cached_tokens
    return {
        "last_process": round(usage.prompt_seconds, 3),
        "last_eval": round(usage.decode_seconds, 3),
        "last_process_speed": _speed(n_prompt, usage.prompt_seconds),
        "last_eval_speed": _speed(usage.completion_tokens, usage.decode_seconds),
        "last_input_count": usage.prompt_tokens,
        "last_token_count": usage.completion_tokens,
        "last_seed": generations.last_seed,
        "total_gens": generations.n_total,
        "stop_reason": generations.last_stop,
        "queue": admission.waiting,
        "idle": int(admission.running + admission.waiting == 0),
        "uptime": round(now - generations.began),
        "idletime": round(now - generations.last_end),
    }


def _speed(n_tokens: int, seconds: float) -> float:
    return round(n_tokens / seconds, 2) if seconds > 0 else 0.0
