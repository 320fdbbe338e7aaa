"""starchat.Limits: what an operator may set, and that the page for operators names all of it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from starchat import InvalidRequestError, Limits, StarChat

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sharing.md"


def test_the_page_for_operators_has_every_limit_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

    def number(text: str) -> float:
        value, _, unit = text.replace(",", "").partition(" ")
        return float(value) * units.get(unit, 1)

    assert {name: number(default) for name, default in rows} == {
        field.name: field.default for field in fields(Limits)
    }


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"mask_second": 1}, "limits has no field 'mask_second'"),
        ({"mask_seconds": -1}, "limits.mask_seconds: expected a number of at least 0, got -1"),
        ({"mask_seconds": "long"}, "limits.mask_seconds: expected a number"),
        ({"grammar_seconds": float("nan")}, "limits.grammar_seconds: expected a number"),
        (3, "limits: expected starchat.Limits, or a dict of its fields, got 3"),
    ],
    ids=["name", "negative", "text", "nan", "no limits"],
)
def test_what_is_no_limit_is_refused(limits: object, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(problem)):
        StarChat.load(limits=limits)  # type: ignore[arg-type]


def test_other_limits_are_another_engine_on_the_same_weights(nano: StarChat) -> None:
    with StarChat.load(limits={"grammar_seconds": 7}) as other:
        assert other._handle.limits == Limits(grammar_seconds=7)
        assert other._engine is not nano._engine
        assert other._engine.weights.identity == nano._engine.weights.identity
    assert nano._handle.limits == Limits()
