"""Small schemas, grammars and patterns that ask for much work: it is bounded, or refused."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from starchat import ConstraintError, StarChat, closed_schema, map_schema
from starchat.grammar import enforcement
from starchat.grammar.constraint import Constraint, json_text
from starchat.grammar.enforcement import enforced_schema
from starchat.grammar.schemas import Schema, check_exact, prompt_schema

DISTINCT = {"type": "array", "uniqueItems": True}


def repeated(n: int) -> Schema:
    """Return a schema that holds the same one 2^n times."""
    schema: Schema = {"type": "null"}
    for _ in range(n):
        schema = {"anyOf": [schema, schema]}
    return schema


def test_a_schema_that_is_held_twice_is_changed_once() -> None:
    n = 0

    def change(node: Schema) -> Schema:
        nonlocal n
        n += 1
        return node

    assert map_schema(repeated(18), change) == repeated(18)
    assert n == 19
    assert closed_schema(repeated(60))["anyOf"]  # 2^60 would not come to an end


def test_values_that_references_double_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n, last, dumps = 0, {"const": 1}, json.dumps
    double = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(12)}

    def counted(*args: Any, **options: Any) -> str:
        nonlocal n
        n += 1
        return dumps(*args, **options)

    monkeypatch.setattr(enforcement.json, "dumps", counted)
    schema = {"$defs": double | {"d12": last}, **DISTINCT, "items": {"$ref": "#/$defs/d0"}}
    assert enforced_schema(schema)["enum"] == [(), (1,)]  # type: ignore[index]
    assert n < 40


@pytest.mark.parametrize("bounds", [{}, {"maxItems": 3000}, {"minItems": 1500, "maxItems": 1501}])
def test_lists_of_distinct_values_are_counted_only_as_far_as_they_are_few(
    monkeypatch: pytest.MonkeyPatch, bounds: dict[str, int]
) -> None:
    def small(count: Callable[[int, int], int]) -> Callable[[int, int], int]:
        def counted(n: int, k: int) -> int:
            assert min(k, n - k) < 6
            return count(n, k)

        return counted

    monkeypatch.setattr(enforcement, "perm", small(math.perm))
    monkeypatch.setattr(enforcement, "comb", small(math.comb))
    schema = {**DISTINCT, **bounds, "items": {"enum": [*range(3000)]}}
    assert enforced_schema(schema) == schema


def test_of_all_values_there_is_one_list_in_any_number() -> None:
    schema = {**DISTINCT, "minItems": 600, "items": {"enum": [*range(600)]}, "maxItems": 600}
    assert len(enforced_schema(schema)["enum"]) == 1  # type: ignore[index]


def test_what_is_written_out_for_many_schemas_is_bounded_in_all() -> None:
    definitions = {"e": {"enum": [f"name {i}" for i in range(2000)]}}
    names = {"propertyNames": {"$ref": "#/$defs/e"}}
    schema = {"$defs": definitions, "properties": {f"p{i}": {**names} for i in range(400)}}
    with pytest.raises(ConstraintError, match="enforces of it has more than 4,194,304 bytes"):
        json_text(schema)
    tracemalloc.start()
    try:
        assert enforced_schema(schema, 10**6) is None
        assert tracemalloc.get_traced_memory()[1] < 15_000_000  # all 400: 40 MB
    finally:
        tracemalloc.stop()


def test_references_are_written_out_only_as_far_as_they_are_few() -> None:
    named = {f"p{i}": {"$ref": "#/$defs/b"} for i in range(400)}
    schema = {"$defs": {"b": {"enum": ["x" * 10_000]}}, "properties": named}
    assert prompt_schema(schema, 10**5) is None
    assert len(json.dumps(prompt_schema(schema))) > 400 * 10_000


def test_the_places_of_many_deep_schemas_take_no_memory() -> None:
    schema: Schema = {"properties": {f"p{i}": {"type": "null"} for i in range(500)}}
    for _ in range(100):
        schema = {"properties": {"k" * 1000: schema}}
    tracemalloc.start()
    try:
        check_exact(schema, "json_schema")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # 500 pointers of 100 KB: 50 MB
    finally:
        tracemalloc.stop()
    with pytest.raises(ConstraintError) as raised:
        check_exact({"properties": {"k" * 1000: {"const": 2**60}}}, "json_schema")
    assert len(str(raised.value)) < 500


def test_a_schema_that_is_nested_too_deeply_says_so(nano: StarChat) -> None:
    schema: Schema = {}
    for _ in range(10_000):
        schema = {"items": schema}
    with pytest.raises(ConstraintError, match="nested too deeply"):
        nano.complete("a", json_schema=schema)
    itself: Schema = {"type": "array"}
    itself["items"] = itself
    with pytest.raises(ConstraintError, match="Circular reference"):
        nano.complete("a", json_schema=itself)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda: [*enforcement._anded("^(?=" + "[^a]" * 40 + "(")], id="look-ahead"),
        pytest.param(lambda: [*enforcement._anded("^" + "(?=a)" * 50_000)], id="many look-aheads"),
        pytest.param(lambda: lark('"' + '\\"' * 15_000), id="open string"),
        pytest.param(lambda: lark("/" + "\\/" * 15_000), id="open regex"),
    ],
)
def test_no_text_makes_a_search_try_it_again_and_again(read: Callable[[], object]) -> None:
    start = time.process_time()
    read()
    assert time.process_time() - start < 0.5  # of CPU time; again and again: 4 s to hours


def lark(text: str) -> object:
    return Constraint.from_options({"grammar": f"start: %json {{}}\n{text}"})
