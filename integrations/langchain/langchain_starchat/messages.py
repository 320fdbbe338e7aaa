"""LangChain messages → starchat messages, and starchat's replies → LangChain messages.

StarChat's template has one system turn, at the start: all system messages move there. A message
keeps the token ids of its reply, so that the next prompt repeats exactly what was generated.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.json import parse_partial_json

from langchain_starchat.content import content_text
from starchat import (
    Chunk,
    Completion,
    InvalidRequestError,
    Message,
    Role,
    TokenLogprob,
    ToolCall,
    Usage,
    shown,
)
from starchat.openai import system_first

_KINDS: dict[type[BaseMessage], Role] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}


def to_starchat(
    messages: Sequence[BaseMessage], model_name: str, *, part: bool = False
) -> list[Message]:
    """Return the dialogue in starchat's form; the caller's messages are not changed.

    Senders' names are left out, as the template has no place for them. Calls that were cut are
    left out too, unless a tool message answers them (agents answer with an error): such a call
    stands there without arguments. Calls and results without ids pair in order. Raises
    InvalidRequestError for unknown roles, and for content that is not text; not for a `part` of a
    dialogue, which is only to be counted.
    """
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    turns: list[Message] = []
    nameless = _Nameless([])
    for index, message in enumerate(messages):
        turn = _turn(message, index, model_name, part)
        if isinstance(message, AIMessage):
            calls = _history_calls(message, index, answered)
            nameless = _Nameless([c for c in calls if c.id.startswith(_given_id(index))])
            if calls:
                turn["tool_calls"] = calls
        elif turn.get("tool_call_id") == "":
            turn["tool_call_id"] = nameless.answered(turn.get("name"))
        turns.append(turn)
    if part:  # a result may stand before its call, which has the tool's name
        callers = [message for message in messages if isinstance(message, AIMessage)]
        names = {call["id"]: call["name"] for m in callers for call in m.tool_calls}
        for turn in turns:
            if name := names.get(turn.get("tool_call_id")):
                turn["name"] = name
    return system_first(turns)


def to_ai_message(chunks: Sequence[Chunk], model_name: str) -> AIMessage:
    """Return a whole reply as LangChain's message; a call that was cut is in invalid_tool_calls."""
    last = chunks[-1]
    assert last.finish_reason and last.usage  # starchat raises where a reply does not end
    token_ids = [id for chunk in chunks for id in chunk.token_ids]
    logprobs = [entry for chunk in chunks for entry in logprob_entries(chunk)]
    calls, cut = _calls(chunks)
    return AIMessage(
        "".join([chunk.text for chunk in chunks]),
        tool_calls=calls,
        invalid_tool_calls=cut,
        additional_kwargs={"token_ids": token_ids},
        response_metadata=_metadata(last.finish_reason, model_name) | _logprobs(logprobs),
        usage_metadata=_usage_metadata(last.usage),
    )


class MessageChunks:
    """Turns the chunks of one reply into LangChain's, one by one.

    The first chunk of a call has its name, id and index; the next ones have pieces of its
    arguments. Metadata stands in one empty chunk at the end: LangChain concatenates strings.
    """

    def __init__(self, model_name: str) -> None:
        """Begin a reply."""
        self._model_name = model_name
        self._has_text = False
        self._n_calls = 0
        self._arguments = ""  # JSON so far of the call that is being written

    def feed(self, chunk: Chunk) -> Iterator[ChatGenerationChunk]:
        """Yield LangChain's chunks, one for each piece of a call: it merges no pieces of one."""
        if chunk.token_ids or chunk.text:
            yield _generation(
                content=chunk.text,
                additional_kwargs={"token_ids": list(chunk.token_ids)},
                response_metadata=_logprobs(logprob_entries(chunk)),
            )
            self._has_text = self._has_text or bool(chunk.text)
        for piece in chunk.tool_calls:
            self._n_calls = piece.index + 1
            self._arguments = piece.arguments if piece.id else self._arguments + piece.arguments
            yield self._call_piece(piece.arguments, piece.name, piece.id)
        if chunk.finish_reason is None:
            return
        if self._n_calls > len(chunk.finished_calls):
            yield self._call_piece(_unparsable_ending(self._arguments))
        yield _generation(
            content="",
            chunk_position="last",
            response_metadata=_metadata(chunk.finish_reason, self._model_name),
            usage_metadata=_usage_metadata(chunk.usage) if chunk.usage else None,
        )

    def _call_piece(
        self, arguments: str, name: str | None = None, id: str | None = None
    ) -> ChatGenerationChunk:
        index = self._n_calls - 1 + self._has_text  # LangChain counts the text as block 0
        piece = tool_call_chunk(name=name, args=arguments, id=id, index=index)
        return _generation(content="", tool_call_chunks=[piece])


def logprob_entries(reply: Completion | Chunk) -> list[dict[str, Any]]:
    """Return log probabilities in the form of OpenAI's chat API."""
    return [
        _logprob(token) | {"top_logprobs": [_logprob(best) for best in token.best]}
        for token in reply.logprobs
    ]


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "token_id": token.token_id,
        "logprob": token.logprob,
        "bytes": list(token.bytes),
    }


