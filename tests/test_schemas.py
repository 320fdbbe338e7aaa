"""JSON Schemas as data: what a grammar follows, it follows exactly; what it cannot is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starchat import ConstraintError, closed_schema, map_schema, untitled_schema
from starchat.grammar.constraint import json_text
from starchat.grammar.schemas import Schema, check_exact

Draft202012Validator = pytest.importorskip("jsonschema").Draft202012Validator
META = "https://json-schema.org/draft/2020-12/meta/"
REGISTRY = pytest.importorskip("jsonschema_specifications").REGISTRY
grammars = pytest.importorskip("support.grammars", reason="pip install llguidance")

numbers = st.one_of(
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e6, 1e6).map(lambda value: round(value, 4)),
)


def has_many_digits(value: float) -> bool:
    return len(f"{abs(Decimal(repr(value))):f}".replace(".", "").lstrip("0")) > 15 or (
        not -(2**53) < value < 2**53 or 0 < abs(value) < 1e-6
    )


@given(st.one_of(numbers, st.lists(numbers, max_size=3)))
@example(2**53 - 1)
@example(2**53 + 1)
@example(5e-324)
@example(0.1)
@example(True)
@example(-0.0)
@settings(deadline=None)
def test_constants_that_are_taken_are_exact(value: Any) -> None:
    try:
        schema = json_text({"const": value})
    except ConstraintError:
        assert any(map(has_many_digits, value if isinstance(value, list) else [value]))
        return
    assert json.loads(grammars.random_text(f"start: %json {schema}", 0)) == value


@given(st.integers(-(2**64), 2**64), st.sampled_from(["exclusiveMinimum", "minimum"]))
@example(-(10**17), "exclusiveMinimum")
@settings(deadline=None)
def test_bounds_that_are_taken_are_exact(bound: int, keyword: str) -> None:
    try:
        schema = json_text({"type": "integer", keyword: bound, "maximum": bound + 1})
    except ConstraintError:
        assert max(abs(bound), abs(bound + 1)) >= 2**53
        return
    for seed in range(4):
        value = json.loads(grammars.random_text(f"start: %json {schema}", seed))
        assert bound <= value <= bound + 1 and not (value == bound and keyword[0] == "e")


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"items": {"enum": [1, [{"a": 2**53}]]}}, "s: enum has the number 9007199254740992, exp"),
        (
            {"$defs": {"a": {"maximum": -1e30}}},
            r"s: maximum has the number -1e\+30, expected at most 15 digits",
        ),
        ({"anyOf": [{"minProperties": 2}]}, "s: minProperties is 2 where 0 are required, expected"),
        ({"minProperties": 3, "required": ["a"]}, "minProperties is 3 where 1 are required"),
    ],
    ids=lambda value: json.dumps(value)[:30],
)
def test_what_would_be_followed_inexactly_is_refused(schema: Any, sentence: str) -> None:
    with pytest.raises(ConstraintError, match=sentence):
        check_exact(schema, "s")


@pytest.mark.parametrize(
    "schema",
    [
        {"minProperties": 2, "required": ["a"]},
        {"default": 2**60, "examples": [2**60], "properties": {"const": {}, "minimum": {}}},
        {"contentSchema": {"const": 2**60}},
        {"required": 3, "minProperties": "x", "items": 4, "properties": [], "enum": "x"},
    ],
    ids=lambda schema: json.dumps(schema)[:30],
)
def test_the_rest_is_left_to_the_compiler(schema: Any) -> None:
    check_exact(schema, "s")


def test_schemas_of_any_depth_are_looked_at() -> None:
    schema: Any = {"const": 2**60}
    for _ in range(10_000):
        schema = {"items": schema}
    with pytest.raises(ConstraintError, match="const has the number"):
        check_exact(schema, "s")


class Level(IntEnum):
    LOW = 1
    HIGH = 2**60


@pytest.mark.parametrize("value", [Level.LOW, np.float64(0.5)], ids=["enum", "numpy"])
def test_values_of_other_types_are_what_json_makes_of_them(value: Any) -> None:
    assert json.loads(json_text({"const": value}))["const"] == value


@pytest.mark.parametrize(
    "schema",
    [{"enum": [Level.HIGH]}, {"anyOf": ({"const": 2**60},)}, {"items": MappingProxyType({})}],
    ids=["enum", "tuple", "mapping"],
)
def test_no_type_hides_what_would_be_followed_inexactly(schema: Any) -> None:
    with pytest.raises(ConstraintError):
        json_text(schema)


def holders() -> Iterator[tuple[str, str]]:
    """Yield all keywords that hold schemas, and how they do, by JSON Schema's meta-schemas."""
    one, several, named = "%s", "[%s, true]", '{"items": %s, "enum": false}'
    for vocabulary in ("core", "applicator", "unevaluated", "content"):
        for keyword, form in REGISTRY.contents(META + vocabulary)["properties"].items():
            if form.get("$dynamicRef") == "#meta":
                yield keyword, one
            elif form.get("$ref") == "#/$defs/schemaArray":
                yield keyword, several
            elif form.get("additionalProperties") == {"$dynamicRef": "#meta"}:
                yield keyword, named
    yield from [("items", several), ("additionalItems", one), ("definitions", named)]  # older


@pytest.mark.parametrize(("keyword", "form"), [*holders()])
def test_all_schemas_are_changed_and_no_data(keyword: str, form: str) -> None:
    def holding(schema: Schema) -> Schema:
        return {keyword: json.loads(form % json.dumps(schema))}

    inner = {"default": {"not": {"title": "data"}}, "enum": [{"items": {}}]}
    titled = map_schema(holding(inner), lambda node: node | {"title": "T"})
    assert titled == holding(inner | {"title": "T"}) | {"title": "T"}
    assert untitled_schema(titled) == holding(inner)


A = {"properties": {"a": {}}}


def test_objects_are_closed_where_their_schema_says_nothing() -> None:
    closed = A | {"additionalProperties": False}
    assert closed_schema({"properties": {"a": A}, "items": [{"anyOf": [A, True]}]}) == {
        "properties": {"a": closed},
        "items": [{"anyOf": [closed, True]}],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        A | {"additionalProperties": True},
        A | {"patternProperties": {"^b": {}}},
        {"allOf": [A, {"properties": {"b": {}}}]},
        A | {"anyOf": [{"properties": {"b": {}}}]},
        {"dependentSchemas": {"b": A}},
    ],
    ids=lambda schema: json.dumps(schema)[1:40],
)
def test_objects_stay_open_where_their_schema_says_so_or_is_combined(schema: Schema) -> None:
    assert closed_schema(schema) == schema


def of_schemas(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    kinds = ("items", "contains", "not", "if", "then", "else")
    return st.one_of(
        st.dictionaries(st.sampled_from("ab"), inner).map(lambda each: {"properties": each}),
        st.dictionaries(st.sampled_from(kinds), inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"allOf": some}),
    )


@given(
    st.recursive(st.sampled_from([{}, {"type": "integer"}, A]), of_schemas, max_leaves=4),
    st.recursive(
        st.integers(0, 1),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
        max_leaves=3,
    ),
)
@example({"not": A}, {"b": 1})
@example({"if": A, "then": {"type": "integer"}}, {"b": 1})
@example({"contains": A, "maxContains": 0}, [{"b": 1}])
def test_what_a_closed_schema_takes_the_schema_takes(schema: Schema, value: Any) -> None:
    if Draft202012Validator(closed_schema(schema)).is_valid(value):
        assert Draft202012Validator(schema).is_valid(value)
