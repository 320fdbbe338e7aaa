"""llama.cpp's own routes, as llama.vscode, llama.vim, Continue and SillyTavern use them.

forms.py reads bodies, prompts.py their prompts; answers.py writes replies, state.py the rest.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from ...errors import InvalidRequestError
from ...openai import read_messages, read_tools
from ..errors import ApiError, errors_as
from ..events import DESCRIBED, EventStream, event
from ..face import Face
from ..json_response import Json
from ..raw_request import Ids, Objects, SpecialTokens
from ..service import Service, service
from ..settings import MOST_REPLIES, ServerSettings
from ..together import together
from . import state
from .answers import Answer
from .forms import CompletionForm, InfillForm, OptionsForm
from .prompts import AskedPrompt, read_gap, read_prompts

_Service = Annotated[Service, Depends(service)]
_PATHS = ("/completion", "/infill", "/detokenize", "/apply-template", "/props", "/slots")


def face(settings: ServerSettings) -> Face:
    """Return the face."""
    return Face("llama.cpp", router, _PATHS, error_body)


def error_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error, whose code is HTTP's.

    >>> error_body(ApiError(503, "Loading model"))["error"]
    {'code': 503, 'message': 'Loading model', 'type': 'unavailable_error', 'param': None}
    """
    body: dict[str, Any] = {
        "code": error.status,
        "message": error.message,
        "type": error.type,
        "param": error.param,
    }
    if error.code == "context_length_exceeded" and "limit" in error.fields:
        body["type"] = "exceed_context_size_error"
        body["n_ctx"] = error.fields["limit"]
        body["n_prompt_tokens"] = error.fields.get("got")
    return {"error": body}


class TokenizeForm(SpecialTokens):
    """The body of /tokenize; add_special is ignored, as this model has no such tokens."""

    content: str
    with_pieces: bool | None = None


class DetokenizeForm(BaseModel):
    """The body of /detokenize."""

    model_config = ConfigDict(extra="ignore")

    tokens: Ids


class TemplateForm(BaseModel):
    """The body of /apply-template: messages and tools in OpenAI's form."""

    model_config = ConfigDict(extra="ignore")

    messages: Objects
    tools: Objects | None = None


router = APIRouter(tags=["llama.cpp"])


@router.post("/completion", response_model=None, responses={200: {"content": DESCRIBED}})
async def complete(form: CompletionForm, service: _Service) -> Response:
    """Return how prompts go on."""
    return await _answered(form, await read_prompts(form, service), service, form.is_list)


@router.post("/infill", response_model=None, responses={200: {"content": DESCRIBED}})
async def infill(form: InfillForm, service: _Service) -> Response:
    """Return what belongs between two texts."""
    n_reply = form.n_predict
    if n_reply is None or n_reply < 0:
        n_reply = service.settings.default_max_tokens
    return await _answered(form, [await read_gap(form, n_reply, service)], service)


async def _answered(
    form: OptionsForm, prompts: list[AskedPrompt], service: Service, is_list: bool = False
) -> Response:
    n_replies = len(prompts) * (form.n_cmpl or 1)
    if n_replies > MOST_REPLIES:
        problem = f"expected at most {MOST_REPLIES} replies, got {n_replies}"
        raise InvalidRequestError.of("prompt", problem, limit=MOST_REPLIES, got=n_replies)
    asked = await form.asked(service)
    answers = [Answer(form, asked, prompt, service) for prompt in prompts]
    if form.stream:
        if len(answers) > 1:
            raise InvalidRequestError.of("prompt", "expected one prompt in a stream, or no stream")
        replies = await asked.stream(prompts[0].prompt, service)
        ping_s = service.settings.sse_ping
        if form.sse_ping_interval is not None:
            ping_s = 0.0 if form.sse_ping_interval <= 0 else max(form.sse_ping_interval, 1.0)
        events = answers[0].events(replies)
        return EventStream(events, replies=replies, on_error=_error_event, ping_s=ping_s)
    wholes = await together([partial(answer.whole) for answer in answers])
    objects = [one for whole in wholes for one in whole]
    for index, one in enumerate(objects):
        if "index" in one:
            one["index"] = index
    return Json(objects if is_list or len(objects) > 1 else objects[0])


def _error_event(error: ApiError) -> bytes:
    return event(error_body(error))


async def tokenized(form: TokenizeForm, service: Service) -> dict[str, list[Any]]:
    """Return what /tokenize answers to llama.cpp's body; control tokens count by default."""
    allowed = True if form.allowed is None else form.allowed
    ids = await service.tokenize(form.content, allowed)
    if not form.with_pieces:
        return {"tokens": ids}
    return {"tokens": [{"id": id, "piece": _piece(service.token_bytes(id))} for id in ids]}


def _piece(token: bytes) -> str | list[int]:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return [*token]


@router.post("/detokenize")
async def detokenize(form: DetokenizeForm, service: _Service) -> dict[str, str]:
    """Return the text of token ids."""
    with errors_as({"token_ids": "tokens"}):
        return {"content": await service.detokenize(form.tokens)}


@router.post("/apply-template")
async def apply_template(form: TemplateForm, service: _Service) -> dict[str, str]:
    """Return a dialogue as a raw prompt."""
    tools = read_tools(form.tools) or None
    return {"prompt": await service.render(read_messages(form.messages), tools)}


@router.get("/props")
async def get_properties(service: _Service) -> dict[str, Any]:
    """Return what the server and its model are."""
    return state.properties(service)


@router.get("/slots")
async def get_slots(service: _Service, fail_on_no_slot: bool = False) -> list[dict[str, Any]]:
    """Return which places are taken; behind --slots."""
    return state.slots(service, must_be_free=fail_on_no_slot)
