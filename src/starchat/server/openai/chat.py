"""/v1/chat/completions: a dialogue's next reply, n of them, whole or as events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from ...chat.template import STARCHAT
from ...errors import unexpected
from ...json_text import write_json
from ...openai import read_messages
from ...types import Chunk, Completion, TokenLogprob, ToolCallChunk, Usage
from ..events import DONE, event
from ..progress import PromptProgress, timings, with_progress
from ..service import Prompt, Replies, Service, service
from .answers import (
    Call,
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    ReplyTokens,
    chat_logprobs,
    head,
    usage_object,
)
from .forms import ChatForm
from .options import (
    Asked,
    check_model,
    constraint,
    log_ignored,
    reply_options,
    system_order,
    tool_options,
    unsupported,
)
from .routes import answer, documented

router = APIRouter(tags=["OpenAI"])
_REFUSED = {
    "audio": "this model writes text only",
    "web_search_options": "this server searches nothing",
    "moderation": "this server moderates nothing",
    "functions": "expected tools, which have taken the place of functions",
    "function_call": "expected tool_choice, which has taken the place of function_call",
}


@router.post("/chat/completions", **documented(ChatCompletion, events=True))
async def create_chat_completion(
    form: ChatForm, request: Request, service: Annotated[Service, Depends(service)]
) -> Response:
    """Return the next reply in a dialogue."""
    check_model(form, service)
    log_ignored(form, request.url.path)
    return await answer(form, read_chat(form), _Writer(form, service), service)


def read_chat(form: ChatForm) -> Asked:
    """Return the request that a body is; raise InvalidRequestError or ApiError."""
    for name, problem in _REFUSED.items():
        if getattr(form, name) is not None:
            raise unsupported(name, problem)
    if form.modalities not in (None, ["text"]):
        raise unsupported("modalities", "this model writes text only")
    if form.top_logprobs and not form.logprobs:
        raise unexpected("top_logprobs", "logprobs to be true beside it", form.top_logprobs)
    held, names = constraint(form, form.response_format)
    limit = "max_tokens" if form.max_completion_tokens is None else "max_completion_tokens"
    options = {
        **reply_options(form),
        **held,
        **tool_options(form.tools, form.tool_choice, form.parallel_tool_calls),
        "max_tokens": getattr(form, limit),
        "n": form.n,
        "logprobs": (form.top_logprobs or 0) if form.logprobs else None,
        "continue_final_message": form.continue_final_message,
    }
    return Asked(
        Prompt(messages=read_messages(form.messages)),
        options,
        {**names, "max_tokens": limit, "logprobs": "top_logprobs"},
        [f"messages[{i}]" for i in system_order(form.messages)],
    )


class _Writer:
    """What one request is answered with."""

    def __init__(self, form: ChatForm, service: Service) -> None:
        self._form = form
        self._model = service.name
        self._n = form.n or 1
        lead = "" if form.continue_final_message else STARCHAT.lead
        self._tokens = [ReplyTokens(lead) for _ in range(self._n)]
        self._has_usage = bool(form.stream_options and form.stream_options.include_usage)
        self._has_timings = bool(form.timings or form.timings_per_token)

    def whole(self, completion: Completion) -> ChatCompletion:
        """Return the answer of a request without a stream."""
        usage = completion.total_usage
        answer = head("chatcmpl-", "chat.completion", self._model)
        answer["choices"] = [
            self._choice(index, reply) for index, reply in enumerate(completion.choices)
        ]
        answer["usage"] = usage_object(usage)
        if self._has_timings:
            answer["timings"] = timings(usage)
        return cast(ChatCompletion, answer)

    def _choice(self, index: int, reply: Completion) -> ChatChoice:
        calls: list[Call] = [
            _call(call.id, call.name, write_json(call.arguments, ensure_ascii=False))
            for call in reply.tool_calls
        ]
        if (cut := reply.cut_call) is not None:  # as in a stream, which has sent it
            calls.append(_call(cut.id or "", cut.name or "", cut.arguments))
        text = None if calls and not reply.text else reply.text
        message: ChatMessage = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(index, reply.logprobs),
            "finish_reason": reply.finish_reason,
        }

    def _logprobs(self, index: int, tokens: tuple[TokenLogprob, ...]) -> Any:
        if not self._form.logprobs:
            return None
        return chat_logprobs(self._tokens[index].of(tokens))

    async def events(self, replies: Replies) -> AsyncIterator[bytes]:
        """Yield the events of a stream."""
        first = head("chatcmpl-", "chat.completion.chunk", self._model)
        no_usage = {"usage": None} if self._has_usage else {}

        def piece(
            index: int, delta: dict[str, Any], logprobs: Any = None, reason: Any = None
        ) -> dict[str, Any]:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            return {**first, "choices": [choice], **no_usage}

        for index in range(self._n):
            yield event(piece(index, {"role": "assistant", "content": ""}))
        usages: list[Usage] = []
        async for chunk in with_progress(replies, self._form.return_progress):
            if isinstance(chunk, PromptProgress):
                yield event({**piece(0, {}), "prompt_progress": chunk.fields()})
                continue
            logprobs = self._logprobs(chunk.index, chunk.logprobs) if chunk.logprobs else None
            for delta in _deltas(chunk):
                yield event(piece(chunk.index, delta, logprobs))
                logprobs = None
            if chunk.finish_reason is not None and chunk.usage is not None:
                usages.append(chunk.usage)
                last = piece(chunk.index, {}, logprobs, chunk.finish_reason)
                if self._has_timings:
                    last["timings"] = timings(Usage.of_replies(usages))
                yield event(last)
        if self._has_usage:
            usage = usage_object(Usage.of_replies(usages))
            yield event({**first, "choices": [], "usage": usage})
        yield DONE


def _deltas(chunk: Chunk) -> list[dict[str, Any]]:
    """Return what a chunk adds to a message; clients join pieces of calls one by one."""
    text: list[dict[str, Any]] = [{"content": chunk.text}] if chunk.text else []
    return [*text, *[{"tool_calls": [_call_piece(call)]} for call in chunk.tool_calls]]


def _call_piece(piece: ToolCallChunk) -> dict[str, Any]:
    if piece.id is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def _call(id: str, name: str, arguments: str) -> Call:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
