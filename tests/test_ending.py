"""Constrained replies end within max_tokens: how a text can be completed, and when it must be."""

from __future__ import annotations

import importlib
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from starchat import StarChat
from starchat.grammar.constraint import Constraint, library

pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')
validate: Any = pytest.importorskip("jsonschema").validate
testing: Any = importlib.import_module("starchat._core.testing")

DIALOGUE = [{"role": "user", "content": "A recipe for tea?"}]
TEXT = {"type": "string"}
HOT: dict[str, Any] = {"temperature": 3.0, "top_k": 0, "top_p": 1.0}


def an_object(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    names = list(properties) if required is None else required
    closed = {"additionalProperties": False, "required": names}
    return {"type": "object", "properties": properties, **closed}


ADD = {"name": "add", "parameters": an_object(a={"type": "integer"}, why=TEXT)}
NODE = an_object(
    v=TEXT,
    kids={"type": "array", "items": {"$ref": "#/$defs/N"}},
    next={"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]},
)
FREE = {"type": "object", "additionalProperties": TEXT}
#: a schema, and the text that has the fewest tokens of those that it allows
SCHEMAS: dict[str, tuple[Any, str]] = {
    "any object": (True, "{}"),
    "free keys": (an_object(name=TEXT, parts=FREE), '{"name": "", "parts": {}}'),
    "optional": (an_object(["b"], a=TEXT, b={"type": "boolean"}, c=TEXT), '{"b": true}'),
    "lists": (
        an_object(
            a={"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            b={"type": "array", "items": TEXT, "minItems": 2},
        ),
        '{"a": [], "b": ["", ""]}',
    ),
    "minLength": (
        an_object(s={"type": "string", "minLength": 9}, t={"type": "string", "maxLength": 3}),
        '{"s": "aaaaaaaaa", "t": ""}',
    ),
    "enum": (
        an_object(k={"enum": ["mathematician", "eng", "zebra"]}, l={"enum": ["aardvark", "b"]}),
        '{"k": "eng", "l": "b"}',
    ),
    "numbers": (
        an_object(x={"type": "number"}, y={"type": "integer", "minimum": 100}, z={"maximum": -20}),
        '{"x": 1, "y": 111, "z": -22}',
    ),
    "multiple": (an_object(n={"type": "integer", "multipleOf": 4, "minimum": 10}), '{"n": 12}'),
    "recursive": (
        {"$defs": {"N": NODE}, "$ref": "#/$defs/N"},
        '{"v": "", "kids": [], "next": null}',
    ),
    "anyOf": (
        {"anyOf": [an_object(kind={"const": "big"}, a=TEXT, b=TEXT), an_object(kind={"const": 1})]},
        '{"kind": 1}',
    ),
    "array": ({"type": "array", "items": an_object(a=TEXT), "minItems": 1}, '[{"a": ""}]'),
    "pattern": (
        an_object(u={"type": "string", "pattern": "^[a-z]{3}-[0-9]{2}$"}),
        '{"u": "aaa-11"}',
    ),
    "date": (an_object(d={"type": "string", "format": "date"}), '{"d": "1111-11-11"}'),
}


# ---- within the budget ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_budget_from_the_shortest_object_on_gives_an_object(
    nano: StarChat, name: str
) -> None:
    schema, shortest = SCHEMAS[name]
    n = len(nano.tokenize(shortest))
    streams = []
    for more in (0, 1, 2, 3, 5, 9, 16, 25):
        for sampling in ({"temperature": more % 2}, HOT):
            options = {"json_schema": schema, "max_tokens": n + more, "seed": more, **sampling}
            streams.append((n + more, nano.stream_complete("Tea:\n", **options)))
    for budget, stream in streams:
        reply = stream.result()
        assert reply.finish_reason == "stop", (budget, reply.text)
        assert len(reply.token_ids) <= budget
        validate(json.loads(reply.text), {} if schema is True else schema)


def test_a_budget_below_the_shortest_object_cuts_the_reply(nano: StarChat) -> None:
    schema, shortest = SCHEMAS["free keys"]
    n = len(nano.tokenize(shortest)) - 1
    reply = nano.complete("Tea:", json_schema=schema, max_tokens=n)
    assert (reply.finish_reason, len(reply.token_ids)) == ("length", n)


def test_the_context_is_a_budget_too(tiny_model_path: Path) -> None:
    with StarChat.load(tiny_model_path, n_ctx=64) as model:
        prompt = model.tokenize("Tea: ") * 10
        for n in range(20, 30):
            options = {"json_schema": SCHEMAS["free keys"][0], "max_tokens": 500, "seed": n}
            reply = model.complete(prompt[:n], **options, **HOT)
            assert reply.finish_reason == "stop" and json.loads(reply.text)
            assert n + len(reply.token_ids) <= 64


@pytest.mark.parametrize("choice", ["any", "add"])
def test_calls_end_within_the_budget_and_no_further_one_is_begun_that_would_not(
    nano: StarChat, choice: str
) -> None:
    shortest = f'\n<tool_call>{{"name": "add", "arguments": {json.dumps({"a": 1, "why": ""})}}}'
    n, n_calls = len(nano.tokenize(shortest)), set()
    more_calls = dict.fromkeys(nano.tokenize("<|end|><|endoftext|>", allow_special=True), -50)
    for more in (0, 1, 2, 3, 5, 9, 16, 25, 40, 60, 80):
        options = {"tools": [ADD], "tool_choice": choice, "max_tokens": n + more}
        reply = nano.chat(DIALOGUE, seed=more, logit_bias=more_calls, **options, **HOT)
        assert (reply.finish_reason, reply.cut_call) == ("tool_calls", None)
        for call in reply.tool_calls:
            validate(call.arguments, ADD["parameters"])
        n_calls.add(len(reply.tool_calls))
    assert 1 in n_calls


def test_a_text_is_cut_as_without_a_constraint(nano: StarChat) -> None:
    question = [{"role": "user", "content": "How do I sort a list in Python?"}]
    long, cut = [nano.chat(question, tools=[ADD], max_tokens=n, temperature=0) for n in (30, 9)]
    assert cut.text and cut.finish_reason == "length"
    assert cut.token_ids == long.token_ids[:9]
    calls = nano.chat(DIALOGUE, tools=[ADD], max_tokens=7, temperature=0)
    assert (calls.text, calls.finish_reason) == ("", "length")  # it has no room for the call
    letters = nano.complete("Tea:", regex="[a-z]+", max_tokens=5, ignore_eos=True, seed=1, **HOT)
    assert (letters.finish_reason, len(letters.token_ids)) == ("length", 5)


# ---- the same tokens ------------------------------------------------------------------------


def test_far_from_the_end_nothing_changes(nano: StarChat) -> None:
    schema = an_object(
        a={"type": "string", "maxLength": 30},
        b={"type": "array", "items": {"enum": ["green", "black"]}, "maxItems": 4},
        c={"anyOf": [{"type": "null"}, an_object(d={"type": "string", "maxLength": 9})]},
    )
    for seed in range(6):
        options = {"json_schema": schema, "seed": seed, "temperature": 1.2, "top_p": 1.0}
        free = nano.complete("Two teas:", **options)
        for more in (0, 1, 30, 100):  # what fits is not touched, even at the very end
            budget = len(free.token_ids) + more
            same = nano.complete("Two teas:", **options, max_tokens=budget)
            assert (same.token_ids, same.finish_reason) == (free.token_ids, "stop")


def test_near_the_end_batch_speculation_and_logprobs_change_nothing(nano: StarChat) -> None:
    budgets = range(14, 40, 3)
    asked = [
        {"json_schema": SCHEMAS[name][0], "max_tokens": n, "seed": n, "temperature": 1.5}
        for n, name in zip(budgets, [*SCHEMAS, *SCHEMAS], strict=False)
    ]
    alone = [nano.complete("Tea:", **options).token_ids for options in asked]
    together = [nano.stream_complete("Tea:", **options) for options in asked]
    assert [stream.result().token_ids for stream in together] == alone
    for option in ({"speculation": False}, {"logprobs": 1}):
        assert [nano.complete("Tea:", **each, **option).token_ids for each in asked] == alone


# ---- endings --------------------------------------------------------------------------------


def constraint(model: StarChat, **options: Any) -> Any:
    checked = Constraint.from_options(options)
    assert checked is not None
    tokenizer = model._engine.tokenizer
    grammar = testing.GrammarCompiler(library(), tokenizer).compile(checked.kind, checked.text)
    return testing.Constraint(tokenizer, grammar)


REACT = r"""
start: "Thought: " /[^\n]+/ "\nAction: " ("add" | "now") "\nAction Input: " args
args: %json {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
"""


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        pytest.param({"regex": "[a-z ]*"}, "", id="already complete"),
        pytest.param({"regex": "[a-z]{5}END"}, "[a-z]{5}END", id="regex"),
        pytest.param({"regex": "(ab|c)+(x|yy)"}, "(ab|c)+(x|yy)", id="loop"),
        pytest.param({"regex": "[^<]+</a>"}, "[^<]+</a>", id="free text"),
        pytest.param({"choice": ["perhaps", "maybe", "no"]}, "no|maybe|perhaps", id="choice"),
        pytest.param({"grammar": 'start: "f" start | "x" | "(" start ")"'}, "f*x", id="recursion"),
        pytest.param({"grammar": 'start: "<a>" /[^<]*/ "</a>"'}, "<a>[^<]*</a>", id="lark"),
        pytest.param(
            {"grammar": REACT},
            'Thought: [^\n]+\nAction: (add|now)\nAction Input: {"a": ""}',
            id="ReAct",
        ),
        *[
            pytest.param(
                {"json_schema": an_object(u={"type": "string", "format": name})},
                '{"u": ".+"}',
                id=name,
            )
            for name in ("date-time", "duration", "email", "hostname", "ipv4", "uri", "uuid")
        ],
    ],
)
def test_every_kind_of_constraint_has_an_ending(
    nano: StarChat, options: dict[str, Any], pattern: str
) -> None:
    start = constraint(nano, **options)
    ids = start.ending()
    assert re.fullmatch(pattern, nano.detokenize(ids))
    assert start.n_allowed(ids) == len(ids)
    for id in ids:
        start.accept(id)
    assert start.fill_mask()


