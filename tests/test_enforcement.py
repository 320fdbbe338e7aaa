"""Schemas as they are enforced: all replies fit the given schema, or the schema is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from ipaddress import ip_address, ip_interface, ip_network
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import ConstraintError, StarChat
from starchat.grammar.constraint import json_text
from starchat.grammar.enforcement import enforced_schema
from starchat.grammar.formats import NUMBERS, dates_between, patterns_of
from starchat.grammar.schema_problems import problem_in

Draft202012Validator = pytest.importorskip("jsonschema").Draft202012Validator
grammars = pytest.importorskip("support.grammars", reason="pip install llguidance")


@pytest.fixture(scope="module")
def tiny(tiny_model_path: Path) -> Iterator[StarChat]:
    with StarChat.load(tiny_model_path, n_threads=1, prefix_cache_bytes=0) as model:
        yield model


def replies(schema: Any, n: int = 12) -> list[Any]:
    lark = f"start: %json {json_text(schema)}"
    return [json.loads(grammars.random_text(lark, seed, soft_limit=30)) for seed in range(n)]


# ---- formats --------------------------------------------------------------------------------


READERS: dict[str, Any] = {
    "date": date.fromisoformat,
    "date-time": lambda text: datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"),
    "ipv4": ip_address,
    "ipv6": ip_address,
    "ipvanyaddress": ip_address,
    "ipv4interface": ip_interface,
    "ipv6interface": ip_interface,
    "ipvanyinterface": ip_interface,
    "ipv4network": ip_network,
    "ipv6network": ip_network,
    "ipvanynetwork": ip_network,
    "complex": complex,
}


@pytest.mark.parametrize("name", READERS)
def test_what_has_a_format_can_be_read(name: str) -> None:
    for text in replies({"type": "string", "format": name}, 40):
        READERS[name](text)


def test_formats_end() -> None:
    for name in (
        "uri",
        "email",
        "duration",
        "json-pointer",
        "base64",
        "hostname",
        "multi-host-uri",
    ):
        assert max(map(len, replies({"type": "string", "format": name}))) < 400


@given(st.dates(), st.dates(), st.dates())
@settings(deadline=None)
def test_bounds_of_dates_are_exact(day: date, one: date, other: date) -> None:
    least, most = sorted([one, other])
    fits = all(re.fullmatch(p, day.isoformat()) for p in dates_between(least, most))
    assert fits == (least <= day <= most)
    assert all(re.fullmatch(p, f"{least}T10:00:00Z") for p in dates_between(least, most))


def test_bounds_of_dates_are_keywords_of_a_schema() -> None:
    bounds = {"formatMinimum": "2024-02-28", "formatExclusiveMaximum": "2024-03-01"}
    assert set(replies({"type": "string", "format": "date", **bounds})) <= {
        "2024-02-28",
        "2024-02-29",
    }


@pytest.mark.parametrize("form", ["date", "date-time"])
def test_past_and_future_are_those_of_the_request(form: str) -> None:
    today = date.today()
    for text in replies({"format": f"past-{form}", "type": "string"}):
        assert date.fromisoformat(text[:10]) < today
    for text in replies({"format": f"future-{form}", "type": "string"}):
        assert date.fromisoformat(text[:10]) > today
    (pattern, *bounds) = patterns_of("future-date") or []
    soon = (today + timedelta(days=3)).isoformat()
    assert all(re.fullmatch(each, soon) for each in (pattern, *bounds))


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_formats_of_numbers_are_bounds(name: str) -> None:
    kind = "integer" if "int" in name else "number"
    enforced = enforced_schema({"type": kind, "format": name, "minimum": -3})
    assert "format" not in enforced and "not" not in enforced
    assert enforced["minimum"] == (0 if name.startswith("u") else -3)
    json_text({"type": kind, "format": name})  # all bounds are exact


def test_a_format_says_nothing_about_other_types() -> None:
    assert enforced_schema({"type": "array", "format": "csv"}) == {"type": "array"}
    schema = {"type": ["string", "integer", "null"], "format": "date"}
    assert {type(value) for value in replies(schema, 30)} == {str, int, type(None)}


# ---- keys, distinct items -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ({"pattern": "^x[0-9]$"}, "x[0-9]"),
        ({"format": "uuid"}, "[0-9a-f-]{36}"),
        ({"type": "string", "minLength": 2, "maxLength": 3}, "(?s:.{2,3})"),
        ({"$ref": "#/$defs/Key"}, "k{3}"),
        (True, "(?s:.*)"),
    ],
    ids=["pattern", "format", "length", "reference", "any"],
)
def test_names_of_keys_are_held(names: Any, pattern: str) -> None:
    schema = {"type": "object", "propertyNames": names, "minProperties": 1, "maxProperties": 2}
    schema |= {"additionalProperties": {"type": "boolean"}, "$defs": {"Key": {"pattern": "^k{3}$"}}}
    for value in replies(schema):
        assert value and all(re.fullmatch(pattern, key) for key in value)
        assert all(isinstance(each, bool) for each in value.values())


@pytest.mark.parametrize(
    "items",
    [
        {"enum": ["a", "b", "c"]},
        {"type": "boolean"},
        {"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]},
        {"enum": list(range(8))},
        {"enum": list(range(30))},
    ],
    ids=["enum", "boolean", "optional reference", "in order", "many"],
)
def test_lists_of_distinct_items_are_held_where_there_are_few(items: Any) -> None:
    schema = {"type": "array", "items": items, "uniqueItems": True, "minItems": 2}
    schema |= {"maxItems": 2, "$defs": {"Color": {"enum": ["red", "blue"], "type": "string"}}}
    lists = replies(schema, 6)
    for value in lists:
        Draft202012Validator(schema).validate(value)
    assert len({json.dumps(value) for value in lists}) > 1
    text = json_text(schema)
    assert "\n" not in grammars.random_text(f"start: %json {text}", 3)


def test_one_item_is_distinct() -> None:
    schema = {"items": {"type": "null"}, "maxItems": 1, "uniqueItems": True, "type": "array"}
    assert all(value in ([], [None]) for value in replies(schema))


# ---- numbers, older drafts ------------------------------------------------------------------


def test_ends_that_are_excluded_are_never_written() -> None:
    ends = [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]
    for (least, most), low, high in product(combinations(ends, 2), *[(True, False)] * 2):
        schema = {"type": "number", "exclusiveMinimum" if low else "minimum": least}
        schema["exclusiveMaximum" if high else "maximum"] = most
        lark = f"start: %json {json_text(schema)}"
        for end in {0, int(least), int(most), least, most}:
            for text in (repr(end), f"-{end}" if end == 0 else f"{float(end)}0"):
                if grammars.accepts(lark, text):
                    Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize(
    ("old", "now"),
    [
        (
            {"items": [{"type": "null"}], "additionalItems": False},
            {"prefixItems": [{"type": "null"}], "items": False},
        ),
        ({"minimum": 3, "exclusiveMinimum": True}, {"exclusiveMinimum": 3}),
        ({"maximum": 3, "exclusiveMaximum": False}, {"maximum": 3}),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, {}),
        ({"type": "integer", "nullable": True}, {"type": "integer", "nullable": True}),
    ],
    ids=["tuple", "exclusive", "inclusive", "dialect", "OpenAPI"],
)
def test_words_of_older_drafts_are_read(old: Any, now: Any) -> None:
    assert enforced_schema(old) == now


# ---- patterns -------------------------------------------------------------------------------


def test_looks_ahead_that_are_conditions_are_held() -> None:
    pattern = r"^(?=.*[0-9])(?=[^,]*[a-z(])(?=.{4,6}$)[^ ]*$"
    for value in replies({"type": "string", "pattern": pattern, "maxLength": 8}):
        assert re.search(pattern, value)


ZOD_EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@"
    r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)


def test_patterns_of_libraries_are_held() -> None:
    for value in replies({"type": "string", "format": "email", "pattern": ZOD_EMAIL}, 40):
        assert re.search(ZOD_EMAIL, value)
    text = {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}  # of a Decimal
    assert not any(
        isinstance(value, str) for value in replies({"anyOf": [{"type": "number"}, text]})
    )


def test_what_allows_nothing_is_left_out() -> None:
    closed = {"type": "object", "properties": {"a": {}}, "additionalProperties": {"not": {}}}
    assert all(value.keys() <= {"a"} for value in replies(closed))
    assert set(replies({"anyOf": [{"not": {}}, {"const": 1}]})) == {1}


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"] at #/properties/a~1b'),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, '["uniqueItems"] at'),
        ({"type": "integer", "format": "roman"}, "Unknown format: roman at #/properties/a~1b"),
        ({"type": "string", "format": "unknown"}, "Unknown format: unknown at #/properties/a~1b"),
        ({"type": "string", "format": "regex"}, "Unknown format: regex at #/properties/a~1b"),
        ({"items": {"not": {"const": 1}}}, '["not"] at #/properties/a~1b/items: say what is allow'),
        (
            {"propertyNames": {"format": "past-date"}},
            '["propertyNames"] at #/properties/a~1b: only',
        ),
        ({"anyOf": [{"if": {}, "then": {}}]}, '["if"] at #/properties/a~1b/anyOf/0: say what is'),
        ({"format": "time", "formatMinimum": "10:00:00Z"}, "a bound of a format at #/properties"),
        ({"$ref": "#/$defs/Used"}, 'Unimplemented keys: ["contains"] at #/$defs/Used: use prefix'),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_what_cannot_be_held_is_refused_with_its_place(
    tiny: StarChat, schema: Any, problem: str
) -> None:
    whole = {"type": "object", "properties": {"a/b": schema}, "required": ["a/b"]}
    whole["$defs"] = {"Used": {"contains": {}}, "Unused": {"not": {}}}
    with pytest.raises(ConstraintError, match=re.escape(problem)):
        tiny.complete("x", json_schema=whole)


def test_a_pattern_that_cannot_be_held_is_named_with_its_place(tiny: StarChat) -> None:
    schema = {"type": "object", "properties": {"a": {"pattern": "^(?!x)y$"}}}
    with pytest.raises(
        ConstraintError, match=r"(?s)look-around.*\(the pattern at #/properties/a: "
    ):
        tiny.complete("x", json_schema=schema)


def test_inexact_numbers_are_named_with_their_place(tiny: StarChat) -> None:
    with pytest.raises(ConstraintError, match=r"maximum has the number .* \(at #/items\)"):
        tiny.complete("x", json_schema={"items": {"maximum": 1e300}})


def test_definitions_that_nothing_uses_are_not_looked_at(tiny: StarChat) -> None:
    schema = {"$defs": {"Unused": {"format": "roman"}}, "type": "boolean"}
    assert tiny.complete("x", json_schema=schema).text in ("true", "false")
    assert problem_in(enforced_schema(schema)) is None


def test_annotations_are_no_constraints(tiny: StarChat) -> None:
    schema = {"type": "boolean", "contentSchema": {"not": {}}, "examples": [{"not": {}}]}
    assert tiny.complete("x", json_schema=schema).text in ("true", "false")


def test_a_long_pattern_is_left_to_llguidance() -> None:
    """To search it would hold the GIL."""
    look_ahead = "^(?=a)"
    assert enforced_schema({"pattern": look_ahead + "b" * 9_000}) != {
        "pattern": look_ahead + "b" * 9_000
    }
    schema = {"pattern": look_ahead + "b" * 10_000}
    assert enforced_schema(schema) == schema
