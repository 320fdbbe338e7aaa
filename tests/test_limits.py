"""schema_limits: bounds for what a JSON Schema leaves open, and for nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from starchat import InvalidRequestError, StarChat
from starchat.grammar.limits import limited_schema

validate: Any = pytest.importorskip("jsonschema").validate

LIMITS = {"string": 6, "array": 2, "object": 2, "digits": 3}
TEXT = {"type": "string"}
CALL = {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}
SCHEMAS: list[Any] = [
    True,
    {},
    {"type": "array"},
    {"type": "object", "additionalProperties": {"type": "array", "items": TEXT}},
    {"type": "object", "properties": {"a": TEXT, "b": True}, "required": ["a", "b"]},
    {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["a"]},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": TEXT},
    {"type": ["number", "null"]},
    {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "number"}}]},
    {"$defs": {"N": {"type": "array", "items": {"$ref": "#/$defs/N"}}}, "$ref": "#/$defs/N"},
]


def is_within(value: Any, n_named: int = 0) -> bool:
    if isinstance(value, str):
        return len(value) <= LIMITS["string"]
    if isinstance(value, list):
        return len(value) <= LIMITS["array"] and all(map(is_within, value))
    if isinstance(value, dict):
        few = len(value) <= LIMITS["object"] + n_named
        return (
            few and all(map(is_within, value.values())) and (n_named or all(map(is_within, value)))
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return abs(value) < 1000 and round(value, 3) == value
    return True


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_replies_are_within_the_limits(nano: StarChat, schema: Any) -> None:
    hot = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "max_tokens": 150}
    options = {"json_schema": schema, "schema_limits": LIMITS, **hot}
    streams = [nano.stream_complete("Tea:", seed=seed, **options) for seed in range(8)]
    values = [json.loads(stream.result().text) for stream in streams]
    n_named = len(schema.get("properties", {})) if schema is not True else 0
    for value in values:
        validate(value, {"type": "object"} if schema is True else schema)
        assert is_within(value, n_named)


@pytest.mark.parametrize(
    ("schema", "limited"),
    [
        ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 3}),
        ({"type": "string", "maxLength": 9}, {"type": "string", "maxLength": 6}),
        ({"type": "string", "minLength": 8}, {"type": "string", "minLength": 8, "maxLength": 8}),
        ({"type": "string", "pattern": "^a+$"}, {"type": "string", "pattern": "^a+$"}),
        ({"enum": ["a longer word"]}, {"enum": ["a longer word"]}),
        (
            {"type": "array", "items": {"type": "null"}, "minItems": 4},
            {"type": "array", "items": {"type": "null"}, "minItems": 4, "maxItems": 4},
        ),
        (
            {"type": "integer", "minimum": 5, "maximum": 7},
            {"type": "integer", "minimum": 5, "maximum": 7},
        ),
        (
            {"type": "integer", "minimum": 12345},
            {"type": "integer", "minimum": 12345, "maximum": 99999},
        ),
        (
            {"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": False},
            {"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": False},
        ),
        (
            {"not": {"type": "string"}, "type": ["null", "string"]},
            {"not": {"type": "string"}, "type": ["null", "string"]},
        ),
    ],
    ids=str,
)
def test_what_a_schema_bounds_itself_is_kept(schema: Any, limited: Any) -> None:
    made = limited_schema(schema, LIMITS)
    made.pop("$defs")
    assert made == limited
    assert limited_schema(schema, {}) == schema


def test_arguments_of_calls_are_within_the_limits(nano: StarChat) -> None:
    tool = {"name": "note", "parameters": CALL}
    options = {"tools": [tool], "tool_choice": "note", "max_tokens": 100, "temperature": 3.0}
    dialogue = [{"role": "user", "content": "Note that tea is hot."}]
    for seed in range(4):
        reply = nano.chat(dialogue, schema_limits={"string": 2}, seed=seed, **options)
        assert all(len(call.arguments["a"]) <= 2 for call in reply.tool_calls)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"strings": 3}, "unknown key 'strings', expected string, array, object, digits"),
        ({"string": -1}, r"schema_limits.string: expected an integer from 0 to 1,000,000, got -1"),
        ({"digits": 0}, "schema_limits.digits: expected an integer from 1 to 9, got 0"),
        (3, "expected a dict of string, array, object, digits to integers, got 3"),
    ],
)
def test_wrong_limits_are_errors(nano: StarChat, limits: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        nano.complete("Tea:", json_schema=True, schema_limits=limits)
