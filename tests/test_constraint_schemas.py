"""Random JSON Schemas against an independent validator: what comes out parses and validates.

    STARCHAT_N_SCHEMAS=10000 python -m pytest tests/test_constraint_schemas.py

runs the hostile suite whole; a few hundred are enough for every day.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from starchat import ConstraintError, StarChat

jsonschema = pytest.importorskip("jsonschema", reason="the oracle")
pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')

N_SCHEMAS = int(os.environ.get("STARCHAT_N_SCHEMAS", "250"))
Schema = dict[str, Any]

names = st.text('abcé🙂 "\\\n{}_0', max_size=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | names
    | st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=4,
)


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    form = draw(st.sampled_from(["length", "pattern", "format"]))
    if form == "pattern":
        patterns = [r"^[a-c]{1,4}$", r"^\d{2}-\d{3}$", r"^(foo|ba+r){1,2}$", r"^[^\s\"]{2,5}$"]
        return {"type": "string", "pattern": draw(st.sampled_from([*patterns, r"^\w+@\w{2,3}$"]))}
    if form == "format":
        formats = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "duration", "email"]
        return {"type": "string", "format": draw(st.sampled_from(formats))}
    least = draw(st.integers(0, 4))
    return {"type": "string", "minLength": least, "maxLength": least + draw(st.integers(0, 9))}


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": draw(st.sampled_from(["integer", "number"]))}
    least = draw(st.integers(-(10**6), 10**6) | st.sampled_from([0, 1, -1]))
    schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = least
    most = least + draw(st.integers(2, 10**6))
    schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = most
    if draw(st.booleans()) and schema["type"] == "integer":
        schema["multipleOf"] = draw(st.integers(1, 12))
    return schema


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(names, inner, max_size=4))
    known = (
        st.lists(st.sampled_from(sorted(properties)), unique=True) if properties else st.just([])
    )
    schema: Schema = {"type": "object", "properties": properties, "required": draw(known)}
    schema["additionalProperties"] = draw(st.just(False) | st.just(False) | inner)
    if draw(st.booleans()) and schema["additionalProperties"] is not False:
        schema["patternProperties"] = {"^x": draw(inner)}
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    least = draw(st.integers(0, 2))
    schema: Schema = {"type": "array", "items": draw(inner), "minItems": least}
    schema["maxItems"] = least + draw(st.integers(0, 3))
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, max_size=2))
    return schema


leaves = (
    strings()
    | numbers()
    | st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["null", "boolean"]}])
    | values.map(lambda value: {"const": value})
    | st.lists(values, min_size=1, max_size=4).map(lambda some: {"enum": some})
)


def combined(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    several = st.lists(inner, min_size=1, max_size=3)
    return (
        objects(inner)
        | arrays(inner)
        | several.map(lambda some: {"anyOf": some})
        | several.map(lambda some: {"oneOf": some})
        | several.map(lambda some: {"allOf": some})
    )


schemas = st.recursive(leaves, combined, max_leaves=7)
with_references = st.builds(
    lambda tree, leaf: {
        "$defs": {
            "leaf": leaf,
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"$ref": "#/$defs/leaf"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
                    "other": tree,
                },
                "required": ["value"],
                "additionalProperties": False,
            },
        },
        "$ref": "#/$defs/tree",
    },
    schemas,
    leaves,
)


@pytest.fixture(scope="module")
def tiny(tiny_model_path: Path) -> Iterator[StarChat]:
    """Random weights: it says whatever it is allowed to say."""
    with StarChat.load(tiny_model_path, n_threads=1, prefix_cache_bytes=0) as model:
        yield model


def test_random_schemas_are_followed_or_refused(tiny: StarChat) -> None:
    ends: Counter[str] = Counter()

    @settings(
        max_examples=N_SCHEMAS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(schema=schemas | schemas | schemas | with_references, seed=st.integers(0, 2**32))
    def check(schema: Schema, seed: int) -> None:
        try:
            reply = tiny.complete(
                "x", json_schema=schema, seed=seed, temperature=1.5, top_k=0, top_p=1.0
            )
        except ConstraintError:
            ends["refused"] += 1
            return
        ends[reply.finish_reason] += 1
        if reply.finish_reason == "stop":
            value = json.loads(reply.text)
            jsonschema.Draft202012Validator(schema).validate(value)
            assert "\n" not in reply.text

    check()
    print(dict(ends))
    assert ends["stop"] > 0.6 * sum(ends.values()), ends
    assert ends["length"] < 0.1 * sum(ends.values()), ends
