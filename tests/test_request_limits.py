"""starchat.Limits: what an operator may set, and that the page for operators names all of it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from starchat import ConstraintError, InvalidRequestError, Limits, StarChat
from starchat.grammar.constraint import _MOST_WRITTEN, library

BIG = range(40_000, 40_005)
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


QUESTION = [{"role": "user", "content": "hi"}]


def large_by_references(n: int) -> dict[str, Any]:
    """Return a tool whose parameters are n times as large as a definition of 10 KB."""
    named = {f"p{i}": {"$ref": "#/$defs/b"} for i in range(n)}
    return {
        "name": "t",
        "parameters": {"$defs": {"b": {"enum": ["x" * 100] * 100}}, "properties": named},
    }


def doubled(n: int) -> dict[str, Any]:
    """Return definitions of which each holds the next twice: 2^n of the last."""
    made: dict[str, Any] = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(n)
    }
    return {"$defs": made | {f"d{n}": {"const": "x"}}, "properties": {"a": {"$ref": "#/$defs/d0"}}}


class Counted(dict[str, Any]):
    """Counts how often its items are asked for."""

    n = 0

    def items(self) -> Any:
        Counted.n += 1
        return super().items()


def repeated(n: int) -> dict[str, Any]:
    """Return data that holds the same object 2^n times."""
    made = Counted(type="null")
    for _ in range(n):
        made = Counted(anyOf=[made, made])
    return made


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"logprobs": 21}, "logprobs: expected at most 20, got 21: ask for less, or raise Limits."),
        (
            {"stop": ["x"] * 1025},
            "stop: expected at most 1,024, got 1,025: give fewer, or raise Limits.stop_strings "
            "where the model is loaded",
        ),
        ({"stop": ["x"] * 10**7}, "stop: expected at most 1,024, got 10,000,000"),
        ({"stop": "x" * (2**14 + 1)}, "stop: expected at most 16,384 bytes, got 16,385: give"),
        ({"stop": ["é" * 2**13, "x"]}, "stop: expected at most 16,384 bytes, got 16,385: give"),
        ({"stop_token_ids": [7] * 1025}, "stop_token_ids: expected at most 1,024, got 1,025"),
        (
            {"logit_bias": dict.fromkeys(range(10**5), 0)},
            "logit_bias: expected at most 2,560, which is every token, got 100,000",
        ),
        (
            {"json_schema": {"enum": ["x" * 2**20]}},
            "json_schema: expected at most 1,048,576 bytes, got more than 1,048,576: make the "
            "schema smaller, or raise Limits.schema_bytes",
        ),
        ({"json_schema": repeated(40)}, "json_schema: expected at most 1,048,576 bytes, got more"),
        (
            {"json_schema": {"uniqueItems": True, "items": {"enum": ["x" * n for n in BIG]}}},
            "json_schema: what a grammar enforces of it has more than 4,194,304 bytes",
        ),
        ({"regex": "a" * (2**20 + 1)}, "regex: expected at most 1,048,576 bytes, got 1,048,577"),
        ({"grammar": "a" * 2**21}, "grammar: expected at most 1,048,576 bytes, got 2,097,152"),
        (
            {"grammar": 'root ::= "' + "a" * 2**18},
            "grammar: expected at most 262,144 characters of GBNF, got 262,154: write it as Lark",
        ),
        ({"choice": ["no"] * 10**6}, "choice: expected at most 1,048,576 bytes, got more than"),
        ({"choice": ["no"] * 10**7}, "choice: expected at most 1,048,576 bytes, got more than"),
        (
            {"tools": [large_by_references(490)]},
            "tools[0] ('t'): expected at most 1,048,576 bytes of tools, references written out, "
            "got more than 1,048,576: give fewer or smaller tools",
        ),
        ({"tools": [{"name": "x" * 2**21}]}, "tools[0] ('xxxx"),
        (
            {"tools": [{"name": "f", "description": "x" * 2**21}]},
            "tools[0] ('f'): expected at most",
        ),
        ({"tools": [{"name": "f", "parameters": repeated(40)}]}, "tools[0] ('f'): expected at"),
        (
            {"tools": [large_by_references(60) | {"name": f"t{i}"} for i in range(9)]},
            "tools[1] ('t1'): expected at most 1,048,576 bytes of tools",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_beyond_a_bound_is_refused_by_its_name(
    nano: StarChat, options: dict[str, Any], error: str
) -> None:
    Counted.n = 0
    with pytest.raises(InvalidRequestError) as raised:
        nano.chat(QUESTION, **options)
    assert error in str(raised.value)
    assert len(str(raised.value)) < 400
    assert (raised.value.param or "").startswith(next(iter(options)))
    assert Counted.n < 200_000


@pytest.mark.parametrize("n", [6, 64])
def test_definitions_that_double_are_not_written_out(nano: StarChat, n: int) -> None:
    tool = {"name": "t", "parameters": doubled(n)}
    text = nano.render(QUESTION, [tool])
    assert ("$ref" in text) == (n == 64)
    assert len(text) < 20_000


def test_the_core_compiles_as_much_as_schemas_are_written_out(nano: StarChat) -> None:
    with pytest.raises(ConstraintError) as raised:
        nano._engine.compile(library(), "regex", "a" * (_MOST_WRITTEN + 1))
    assert raised.value.limit == _MOST_WRITTEN


def test_an_operator_can_raise_and_lower_each_bound(nano: StarChat) -> None:
    few = {"logprobs": 30, "stop_strings": 2, "stop_bytes": 4, "schema_bytes": 9, "tool_bytes": 99}
    with StarChat.load(limits=few) as model:
        reply = model.complete("a", logprobs=30, max_tokens=2, ignore_eos=True)
        assert len(reply.logprobs[0].top) == 30
        for options in (
            {"logprobs": 31},
            {"stop": ["a", "b", "c"]},
            {"stop_token_ids": [1, 2, 3]},
            {"stop": ["abcde"]},
            {"regex": "a" * 10},
            {"json_schema": {"type": "null"}},
            {"choice": ["abc", "def"]},
            {"tools": [large_by_references(1)]},
        ):
            with pytest.raises(InvalidRequestError, match=r"Limits\.\w+ where the model is loaded"):
                model.chat(QUESTION, **options)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match=r"Limits\.tool_bytes"):
            model.count_tokens(QUESTION, [large_by_references(1)])


def test_other_limits_are_another_engine_on_the_same_weights(nano: StarChat) -> None:
    with StarChat.load(limits={"grammar_seconds": 7}) as other:
        assert other._handle.limits == Limits(grammar_seconds=7)
        assert other._engine is not nano._engine
        assert other._engine.weights.identity == nano._engine.weights.identity
    assert nano._handle.limits == Limits()