def _generation(**fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(**fields))


def _calls(chunks: Sequence[Chunk]) -> tuple[list[LangChainToolCall], list[InvalidToolCall]]:
    """Return the calls of a reply, and the one that its end cut, if any."""
    finished = chunks[-1].finished_calls
    calls = [tool_call(name=call.name, args=call.arguments, id=call.id) for call in finished]
    rest = [p for chunk in chunks for p in chunk.tool_calls if p.index >= len(finished)]
    if not rest:
        return calls, []
    text = "".join([piece.arguments for piece in rest])
    error = "the reply ends within this call: max_tokens is too small"
    return calls, [invalid_tool_call(name=rest[0].name, args=text, id=rest[0].id, error=error)]


def _unparsable_ending(arguments: str) -> str:
    """Return what to add to cut arguments so that LangChain's parser of partial JSON fails.

    Otherwise LangChain would complete the JSON, and a tool would run with half a value. A closing
    bracket without an opening one makes it fail; an open string has to be closed first.
    """
    brackets = "]" * (arguments.count("[") + 1)
    for ending in (brackets, f'"{brackets}', f'\\"{brackets}'):
        try:
            if not isinstance(parse_partial_json(arguments + ending), dict):
                return ending
        except ValueError:
            return ending
    return brackets


def written_arguments(cut: str) -> str:
    """Return the arguments of a call that was cut, without the ending that a stream adds."""
    ending = re.search(r'(?:\\?")?\]+$', cut)
    written = cut[: ending.start()] if ending else cut
    return written if ending and _unparsable_ending(written) == ending[0] else cut


def _given_id(index: int, number: int | str = "") -> str:
    """Return the id of a call without one, which no other message has; or how such ids begin."""
    return f"call_{index}_{number}"


class _Nameless:
    """The calls of a message that had no id, as long as they are not answered."""

    def __init__(self, calls: Sequence[ToolCall]) -> None:
        self._left = {call.id for call in calls}
        self._in_order = deque([call.id for call in calls])
        self._by_name: dict[str, deque[str]] = {}
        for call in calls:
            self._by_name.setdefault(call.name, deque()).append(call.id)

    def answered(self, name: str | None) -> str:
        """Return the id of the call of this name, or of the first one; "" if all are answered."""
        for ids in (self._by_name.get(name or "", deque()), self._in_order):
            while ids:
                if (id := ids.popleft()) in self._left:
                    self._left.remove(id)
                    return id
        return ""


def _history_calls(message: AIMessage, index: int, answered: set[str]) -> list[ToolCall]:
    calls = [
        ToolCall(call["id"] or _given_id(index, number), call["name"], call["args"])
        for number, call in enumerate(message.tool_calls)
    ]
    cut = [call for call in message.invalid_tool_calls if call["id"] in answered]
    calls += [ToolCall(call["id"] or "", call["name"] or "unknown", {}) for call in cut]
    match message.additional_kwargs.get("function_call"):
        case {"name": str(name), "arguments": arguments} if not calls:  # OpenAI's form of 2023
            if isinstance(arguments, str):
                arguments = parse_partial_json(arguments or "{}")
            given = arguments if isinstance(arguments, dict) else {}
            calls = [ToolCall(_given_id(index, 0), name, given)]
    return calls


def _turn(message: BaseMessage, index: int, model_name: str, part: bool) -> Message:
    turn = Message(role=_role(message, index, part), content="")
    where = f"messages[{index}].content"
    turn["content"] = content_text(where, message.content, turn["role"], lenient=part)
    kwargs = message.additional_kwargs
    if isinstance(message, AIMessage):
        turn["content"] = turn["content"] or kwargs.get("refusal") or ""
    if turn["role"] == "tool":
        turn["tool_call_id"] = getattr(message, "tool_call_id", kwargs.get("tool_call_id")) or ""
        if name := message.name or kwargs.get("name"):
            turn["name"] = name
        is_error = getattr(message, "status", "") == "error"
        if is_error and not turn["content"].lower().startswith("error"):
            turn["content"] = f"Error: {turn['content']}"
    # Ids of another model would be other words. starchat itself checks that the text is unchanged.
    token_ids = kwargs.get("token_ids") if turn["role"] == "assistant" else None
    if token_ids and message.response_metadata.get("model_name") == model_name:
        turn["token_ids"] = token_ids
    return turn


def _role(message: BaseMessage, index: int, part: bool) -> Role:
    for kind, role in _KINDS.items():
        if isinstance(message, kind):
            return role
    name = message.role if isinstance(message, ChatMessage) else message.type
    if isinstance(message, ChatMessage) and name in _ROLES:
        return _ROLES[name]
    if part:
        return "user"
    problem = f"expected one of the roles {', '.join(_ROLES)}, got {shown(name)}"
    raise InvalidRequestError.of(f"messages[{index}]", problem)


def _metadata(finish_reason: str, model_name: str) -> dict[str, Any]:
    named = {"model_name": model_name, "model_provider": "starchat"}
    return named | {"finish_reason": finish_reason}


def _logprobs(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"logprobs": {"content": entries}} if entries else {}


def _usage_metadata(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details={"cache_read": usage.cached_tokens},
    )
