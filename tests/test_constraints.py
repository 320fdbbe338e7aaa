"""Constraints: what they let through, that nothing else changes for them, and how they fail."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import (
    Completion,
    ConstraintError,
    EngineClosedError,
    InvalidRequestError,
    StarChat,
    UnsupportedFeatureError,
)
from starchat._core import SamplingParams, Tokenizer
from starchat.grammar.constraint import Constraint, library
from support import scheduling
from support.processes import run_python

pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')
testing: Any = importlib.import_module("starchat._core.testing")

DIALOGUE = [{"role": "user", "content": "How do I sort a list in Python?"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["mathematician", "engineer"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
ANYTHING: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0}


@pytest.fixture(scope="module")
def tiny(tiny_model_path: Path) -> Iterator[StarChat]:
    """Random weights: it says whatever it is allowed to say."""
    with StarChat.load(tiny_model_path, n_threads=2) as model:
        yield model


def compiled(tokenizer: Tokenizer, **options: Any) -> Any:
    constraint = Constraint.from_options(options)
    assert constraint is not None
    compiler = testing.GrammarCompiler(library(), tokenizer)
    return compiler.compile(constraint.kind, constraint.text)


# ---- what comes out -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_schema_is_followed_in_its_order_on_one_line(tiny: StarChat, seed: int) -> None:
    reply = tiny.chat(DIALOGUE, json_schema=PERSON, seed=seed, **ANYTHING)
    person = json.loads(reply.text)
    assert reply.finish_reason == "stop"
    assert list(person) == ["name", "age", "kind"]
    assert len(person["name"]) <= 12 and 0 <= person["age"] <= 150
    head = f', "age": {person["age"]}, "kind": "{person["kind"]}"}}'
    assert reply.text.startswith('{"name": "') and reply.text.endswith(head)


def test_json_mode_is_an_object(nano: StarChat) -> None:
    reply = nano.chat(DIALOGUE, json_schema=True, max_tokens=6)
    assert isinstance(json.loads(reply.text), dict) and reply.finish_reason == "stop"


def test_regex(tiny: StarChat) -> None:
    pattern = r"[a-f]{2,9}-\d{3}(é|🙂)?"
    for seed in range(5):
        text = tiny.complete("x", regex=pattern, seed=seed, **ANYTHING).text
        assert re.fullmatch(pattern, text)


def test_choice_gives_each_of_them(tiny: StarChat) -> None:
    choice = ["yes", "no", 'a "quoted" \\ one', "né\n🙂\0", "yes, of course", "/\x7f\x1f\x80/"]
    texts = {tiny.chat(DIALOGUE, choice=choice, seed=s, **ANYTHING).text for s in range(60)}
    assert texts == set(choice)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "call " NAME "(" NUMBER ")"\nNAME: /[a-z]{1,5}/\nNUMBER: /[0-9]{1,3}/',
        'root ::= "call " [a-z]{1,5} "(" [0-9]{1,3} ")"',
    ],
    ids=["lark", "gbnf"],
)
def test_grammar(tiny: StarChat, grammar: str) -> None:
    text = tiny.complete("x", grammar=grammar, seed=3, **ANYTHING).text
    assert re.fullmatch(r"call [a-z]{1,5}\([0-9]{1,3}\)", text)


@pytest.mark.parametrize("before", ["", '"# // " ', r'/[\/#]"/ ', r'"\\" '], ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_a_schema_in_a_grammar_is_on_one_line_too(tiny: StarChat, seed: int, before: str) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3}
    grammar = f"start: {before}data  // no %json {{}}\ndata: %json {json.dumps(schema)}"
    text = tiny.complete("x", grammar=grammar, seed=seed, **ANYTHING).text
    flag = "(true|false)"
    assert re.search(rf"\[{flag}, {flag}, {flag}\]$", text)


@pytest.mark.parametrize(
    "names",
    [
        {"enum": ["red", "blue"], "type": "string", "title": "Color"},
        {"enum": ["red", 1, "blue"]},
        {"$ref": "#/$defs/Color"},
    ],
    ids=["enum", "mixed enum", "reference"],
)
def test_keys_of_an_enum_are_held(tiny: StarChat, names: dict[str, Any]) -> None:
    colors = {"type": "object", "propertyNames": names, "minProperties": 1}
    colors["additionalProperties"] = {"type": "boolean"}
    schema = {"$defs": {"Color": {"enum": ["red", "blue"]}}, "type": "array", "items": colors}
    keys: set[str] = set()
    for seed in range(9):
        bounds, anything = {"minItems": 2, "maxItems": 2}, ANYTHING | {"temperature": 50.0}
        reply = tiny.complete("x", json_schema=schema | bounds, seed=seed, **anything)
        for stock in json.loads(reply.text):
            keys |= stock.keys()
            assert all(isinstance(value, bool) for value in stock.values())
    assert keys == {"red", "blue"}


def test_keys_of_an_enum_beside_properties(tiny: StarChat) -> None:
    schema = {
        "type": "object",
        "propertyNames": {"enum": ["a", "b"]},
        "properties": {"a": {"const": 1}, "c": {}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert tiny.complete("x", json_schema=schema, **ANYTHING).text == '{"a": 1}'
    for names in ({"pattern": "^x"}, {"enum": ["a"], "maxLength": 3}, {"$ref": "#/none"}):
        with pytest.raises(ConstraintError, match="propertyNames"):
            tiny.complete("x", json_schema=schema | {"propertyNames": names})


def test_white_space_that_a_schema_asks_for_stays() -> None:
    asked = 'start: %json {"x-guidance": {"whitespace_flexible": true}, "type": "null"}'
    for grammar in (asked, 'start: "%json {"', "start: /%json {}/", "start: %json {bad"):
        constraint = Constraint.from_options({"grammar": grammar})
        assert constraint and constraint.text == grammar


def test_a_dialogue_goes_on_with_what_was_said(nano: StarChat) -> None:
    """The role's line break is part of the reply's ids, as in every other reply."""
    reply = nano.chat(DIALOGUE, choice=["a list has sort()"])
    assert nano.detokenize(reply.token_ids) == "\na list has sort()"
    turns: list[Any] = [*DIALOGUE, {"role": "assistant", "content": reply.text}]
    kept = [*DIALOGUE, {**turns[-1], "token_ids": reply.token_ids}]
    assert nano.count_tokens(turns) == nano.count_tokens(kept)


def test_infill_and_completion_take_constraints_without_a_line_break(tiny: StarChat) -> None:
    assert tiny.infill("def ", "(a):", regex="[a-z]{4}").text.isalpha()
    assert tiny.detokenize(tiny.complete("x", choice=["ab"]).token_ids) == "ab"


# ---- the mask, against an oracle ------------------------------------------------------------


PIECES = st.binary(min_size=1, max_size=3).filter(lambda piece: not piece.startswith(b"\xff"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_mask_is_exactly_the_tokens_that_some_choice_goes_on_with(data: st.DataObject) -> None:
    choices = data.draw(st.lists(st.text("abé🙂", max_size=6), min_size=1, max_size=5))
    pieces = data.draw(st.lists(PIECES | st.sampled_from([b"ab", b"\xc3", b"\xa9"]), max_size=40))
    all_bytes = [bytes([value]) for value in range(256)]
    tokens = list(dict.fromkeys([*pieces, *all_bytes, b"<|end|>"]))  # of twins only one is allowed
    tokenizer = Tokenizer(tokens)
    constraint = testing.Constraint(tokenizer, compiled(tokenizer, choice=choices))
    texts = [text.encode() for text in choices]
    written = b""
    while True:
        going_on = [text for text in texts if text.startswith(written)]
        forced = constraint.forced()
        assert constraint.n_allowed(forced) == len(forced)
        assert all(text.startswith(written + tokenizer.decode(forced)) for text in going_on)
        may_end = constraint.fill_mask()
        allowed = {id for id in range(len(tokens)) if constraint.allows(id)}
        fitting = {
            id
            for id, token in enumerate(tokens[:-1])
            if any(text.startswith(written + token) for text in going_on)
        }
        assert may_end == (written in texts)
        assert allowed == (fitting if not forced else {forced[0]})
        if not allowed:
            break
        id = data.draw(st.sampled_from(sorted(allowed)))
        constraint.accept(id)
        written += tokens[id]


def test_tokens_that_are_no_utf8_only_make_up_whole_characters(tiny: StarChat) -> None:
    pattern = r"[é🙂ß中]{3,6}"  # the tiny vocabulary has them byte by byte
    for seed in range(10):
        reply = tiny.complete("x", regex=pattern, seed=seed, **ANYTHING)
        assert re.fullmatch(pattern, reply.text) and len(reply.token_ids) >= 6


# ---- nothing else changes -------------------------------------------------------------------


WORDS = [b"<|end|>", b"ab", b"abc", b"ba", b'{"', b'": ', b", ", b'"}', b"ac", b"cab", b"bc"]
WORDS += [bytes([value]) for value in b'abcdefghijklmnopqrstuvwxyz 0123456789{}[]":,.-_']
GRAMMARS: list[dict[str, Any]] = [
    {"regex": "((ab|ba)*cab){1,9}"},
    {"regex": "[a-c]*"},
    {"choice": ["abcabcabcabc", "abba", "abab", "ab"]},
    {"grammar": 'start: ("ab" "c" X "bacab")+\nX: /[ab]{1,4}/'},
    {"json_schema": {"type": "array", "items": {"const": {"ab": "cab", "c": 1}}, "maxItems": 4}},
]


def finish(scheduler: Any, *streams: Any) -> list[tuple[list[int], str, int | None]]:
    return [
        (ids, stream.finish_reason, stream.stop_token and stream.stop_token.id)
        for ids, stream in zip(scheduling.finish(scheduler, *streams), streams, strict=True)
    ]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_batch_speculation_forcing_and_prefixes_change_no_token(data: st.DataObject) -> None:
    tokenizer = Tokenizer(WORDS)
    period = data.draw(st.sampled_from([0, 3, 7]))
    scheduler = testing.Scheduler(
        n_vocab=len(WORDS),
        max_columns=data.draw(st.sampled_from([4, 33, 256])),
        period=period,
        prefix_cache_bytes=data.draw(st.sampled_from([-1, 0])),
    )
    prompt = [i * 7 % len(WORDS) for i in range(40)]
    for _ in range(2):
        batch = []
        for _ in range(data.draw(st.integers(1, 5))):
            options = data.draw(st.sampled_from([None, *GRAMMARS]))
            grammar = compiled(tokenizer, **options) if options else None
            sampling: dict[str, Any] = {
                "max_tokens": data.draw(st.integers(1, 60)),
                "temperature": data.draw(st.sampled_from([0.0, 0.7, 3.0])),
                "seed": data.draw(st.integers(0, 5)),
                "repetition_penalty": data.draw(st.sampled_from([1.0, 1.3])),
                "stop_token_ids": data.draw(st.sampled_from([[0], [], [0, 3]])),
            }
            lead = data.draw(st.sampled_from([[], [15], [15, 15, 1]]))
            start = prompt[: data.draw(st.integers(1, 40))]
            free = SamplingParams(logprobs=data.draw(st.sampled_from([-1, 2])), **sampling)
            stream = scheduler.add(start, free, grammar, lead)
            batch.append((start, sampling, grammar, lead, options, stream))
        results = finish(scheduler, *(entry[-1] for entry in batch))
        for (start, sampling, grammar, lead, options, _), result in zip(
            batch, results, strict=True
        ):
            plain = testing.Scheduler(
                n_vocab=len(WORDS), max_columns=256, period=period, prefix_cache_bytes=0
            )
            # With logprobs nothing is forced ahead: every token is chosen by itself.
            params = SamplingParams(logprobs=0, speculation=False, **sampling)
            assert finish(plain, plain.add(start, params, grammar, lead)) == [result]
            ids, reason, stop = result
            if options and "regex" in options and (reason, stop) in [("stop", None), ("stop", 0)]:
                text = tokenizer.decode(ids[len(lead) :]).decode()
                assert re.fullmatch(options["regex"], text)


def test_forced_tokens_take_no_steps(nano: StarChat) -> None:
    counts = []
    for extra in ({}, {"logprobs": 0, "speculation": False}):
        before = nano.stats()
        reply = nano.chat(DIALOGUE, json_schema=PERSON, seed=4, **extra)
        after = nano.stats()
        counts.append((reply.token_ids, reply.usage, after["steps"] - before["steps"]))
        assert after["forced_tokens"] - before["forced_tokens"] == reply.usage.forced_tokens
        assert after["tokens"] - before["tokens"] == reply.usage.completion_tokens
    (ids, usage, n_steps), (plain_ids, plain_usage, n_plain_steps) = counts
    assert ids == plain_ids and plain_usage.forced_tokens == 0
    assert n_plain_steps == len(ids), "the end takes no step"
    assert usage.forced_tokens > len(ids) / 3
    assert n_steps <= len(ids) - usage.forced_tokens - usage.accepted_tokens + 1


def test_a_reply_without_a_choice_takes_no_step_at_all(tiny: StarChat) -> None:
    before = tiny.stats()["steps"]
    reply = tiny.chat(DIALOGUE, choice=["only this"])
    assert reply.text == "only this" and reply.finish_reason == "stop"
    assert tiny.stats()["steps"] == before
    assert reply.usage.forced_tokens == reply.usage.completion_tokens


def test_more_forced_tokens_than_a_stream_or_a_batch_holds(tiny: StarChat) -> None:
    text = "abc " * 90
    reply = tiny.complete("x", grammar=f"start: {json.dumps(text)} /[a-z]{{2}}/")
    assert reply.text.startswith(text) and len(reply.text) == len(text) + 2


def test_forced_tokens_end_at_max_tokens(tiny: StarChat) -> None:
    for max_tokens in (1, 3, 5):
        reply = tiny.complete("x", choice=["abcdefgh"], max_tokens=max_tokens)
        assert (len(reply.token_ids), reply.finish_reason) == (max_tokens, "length")
        assert "abcdefgh".startswith(reply.text)
    assert tiny.complete("x", choice=["abc"], max_tokens=3).finish_reason == "stop"


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_change_nothing(tiny: StarChat, tiny_model_path: Path, n_threads: int) -> None:
    with StarChat.load(tiny_model_path, n_threads=n_threads, prefix_cache_bytes=0) as other:
        for model in (tiny, other):
            replies = [model.chat(DIALOGUE, json_schema=PERSON, seed=s, **ANYTHING) for s in (1, 2)]
            assert replies == [
                tiny.chat(DIALOGUE, json_schema=PERSON, seed=s, **ANYTHING) for s in (1, 2)
            ]


def test_32_streams_at_once_give_what_each_gives_alone(tiny: StarChat) -> None:
    kinds: list[dict[str, Any]] = [
        {"json_schema": PERSON},
        {"regex": "[a-f]{5,30}"},
        {"choice": ["a", "abc"]},
        {},
    ]

    def ask(i: int) -> Completion:
        return tiny.chat(DIALOGUE, seed=i, max_tokens=60, **kinds[i % 4], **ANYTHING)

    async def ask_all() -> list[Completion]:
        return await asyncio.gather(
            *[
                tiny.achat(DIALOGUE, seed=i, max_tokens=60, **kinds[i % 4], **ANYTHING)
                for i in range(32)
            ]
        )

    alone = [ask(i) for i in range(32)]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == alone
    assert asyncio.run(ask_all()) == alone


# ---- beside other parameters ----------------------------------------------------------------


def test_end_tokens_come_exactly_where_the_text_may_end(tiny: StarChat) -> None:
    end = tiny.tokenize("<|end|>", allow_special=True)[0]
    bias = {end: 1000.0}  # it ends as soon as it may
    reply = tiny.complete("x", regex="a{3}b*", logit_bias=bias, temperature=0)
    assert (reply.text, reply.finish_reason) == ("aaa", "stop")


def test_a_role_token_that_a_grammar_asks_for_ends_the_reply(tiny: StarChat) -> None:
    grammar = 'start: "Hi" <|user|> "Go on."'
    question: dict[str, Any] = {"role": "user", "content": "x"}
    reply = tiny.chat([question], grammar=grammar)
    assert (reply.text, reply.finish_reason) == ("Hi", "stop")


def test_min_tokens_holds_the_end_back_but_cannot_go_beyond_the_constraint(tiny: StarChat) -> None:
    reply = tiny.complete("x", regex="a*", min_tokens=9, max_tokens=40, seed=1, **ANYTHING)
    assert len(reply.token_ids) >= 9
    assert tiny.complete("x", regex="a{2}", min_tokens=9, max_tokens=40).text == "aa"


def test_ignore_eos_writes_until_nothing_more_may_follow(tiny: StarChat) -> None:
    reply = tiny.complete("x", regex="a{0,7}", ignore_eos=True)
    assert (reply.text, reply.finish_reason) == ("aaaaaaa", "stop")
    reply = tiny.complete("x", regex="a*", ignore_eos=True, max_tokens=20)
    assert (reply.text, reply.finish_reason) == ("a" * 20, "length")


def test_stop_tokens_and_strings_still_end_the_reply(tiny: StarChat) -> None:
    b = tiny.tokenize("b")
    assert tiny.complete("x", regex="aab(ab)*", stop_token_ids=b, ignore_eos=True).text == "aa"
    reply = tiny.complete("x", regex="a{5}cb", stop=["ac"])
    assert (reply.text, reply.finish_reason) == ("aaaa", "stop")
    # Where the text may end, a stop token ends it, though it is no part of the constraint.
    reply = tiny.complete(
        "x", regex="a{2}c*", stop_token_ids=b, ignore_eos=True, logit_bias={b[0]: 1000}
    )
    assert reply.text == "aa"


def test_a_choice_may_have_thousands_of_texts(tiny: StarChat) -> None:
    for texts in (
        [f"{n} a" for n in range(5000)],
        ["", "a", "ab\x7f", *[f"a{n}" for n in range(2000)]],
    ):
        replies = tiny.complete("x", choice=texts, n=8, temperature=3.0, top_k=0, top_p=1.0, seed=1)
        assert {reply.text for reply in replies.choices} <= {*texts}


def test_a_ban_on_the_only_token_that_may_come_is_an_error(tiny: StarChat) -> None:
    banned = {id: -float("inf") for id in tiny.tokenize("def")}
    with pytest.raises(InvalidRequestError, match="mask every token that the constraint allows"):
        tiny.complete("x", choice=["def"], logit_bias=banned)
    assert tiny.complete("x", choice=["def", "a"], logit_bias=banned).text in ("a", "def")


def test_logprobs_are_the_models_own(tiny: StarChat) -> None:
    with StarChat.load(tiny.info.file, limits={"logprobs": 293}) as model:
        free = model.complete("x", max_tokens=1, logprobs=293, temperature=0, ignore_eos=True)
    reply = tiny.complete("x", choice=["ab"], logprobs=1)
    by_id = {id: logprob for id, _, logprob in free.logprobs[0].top}
    assert reply.logprobs[0].logprob == by_id[reply.token_ids[0]]
    assert len(reply.logprobs) == len(reply.token_ids) == 2


def test_cancelled_in_the_middle(tiny: StarChat) -> None:
    stream = tiny.stream_complete("x", regex="[a-z]*", ignore_eos=True)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 10
    while tiny.stats()["running"]:
        assert time.monotonic() < deadline
    assert tiny.complete("x", regex="[a-z]{3}").finish_reason == "stop"


# ---- failures -------------------------------------------------------------------------------


def nested(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(n):
        schema = {"type": "array", "items": schema}
    return schema


def chained(n: int) -> dict[str, Any]:
    links: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(n)}
    return {"$defs": {**links, f"d{n}": {"enum": [7]}}, "$ref": "#/$defs/d0"}


RULES = ["start", *(f"r{i}" for i in range(40_000))]
CIRCLE: dict[str, Any] = {}
CIRCLE["items"] = CIRCLE
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no schema": ({"json_schema": [1]}, InvalidRequestError, "json_schema: expected a JSON Schema"),
    "false": ({"json_schema": False}, InvalidRequestError, "json_schema: expected"),
    "no JSON": ({"json_schema": {"const": {1}}}, ConstraintError, "json_schema: the schema is no"),
    "NaN": ({"json_schema": {"const": float("nan")}}, ConstraintError, "no JSON"),
    "circular": ({"json_schema": CIRCLE}, ConstraintError, "no JSON: Circular"),
    "unknown type": ({"json_schema": {"type": "text"}}, ConstraintError, "json_schema: .*text"),
    "unsupported": ({"json_schema": {"uniqueItems": True}}, ConstraintError, "uniqueItems"),
    "unsatisfiable": (
        {"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}},
        ConstraintError,
        "minimum .5. is greater than maximum .3.",
    ),
    "unknown reference": ({"json_schema": {"$ref": "#/$defs/a"}}, ConstraintError, "json_schema: "),
    "reference to the net": (
        {"json_schema": {"$ref": "http://a/b"}},
        ConstraintError,
        "http://a/b",
    ),
    "reference to itself": ({"json_schema": {"$ref": "#"}}, ConstraintError, "contradicts itself"),
    "without an end": (
        {"json_schema": {**PERSON, "properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
        ConstraintError,
        "simplify",
    ),
    "nested": ({"json_schema": nested(900)}, ConstraintError, "nested too deeply"),
    "regex": ({"regex": "(a"}, ConstraintError, "regex: .*unclosed group"),
    "regex of nothing": ({"regex": r"[^\s\S]"}, ConstraintError, "contradicts itself"),
    "regex bomb": (
        {"regex": "(a{1000}){1000}"},
        ConstraintError,
        r"too many expressions|limits\.mask_seconds",
    ),
    "regex nested": ({"regex": "(" * 10**5 + "a" + ")" * 10**5}, ConstraintError, "regex: "),
    "NUL": ({"regex": "a\0"}, ConstraintError, "regex: has a NUL character"),
    "surrogate": ({"choice": ["a", "\ud800"]}, ConstraintError, r"choice\[1\]: has a lone"),
    "lark": ({"grammar": "start: foo"}, ConstraintError, 'grammar: .*unknown name: "foo"'),
    "lark nested": ({"grammar": "start: " + "(" * 10**5}, ConstraintError, "grammar: .*nested"),
    "lark without an end": ({"grammar": 'start: "a" start'}, ConstraintError, "simplify"),
    "lark with too many rules": (
        {"grammar": "".join(f'{r}: r{i} "a"\n' for i, r in enumerate(RULES)) + 'r40000: "b"'},
        ConstraintError,
        "grammar: ",
    ),
    "gbnf": ({"grammar": "root ::= ("}, ConstraintError, "grammar: this GBNF cannot be read"),
    "huge": (
        {"regex": "a" * (2**20 + 1)},
        ConstraintError,
        "expected at most 1,048,576 bytes, got 1,048,577",
    ),
    "no choice": ({"choice": []}, InvalidRequestError, "choice: expected a list of at least one"),
    "a string": ({"choice": "yes"}, InvalidRequestError, "choice: expected a list"),
    "a number": ({"choice": ["1", 2]}, InvalidRequestError, r"choice\[1\]: expected a string"),
    "two": ({"choice": ["1"], "regex": "a"}, InvalidRequestError, "regex and choice: expected at"),
    "misspelt": ({"json_shema": {}}, InvalidRequestError, "did you mean json_schema"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_followed_is_refused_before_the_first_token(
    tiny: StarChat, case: str
) -> None:
    options, error, message = WRONG[case]
    with pytest.raises(error, match=f"(?s){message}") as caught:
        tiny.stream_complete("x", **options)
    assert len(str(caught.value)) < 700
    assert issubclass(error, InvalidRequestError)


@pytest.mark.parametrize(
    "schema",
    [
        nested(60),
        chained(20_000),
        {"enum": [f"value number {i:06}" for i in range(45_000)]},
        {
            "type": "object",
            "required": [f"p{i:05}" for i in range(6_000)],
            "properties": {
                f"p{i:05}": {"enum": [1], "description": "x" * 110} for i in range(6_000)
            },
        },
    ],
    ids=["nested", "a chain of references", "an enumeration of 1 MB", "an object of 1 MB"],
)
def test_large_schemas_are_followed(tiny: StarChat, schema: dict[str, Any]) -> None:
    # The first mask of the object takes about 50 ms, which is the default bound.
    with StarChat.load(tiny.info.file, limits={"mask_seconds": 5}) as model:
        reply = model.complete("x", json_schema=schema, max_tokens=60, temperature=0)
    assert reply.text and reply.finish_reason in ("stop", "length")


def test_a_dead_end_in_the_middle_ends_only_that_request(tiny: StarChat) -> None:
    """x, and then more Earley items than llguidance permits."""
    grammar = 'start: /[ab]{3}/ deep\ndeep: "x" deep'
    other = tiny.stream_complete("y", regex="[a-z]{200}", seed=1)
    with pytest.raises(ConstraintError, match="cannot be followed any further"):
        tiny.complete("x", grammar=grammar)
    assert len(other.result().text) == 200


def test_a_vocabulary_without_the_bytes_is_a_dead_end() -> None:
    tokenizer = Tokenizer([b"a", b"b", b"<|end|>"])
    scheduler = testing.Scheduler(n_vocab=3)
    dead = compiled(tokenizer, regex="x+")
    for params, lead in ((SamplingParams(), []), (SamplingParams(logprobs=0), [0, 1])):
        with pytest.raises(ConstraintError, match="needs bytes that no token"):
            scheduler.add([0], params, dead, lead)
    with pytest.raises(InvalidRequestError, match="lead token 1: expected an id from 0 to 2"):
        scheduler.add([0], SamplingParams(), compiled(tokenizer, regex="a"), [0, 3])
    stream = scheduler.add([0], SamplingParams(), compiled(tokenizer, regex="[ab]x+"))
    beside = scheduler.add([0], SamplingParams(max_tokens=9))
    while scheduler.step():
        pass
    with pytest.raises(ConstraintError, match="needs bytes that no token"):
        [*stream.drain(), *stream.drain()]
    assert len(beside.drain()) == 9


def test_the_same_constraint_is_compiled_once(tiny: StarChat) -> None:
    schema = {"enum": [f"value number {i:05}" for i in range(8_000)]}
    times = []
    for _ in range(6):
        start = time.perf_counter()
        tiny.complete("x", json_schema=schema, max_tokens=1)
        times.append(time.perf_counter() - start)
    assert min(times[1:]) < times[0]


def test_without_llguidance_the_error_says_what_to_install(
    tiny: StarChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UnsupportedFeatureError, match=r'pip install "starchat\[grammar\]"'):
        tiny.complete("x", choice=["a"])
    assert tiny.complete("x", max_tokens=1)


def test_a_library_without_the_interface_is_refused() -> None:
    with pytest.raises(UnsupportedFeatureError, match="has no function llg_"):
        testing.GrammarCompiler(
            importlib.import_module("starchat._core").__file__, Tokenizer([b"a"])
        )
    with pytest.raises(UnsupportedFeatureError, match="cannot be opened"):
        testing.GrammarCompiler("/nowhere/lib.so", Tokenizer([b"a"]))


# ---- life -----------------------------------------------------------------------------------


def test_closing_ends_constrained_streams(tiny_model_path: Path) -> None:
    model = StarChat.load(tiny_model_path, n_ctx=500)
    # Longer than what a stream holds unread, so that it cannot have ended.
    stream = model.stream_complete("x", regex="[a-z]*", ignore_eos=True)
    while not model.stats()["running"]:
        time.sleep(0.001)
    model.close()
    with pytest.raises(EngineClosedError):
        while True:
            next(stream)


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_gets_fork_error_though_a_thread_was_compiling(
    tiny_model_path: Path,
) -> None:
    script = """
        import os, sys, threading, warnings
        from starchat import StarChat, ForkError
        warnings.filterwarnings("ignore", "This process .* is multi-threaded")  # Python 3.12
        model = StarChat.load(sys.argv[1])
        def compile():
            for i in range(40):
                model.complete("x", json_schema={"enum": [f"{i} {j}" for j in range(500)]})
        thread = threading.Thread(target=compile)
        thread.start()
        for _ in range(5):
            if os.fork() == 0:
                try:
                    model._engine.compile("", "regex", "a")
                except ForkError:
                    os._exit(0)
                os._exit(1)
            assert os.wait()[1] == 0
        thread.join()
    """
    result = run_python(script, tiny_model_path, timeout_s=120)
    assert (result.returncode, result.stderr) == (0, "")


def test_python_runs_on_while_a_grammar_is_compiled(tiny: StarChat) -> None:
    """The GIL is given back: a compilation of seconds holds nobody up."""
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.002)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    with pytest.raises(ConstraintError):
        tiny.complete("x", regex="((a{100}){100}){100}")
    end = time.monotonic()
    done.set()
    thread.join()
    during = [tick for tick in ticks if start < tick < end]
    assert len(during) > (end - start) / 0.1
