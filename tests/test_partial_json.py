"""The value of a JSON text that was cut: all that is certain of it, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import json_so_far

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", "a\\u0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def is_part(part: Any, whole: Any) -> bool:
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and is_part(part[key], whole[key]) for key in part)
    if isinstance(whole, list) and isinstance(part, list):
        return len(part) <= len(whole) and all(map(is_part, part, whole))
    if isinstance(whole, str) and isinstance(part, str):
        return whole.encode(errors="replace").startswith(part.encode(errors="ignore"))
    return type(part) is type(whole) and bool(part == whole)


@given(st.lists(values, min_size=1, max_size=3), st.booleans(), st.data())
@settings(deadline=None, max_examples=60)
def test_any_beginning_gives_a_part_of_the_value(value: Any, escaped: bool, data: Any) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    cut = text[: data.draw(st.integers(1, len(text)))]
    assert is_part(json_so_far(cut), value)
    assert json_so_far(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("12", None),
        ("tru", None),
        ("true", True),
        ('"a\\', "a"),
        ('"a\\u00e', "a"),
        ('"a\\u00e9', "aé"),
        ('{"a": 1, "b": 2', {"a": 1}),
        ('{"a": "x", "lo', {"a": "x"}),
        ('{"a": [{"b": "c, d', {"a": [{"b": "c, d"}]}),
        ('{"a": "x"]', {"a": "x"}),
        ("a text", None),
        ("[" * 100_000, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_certain_is_kept(text: str, value: Any) -> None:
    assert json_so_far(text) == value
