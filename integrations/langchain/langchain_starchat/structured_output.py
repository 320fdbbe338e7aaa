"""A reply in JSON → a validated object; a reply that was cut is an error.

LangChain's own parsers complete cut JSON, so half an answer would pass as a whole one.
"""

from __future__ import annotations

import json
from operator import itemgetter
from typing import Any, TypeGuard

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import BaseCumulativeTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.json import parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from langchain_starchat.errors import CutReplyError
from langchain_starchat.messages import written_arguments
from starchat import json_so_far


class StructuredOutputParser(BaseCumulativeTransformOutputParser[Any]):
    """Reads the JSON of a reply, or the arguments of its tool call.

    In a stream, dicts grow with the reply; an instance of a class comes once, at the end.
    Raises OutputParserException for a reply that is no JSON or does not validate, and its
    subclass CutReplyError for one that was cut.
    """

    target: type[Any] | None = None
    """The pydantic class of the result; None: the JSON's own value."""
    tool: str | None = None
    """The tool whose arguments are read; None: the text is the JSON."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Return the object; None as long as a partial reply has none."""
        generation = result[0]
        if not isinstance(generation, ChatGeneration):
            raise OutputParserException("expected the reply of a chat model, got a plain text")
        message = generation.message
        reason = message.response_metadata.get("finish_reason")
        text = self._text(message)
        if self.tool is None and not text and getattr(message, "tool_calls", None):
            return None  # the reply calls tools, which may stand beside a schema
        if partial and reason is None:  # the reply goes on
            return parse_partial_json(text) if text and self.target is None else None
        try:
            value = self._value(text)
        except ValueError as exc:
            if reason == "length":
                raise _cut(text) from exc
            problem = f"the reply does not fit the schema: {exc!s:.1000}: {text:.200}"
            raise OutputParserException(problem, llm_output=text) from exc
        if reason == "length" and isinstance(value, (int, float)):  # there may be more digits
            raise _cut(text)
        return value

    async def aparse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Do the same, without the thread that LangChain would start for each chunk."""
        return self.parse_result(result, partial=partial)

    def parse(self, text: str) -> Any:
        """Return the object of a text."""
        return self._value(text)

    def _value(self, text: str) -> Any:
        if self.target is None:
            return json.loads(text)
        if issubclass(self.target, BaseModel):
            return self.target.model_validate_json(text)
        return self.target.parse_raw(text)  # pydantic 1

    def _text(self, message: BaseMessage) -> str:
        if self.tool is None:
            return str(message.text)
        for call in getattr(message, "tool_calls", []):
            if call["name"] == self.tool:
                return json.dumps(call["args"])
        calls = getattr(message, "invalid_tool_calls", [])
        cut = next((call["args"] for call in calls if call["name"] == self.tool), None)
        return written_arguments(cut or "")

    @property
    def _type(self) -> str:
        return "starchat_structured_output"


def is_pydantic(schema: Any) -> TypeGuard[type[Any]]:
    """Return whether the schema is a pydantic class, of version 1 or 2."""
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def beside_raw(llm: Runnable[Any, Any], parser: StructuredOutputParser) -> Runnable[Any, Any]:
    """Return a runnable of {"raw": the message, "parsed": …, "parsing_error": …}."""
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _cut(text: str) -> CutReplyError:
    problem = f"the reply was cut at max_tokens, its JSON is incomplete: give it more: {text:.200}"
    return CutReplyError(problem, text=text, partial=json_so_far(text))
