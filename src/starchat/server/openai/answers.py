"""The objects of answers, as the OpenAPI document has them, and what all of them hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal
from uuid import uuid4

from typing_extensions import NotRequired, TypedDict

from ... import __version__
from ...types import TokenLogprob, Usage
from ..json_response import finite

FINGERPRINT = f"starchat-{__version__}"


class ErrorObject(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every answer that is no success."""

    error: ErrorObject


class CachedTokens(TypedDict):
    """Tokens of the prompt that were computed before."""

    cached_tokens: int


class SparedTokens(TypedDict):
    """Tokens of the reply that were guessed, guessed rightly, or forced by a constraint."""

    guessed: int
    accepted: int
    forced: int


class UsageObject(TypedDict):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    starchat: SparedTokens


class LikelyToken(TypedDict):
    """A token that might have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(LikelyToken):
    """A token of a reply."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(TypedDict):
    """The tokens of a message."""

    content: list[ChosenToken]
    refusal: None


class Function(TypedDict):
    """A call's tool and the JSON of its arguments."""

    name: str
    arguments: str


class Call(TypedDict):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: Function


class ChatMessage(TypedDict):
    """A reply."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[Call]]


class ChatChoice(TypedDict):
    """One of n replies."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(TypedDict):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageObject
    timings: NotRequired[dict[str, Any]]


class TextLogprobs(TypedDict):
    """The tokens of a completion; nothing predicts the first token of an echoed prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    """One of n completions of one of the prompts."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class TextCompletion(TypedDict):
    """The answer of /v1/completions, and an event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: NotRequired[UsageObject | None]
    timings: NotRequired[dict[str, Any]]


class EmbeddingObject(TypedDict):
    """A vector: numbers, or the base64 of their little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """The answer of /v1/embeddings."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


class ModelMeta(TypedDict):
    """What llama.cpp's clients read of a model."""

    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_params: int
    size: int


class ModelObject(TypedDict):
    """A model; max_model_len is the context, which vLLM's clients read."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["starchat"]
    max_model_len: int
    meta: ModelMeta


class ModelList(TypedDict):
    """The answer of /v1/models."""

    object: Literal["list"]
    data: list[ModelObject]


class ResponseObject(TypedDict):
    """The answer of /v1/responses, of which nothing is kept."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: None
    store: Literal[False]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"]
    usage: dict[str, Any] | None
    user: str | None
    metadata: dict[str, Any]


def new_id(kind: str) -> str:
    """Return an id that no other object has."""
    return f"{kind}{uuid4().hex}"


def head(kind: str, object: str, model: str) -> dict[str, Any]:
    """Return the fields with which an answer, and each event of a stream, begins."""
    return {
        "id": new_id(kind),
        "object": object,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": FINGERPRINT,
    }


def usage_object(usage: Usage) -> UsageObject:
    """Return counts as OpenAI has them, with starchat's own beside.

    >>> usage_object(Usage(7, 2))["total_tokens"]
    9
    """
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "starchat": {
            "guessed": usage.guessed_tokens,
            "accepted": usage.accepted_tokens,
            "forced": usage.forced_tokens,
        },
    }


class ReplyTokens:
    """Of one reply, the tokens of its text: without the line break that begins a turn."""

    def __init__(self, lead: str) -> None:
        """Begin a reply; `lead` is what the template has before its text."""
        self._lead = lead.encode()

    def of(self, logprobs: Sequence[TokenLogprob]) -> Sequence[TokenLogprob]:
        """Return those of the next tokens."""
        if not logprobs:
            return logprobs
        lead, self._lead = self._lead, b""
        return logprobs[1:] if lead and logprobs[0].bytes == lead else logprobs


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return tokens as a message has them, each with its bytes."""
    content: list[ChosenToken] = [
        {**_likely(token), "top_logprobs": [_likely(best) for best in token.best]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _likely(token: TokenLogprob) -> LikelyToken:
    return {
        "token": token.token,
        "logprob": finite(token.logprob),
        "bytes": [*token.bytes],
    }
