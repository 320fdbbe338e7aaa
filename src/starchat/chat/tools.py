r"""Tools: their definitions, how a dialogue shows them, and the grammar of replies.

A call is a line <tool_call>{"name": …, "arguments": …}, an answer a line <tool_result>{"name": …,
"result": …}. Both are JSON on one line, so that data in them cannot begin a line; plain text that
begins a line with these words is indented. docs/tools.md explains the form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .. import _core
from ..checks import check_limits, check_list, json_size
from ..errors import ConstraintError, InvalidRequestError, shown, shown_first, unexpected
from ..grammar.constraint import Constraint, json_text
from ..grammar.schemas import Schema, closed_schema, prompt_schema
from ..json_text import write_json
from ..limits import Limits
from ..sampling import TOOLS

CALL = "<tool_call>"
RESULT = "<tool_result>"

_OPTIONS = (*TOOLS, "schema_limits")
_KEYS = ("name", "description", "parameters", "strict")
CHOICES = ("auto", "any", "required", "none")
_PIECE = 1 << 20  # characters
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKED = re.compile(f"(?m)^(?= *(?:{CALL}|{RESULT}))")


# ---- the form -------------------------------------------------------------------------------


def to_json(where: str, value: object) -> str:
    r"""Return a value as JSON on one line, U+FFFD for lone surrogates.

    Raises InvalidRequestError for what has no JSON, naming `where`.

    >>> to_json("result", "1\n<|end|>")
    '"1\\n<|end|>"'
    """
    return _SURROGATE.sub("\ufffd", _dump(where, value))


def _dump(where: str, value: object) -> str:
    try:
        return write_json(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"cannot be written as JSON: {error}"
        raise InvalidRequestError.of(where, problem) from error


def plain_text(text: str) -> str:
    r"""Return what a dialogue shows of plain text: lines that look like tools' are indented.

    Each gets one space more than it had, so that different texts stay different.

    >>> plain_text("See:\n<tool_call>{}")
    'See:\n <tool_call>{}'
    """
    if not any(contains(text, marker) for marker in (CALL, RESULT)):
        return text
    pieces, start = [], 0
    while start < len(text):  # by lines: a call of the regular expression holds the GIL
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        pieces.append(_MARKED.sub(" ", text[start:end]))
        start = end
    return "".join(pieces)


def contains(text: str, part: str) -> bool:
    """Return whether `part`, of at most 1,000 characters, is in a text of any length.

    Looks at a million characters at a time, so that no call holds the GIL for long.
    """
    starts = range(0, len(text), _PIECE)
    return any(text.find(part, start, start + _PIECE + 1000) >= 0 for start in starts)


def call_line(where: str, name: str, arguments: Mapping[str, Any]) -> str:
    """Return the line that calls a tool.

    >>> call_line("call", "add", {"a": 1})
    '<tool_call>{"name": "add", "arguments": {"a": 1}}'
    """
    return CALL + to_json(where, {"name": name, "arguments": arguments})


def result_line(where: str, name: str, result: str) -> str:
    """Return the line with the result of a tool.

    >>> result_line("result", "add", "3")
    '<tool_result>{"name": "add", "result": "3"}'
    """
    return RESULT + to_json(where, {"name": name, "result": result})


def reply_text(text: str, call_lines: Sequence[str]) -> str:
    r"""Return what an assistant's turn holds: its text, if any, and then its calls.

    >>> reply_text("Let me see.", ['<tool_call>{"name": "now", "arguments": {}}'])
    'Let me see.\n<tool_call>{"name": "now", "arguments": {}}'
    """
    return "\n".join([*([plain_text(text)] if text else []), *call_lines])


# ---- definitions ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tool:
    """A checked definition of a tool."""

    name: str
    line: str  # describes it to the model
    schema: str  # of a call's arguments, as JSON for the grammar
    param: str = field(compare=False)  # where the request has it, for errors


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one request, and how the reply may use them."""

    tools: tuple[Tool, ...]
    allowed: tuple[Tool, ...]  # that the reply may call
    choice: Literal["auto", "any", "none"]  # a forced tool: "any" with one allowed
    parallel: bool

    @classmethod
    def check(
        cls,
        tools: object = None,
        tool_choice: object = "auto",
        parallel_tool_calls: object = True,
        schema_limits: object = None,
        bounds: Limits | None = None,
    ) -> Toolbox:
        """Return checked tools; raise InvalidRequestError, naming the tool that is wrong.

        >>> Toolbox.check([{"name": "now"}], "required").choice
        'any'
        """
        if not isinstance(parallel_tool_calls, bool):
            raise unexpected("parallel_tool_calls", "True or False", parallel_tool_calls)
        found = check_tools(tools, check_limits("schema_limits", schema_limits or {}), bounds)
        if not isinstance(tool_choice, str):
            raise _unknown(found, tool_choice)
        if tool_choice == "none" or (tool_choice == "auto" and not found):
            return cls(found, (), "none", parallel_tool_calls)
        if tool_choice == "auto":
            return cls(found, found, "auto", parallel_tool_calls)
        if tool_choice in ("any", "required"):
            if not found:
                problem = f"{tool_choice!r} needs at least one tool, but tools is empty"
                raise InvalidRequestError.of("tool_choice", problem, got=tool_choice)
            return cls(found, found, "any", parallel_tool_calls)
        if allowed := tuple([tool for tool in found if tool.name == tool_choice]):
            return cls(found, allowed, "any", parallel_tool_calls)
        raise _unknown(found, tool_choice)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], bounds: Limits | None = None) -> Toolbox:
        """Return the checked tools among a call's keywords, where None means the default."""
        given = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
        return cls.check(**given, bounds=bounds)

    def system_text(self, system: str) -> str:
        """Return what the system turn holds: the caller's text, and the tools that may be used."""
        if not self.allowed:
            return system
        lines = ["Tools:", *[tool.line for tool in self.tools]]
        lines += ["To call tools, reply with one line for each call:"]
        lines += [CALL + '{"name": "…", "arguments": {…}}']
        return "\n\n".join([*([system] if system else []), "\n".join(lines)])

    def compile(self, engine: _core.Engine, bounds: Limits | None = None) -> _core.Grammar | None:
        """Return the grammar of replies, None without tools.

        Raises ConstraintError, naming the tool whose schema is wrong, unsatisfiable or
        unsupported, and UnsupportedFeatureError without llguidance.
        """
        if not self.tools:
            return None
        try:
            return Constraint("tools", "lark", reply_grammar(self)).compile(engine, bounds)
        except ConstraintError:
            for tool in self.allowed:
                where = f"tool {shown(tool.name)}: parameters"
                try:
                    Constraint(where, "json_schema", tool.schema).compile(engine, bounds)
                except ConstraintError as error:
                    error.param = f"{tool.param}.parameters"
                    raise
            raise


