"""OpenAI's forms of a chat request → starchat's own: messages, tools, their choice, the format.

Adapters and servers read these forms here, once. A wrong form is an InvalidRequestError that says
where; the names, schemas and texts within are checked by the chat methods that take the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

from .chat.call_reader import load_object
from .chat.tools import CHOICES
from .checks import check_list
from .errors import InvalidRequestError, shown, shown_first, unexpected
from .types import Message, Role, ToolCall

__all__ = [
    "choose_tools",
    "read_arguments",
    "read_content",
    "read_messages",
    "read_response_format",
    "read_text_part",
    "read_tool_calls",
    "read_tool_choice",
    "read_tools",
    "system_first",
]

_LONGEST_ARGUMENTS = 1 << 20  # characters of a call's, which are read with the GIL held
_ROLES: dict[str, Role] = {"system": "system", "developer": "system"}
_ROLES |= {role: role for role in get_args(Role)}
_KEPT = {"assistant": ("token_ids",), "tool": ("tool_call_id", "name")}  # beside role and content


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return a dialogue as the chat methods take it, its system messages first.

    "developer" is "system", an assistant's content of None is "", and parts of content are joined
    by line breaks. Keys without a place in the template are left out: names of users, `refusal`,
    `audio`, `reasoning_content`, `function_call`.

    >>> read_messages([{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}])
    [{'role': 'system', 'content': 'Be brief.'}]
    """
    items = check_list("messages", messages)
    return system_first([_message(f"messages[{i}]", item) for i, item in enumerate(items)])


def system_first(messages: Sequence[Message]) -> list[Message]:
    """Return the messages in order, system messages before all others.

    StarChat's template has one system turn, at its start.

    >>> user, system = [{"role": role, "content": "Hi"} for role in ("user", "system")]
    >>> system_first([user, system]) == [system, user]
    True
    """
    return sorted(messages, key=lambda message: message["role"] != "system")  # a stable sort


def read_content(where: str, content: Any) -> str:
    """Return the text of content: a string, or parts, which are joined by line breaks.

    >>> read_content("content", ["Hello", {"type": "text", "text": "World"}])
    'Hello\\nWorld'
    """
    if isinstance(content, str):
        return content
    parts = check_list(where, content)
    return "\n".join([read_text_part(f"{where}[{i}]", part) for i, part in enumerate(parts)])


def read_text_part(where: str, part: Any) -> str:
    """Return the text of a part of content; a string is one by itself.

    >>> read_text_part("content[0]", {"type": "text", "text": "Hi"})
    'Hi'
    """
    match part:
        case str():
            return part
        case {"type": "text" | "input_text" | "output_text", "text": str(text)}:
            return text
        case {"type": "refusal", "refusal": str(text)}:
            return text
        case {"type": str(kind)} if "text" not in kind and kind != "refusal":
            problem = f"expected a text block, got one of type {shown(kind)}"
            problem += ": this model reads text only"
            raise InvalidRequestError.of(where, problem, got=kind[:80])
    raise unexpected(where, "a text block: {'type': 'text', 'text': …}", part)


def read_tool_calls(where: str, calls: Any) -> list[ToolCall]:
    """Return the calls of an assistant's message; their arguments are JSON text or a mapping.

    >>> function = {"name": "add", "arguments": '{"a": 1}'}
    >>> read_tool_calls("tool_calls", [{"id": "1", "type": "function", "function": function}])
    [ToolCall(id='1', name='add', arguments={'a': 1})]
    """
    read = []
    for index, call in enumerate(check_list(where, () if calls is None else calls)):
        here = f"{where}[{index}]"
        match call:
            case {"id": str(id), "function": {"name": str(name), "arguments": arguments}}:
                text = f"{here}.function.arguments"
                read.append(ToolCall(id, name, read_arguments(text, arguments)))
            case _:
                form = "{'id': …, 'function': {'name': …, 'arguments': …}}"
                raise unexpected(here, form, call)
    return read


def read_arguments(where: str, arguments: Any) -> dict[str, Any]:
    """Return the arguments of a call, of which an empty text has none.

    >>> read_arguments("arguments", '{"a": 1e999}')
    {'a': 1.7976931348623157e+308}
    """
    if isinstance(arguments, str) and len(arguments) > _LONGEST_ARGUMENTS:
        problem = f"expected at most {_LONGEST_ARGUMENTS:,} characters, got {len(arguments):,}: "
        problem += "no context holds more"
        raise InvalidRequestError.of(where, problem, limit=_LONGEST_ARGUMENTS, got=len(arguments))
    read = load_object(arguments or "{}") if isinstance(arguments, str) else arguments
    if not isinstance(read, Mapping):
        problem = "the JSON text of an object (a reply cut within a call has none: leave it out)"
        raise unexpected(where, problem, arguments)
    return dict(read)


