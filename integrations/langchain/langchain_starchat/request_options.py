"""A call's arguments → the request to starchat: tools, tool choice and response format.

Where a response format stands beside tools, the reply may take two attempts: with the tools, and
if it calls none, again as JSON.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any, NamedTuple, cast

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

from starchat import (
    ChatOptions,
    Chunk,
    InvalidRequestError,
    Message,
    ReplyOptions,
    StarChat,
    closed_schema,
    enforceable_schema,
    untitled_schema,
)
from starchat.openai import read_response_format, read_tool_choice, read_tools

_OF_TOOLS = ChatOptions.__optional_keys__ - ReplyOptions.__optional_keys__
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


class TwoAttempts:
    """Asks with tools; where the reply calls none, asks again for JSON without tools.

    The model decides about calls as it does without a format. The text of a first reply without
    calls is dropped; the usage is the sum of both.
    """

    def __init__(self, with_tools: ChatRequest, for_json: ChatRequest) -> None:
        """Take the two requests in order."""
        self._with_tools = with_tools
        self._for_json = for_json
        self._held: list[Chunk] = []  # chunks before the first call
        self._calls = False

    def chunks(self, model: StarChat) -> Generator[Chunk, None, None]:
        """Yield the first reply if it calls a tool, else the second."""
        with closing(self._with_tools.chunks(model)) as chunks:
            for chunk in chunks:
                yield from self._released(chunk)
        if not self._calls:
            with closing(self._for_json.chunks(model)) as chunks:
                yield from map(self._with_both_usages, chunks)

    async def achunks(self, model: StarChat) -> AsyncGenerator[Chunk, None]:
        """Yield the first reply if it calls a tool, else the second."""
        async with aclosing(self._with_tools.achunks(model)) as chunks:
            async for chunk in chunks:
                for released in self._released(chunk):
                    yield released
        if not self._calls:
            async with aclosing(self._for_json.achunks(model)) as chunks:
                async for chunk in chunks:
                    yield self._with_both_usages(chunk)

    def _released(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks of the first reply to yield now: none before its first call."""
        self._calls = self._calls or bool(chunk.tool_calls)
        self._held.append(chunk)
        if not self._calls:
            return []
        released, self._held = self._held, []
        return released

    def _with_both_usages(self, chunk: Chunk) -> Chunk:
        first = self._held[-1].usage
        return replace(chunk, usage=first + chunk.usage) if first and chunk.usage else chunk


def chat_request(
    dialogue: list[Message], arguments: Mapping[str, Any]
) -> ChatRequest | TwoAttempts:
    """Return the request, or the two attempts, for a dialogue and a call's arguments.

    Raises InvalidRequestError for `tools`, a `tool_choice` or a `response_format` of no known form.
    """
    options = cast(ChatOptions, dict(arguments))
    form = options.pop("response_format", None)  # type: ignore[typeddict-item]
    choice = options["tool_choice"] = read_tool_choice(options.get("tool_choice"))
    if tools := read_tools(options.get("tools")):
        options["tools"] = tools
    request = ChatRequest(dialogue, options)
    schema = form if isinstance(form, type) else read_response_format(form)
    if schema is None or (tools and choice not in (None, "auto", "none")):
        return request  # a forced call leaves no place for JSON
    enforced = {} if schema is True else json_schema(schema)
    bare = {name: value for name, value in options.items() if name not in _OF_TOOLS}
    bare["json_schema"] = enforced or True
    for_json = ChatRequest(_with_schema(dialogue, enforced), cast(ChatOptions, bare))
    return for_json if not tools or choice == "none" else TwoAttempts(request, for_json)


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


def _with_schema(dialogue: list[Message], schema: dict[str, Any]) -> list[Message]:
    """Return a dialogue whose last message shows the schema: its descriptions guide the model."""
    if not schema:
        return dialogue  # any object: the prompt says which
    shown = json.dumps(schema, ensure_ascii=False, default=repr)  # starchat refuses what is no JSON
    words = f"Answer with JSON by this schema: {shown}"
    last = dialogue[-1:]
    if last and last[0]["role"] == "user":
        told = Message(role="user", content=f"{last[0]['content']}\n\n{words}")
        return [*dialogue[:-1], told]
    return [*dialogue, Message(role="user", content=words)]
