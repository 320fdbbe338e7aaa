"""A call's arguments → the request to starchat: tools, tool choice and response format."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, NamedTuple, cast

from langchain_starchat.schemas import class_of, json_schema
from starchat import ChatOptions, Chunk, InvalidRequestError, Limits, Message, StarChat
from starchat.model_settings import write_json
from starchat.openai import read_response_format, read_tool_choice, read_tools, system_first


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


def chat_request(
    dialogue: list[Message], arguments: Mapping[str, Any], limits: Limits | None = None
) -> ChatRequest:
    """Return the request for a dialogue and a call's arguments.

    limits: of the schema, whose text becomes part of the dialogue.

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
    if isinstance(schema, dict):
        (limits or Limits()).check_schema("response_format", schema)
    enforced = {} if schema is True else json_schema(class_of(schema))
    options["json_schema"] = enforced or True
    may_call = bool(tools) and choice != "none"
    is_begun = bool(options.get("continue_final_message"))
    return ChatRequest(_with_schema(dialogue, enforced, may_call, is_begun), options)


def _with_schema(
    dialogue: list[Message], schema: dict[str, Any], may_call: bool, is_begun: bool
) -> list[Message]:
    """Return a dialogue that shows the schema: its descriptions guide the model.

    It stands at the end. Where the reply may call tools, that would have the model answer at once:
    it stands in the system turn, as it does where the last message is a begun answer.
    """
    if not schema:
        return dialogue  # any object: the prompt says which
    shown = write_json(schema, ensure_ascii=False, default=repr)  # starchat refuses what is no JSON
    asked = "If you call no tool, answer" if may_call else "Answer"
    words = f"{asked} with JSON by this schema: {shown}"
    if may_call or is_begun:
        return system_first([*dialogue, Message(role="system", content=words)])
    last = dialogue[-1:]
    if last and last[0]["role"] == "user":
        told = Message(role="user", content=f"{last[0]['content']}\n\n{words}")
        return [*dialogue[:-1], told]
    return [*dialogue, Message(role="user", content=words)]
