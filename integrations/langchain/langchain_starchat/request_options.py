"""A call's arguments → the request to starchat: tools, tool choice and response format."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

from starchat import (
    ChatOptions,
    Chunk,
    InvalidRequestError,
    Message,
    StarChat,
    closed_schema,
    enforceable_schema,
    untitled_schema,
)
from starchat.openai import read_response_format, read_tool_choice, read_tools, system_first

_NAMES = {"name", "title", "function", "toolSpec"}
_OF_FUNCTIONS = {"function", "parameters", "input_schema", "toolSpec"}


class ChatRequest(NamedTuple):
    """One request to starchat."""

    dialogue: list[Message]
    options: ChatOptions

    def chunks(self, model: StarChat) -> Generator[Chunk, None, None]:
        """Yield the reply as starchat writes it."""
        with model.stream_chat(self.dialogue, **self.options) as stream:
            yield from stream

    async def achunks(self, model: StarChat) -> AsyncGenerator[Chunk, None]:
        """Yield the reply as starchat writes it."""
        async with model.astream_chat(self.dialogue, **self.options) as stream:
            async for chunk in stream:
                yield chunk


def chat_request(dialogue: list[Message], arguments: Mapping[str, Any]) -> ChatRequest:
    """Return the request for a dialogue and a call's arguments.

    Raises InvalidRequestError for `tools`, a `tool_choice` or a `response_format` of no known form.
    """
    options = cast(ChatOptions, dict(arguments))
    form = options.pop("response_format", None)  # type: ignore[typeddict-item]
    choice = options["tool_choice"] = read_tool_choice(options.get("tool_choice"))
    if tools := read_tools(options.get("tools")):
        options["tools"] = tools
    schema = form if isinstance(form, type) else read_response_format(form)
    if schema is None or (tools and choice not in (None, "auto", "none")):
        return ChatRequest(dialogue, options)  # a forced call leaves no place for JSON
    if options.get("json_schema") is not None:
        problem = "json_schema and response_format: expected one of them"
        raise InvalidRequestError(problem, param="json_schema")
    enforced = {} if schema is True else json_schema(schema)
    options["json_schema"] = enforced or True
    may_call = bool(tools) and choice != "none"
    is_begun = bool(options.get("continue_final_message"))
    return ChatRequest(_with_schema(dialogue, enforced, may_call, is_begun), options)


def definitions(tools: Sequence[Any], strict: bool | None = None) -> list[dict[str, Any]]:
    """Return the definitions of tools in any form that LangChain knows, in OpenAI's form.

    A dict is not changed; schemas of classes and functions lose what no grammar can enforce.
    """
    read = read_tools(
        [_in_openais_form(f"tools[{i}]", tool, strict) for i, tool in enumerate(tools)]
    )
    for tool, made in zip(tools, read, strict=True):
        function = made.get("function", made)
        if not isinstance(tool, dict) and "parameters" in function:
            function["parameters"] = enforceable_schema(function["parameters"])
    return read


def _in_openais_form(where: str, tool: Any, strict: bool | None) -> dict[str, Any]:
    if isinstance(tool, dict) and not (
        (tool.get("type") in (None, "function", "object") or "input_schema" in tool)
        and _NAMES & tool.keys()
    ):
        kind = tool.get("type") or next(iter(tool), None)
        problem = (
            f"{kind!r:.80} is no function: this process has no tools that a provider's server "
            "runs; pass a function, a tool, a class or the definition of a function"
        )
        raise InvalidRequestError.of(where, problem, got=repr(kind))
    return convert_to_openai_tool(tool, strict=strict)


def json_schema(schema: dict[str, Any] | type) -> dict[str, Any]:
    """Return the JSON Schema of a class, or of a dict in any form that LangChain knows.

    Titles are removed, as they only repeat names. Objects get "additionalProperties": false where
    the schema does not say otherwise.

    >>> json_schema({"title": "T", "type": "object", "properties": {"a": {"title": "A"}}})
    {'type': 'object', 'properties': {'a': {}}, 'additionalProperties': False}
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        # convert_to_json_schema resolves references, which fails for recursive classes
        plain = enforceable_schema(schema.model_json_schema())
    elif isinstance(schema, dict) and not _OF_FUNCTIONS & schema.keys():
        plain = schema
    else:
        plain = convert_to_json_schema(schema)
    return closed_schema(untitled_schema(plain))


def _with_schema(
    dialogue: list[Message], schema: dict[str, Any], may_call: bool, is_begun: bool
) -> list[Message]:
    """Return a dialogue that shows the schema: its descriptions guide the model.

    It stands at the end. Where the reply may call tools, that would have the model answer at once:
    it stands in the system turn, as it does where the last message is a begun answer.
    """
    if not schema:
        return dialogue  # any object: the prompt says which
    shown = json.dumps(schema, ensure_ascii=False, default=repr)  # starchat refuses what is no JSON
    asked = "If you call no tool, answer" if may_call else "Answer"
    words = f"{asked} with JSON by this schema: {shown}"
    if may_call or is_begun:
        return system_first([*dialogue, Message(role="system", content=words)])
    last = dialogue[-1:]
    if last and last[0]["role"] == "user":
        told = Message(role="user", content=f"{last[0]['content']}\n\n{words}")
        return [*dialogue[:-1], told]
    return [*dialogue, Message(role="user", content=words)]
