"""LlamaIndex's messages → starchat's: text, calls of tools, and what the tools answered.

StarChat's template has one system block, in front: system messages from elsewhere move there.
Refuses roles and blocks that the template has no place for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock

from starchat import InvalidRequestError, Message, Role, ToolCall

_ROLES: dict[MessageRole, Role] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def to_starchat(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return the dialogue in StarChat's terms; the caller's messages stay as they are.

    Raises InvalidRequestError.
    """
    turns = [_turn(f"messages[{i}]", message) for i, message in enumerate(messages)]
    return sorted(turns, key=lambda turn: turn["role"] != "system")  # stable


def _turn(where: str, message: ChatMessage) -> Message:
    if not isinstance(message, ChatMessage):
        raise InvalidRequestError(f"{where}: expected a ChatMessage, got {type(message).__name__}")
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequestError(
            f"{where}: the role {message.role.value!r} is not supported, "
            f"expected one of {', '.join(role.value for role in _ROLES)}"
        )
    for block in message.blocks:
        if not isinstance(block, (TextBlock, ToolCallBlock) if role == "assistant" else TextBlock):
            raise InvalidRequestError(
                f"{where}: a message of the role {message.role.value} holds a "
                f"{type(block).__name__}, but StarChat reads text only: pass TextBlocks"
            )
    turn = Message(role=role, content=message.content or "")
    details = message.additional_kwargs
    if role == "assistant":
        turn["tool_calls"] = list(_calls(where, message))
        turn["token_ids"] = details.get("token_ids", ())  # starchat checks them
    if role == "tool":
        if "tool_call_id" not in details:
            raise InvalidRequestError(
                f"{where}: which call does it answer? Expected its id as "
                "additional_kwargs['tool_call_id']"
            )
        turn["tool_call_id"] = details["tool_call_id"]
    return turn


def _calls(where: str, message: ChatMessage) -> Iterator[ToolCall]:
    """Yield the calls of a message: its blocks, or, without any, those in OpenAI's form."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    for block in blocks:
        yield _call(
            where, block.tool_call_id or block.tool_name, block.tool_name, block.tool_kwargs
        )
    if not blocks:
        for index, call in enumerate(message.additional_kwargs.get("tool_calls") or ()):
            here = f"{where}.additional_kwargs['tool_calls'][{index}]"
            try:
                function = call["function"]
                parts = call["id"], function["name"], function["arguments"]
            except (KeyError, TypeError):
                raise InvalidRequestError(
                    f"{here}: expected {{'id': …, 'function': {{'name': …, 'arguments': …}}}}, "
                    f"got {call!r:.80}"
                ) from None
            yield _call(here, *parts)


def _call(where: str, id: str, name: str, arguments: Any) -> ToolCall:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise InvalidRequestError(
                f"{where}: the arguments of the call {id!r} of {name!r} are no JSON, maybe because "
                f"a reply was cut: {arguments!r:.80}; leave the message out"
            ) from None
    return ToolCall(id, name, arguments)  # starchat checks them
