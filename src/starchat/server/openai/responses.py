"""/v1/responses: OpenAI's newer form of a dialogue, without anything kept between requests."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from ...chat.template import STARCHAT
from ...errors import InvalidRequestError, shown, unexpected
from ...json_text import write_json
from ...openai import read_arguments, read_content, read_messages
from ...types import Completion, Message, TokenLogprob, Usage
from ..errors import ApiError, errors_as, openai_body
from ..events import event
from ..service import Prompt, Replies, Service, service
from .answers import ReplyTokens, ResponseObject, chat_logprobs, new_id
from .forms import ResponseForm
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
_LOGPROBS = "message.output_text.logprobs"
_KEEPS_NOTHING = "this server keeps nothing between requests: send the whole dialogue as input"
_REFUSED = dict.fromkeys(("previous_response_id", "conversation", "prompt"), _KEEPS_NOTHING)
_REFUSED["background"] = "this server answers in the request itself"
_REFUSED["moderation"] = "this server moderates nothing"
_ITEMS = ("message", "function_call", "function_call_output")


@router.post("/responses", **documented(ResponseObject, events=True))
async def create_response(
    form: ResponseForm, request: Request, service: Annotated[Service, Depends(service)]
) -> Response:
    """Return the next response in a dialogue."""
    check_model(form, service)
    log_ignored(form, request.url.path)
    asked, writer = read_response(form), _Writer(form, service)
    return await answer(form, asked, writer, service, writer.failed)


def read_response(form: ResponseForm) -> Asked:
    """Return the request that a body is; raise InvalidRequestError or ApiError."""
    for name in _REFUSED:
        if getattr(form, name) not in (None, False):
            raise unsupported(name, _REFUSED[name])
    for name, tools in (("tools", form.tools), ("tool_choice.tools", _allowed(form.tool_choice))):
        for index, tool in enumerate(tools or ()):
            if (kind := tool.get("type", "function")) != "function":
                problem = f"expected the type 'function', got {shown(kind)}: there are no others"
                raise unsupported(f"{name}[{index}]", problem)
    text = form.text or {}
    held, names = constraint(form, text.get("format"), "text.format")
    messages, places = _messages(form)
    options = {
        **reply_options(form),
        **held,
        **tool_options(form.tools, form.tool_choice, form.parallel_tool_calls),
        "max_tokens": form.max_output_tokens,
        "logprobs": (form.top_logprobs or 0) if _has_logprobs(form) else None,
    }
    names = {**names, "max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}
    return Asked(Prompt(messages=messages), options, names, places)


def _allowed(choice: Any) -> Any:
    return choice.get("tools") if isinstance(choice, Mapping) else None


def _has_logprobs(form: ResponseForm) -> bool:
    return bool(form.top_logprobs) or _LOGPROBS in (form.include or ())


def _messages(form: ResponseForm) -> tuple[list[Message], list[str]]:
    """Return the dialogue of the items, and the place of each message among them."""
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    if form.instructions:
        messages.append({"role": "system", "content": form.instructions})
        places.append("instructions")
    items = form.input
    if isinstance(items, str):
        messages.append({"role": "user", "content": items})
        places.append("input")
        items = None
    for index, item in enumerate(items or ()):
        _add_item(messages, f"input[{index}]", item)
        places += [f"input[{index}]"] * (len(messages) - len(places))
    if len(messages) == bool(form.instructions):
        raise InvalidRequestError.of("input", "expected a text, or at least one message")
    order = system_order(messages)
    with errors_as({}, places):
        return read_messages(messages), [places[i] for i in order]


def _add_item(messages: list[dict[str, Any]], where: str, item: dict[str, Any]) -> None:
    """Add an item to a dialogue. Calls are items of their own: they join the assistant's turn."""
    match item:
        case {"role": role, "content": content}:
            text = read_content(f"{where}.content", content)
            messages.append({"role": role, "content": text})
        case {"type": "function_call", "call_id": str(id), "name": str(name)}:
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            function = {"name": name, "arguments": item.get("arguments")}
            call = {"id": id, "type": "function", "function": function}
            with errors_as({"arguments": f"{where}.arguments"}):
                read_arguments("arguments", function["arguments"])
            messages[-1].setdefault("tool_calls", []).append(call)
        case {"type": "function_call_output", "call_id": str(id), "output": output}:
            text = read_content(f"{where}.output", output)
            messages.append({"role": "tool", "content": text, "tool_call_id": id})
        case {"type": "reasoning"}:
            pass  # of a model that has such; it is no part of the dialogue
        case {"type": "item_reference"}:
            raise unsupported(where, "this server keeps no items: send the item itself")
        case {"type": str(kind)} if kind not in _ITEMS:
            raise unsupported(where, f"items of the type {shown(kind)} are not served")
        case _:
            expected = "{'role': …, 'content': …}, a function_call or a function_call_output"
            raise unexpected(where, expected, item)


