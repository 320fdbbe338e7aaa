"""starchat's chunks → LlamaIndex's responses: in a stream, the reply so far and what is new.

In a stream, a call's arguments are the JSON text so far, and a dict in the last response. The
arguments of a call that was cut stay text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)

import starchat

R = TypeVar("R")
Part: TypeAlias = starchat.Chunk | starchat.Completion


@dataclass
class _Call:
    id: str
    name: str
    written: str = ""  # the arguments' JSON so far
    arguments: dict[str, Any] | None = None  # at the end, unless it was cut


class Reply:
    """The text and the calls of a reply so far."""

    def __init__(self, is_calls: bool) -> None:
        """Begin a reply; `is_calls`: it may hold no text, only calls."""
        self.text = ""
        self.calls: list[_Call] = []
        self._is_calls = is_calls

    def add(self, chunk: starchat.Chunk) -> str:
        """Add a chunk; return its text."""
        text = "" if self._is_calls else chunk.text
        self.text += text
        for piece in chunk.tool_calls:
            if piece.id is not None and piece.name is not None:
                self.calls.append(_Call(piece.id, piece.name))
            self.calls[piece.index].written += piece.arguments
        for call, finished in zip(self.calls, chunk.finished_calls, strict=False):
            call.arguments = finished.arguments
        return text

    def message(self) -> ChatMessage:
        """Return the assistant's message; its calls also in OpenAI's form, as additional_kwargs."""
        text = [TextBlock(text=self.text)] if self.text or not self.calls else []
        calls = [
            ToolCallBlock(
                tool_call_id=call.id,
                tool_name=call.name,
                tool_kwargs=call.written if call.arguments is None else call.arguments,
            )
            for call in self.calls
        ]
        # FunctionCallingProgram and memories read only this form.
        older = []
        for call in self.calls:
            function = {"name": call.name, "arguments": call.written}
            older.append({"id": call.id, "type": "function", "function": function})
        return ChatMessage(
            role=MessageRole.ASSISTANT,
            blocks=[*text, *calls],
            additional_kwargs={"tool_calls": older} if older else {},
        )


Respond: TypeAlias = Callable[[Reply, Part, str | None], R]  # reply so far, new part, its text


def chat_response(reply: Reply, part: Part, delta: str | None) -> ChatResponse:
    """Return the assistant's message so far."""
    return ChatResponse(message=reply.message(), delta=delta, **_details(part))


def completion_response(reply: Reply, part: Part, delta: str | None) -> CompletionResponse:
    """Return the completion so far."""
    return CompletionResponse(text=reply.text, delta=delta, **_details(part))


def whole(respond: Respond[R], reply: Reply, stream: starchat.Stream) -> R:
    """Return the response to a whole reply."""
    for chunk in stream:
        if chunk.index == 0:
            reply.add(chunk)
    return respond(reply, stream.result(), None)


async def whole_async(respond: Respond[R], reply: Reply, stream: starchat.AsyncStream) -> R:
    """Return the response to a whole reply."""
    async for chunk in stream:
        if chunk.index == 0:
            reply.add(chunk)
    return respond(reply, await stream.result(), None)


def responses(
    respond: Respond[R], reply: Reply, stream: starchat.Stream
) -> Generator[R, None, None]:
    """Yield a response for every chunk."""
    for chunk in stream:
        text = reply.add(chunk)
        yield respond(reply, chunk, text)


async def responses_async(
    respond: Respond[R], reply: Reply, stream: starchat.AsyncStream
) -> AsyncGenerator[R, None]:
    """Yield a response for every chunk."""
    async for chunk in stream:
        text = reply.add(chunk)
        yield respond(reply, chunk, text)


def _details(part: Part) -> dict[str, Any]:
    """Return the fields that both responses share; usage and finish_reason only at the end."""
    raw: dict[str, Any] = {"token_ids": list(part.token_ids)}
    outcome: dict[str, Any] = {}
    if isinstance(part, starchat.Completion) and part.others:
        raw["choices"] = [_choice(reply) for reply in part.choices]
    if counts := part.total_usage if isinstance(part, starchat.Completion) else part.usage:
        usage = {
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "total_tokens": counts.total_tokens,
        }
        spared = {"cached_tokens": counts.cached_tokens}
        raw |= {"finish_reason": part.finish_reason, "usage": usage | spared}
        outcome = {"finish_reason": part.finish_reason, **usage}
    logprobs = [
        [
            LogProb(token=each.token, logprob=each.logprob, bytes=list(each.bytes))
            for each in (chosen, *chosen.best)
            if each is chosen or each.token_id != chosen.token_id
        ]
        for chosen in part.logprobs
    ]
    return {"raw": raw, "additional_kwargs": outcome, "logprobs": logprobs or None}


def _choice(reply: starchat.Completion) -> dict[str, Any]:
    """Return one of the n replies of a request: a response itself has the first."""
    return {
        "text": reply.text,
        "token_ids": list(reply.token_ids),
        "finish_reason": reply.finish_reason,
        "tool_calls": [asdict(call) for call in reply.tool_calls],
    }
