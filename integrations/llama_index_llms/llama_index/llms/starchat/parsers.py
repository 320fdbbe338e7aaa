"""LlamaIndex's output parsers → the JSON Schema of what they read.

A parser that is not known here gets a free reply, as from every LLM.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.output_parsers import PydanticOutputParser, SelectionOutputParser
from llama_index.core.output_parsers.pydantic import PYDANTIC_FORMAT_TMPL
from llama_index.core.question_gen.output_parser import SubQuestionOutputParser
from llama_index.core.types import BaseOutputParser
from llama_index.core.vector_stores.types import FilterOperator, VectorStoreQuerySpec
from llama_index.llms.starchat.choices import Schema
from llama_index.llms.starchat.structured import parsable_schema

from starchat import closed_schema

# What the parsers leave open is bounded, so that a reply ends; without "`": some cut their text at
# ```json.
_SENTENCE: Schema = {"type": "string", "pattern": "^[^`]{1,300}$"}
_MOST_QUESTIONS = 5
_MOST_FILTERS = 5
_OF_LISTS = ("in", "nin", "any", "all")
_JSON_TYPES = {"int": "integer", "integer": "integer", "float": "number", "str": "string"}
_BEFORE_SCHEMA, _AFTER_SCHEMA = PYDANTIC_FORMAT_TMPL.split("{schema}")


class ParsedDialogue(list[ChatMessage]):
    """Messages whose reply is parsed: it must be whole, and follow the schema if it is a text."""

    def __init__(self, messages: Iterable[ChatMessage], json_schema: Schema | None = None) -> None:
        """Keep the messages and the schema."""
        super().__init__(messages)
        self.json_schema = json_schema


def schema_read_by(
    parser: BaseOutputParser | None, prompt_args: Mapping[str, Any]
) -> Schema | None:
    """Return the schema of what a prompt's parser reads, None where it is not known."""
    if isinstance(parser, PydanticOutputParser):
        return parsable_schema(parser.output_cls)
    if isinstance(parser, SelectionOutputParser):
        return _selections(prompt_args.get("num_choices"), prompt_args.get("max_outputs"))
    if isinstance(parser, SubQuestionOutputParser):
        return _sub_questions(prompt_args.get("tools_str"))
    # VectorIndexAutoRetriever keeps its parser to itself, and shows what that reads.
    if prompt_args.get("schema_str") == VectorStoreQuerySpec.model_json_schema():
        return _query_spec(prompt_args.get("info_str"))
    return None


def schema_shown_in(messages: list[ChatMessage]) -> Schema | None:
    """Return the schema that PydanticOutputParser wrote into a prompt, None if there is none.

    LLMTextCompletionProgram asks with such prompts; the parser writes at the end of the system
    message, or else of the last one.
    """
    for message in messages[:1] + messages[-1:]:
        _, found, shown = (message.content or "").rpartition(_BEFORE_SCHEMA)
        if found and shown.endswith(_AFTER_SCHEMA):
            text = shown.removesuffix(_AFTER_SCHEMA)
            for written in (text, text.replace("{{", "{").replace("}}", "}")):  # twice, mostly
                with suppress(ValueError, RecursionError):
                    return closed_schema(json.loads(written))
    return None


def _selections(n_choices: Any, most: Any) -> Schema:
    number: Schema = {"type": "integer", "minimum": 1}
    if isinstance(n_choices, int):
        number["maximum"] = n_choices
    return _list(most or 1, _object(choice=number, reason=_SENTENCE))


def _sub_questions(tools: Any) -> Schema:
    name: Schema = {"type": "string"}
    with suppress(TypeError, ValueError):  # a template of another form
        name["enum"] = list(json.loads(tools)) or [""]
    return _object(items=_list(_MOST_QUESTIONS, _object(sub_question=_SENTENCE, tool_name=name)))


def _query_spec(info: Any) -> Schema:
    """Return the schema of a query to a vector store; `info` lists its metadata as JSON."""
    fields: list[Any] = []
    with suppress(TypeError, ValueError, KeyError):
        fields = json.loads(info)["metadata_info"]
    filters = [schema for field in fields for schema in _filters(field["name"], field["type"])]
    some = _list(_MOST_FILTERS, {"anyOf": filters}) | {"minItems": 0}
    return _object(
        query=_SENTENCE,
        filters=some if filters else {"const": []},
        top_k={"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, {"type": "null"}]},
    )


def _filters(name: str, type_name: str) -> Iterable[Schema]:
    """Yield the schemas of filters by one value and by a list of values."""
    kind = _JSON_TYPES.get(type_name.lower(), "string")
    value = _SENTENCE if kind == "string" else {"type": kind}
    of_values = [op.value for op in FilterOperator if op.value not in (*_OF_LISTS, "is_empty")]
    yield _object(key={"const": name}, value=value, operator={"enum": of_values})
    yield _object(key={"const": name}, value=_list(5, value), operator={"enum": list(_OF_LISTS)})


def _list(n_most: int, item: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "maxItems": n_most, "items": item}


def _object(**properties: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