def test_a_known_ending_is_kept_as_long_as_it_is_one(nano: StarChat) -> None:
    start = constraint(nano, json_schema=an_object(a=TEXT))
    begin, known = nano.tokenize('{"a": "'), nano.tokenize(' tea"}')
    assert start.ending(begin, known) == known
    assert start.ending(begin, known, n_most=1) == nano.tokenize('"}')
    assert start.ending(begin, known, n_most=0) is None
    assert start.ending(nano.tokenize('{"b')) is None


def test_a_search_ends_after_its_steps(nano: StarChat) -> None:
    start = constraint(nano, json_schema=SCHEMAS["numbers"][0])
    assert start.ending(n_steps=3) is None
    assert start.ending(n_most=3, n_steps=50) is None


def test_a_reply_without_an_ending_pays_for_one_slow_search(nano: StarChat) -> None:
    schema = an_object(a={"type": "string", "minLength": 1000})
    start = time.process_time()
    reply = nano.complete("Tea:", json_schema=schema, max_tokens=40, temperature=0)
    assert reply.finish_reason == "length"
    assert time.process_time() - start < 0.4  # a slow search takes 0.1 s; one each time were 6


def test_banned_tokens_are_in_no_ending(nano: StarChat) -> None:
    schema = an_object(a=TEXT)
    bans = {id: -float("inf") for id in range(nano.info.n_vocab) if "}" in nano.detokenize([id])}
    reply = nano.complete("Tea:", json_schema=schema, max_tokens=12, seed=1, logit_bias=bans)
    assert reply.finish_reason == "length" and not bans.keys() & set(reply.token_ids)
