"""Parts of a reply → LlamaIndex's responses: in a stream, the text so far and what is new."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any, TypeAlias, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
)

import starchat

R = TypeVar("R")
Part: TypeAlias = starchat.Chunk | starchat.Completion
Respond: TypeAlias = Callable[[str, Part, str | None], R]  # text so far, part, new text


def chat_response(text: str, part: Part, delta: str | None) -> ChatResponse:
    """Return the assistant's message so far."""
    message = ChatMessage(text, role=MessageRole.ASSISTANT)
    return ChatResponse(message=message, delta=delta, **_details(part))


def completion_response(text: str, part: Part, delta: str | None) -> CompletionResponse:
    """Return the completion so far."""
    return CompletionResponse(text=text, delta=delta, **_details(part))


def whole(respond: Respond[R], completion: starchat.Completion) -> R:
    """Return the response to a whole reply."""
    return respond(completion.text, completion, None)


def responses(respond: Respond[R], chunks: Iterator[starchat.Chunk]) -> Generator[R, None, None]:
    """Yield a response for every chunk."""
    text = ""
    for chunk in chunks:
        text += chunk.text
        yield respond(text, chunk, chunk.text)


async def responses_async(
    respond: Respond[R], chunks: AsyncIterator[starchat.Chunk]
) -> AsyncGenerator[R, None]:
    """Yield a response for every chunk."""
    text = ""
    async for chunk in chunks:
        text += chunk.text
        yield respond(text, chunk, chunk.text)


def _details(part: Part) -> dict[str, Any]:
    """Return the fields that both responses share; the outcome is known only at the end."""
    raw: dict[str, Any] = {"token_ids": list(part.token_ids)}
    outcome: dict[str, Any] = {}
    if part.usage:
        usage = {
            "prompt_tokens": part.usage.prompt_tokens,
            "completion_tokens": part.usage.completion_tokens,
            "total_tokens": part.usage.total_tokens,
        }
        spared = {"cached_tokens": part.usage.cached_tokens}
        raw |= {"finish_reason": part.finish_reason, "usage": usage | spared}
        outcome = {"finish_reason": part.finish_reason, **usage}
    logprobs = [
        [
            LogProb(token=chosen.token, logprob=chosen.logprob),
            *(LogProb(token=t, logprob=p) for id, t, p in chosen.top if id != chosen.token_id),
        ]
        for chosen in part.logprobs
    ]
    return {"raw": raw, "additional_kwargs": outcome, "logprobs": logprobs or None}
