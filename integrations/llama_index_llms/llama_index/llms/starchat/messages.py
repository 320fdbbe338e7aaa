"""LlamaIndex's messages → starchat's: text, tool calls and tool results.

StarChat's template has one system turn, at the start: all system messages move there. Roles and
blocks that the template has no place for are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock

from starchat import InvalidRequestError, Message, Role, ToolCall
from starchat.openai import read_arguments, read_tool_calls, system_first

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
    """Return the dialogue in starchat's form; the caller's messages are not changed.

    Raises InvalidRequestError.
    """
    return system_first([_turn(f"messages[{i}]", message) for i, message in enumerate(messages)])


def _turn(where: str, message: ChatMessage) -> Message:
    if not isinstance(message, ChatMessage):
        raise InvalidRequestError.of(where, f"expected a ChatMessage, got {type(message).__name__}")
    role = _ROLES.get(message.role)
    if role is None:
        known = ", ".join(role.value for role in _ROLES)
        problem = f"the role {message.role.value!r} is not supported, expected one of {known}"
        raise InvalidRequestError.of(where, problem)
    for block in message.blocks:
        if not isinstance(block, (TextBlock, ToolCallBlock) if role == "assistant" else TextBlock):
            raise InvalidRequestError.of(
                where,
                f"a message of the role {message.role.value} holds a {type(block).__name__}, but "
                "StarChat reads text only: pass TextBlocks",
            )
    turn = Message(role=role, content=message.content or "")
    details = message.additional_kwargs
    if role == "assistant":
        turn["tool_calls"] = _calls(where, message)
        turn["token_ids"] = details.get("token_ids", ())  # starchat checks them
    if role == "tool":
        if "tool_call_id" not in details:
            raise InvalidRequestError.of(
                where,
                "a tool message needs the id of the call that it answers, as "
                "additional_kwargs['tool_call_id']",
            )
        turn["tool_call_id"] = details["tool_call_id"]
    return turn


def _calls(where: str, message: ChatMessage) -> list[ToolCall]:
    """Return the calls of a message: its blocks; if there are none, those in OpenAI's form."""
    calls = [
        ToolCall(
            block.tool_call_id or block.tool_name,
            block.tool_name,
            read_arguments(f"{where}.blocks[{index}].tool_kwargs", block.tool_kwargs),
        )
        for index, block in enumerate(message.blocks)
        if isinstance(block, ToolCallBlock)
    ]
    older = message.additional_kwargs.get("tool_calls")
    return calls or read_tool_calls(f"{where}.additional_kwargs['tool_calls']", older)
