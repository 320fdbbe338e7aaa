"""JSON Schemas as data: what a grammar follows, it follows exactly; what it cannot is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starchat import ConstraintError
from starchat.constraint import json_text
from starchat.schemas import check_exact, map_below

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
        ({"$defs": {"a": {"maximum": -1e30}}}, r"s: maximum has the number -1e\+30, expected one"),
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


def test_only_schemas_are_visited_and_no_data() -> None:
    schema = {
        "properties": {"title": 1, "items": 2},
        "items": 3,
        "prefixItems": [4, 5],
        "enum": [{"items": 6}],
        "default": {"properties": {"a": 7}},
    }
    seen: list[Any] = []
    map_below(schema, seen.append)
    assert sorted(seen) == [1, 2, 3, 4, 5]
