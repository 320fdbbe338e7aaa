"""Messages → turns: checks what callers give, and writes calls and results as text.

Refuses roles, keys and contents that a dialogue cannot hold, naming the message. The form of
tools, calls and results within the turns is that of tools.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from ..checks import check_list, check_token_ids
from ..errors import InvalidRequestError, shown, shown_first, unexpected
from ..prompt_room import PromptRoom
from ..types import Messages, ToolCall
from .tools import Toolbox, call_line, plain_text, reply_text, result_line

_MOST_IDS = 64  # of a text without characters
_LONG_TEXT = 1 << 19  # characters of a reply
_KEYS = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "token_ids", "tool_calls"),
    "tool": ("role", "content", "tool_call_id", "name"),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a dialogue as text; `token_ids` are those generated for it, if kept."""

    role: str
    content: str
    token_ids: tuple[int, ...] = ()


def check_messages(
    messages: Messages,
    tools: Toolbox | None = None,
    *,
    part: bool = False,
    room: PromptRoom | None = None,
) -> list[Turn]:
    """Return the turns of a dialogue, with the one system turn first, empty where none is given.

    Several system messages at the start are joined by a blank line; the tools follow them. Turns
    of the same role may follow each other. The results of the calls of one assistant's turn become
    one turn of the user, in the order of the calls. The messages are not changed.

    A `part` of a dialogue, in any order, is to be counted: results may lack their calls, and system
    messages may stand anywhere.

    Raises InvalidRequestError, and ContextLengthError for what cannot fit into the `room`.

    >>> [turn.role for turn in check_messages([{"role": "user", "content": "Hi"}])]
    ['system', 'user']
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        kind = type(messages).__name__
        problem = f"expected a list of {{'role': …, 'content': …}}, got {kind}"
        raise InvalidRequestError.of("messages", problem, got=kind)
    if not messages:
        problem = "the list is empty, expected at least one message"
        raise InvalidRequestError.of("messages", problem, limit=1, got=0)
    system: list[str] = []
    turns: list[Turn] = []
    open_calls = _OpenCalls([], part)
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role, content = _check_message(where, message)
        if room:
            _take(room, role, content, message)
        if role == "tool":
            line = open_calls.answer(where, message, content)
            if room:  # a line has the name of its call, which may be long, again
                room.take(len(line) - len(content))
            continue
        turns += open_calls.turns()
        calls = _check_calls(f"{where}.tool_calls", message.get("tool_calls", ()))
        open_calls = _OpenCalls(calls, part)
        if role == "assistant":
            text = reply_text(content, open_calls.lines(where))
            turns.append(Turn(role, text, _check_ids(where, message.get("token_ids"), text)))
        elif role == "user":
            turns.append(Turn(role, plain_text(content)))
        elif turns and not part:
            problem = "a system message must stand before all others"
            raise InvalidRequestError.of(where, problem)
        else:
            system.append(content)
    first = "\n\n".join(system)
    return [
        Turn("system", tools.system_text(first) if tools else first),
        *turns,
        *open_calls.turns(),
    ]


def check_begun(messages: Messages, tools: Toolbox, json_schema: object = None) -> None:
    """Raise InvalidRequestError unless a reply can go on with the last of the checked messages."""
    name, last = "continue_final_message", messages[-1]
    if last["role"] != "assistant":
        problem = f"the last message must be the assistant's, got one of the role {last['role']}"
        raise InvalidRequestError.of(name, problem, got=str(last["role"]))
    if last.get("tool_calls"):
        problem = "the last message ends with calls, no text follows them: add their results"
        raise InvalidRequestError.of(name, problem)
    if tools.allowed:
        problem = "a begun answer goes on as text, pass tool_choice='none' or no tools"
        raise InvalidRequestError.of(name, problem)
    if json_schema is not None and str(last["content"]).lstrip()[:1] in ("{", "[", '"'):
        problem = "the last message is begun JSON, but json_schema holds for what follows it alone"
        raise InvalidRequestError.of(name, f"{problem}: leave one of them out")


def _check_ids(where: str, ids: Any, text: str) -> tuple[int, ...]:
    """Return the ids that were generated for a text, () where they are too many for it.

    A token has a byte at least; the JSON of calls may be written longer than `text` has it. No
    context holds a longer text, which would have to be read as calls with the GIL held.
    """
    if ids is None or len(text) > _LONG_TEXT:
        return ()
    if isinstance(ids, Sized) and len(ids) > _MOST_IDS + 8 * len(text):
        return ()
    return check_token_ids(f"{where}.token_ids", ids)


def _check_message(where: str, message: Any) -> tuple[str, str]:
    """Return role and content."""
    if not isinstance(message, Mapping):
        kind = type(message).__name__
        problem = f"expected a mapping with role and content, got {kind}"
        raise InvalidRequestError.of(where, problem, got=kind)
    for key in ("role", "content"):
        if key not in message:
            raise _missing(where, key)
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or len(role) > 9 or role not in _KEYS:
        problem = f"unknown role {shown(role)}, expected one of {', '.join(_KEYS)}"
        raise InvalidRequestError.of(where, problem, "role", got=shown(role))
    if not isinstance(content, str):
        raise _no_string(where, "content", content)
    for key in message:
        if key not in _KEYS[role]:
            problem = (
                f"unknown key {shown(key)} in a message of the role {role}, "
                f"expected {', '.join(_KEYS[role])}"
            )
            raise InvalidRequestError.of(where, problem, key, code="unknown_parameter")
    return role, content


def _take(room: PromptRoom, role: str, content: str, message: Mapping[str, Any]) -> None:
    """Take room before anything is done that takes longer for a longer message."""
    n_control = 2 if role in ("user", "assistant") else 0  # others may be joined to one turn
    room.take(len(content), n_control)
    if role == "assistant":
        room.check_list(message.get("token_ids", ()))
        for call in calls if isinstance(calls := message.get("tool_calls"), (list, tuple)) else ():
            for key in ("name", "arguments"):
                given = call.get(key) if isinstance(call, Mapping) else getattr(call, key, None)
                room.take_json(given)


def _missing(where: str, key: str) -> InvalidRequestError:
    return InvalidRequestError.of(where, f"{key} is missing", key, code="missing_parameter")


def _no_string(where: str, key: str, value: object, more: str = "") -> InvalidRequestError:
    problem = f"{key} must be a string{more}, got {shown(value)}"
    return InvalidRequestError.of(where, problem, key, got=shown(value))


def _check_calls(where: str, calls: Any) -> list[ToolCall]:
    """Return the calls of a message, given as ToolCalls or as mappings."""
    items = check_list(where, calls, "a list of calls")
    return [_check_call(f"{where}[{index}]", call) for index, call in enumerate(items)]


def _check_call(where: str, call: Any) -> ToolCall:
    if isinstance(call, Mapping) and call.keys() == {"id", "name", "arguments"}:
        call = ToolCall(**call)
    if not isinstance(call, ToolCall):
        raise unexpected(where, "a mapping with id, name and arguments", call)
    for key in ("id", "name"):
        if not isinstance(value := getattr(call, key), str) or not value:
            raise _no_string(where, key, value, ", and not empty")
    if not isinstance(call.arguments, Mapping):
        problem = f"arguments must be a mapping, got {shown(call.arguments)}"
        raise InvalidRequestError.of(where, problem, "arguments", got=shown(call.arguments))
    return call


class _OpenCalls:
    """The calls of one turn of the assistant, and the results of tools."""

    def __init__(self, calls: list[ToolCall], part: bool) -> None:
        self._calls = calls
        self._part = part  # of a dialogue: any call may be missing
        self._by_id = {call.id: call for call in calls}
        self._answers: dict[str, str] = {}  # by the id of the call, in a part by place

    def lines(self, where: str) -> list[str]:
        """Return the lines of the calls."""
        if len(self._by_id) < len(self._calls) and not self._part:
            ids = Counter([call.id for call in self._calls])
            twice = next(id for id in ids if ids[id] > 1)
            problem = f"two calls have the id {shown(twice)}"
            raise InvalidRequestError.of(where, problem, "tool_calls", got=shown(twice))
        return [
            call_line(f"{where}.tool_calls[{index}]", call.name, dict(call.arguments))
            for index, call in enumerate(self._calls)
        ]

    def answer(self, where: str, message: Mapping[str, Any], content: str) -> str:
        """Take the result of a tool, and return its line."""
        if self._part:
            answered = self._by_id.get(str(message.get("tool_call_id")))
            tool = answered.name if answered else str(message.get("name") or "tool")
            line = self._answers[where] = result_line(where, tool, content)
            return line
        if "tool_call_id" not in message:
            raise _missing(where, "tool_call_id")
        id = message["tool_call_id"]
        if not isinstance(id, str):
            raise _no_string(where, "tool_call_id", id)
        call = self._by_id.get(id)
        if call is None:
            known = shown_first([*self._by_id])
            problem = (
                f"answers the call {shown(id)}, but the calls of the assistant's turn before it "
                f"are: {known}"
            )
            raise InvalidRequestError.of(where, problem, "tool_call_id", got=shown(id))
        if call.id in self._answers:
            problem = f"a second answer to the call {shown(id)}"
            raise InvalidRequestError.of(where, problem, "tool_call_id", got=shown(id))
        name = message.get("name")
        if name is not None and not (isinstance(name, str) and name == call.name):
            problem = f"name is {shown(name)}, but the call {shown(id)} is one of "
            problem += shown(call.name)
            raise InvalidRequestError.of(where, problem, "name", got=shown(name))
        line = self._answers[call.id] = result_line(where, call.name, content)
        return line

    def turns(self) -> list[Turn]:
        """Return the one turn that holds all results, none without any."""
        ids = self._answers if self._part else [call.id for call in self._calls]
        lines = [self._answers[id] for id in ids if id in self._answers]
        return [Turn("user", "\n".join(lines))] if lines else []
