"""JSON in slices: what json.dumps writes, while other threads run."""

from __future__ import annotations

import json
import sys
import threading
import time
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


def test_other_threads_run_while_large_data_is_written() -> None:
    """The GIL changes hands many times, whatever the load of the machine."""
    data = {"enum": [i / 7 for i in range(200_000)]}
    passes, done = 0, threading.Event()

    def run() -> None:
        nonlocal passes
        while not done.is_set():
            passes += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    other = threading.Thread(target=run)
    other.start()
    sys.setswitchinterval(1e-6)
    try:
        before = passes
        write_json(data)
        assert passes > before + 20, "json.dumps gives it back once, at its end"
    finally:
        done.set()
        sys.setswitchinterval(interval)
        other.join()
