"""A call's arguments → what starchat is asked: tools, their choice, and the format of the reply.

Takes the forms that LangChain, its agents and users of OpenAI's models write. A reply that may
call tools or else must be JSON is asked for in two attempts: the model decides as it always does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

from starchat import (
    ChatOptions,
    Chunk,
    InvalidRequestError,
    Message,
    closed_schema,
    enforceable_schema,
    untitled_schema,
)

_OF_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
_OF_FUNCTIONS = {"function", "parameters", "input_schema", "toolSpec"}


@dataclass
class Attempt:
    """One way to ask. A tentative one only counts if its reply calls a tool."""

    dialogue: list[Message]
    options: ChatOptions
    tentative: bool = False
    before: Attempt | None = None
    _held: list[Chunk] = field(default_factory=list)

    def accept(self, chunk: Chunk) -> Sequence[Chunk]:
        """Return the chunks of the reply that can be given out, now that this one is there.

        The last one's usage is also of the attempt before, which the caller waited for.
        """
        if chunk.usage and self.before and (spent := self.before._held[-1].usage):
            chunk = replace(chunk, usage=spent + chunk.usage)
        if not self.tentative:
            return (chunk,)
        self._held.append(chunk)
        if not chunk.tool_calls:
            return ()
        self.tentative = False
        return self._held


def attempts(dialogue: list[Message], arguments: Mapping[str, Any]) -> list[Attempt]:
    """Return the ways to ask, in order; the first that counts is the reply.

    Raises InvalidRequestError for a `tool_choice` or `response_format` of no known form.
    """
    options = dict(arguments)
    schema = response_schema(options.pop("response_format", None))
    choice = options["tool_choice"] = tool_choice(options.get("tool_choice"))
    if schema is None:
        return [Attempt(dialogue, cast(ChatOptions, options))]
    bare = {name: value for name, value in options.items() if name not in _OF_TOOLS}
    answer = Attempt(
        _told(dialogue, schema), cast(ChatOptions, bare | {"json_schema": schema or True})
    )
    if not options.get("tools") or choice == "none":
        return [answer]
    first = Attempt(dialogue, cast(ChatOptions, options), tentative=choice in (None, "auto"))
    if not first.tentative:
        return [first]
    answer.before = first
    return [first, answer]


def tool_choice(choice: Any) -> str | None:
    """Return the choice of tools in starchat's terms, None for its default.

    >>> tool_choice({"type": "function", "function": {"name": "add"}}), tool_choice(True)
    ('add', 'any')
    """
    if choice is None or isinstance(choice, str):
        return choice
    if isinstance(choice, bool):
        return "any" if choice else None
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            return cast(str, function["name"])
        if choice.get("type") in ("auto", "any", "required", "none"):
            return cast(str, choice["type"])
    raise InvalidRequestError(
        "tool_choice: expected 'auto', 'any', 'required', 'none', the name of a tool, or "
        f"{{'type': 'function', 'function': {{'name': …}}}}, got {choice!r:.80}"
    )


def response_schema(form: Any) -> dict[str, Any] | None:
    """Return the schema that a `response_format` asks for: {} for any object, None for text.

    >>> response_schema({"type": "json_object"})
    {}
    """
    if form is None or form == {"type": "text"}:
        return None
    if isinstance(form, type):
        return json_schema(form)
    if isinstance(form, Mapping):
        if form.get("type") == "json_object":
            return {}
        named = form.get("json_schema")
        if isinstance(named, Mapping) and isinstance(named.get("schema"), Mapping):
            return json_schema(dict(named["schema"]))
    raise InvalidRequestError(
        "response_format: expected {'type': 'json_schema', 'json_schema': {'schema': …}}, "
        f"{{'type': 'json_object'}} or a class, got {form!r:.80}"
    )


def definition(tool: Any, strict: bool | None = None) -> dict[str, Any]:
    """Return the definition of a tool in any form that LangChain knows.

    A dict stays what it says; of classes and functions, what no grammar can enforce is left out.
    """
    made = convert_to_openai_tool(tool, strict=strict)
    function = made["function"]
    if not isinstance(tool, dict) and "parameters" in function:
        function["parameters"] = enforceable_schema(function["parameters"])
    return made


def json_schema(schema: dict[str, Any] | type) -> dict[str, Any]:
    """Return the JSON Schema of a class, or of a dict in any form that LangChain knows.

    Without titles, which only repeat names; objects hold the properties that are listed and, where
    the schema does not say otherwise, no others.

    >>> json_schema({"title": "T", "type": "object", "properties": {"a": {"title": "A"}}})
    {'type': 'object', 'properties': {'a': {}}, 'additionalProperties': False}
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        # With its references: it may refer to itself.
        plain = enforceable_schema(schema.model_json_schema())
    elif isinstance(schema, dict) and not _OF_FUNCTIONS & schema.keys():
        plain = schema
    else:
        plain = convert_to_json_schema(schema)
    return closed_schema(untitled_schema(plain))


def _told(dialogue: list[Message], schema: dict[str, Any]) -> list[Message]:
    """Return a dialogue whose last words show the schema, as its descriptions guide the model."""
    if not schema:
        return dialogue  # any object: the caller's own words say which
    shown = json.dumps(schema, ensure_ascii=False, default=repr)  # what is no JSON is refused later
    words = f"Answer with JSON by this schema: {shown}"
    last = dialogue[-1:]
    if last and last[0]["role"] == "user":
        told = Message(role="user", content=f"{last[0]['content']}\n\n{words}")
        return [*dialogue[:-1], told]
    return [*dialogue, Message(role="user", content=words)]