def read_tools(tools: Any) -> list[dict[str, Any]]:
    """Return definitions as the chat methods take them: plain, or {"type", "function"}.

    The flat form of the Responses API becomes a plain one. Tools of other types are refused.

    >>> read_tools([{"type": "function", "name": "now", "parameters": None}])
    [{'name': 'now', 'parameters': None}]
    """
    read = []
    for index, tool in enumerate(check_list("tools", () if tools is None else tools)):
        where = f"tools[{index}]"
        if not isinstance(tool, Mapping):
            raise unexpected(where, "a mapping", tool)
        kind = tool.get("type", "function")
        if kind != "function":
            problem = f"expected the type 'function', got {shown(kind)}: this model runs no others"
            raise InvalidRequestError.of(where, problem)
        flat = "function" not in tool
        read.append({key: tool[key] for key in tool if not (flat and key == "type")})
    return read


def read_tool_choice(choice: Any) -> str | None:
    """Return a choice as the chat methods take it: a word, the name of a tool, None for default.

    Reads OpenAI's forms, Anthropic's {"type": "tool" | "any" | …}, and True for "any".

    >>> read_tool_choice({"type": "function", "function": {"name": "add"}}), read_tool_choice(True)
    ('add', 'any')
    """
    match choice:
        case None | str():
            return choice
        case bool():
            return "any" if choice else None
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case {"type": "function" | "tool", "name": str(name)}:
            return name
        case {"type": str(word)} if word in CHOICES:
            return word
        case {"type": "allowed_tools"}:
            problem = "'allowed_tools' is not supported: pass these tools alone, as tools"
            raise InvalidRequestError.of("tool_choice", problem)
    raise unexpected(
        "tool_choice",
        f"{', '.join(map(repr, CHOICES))}, the name of a tool, or "
        "{'type': 'function', 'function': {'name': …}}",
        choice,
    )


def choose_tools(tools: Any, choice: Any) -> tuple[list[dict[str, Any]], str | None]:
    """Return definitions and choice as the chat methods take them.

    Where the choice is {"type": "allowed_tools", …} of one of the OpenAI APIs, the definitions are
    those that it names.

    >>> tools = [{"name": "add"}, {"name": "now"}]
    >>> named = {"type": "function", "name": "now"}
    >>> choose_tools(tools, {"type": "allowed_tools", "mode": "required", "tools": [named]})
    ([{'name': 'now'}], 'required')
    """
    read = read_tools(tools)
    if not (isinstance(choice, Mapping) and choice.get("type") == "allowed_tools"):
        return read, read_tool_choice(choice)
    match choice.get("allowed_tools", choice):
        case {"mode": "auto" | "required" as mode, "tools": allowed}:
            names = [_tool_name(tool) for tool in read_tools(allowed)]
        case form:
            expected = "{'mode': 'auto' | 'required', 'tools': […]}"
            raise unexpected("tool_choice.allowed_tools", expected, form)
    known = [_tool_name(tool) for tool in read]
    for name in names:
        if name not in known:
            expected = f"names of tools ({shown_first(known, 'none is given')})"
            raise unexpected("tool_choice.allowed_tools", expected, name)
    return [tool for tool, name in zip(read, known, strict=True) if name in names], mode


def _tool_name(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, Mapping) else None


def read_response_format(form: Any) -> dict[str, Any] | Literal[True] | None:
    """Return the `json_schema` of the chat methods: a schema, True for any object, None for text.

    Replies follow a schema whether it is `strict` or not. Reads the forms of both OpenAI APIs, and
    llama.cpp's {"type": "json_object", "schema": …}, and text-generation-inference's with "value".

    >>> named = {"name": "flag", "strict": True, "schema": {"type": "boolean"}}
    >>> read_response_format({"type": "json_schema", "json_schema": named})
    {'type': 'boolean'}
    """
    match form:
        case None | {"type": "text"}:
            return None
        case {"json_schema": {"schema": Mapping() as schema}}:
            return dict(schema)
        case {"type": "json_schema" | "json_object", "schema": Mapping() as schema}:
            return dict(schema)
        case {"type": "json" | "json_object", "value": Mapping() as schema}:
            return dict(schema)
        case {"type": "json_object"}:
            return True
    raise unexpected(
        "response_format",
        "{'type': 'json_schema', 'json_schema': {'schema': …}}, {'type': 'json_object'} or "
        "{'type': 'text'}",
        form,
    )


def _message(where: str, message: Any) -> Message:
    if not isinstance(message, Mapping):
        raise unexpected(where, "a mapping with role and content", message)
    name = message.get("role")
    if not isinstance(name, str) or name not in _ROLES:
        raise unexpected(f"{where}.role", f"one of {', '.join(_ROLES)}", name)
    role, content = _ROLES[name], message.get("content")
    if content is None and role == "assistant":
        content = ""
    content = read_content(f"{where}.content", content)
    read = {key: message[key] for key in _KEPT.get(role, ()) if message.get(key) is not None}
    written = message.get("tool_calls") if role == "assistant" else None
    if calls := read_tool_calls(f"{where}.tool_calls", written):
        read["tool_calls"] = calls
    return cast(Message, {"role": role, "content": content, **read})
