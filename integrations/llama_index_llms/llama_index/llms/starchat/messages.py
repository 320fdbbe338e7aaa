"""LlamaIndex's messages → starchat's: text, tool calls and tool results.

StarChat's template has one system turn, at the start: all system messages move there. Of what
other models leave in a history, thoughts are left out, and pictures and files are placeholders.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from starchat import InvalidRequestError, Message, Role, ToolCall
from starchat.openai import read_arguments, read_tool_calls, system_first

_LONGEST_FILE = 1 << 22  # a call holds the GIL
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

    Results without ids answer the calls without ids in their order; the name of a tool may stand
    for an id. Raises InvalidRequestError, also for what a human says that is no text.
    """
    turns = []
    unanswered = _Unanswered([], [])
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        turn = _turn(where, message)
        if turn["role"] == "assistant":
            calls = _calls(where, message)
            own = _with_own_ids(calls)
            turn["tool_calls"] = own
            unanswered = _Unanswered(calls, own)
            turn["token_ids"] = message.additional_kwargs.get("token_ids") or ()  # checked there
        elif turn["role"] == "tool":
            turn["tool_call_id"] = unanswered.answered(where, message)
        turns.append(turn)
    return system_first(turns)


def _turn(where: str, message: ChatMessage) -> Message:
    if not isinstance(message, ChatMessage):
        raise InvalidRequestError.of(where, f"expected a ChatMessage, got {type(message).__name__}")
    role = _ROLES.get(message.role)
    if role is None:
        known = ", ".join(role.value for role in _ROLES)
        problem = f"the role {message.role.value!r} is not supported, expected one of {known}"
        raise InvalidRequestError.of(where, problem)
    texts = [text for block in message.blocks for text in _texts(where, role, block)]
    return Message(role=role, content="\n".join(texts))


def _texts(where: str, role: Role, block: Any) -> Iterator[str]:
    """Yield the texts of a block that a dialogue can hold."""
    match block:
        case TextBlock():
            yield block.text
        case ThinkingBlock() | CachePoint():
            pass
        case ToolCallBlock() | CitationBlock() if role == "assistant":
            pass  # a citation repeats what its source says
        case CitationBlock():
            yield from _texts(where, role, block.cited_content)
        case CitableBlock():
            for part in block.content:
                yield from _texts(where, role, part)
        case DocumentBlock(data=bytes(data), document_mimetype=str(kind)) if (
            kind.startswith("text/") or kind == "application/json"
        ):
            if len(data) > _LONGEST_FILE:
                problem = f"expected a text file of at most {_LONGEST_FILE:,} bytes in base64, "
                problem += f"got {len(data):,}: no context holds more"
                raise InvalidRequestError.of(where, problem, limit=_LONGEST_FILE, got=len(data))
            yield base64.b64decode(data).decode(errors="replace")  # LlamaIndex keeps base64
        case _ if role in ("assistant", "tool"):
            yield f"[{block.block_type}]"
        case _:
            raise InvalidRequestError.of(
                where,
                f"a message of the role {role} holds a {type(block).__name__}, but "
                "StarChat reads text only: pass TextBlocks",
            )


def _calls(where: str, message: ChatMessage) -> list[ToolCall]:
    """Return the calls of a message: its blocks; if there are none, those in older forms."""
    calls = [
        ToolCall(
            block.tool_call_id or block.tool_name,
            block.tool_name,
            read_arguments(f"{where}.blocks[{index}].tool_kwargs", block.tool_kwargs),
        )
        for index, block in enumerate(message.blocks)
        if isinstance(block, ToolCallBlock)
    ]
    details = message.additional_kwargs
    older = details.get("tool_calls") or ()
    if not older and details.get("function_call"):  # OpenAI's form of 2023
        older = [{"function": details["function_call"]}]
    place = f"{where}.additional_kwargs['tool_calls']"
    return calls or read_tool_calls(place, [_in_openai_form(call) for call in older])


def _in_openai_form(call: Any) -> Any:
    """Return a call that is an object, in Anthropic's form or without an id as OpenAI's."""
    call = call.model_dump() if isinstance(call, BaseModel) else call
    match call:
        case {"name": str(name), "input": arguments}:
            function = {"name": name, "arguments": arguments}
            return {"id": call.get("id") or name, "function": function}
        case {"function": {"name": str(name)}} if not call.get("id"):
            return {**call, "id": name}
    return call


def _with_own_ids(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """Return calls whose ids differ: some models give none, or the same to several."""
    own: dict[str, ToolCall] = {}
    n_same: Counter[str] = Counter()
    for call in calls:
        n_same[call.id] += 1
        id = call.id if n_same[call.id] == 1 else f"{call.id}'{n_same[call.id]}"
        while id in own:
            id += "'"
        own[id] = ToolCall(id, call.name, call.arguments)
    return list(own.values())


class _Unanswered:
    """The calls of a message that have no results yet."""

    def __init__(self, calls: Sequence[ToolCall], own: Sequence[ToolCall]) -> None:
        """Take the calls as the caller knows them, and the same ones with ids of their own."""
        self._by_id: dict[str, deque[str]] = {}
        for call, renamed in zip(calls, own, strict=True):
            self._by_id.setdefault(call.id, deque()).append(renamed.id)
        # A call without an id has its tool's name as one: only such a call takes a result without.
        self._without = deque([call.id for call in calls if call.id == call.name])

    def answered(self, where: str, message: ChatMessage) -> str:
        """Return the id of the call that a result answers."""
        details: Mapping[str, Any] = message.additional_kwargs
        given = details.get("tool_call_id") or details.get("name")
        for known in [given] if given is not None else self._each_without():
            if ids := self._by_id.get(known) if isinstance(known, str) else None:
                return ids.popleft()
        if given is None:
            raise InvalidRequestError.of(
                where,
                "a tool message needs the id of the call that it answers, as "
                "additional_kwargs['tool_call_id']",
            )
        return str(given)

    def _each_without(self) -> Iterator[str]:
        while self._without:
            yield self._without.popleft()