class _Writer:
    """What one request is answered with: a response, and the events of which it is built."""

    def __init__(self, form: ResponseForm, service: Service) -> None:
        self._form = form
        self._has_logprobs = _has_logprobs(form)
        self._number = 0
        text = {key: value for key, value in (form.text or {}).items() if value is not None}
        self._response: ResponseObject = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": form.instructions,
            "max_output_tokens": form.max_output_tokens,
            "model": service.name,
            "output": [],
            "parallel_tool_calls": form.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": form.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": "auto" if form.tool_choice is None else form.tool_choice,
            "tools": [{"parameters": None, "strict": None, **tool} for tool in form.tools or ()],
            "top_logprobs": form.top_logprobs or 0,
            "top_p": form.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": form.user,
            "metadata": form.metadata or {},
        }

    def whole(self, completion: Completion) -> ResponseObject:
        """Return the answer of a request without a stream."""
        is_cut = completion.finish_reason == "length"
        output = []
        if completion.text or not (completion.tool_calls or completion.cut_call):
            tokens = ReplyTokens(STARCHAT.lead).of(completion.logprobs)
            status = "incomplete" if is_cut and not completion.cut_call else "completed"
            output.append(_message(new_id("msg_"), completion.text, self._logprobs(tokens), status))
        for call in completion.tool_calls:
            arguments = write_json(call.arguments, ensure_ascii=False)
            output.append(_call(new_id("fc_"), call.id, call.name, arguments, "completed"))
        if (cut := completion.cut_call) is not None:
            name = cut.name or ""
            output.append(_call(new_id("fc_"), cut.id or "", name, cut.arguments, "incomplete"))
        return self._ended(output, completion.finish_reason, completion.usage)

    def _ended(self, output: list[dict[str, Any]], reason: str, usage: Usage) -> ResponseObject:
        is_cut = reason == "length"
        return {
            **self._response,
            "completed_at": int(time.time()),
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": output,
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {
                    "cached_tokens": usage.cached_tokens,
                    "cache_write_tokens": 0,
                },
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.total_tokens,
            },
        }

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> list[Any]:
        return [*chat_logprobs(tokens)["content"]] if self._has_logprobs else []

    def event(self, type: str, **fields: Any) -> bytes:
        """Return the next event."""
        fields = {"type": type, "sequence_number": self._number, **fields}
        self._number += 1
        return event(fields, type)

    def failed(self, error: ApiError) -> bytes:
        """Return the end of a stream that fails: for readers of events, and for clients' errors."""
        code = "rate_limit_exceeded" if error.status == 503 else "server_error"
        about = {"code": code, "message": error.message}
        response = {**self._response, "status": "failed", "error": about}
        return self.event("response.failed", response=response) + self.event(
            "error",
            code=error.code,
            message=error.message,
            param=error.param,
            **openai_body(error),
        )

    async def events(self, replies: Replies) -> AsyncIterator[bytes]:
        """Yield the events of a stream."""
        yield self.event("response.created", response=self._response)
        yield self.event("response.in_progress", response=self._response)
        output: list[dict[str, Any]] = []
        item: _OpenItem | None = None  # that is being written
        tokens = ReplyTokens(STARCHAT.lead)
        async for chunk in replies:
            logprobs = self._logprobs(tokens.of(chunk.logprobs))
            if chunk.text or (chunk.finish_reason and item is None and not chunk.tool_calls):
                if item is None:
                    item = _OpenItem(self, len(output))
                    for begun in item.begin_message():
                        yield begun
                yield item.add_text(chunk.text, logprobs)
            for piece in chunk.tool_calls:
                if piece.id is not None:
                    if item is not None:
                        for ended in item.end("completed"):
                            yield ended
                        output.append(item.item)
                    item = _OpenItem(self, len(output))
                    yield item.begin_call(piece.id, piece.name or "")
                if item is not None and piece.arguments:
                    yield item.add_arguments(piece.arguments)
            if chunk.finish_reason is not None and chunk.usage is not None and item is not None:
                is_cut = chunk.finish_reason == "length"
                for ended in item.end("incomplete" if is_cut else "completed"):
                    yield ended
                output.append(item.item)
                response = self._ended(output, chunk.finish_reason, chunk.usage)
                yield self.event(f"response.{response['status']}", response=response)


class _OpenItem:
    """An item of the output as it is written: a message, or a call."""

    def __init__(self, writer: _Writer, index: int) -> None:
        self._writer = writer
        self._index = index
        self._logprobs: list[Any] = []
        self.item: dict[str, Any] = {}

    def begin_message(self) -> Iterator[bytes]:
        """Yield the events with which a message begins."""
        self.item = _message(new_id("msg_"), "", [], "in_progress")
        yield self._event("response.output_item.added", item={**self.item, "content": []})
        yield self._part_event("response.content_part.added", part=self.item["content"][0])

    def begin_call(self, id: str, name: str) -> bytes:
        """Return the event with which a call begins."""
        self.item = _call(new_id("fc_"), id, name, "", "in_progress")
        return self._event("response.output_item.added", item={**self.item})

    def add_text(self, text: str, logprobs: list[Any]) -> bytes:
        """Return the event of a piece of a message."""
        self.item["content"][0]["text"] += text
        self._logprobs += logprobs
        return self._part_event("response.output_text.delta", delta=text, logprobs=logprobs)

    def add_arguments(self, text: str) -> bytes:
        """Return the event of a piece of a call."""
        self.item["arguments"] += text
        return self._item_event("response.function_call_arguments.delta", delta=text)

    def end(self, status: str) -> Iterator[bytes]:
        """Yield the events with which the item ends."""
        self.item["status"] = status
        if self.item["type"] == "message":
            part = self.item["content"][0]
            part["logprobs"] = self._logprobs
            text = part["text"]
            done = "response.output_text.done"
            yield self._part_event(done, text=text, logprobs=self._logprobs)
            yield self._part_event("response.content_part.done", part=part)
        else:
            done = "response.function_call_arguments.done"
            name, arguments = self.item["name"], self.item["arguments"]
            yield self._item_event(done, name=name, arguments=arguments)
        yield self._event("response.output_item.done", item=self.item)

    def _event(self, type: str, **fields: Any) -> bytes:
        return self._writer.event(type, output_index=self._index, **fields)

    def _item_event(self, type: str, **fields: Any) -> bytes:
        return self._event(type, item_id=self.item["id"], **fields)

    def _part_event(self, type: str, **fields: Any) -> bytes:
        return self._item_event(type, content_index=0, **fields)


def _message(id: str, text: str, logprobs: list[Any], status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part],
    }


def _call(id: str, call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }
