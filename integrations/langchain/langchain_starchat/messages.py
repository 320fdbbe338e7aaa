"""LangChain messages → starchat messages, and starchat's replies → LangChain messages.

StarChat's template has one system block, in front: system messages from elsewhere move there.
The ids of a reply stay with its message, so that the next prompt holds what was generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk

from starchat import Chunk, Completion, InvalidRequestError, Message, Role, Usage

_KINDS: dict[type[BaseMessage], Role] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
}
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
}


def to_starchat(messages: Sequence[BaseMessage], model_name: str) -> list[Message]:
    """Return the dialogue in StarChat's terms; the caller's messages stay as they are.

    Names of senders are left out: the template has no place for them. Raises InvalidRequestError
    for tool messages, unknown roles, and content that is not text.
    """
    turns = [_turn(message, index, model_name) for index, message in enumerate(messages)]
    return sorted(turns, key=lambda turn: turn["role"] != "system")  # stable


def to_ai_message(reply: Completion, model_name: str) -> AIMessage:
    """Return a whole reply as LangChain's message."""
    return AIMessage(
        reply.text,
        additional_kwargs=_token_ids(reply),
        response_metadata=_metadata(reply.finish_reason, model_name) | _logprobs(reply),
        usage_metadata=_usage_metadata(reply.usage),
    )


def to_generation_chunks(chunk: Chunk, model_name: str) -> Iterator[ChatGenerationChunk]:
    """Yield a piece of a reply; its end goes into an empty chunk of its own.

    Metadata stands there and nowhere else because strings concatenate when chunks are added.
    """
    if chunk.token_ids or chunk.text:
        piece = AIMessageChunk(
            content=chunk.text,
            additional_kwargs=_token_ids(chunk),
            response_metadata=_logprobs(chunk),
        )
        yield ChatGenerationChunk(message=piece)
    if chunk.finish_reason is not None:
        end = AIMessageChunk(
            content="",
            chunk_position="last",
            response_metadata=_metadata(chunk.finish_reason, model_name),
            usage_metadata=_usage_metadata(chunk.usage) if chunk.usage else None,
        )
        yield ChatGenerationChunk(message=end)


def logprob_entries(reply: Completion | Chunk) -> list[dict[str, Any]]:
    """Return log probabilities in the shape that LangChain users know from OpenAI's models."""
    return [
        {
            "token": token.token,
            "token_id": token.token_id,
            "logprob": token.logprob,
            "top_logprobs": [
                {"token": text, "token_id": token_id, "logprob": logprob}
                for token_id, text, logprob in token.top
            ],
        }
        for token in reply.logprobs
    ]


def _turn(message: BaseMessage, index: int, model_name: str) -> Message:
    turn = Message(role=_role(message, index), content=_text(message, index))
    token_ids = message.additional_kwargs.get("token_ids")
    # Another model's ids would mean other words. starchat itself sees whether the text changed.
    if token_ids and message.response_metadata.get("model_name") == model_name:
        turn["token_ids"] = token_ids
    return turn


def _role(message: BaseMessage, index: int) -> Role:
    if isinstance(message, AIMessage) and message.tool_calls:
        raise InvalidRequestError(
            f"messages[{index}]: the assistant's message holds tool calls, which StarChat's "
            "template has no place for: send its text only"
        )
    for kind, role in _KINDS.items():
        if isinstance(message, kind):
            return role
    name = message.role if isinstance(message, ChatMessage) else message.type
    if isinstance(message, ChatMessage) and name in _ROLES:
        return _ROLES[name]
    raise InvalidRequestError(
        f"messages[{index}]: expected one of the roles {', '.join(_ROLES)}, got {name!r}"
    )


def _text(message: BaseMessage, index: int) -> str:
    if isinstance(message.content, str):
        return message.content
    texts = []
    for number, block in enumerate(message.content):
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") == "text":
            texts.append(block["text"])
        else:
            raise InvalidRequestError(
                f"messages[{index}].content[{number}]: expected a text block, got one of type "
                f"{block.get('type')!r}: this model reads text only"
            )
    return "".join(texts)


def _metadata(finish_reason: str, model_name: str) -> dict[str, Any]:
    return {
        "model_name": model_name,
        "model_provider": "starchat",
        "finish_reason": finish_reason,
    }


def _token_ids(reply: Completion | Chunk) -> dict[str, Any]:
    return {"token_ids": list(reply.token_ids)}


def _logprobs(reply: Completion | Chunk) -> dict[str, Any]:
    return {"logprobs": {"content": logprob_entries(reply)}} if reply.logprobs else {}


def _usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
    )