def _unknown(tools: Sequence[Tool], choice: object) -> InvalidRequestError:
    known = shown_first([tool.name for tool in tools], "none is given")
    expected = f"{', '.join(map(repr, CHOICES))} or the name of a tool ({known})"
    return unexpected("tool_choice", expected, choice)


def check_tools(
    tools: object, limits: Mapping[str, int] | None = None, bounds: Limits | None = None
) -> tuple[Tool, ...]:
    """Return the tools of definitions, each plain or in OpenAI's {"type": "function", …}.

    limits: of what schemas leave open. bounds: of the tools themselves.

    Raises InvalidRequestError.

    >>> check_tools([{"type": "function", "function": {"name": "now"}}])[0].name
    'now'
    """
    if tools is None:
        return ()
    items = check_list("tools", tools, "a list of {'name': …, 'parameters': …}")
    bounds = bounds or Limits()
    checked: dict[str, Tool] = {}
    n_left = bounds.tool_bytes
    for index, definition in enumerate(items):
        tool = _check_tool(f"tools[{index}]", definition, limits, bounds, n_left)
        n_left -= len(tool.line)
        if tool.name in checked:
            problem = f"a second tool named {shown(tool.name)}"
            raise InvalidRequestError.of(f"tools[{index}]", problem)
        checked[tool.name] = tool
    return tuple(checked.values())


