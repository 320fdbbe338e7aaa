"""JSON in slices: what json.dumps writes, while other threads run."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starchat import json_text
from starchat.json_text import write_json

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
KEYS = st.text(st.characters(), max_size=3) | st.integers() | st.booleans() | st.none()
DATA = st.recursive(
    LEAVES, lambda below: st.lists(below) | st.dictionaries(KEYS, below) | st.tuples(below, below)
)


@given(DATA, st.integers(1, 3), st.booleans())
def test_slices_are_what_json_writes(value: Any, n_leaves: int, ensure_ascii: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_AT_ONCE", 0)
        patch.setattr(json_text, "_MOST_LEAVES", n_leaves)
        written = write_json(value, ensure_ascii=ensure_ascii)
    assert written == json.dumps(value, ensure_ascii=ensure_ascii)


LARGE = ["x"] * 100_000
LOOP: list[Any] = [LARGE]
LOOP.append(LOOP)
DEEP: list[Any] = [LARGE]
for _ in range(2 * sys.getrecursionlimit()):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([LARGE, {1, 2}], TypeError),
        ([LARGE, {(1, 2): 3}], TypeError),
        ([LARGE, float("nan")], ValueError),
        (LOOP, ValueError),
        (DEEP, RecursionError),
    ],
    ids=["set", "key", "nan", "loop", "deep"],
)
def test_errors_are_those_of_json(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as own:
        write_json(value, allow_nan=False)
    with pytest.raises(error) as theirs:
        json.dumps(value, allow_nan=False)
    assert str(own.value).split(" in ")[0] in str(theirs.value)


def test_what_json_does_not_know_is_given_to_the_default() -> None:
    assert write_json([LARGE, {1}], default=len) == json.dumps([LARGE, {1}], default=len)


def test_data_may_hold_the_same_data_twice() -> None:
    assert write_json([LARGE, LARGE]) == json.dumps([LARGE, LARGE])


def test_no_call_of_json_writes_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call holds the GIL until its end: large data takes many of them."""
    encode, lengths = json.JSONEncoder.encode, []

    def measured(self: json.JSONEncoder, value: Any) -> str:
        lengths.append(len(text := encode(self, value)))
        return text

    monkeypatch.setattr(json.JSONEncoder, "encode", measured)
    write_json({"enum": [i / 7 for i in range(50_000)], "more": {str(i): i for i in range(50_000)}})
    assert sum(lengths) > 1_000_000
    assert max(lengths) < 100_000