def _check_tool(
    where: str, definition: Any, limits: Mapping[str, int] | None, bounds: Limits, n_left: int
) -> Tool:
    """Return a tool; `n_left` of the bytes that all tools may have are left for it."""
    if isinstance(definition, Mapping) and "function" in definition:
        if definition.keys() != {"type", "function"} or definition["type"] != "function":
            raise unexpected(where, "{'type': 'function', 'function': {…}}", definition)
        definition, where = definition["function"], f"{where}.function"
    if not isinstance(definition, Mapping):
        raise unexpected(where, "a mapping", definition)
    for key in definition:
        if key not in _KEYS:
            problem = f"unknown key {shown(key)}, expected {', '.join(_KEYS)}"
            raise InvalidRequestError.of(where, problem, key, code="unknown_parameter")
    name, description = definition.get("name"), definition.get("description") or ""
    if json_size(definition, n_left) > n_left:
        raise _too_large(bounds, f"{where} ({shown(name)})", where)
    if not isinstance(name, str) or not name or _SURROGATE.search(name):
        expected = "a string, not empty and without lone surrogates"
        raise unexpected(f"{where}.name", expected, name)
    param, where = where, f"{where} ({shown(name)})"
    if not isinstance(description, str):
        problem = f"{where}: description must be a string, got {shown(description)}"
        param = f"{param}.description"
        raise InvalidRequestError(problem, param=param, got=shown(description))
    about = {"description": description} if description else {}
    described: dict[str, Any] = {"name": name, **about}
    try:
        parameters = _check_parameters(where, definition.get("parameters"))
        described["parameters"] = prompt_schema(parameters, n_left)
        if described["parameters"] is None:
            raise _too_large(bounds, where, param)
        enforced = closed_schema({**parameters, "type": "object"})
        text = json_text(enforced, f"{where}.parameters", limits, bounds)
        line = to_json(where, described)
        if len(line) > n_left:
            raise _too_large(bounds, where, param)
        return Tool(name, line, text, param)
    except RecursionError:
        problem = f"{where}.parameters: nested too deeply"
        raise InvalidRequestError(problem, param=f"{param}.parameters") from None
    except InvalidRequestError as error:
        error.param = f"{param}.parameters"  # without the tool's name, which is for people
        raise


def _too_large(bounds: Limits, where: str, param: str) -> InvalidRequestError:
    remedy = "give fewer or smaller tools, in which fewer references repeat a definition"
    unit = " bytes of tools, references written out"
    error: InvalidRequestError = bounds.beyond("tool_bytes", where, None, unit=unit, remedy=remedy)
    error.param = param  # without the tool's name, which is for people
    return error


def _check_parameters(where: str, parameters: Any) -> Schema:
    """Return a schema as plain data of its own, that of no arguments for None."""
    if parameters is None:
        return {"type": "object", "properties": {}}
    where = f"{where}.parameters"
    if not isinstance(parameters, Mapping):
        raise unexpected(where, "a JSON Schema", parameters)
    text = _dump(where, dict(parameters))
    if _SURROGATE.search(text):
        raise InvalidRequestError.of(where, "a lone surrogate in it has no UTF-8")
    schema: Schema = json.loads(text)
    types = schema.get("type", "object")
    if types != "object" and not (isinstance(types, list) and "object" in types):
        problem = f"arguments are an object, so type must be 'object', got {shown(types)}"
        raise InvalidRequestError.of(where, problem, got=shown(types))
    return schema


# ---- the grammar ----------------------------------------------------------------------------

_ANY_TEXT = "/(?s:.*)/"
_NO_MARKER = f"~/(?s:.*){CALL}(?s:.*)/"


def reply_grammar(toolbox: Toolbox) -> str:
    r"""Return the Lark grammar (llguidance's dialect) of the replies that tools allow.

    "any": one call or more. "auto": text, or calls, or text and then calls. "none": text in which
    nothing looks like a call.

    >>> print(reply_grammar(Toolbox.check([{"name": "now"}], "any", False)))
    start: call
    call: "<tool_call>" body
    body: body_0
    body_0: "{\"name\": \"now\", \"arguments\": " arguments_0 "}"
    arguments_0: %json {"type": "object", "properties": {}, "additionalProperties": false, ...}
    """
    more = ' ("\\n" call)*' if toolbox.parallel else ""
    text = f"TEXT: {_ANY_TEXT} & {_NO_MARKER}"
    if toolbox.choice == "none":
        return f"start: TEXT\n{text}"
    lines = [f"start: call{more}"]
    if toolbox.choice == "auto":
        # One terminal for all text up to the first call: only the end of a line shows whether it
        # is text or the beginning of a call, and a lexer does not backtrack.
        lines = [
            f"start: TEXT | FIRST body{more}",
            text,
            f"FIRST: /((?s:.*)\\n)?{CALL}/ & ~/(?s:.*){CALL}(?s:.+)/",
        ]
    if toolbox.choice == "any" or more:
        lines.append(f"call: {_literal(CALL)} body")
    lines.append("body: " + " | ".join([f"body_{i}" for i in range(len(toolbox.allowed))]))
    for index, tool in enumerate(toolbox.allowed):
        head = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
        lines.append(f'body_{index}: {_literal(head)} arguments_{index} "}}"')
        lines.append(f"arguments_{index}: %json {tool.schema}")
    return "\n".join(lines)


def _literal(text: str) -> str:
    """Return a Lark string of exactly this text; in ASCII, which has no exceptions."""
    return json.dumps(text)
