"""Errors: their fields beside their text, in Python and from the core."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starchat import StarChat, StarChatError, _core, errors
from starchat.errors import ErrorCode, InvalidRequestError, shown, unexpected
from starchat.model_settings import ModelSettings
from starchat.openai import read_messages, read_tools

HELLO = [{"role": "user", "content": "Hello"}]


def classes(base: type[StarChatError] = StarChatError) -> Iterator[type[StarChatError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == "starchat.errors":
            yield from classes(child)


def fields(error: StarChatError) -> tuple[Any, ...]:
    return error.code, error.param, error.limit, error.got


@pytest.mark.parametrize("kind", [*classes()])
def test_every_class_has_a_code_and_fields_that_survive_pickling(kind: type[StarChatError]) -> None:
    assert kind.code in get_args(ErrorCode)
    assert fields(kind("text")) == (kind.code, None, None, None)
    error = kind("text", param="top_p", limit=1, got=2.5)
    for twin in pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error):
        assert type(twin) is kind
        assert (str(twin), *fields(twin)) == ("text", kind.code, "top_p", 1, 2.5)


def test_no_two_classes_share_a_code() -> None:
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes)


def test_a_code_of_its_own_survives_pickling() -> None:
    error = InvalidRequestError("text", code="unknown_parameter")
    assert pickle.loads(pickle.dumps(error)).code == "unknown_parameter"
    assert InvalidRequestError.code == "invalid_parameter"


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (3, 3),
        (2.5, 2.5),
        (True, "True"),
        (None, "None"),
        ("x", "'x'"),
        (float("nan"), "nan"),
        (10**400, repr(10**400)[:80]),
        (10**5000, "a value of type int that has no repr"),
        ({1}, "{1}"),
    ],
    ids=lambda value: f"{value!r:.10}" if value != 10**5000 else "10**5000",
)
def test_what_was_given_is_a_number_or_text(value: object, got: object) -> None:
    error = unexpected("seed", "an integer", value)
    assert (error.param, error.got) == ("seed", got)
    json.dumps(error.got, allow_nan=False)
    pickle.dumps(error)


class Hostile:
    def __repr__(self) -> str:
        raise AssertionError("its repr was made")

    __str__ = __repr__


class Counting(list[int]):
    n = 0

    def __repr__(self) -> str:
        raise AssertionError("its repr was made")

    def __iter__(self) -> Iterator[int]:
        for item in list.__iter__(self):
            Counting.n += 1
            yield item


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda below: (
        st.lists(below)
        | st.dictionaries(st.text(), below)
        | st.tuples(below)
        | st.tuples(below, below)
        | st.frozensets(st.integers())
        | st.sets(st.text())
    ),
)


@given(plain)
def test_of_plain_data_an_error_shows_the_beginning_of_its_repr(value: object) -> None:
    if not ("'" in repr(value) and '"' in repr(value)):  # which quotes are used depends on all
        assert shown(value) == repr(value)[:80]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Hostile(), "test_errors.Hostile object>"),
        ([Hostile()], "test_errors.Hostile object>]"),
        (Counting(range(1000)), "[0, 1, 2, 3, 4, 5,"),
        ({"a": {"b": [1] * 10**6}}, "{'a': {'b': [1, 1, 1,"),
        (b"a" * 10**7, "b'aaaa"),
        (10**5000, "a value of type int that has no repr"),
    ],
    ids=["hostile", "in a list", "counting", "nested", "bytes", "int"],
)
@pytest.mark.parametrize("name", ["top_k", "seed", "ignore_eos", "n"])
def test_an_error_never_makes_the_repr_of_what_was_given(
    nano: StarChat, name: str, value: object, text: str
) -> None:
    Counting.n = 0
    with pytest.raises(InvalidRequestError) as raised:
        nano.complete("a", **{name: value})  # type: ignore[arg-type]
    assert text in str(raised.value)
    assert len(str(raised.value)) < 300
    assert len(str(raised.value.got)) <= 80
    assert Counting.n < 80


def test_the_core_never_makes_the_repr_of_what_was_given() -> None:
    for value in (Hostile(), Counting(range(1000))):
        with pytest.raises(TypeError, match="top_p: expected a number, got"):
            _core.SamplingParams(top_p=value)
    with pytest.raises(InvalidRequestError, match="top_k: expected an integer of 64 bits, got 100"):
        _core.SamplingParams(top_k=10**30)


LONG = "x" * 10**6


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.complete("a", **{LONG: 1}),
        lambda model: model.chat([{"role": LONG, "content": ""}]),
        lambda model: model.chat([{"role": "user", "content": "", LONG: 1}]),
        lambda model: model.chat([{"role": "user", "content": "", (LONG,) * 9: 1}]),
        lambda model: model.chat(HELLO, tools=[{"name": "f", LONG: 1}]),
        lambda model: model.chat(
            HELLO, tools=[{"name": f"f{i}"} for i in range(99)], tool_choice=1
        ),
        lambda model: model.chat(HELLO, tool_choice=LONG),
        lambda model: model.complete("a", schema_limits={LONG: 1}, json_schema=True),
        lambda model: model.tokenize("a", [LONG]),
        lambda model: model.chat(
            [{**CALLING, "tool_calls": [CALL | {"id": f"{i}{LONG}"} for i in range(20)]}, RESULT]
        ),
        lambda _: StarChat.load(LONG),
        lambda _: StarChat.load(limits={LONG: 1}),
        lambda _: ModelSettings(**{LONG: 1}),
        lambda _: read_messages([{"role": LONG, "content": ""}]),
        lambda _: read_messages([{"role": "user", "content": [{"type": LONG}]}]),
        lambda _: read_tools([{"type": LONG}]),
    ],
    ids=range(16),
)
def test_what_a_caller_names_is_quoted_in_part(nano: StarChat, ask: Callable[..., object]) -> None:
    with pytest.raises((StarChatError, ValueError)) as raised:
        ask(nano)
    assert len(str(raised.value)) < 1500
    assert len(str(getattr(raised.value, "param", ""))) < 200


INVALID, UNKNOWN, MISSING = "invalid_parameter", "unknown_parameter", "missing_parameter"
TOO_LONG, CONSTRAINT = "context_length_exceeded", "invalid_constraint"


CALL = {"id": "c", "name": "f", "arguments": {}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "", "tool_call_id": "c"}


def chat(*messages: object, **options: Any) -> Callable[[StarChat], object]:
    return lambda model: model.chat([*messages] or HELLO, **options)  # type: ignore[list-item]


def complete(prompt: Any = "a", **options: Any) -> Callable[[StarChat], object]:
    return lambda model: model.complete(prompt, **options)


def user(**more: object) -> dict[str, object]:
    return {"role": "user", "content": "Hi", **more}


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        # checked in Python
        (complete(top_k="x"), (INVALID, "top_k", None, "'x'")),
        (complete(seed=-1), (INVALID, "seed", 0, -1)),
        (complete(stop=["a", 1]), (INVALID, "stop[1]", None, 1)),
        (complete(topk=1), (UNKNOWN, "topk", None, None)),
        (complete(logit_bias={"x": 1}), (INVALID, "logit_bias['x']", None, "'x'")),
        (complete(tools=[]), (UNKNOWN, "tools", None, None)),
        (complete(choice=[]), (INVALID, "choice", None, "[]")),
        (complete(choice=["a"], regex="a"), (INVALID, "choice", 1, 2)),
        (complete(json_schema={"const": 2**60}), (CONSTRAINT, "json_schema", None, str(2**60))),
        (lambda model: model.chat([]), (INVALID, "messages", 1, 0)),
        (lambda model: model.chat("Hi"), (INVALID, "messages", None, "str")),
        (chat(user(), 1), (INVALID, "messages[1]", None, "int")),
        (chat({"role": "user"}), (MISSING, "messages[0].content", None, None)),
        (chat(user(content=1)), (INVALID, "messages[0].content", None, "1")),
        (chat(user(role="x")), (INVALID, "messages[0].role", None, "'x'")),
        (chat(user(name="x")), (UNKNOWN, "messages[0].name", None, None)),
        (
            chat({**CALLING, "tool_calls": [CALL] * 2}),
            (INVALID, "messages[0].tool_calls", None, "'c'"),
        ),
        (chat(CALLING, RESULT, RESULT), (INVALID, "messages[2].tool_call_id", None, "'c'")),
        (chat(tools=1), (INVALID, "tools", None, 1)),
        (chat(tools=[{"name": ""}]), (INVALID, "tools[0].name", None, "''")),
        (chat(tools=[{"name": "f", "x": 1}]), (UNKNOWN, "tools[0].x", None, None)),
        (
            chat(tools=[{"name": "f", "parameters": {"type": "null"}}]),
            (INVALID, "tools[0].parameters", None, "'null'"),
        ),
        (
            chat(tools=[{"name": "f", "parameters": {"minProperties": 9}}]),
            (CONSTRAINT, "tools[0].parameters", 1, "9"),
        ),
        (chat(tools=[{"name": "f"}], tool_choice="g"), (INVALID, "tool_choice", None, "'g'")),
        (lambda model: model.embed(["a", ""]), (INVALID, "texts[1]", 1, 0)),
        (lambda model: model.embed("a " * 4000), (TOO_LONG, "texts", 2048, 4001)),
        # checked by the core
        (complete(top_p=2), (INVALID, "top_p", 1, 2)),
        (complete(top_p=0), (INVALID, "top_p", 0, 0)),
        (complete(temperature=float("nan")), (INVALID, "temperature", 0, "nan")),
        (complete(frequency_penalty=-3), (INVALID, "frequency_penalty", -2, -3)),
        (complete(max_tokens=0), (INVALID, "max_tokens", 1, 0)),
        (complete(stop_token_ids=[2560]), (INVALID, "stop_token_ids", 2559, 2560)),
        (complete([5, -1]), (INVALID, "prompt[1]", 0, -1)),
        (complete([]), (INVALID, "prompt", 1, 0)),
        (complete([1] * 2048), (TOO_LONG, "prompt", 2048, 2048)),
        (lambda model: model.logits([1] * 2049), (TOO_LONG, "token_ids", 2048, 2049)),
        (lambda model: model.logits([5, 2560]), (INVALID, "token_ids[1]", 2559, 2560)),
        (chat(user(content=" a" * 2040)), (TOO_LONG, "messages", 2048, 2049)),
        (complete(regex="("), (CONSTRAINT, "regex", None, None)),
        (complete(regex="a" * (1 << 23)), (CONSTRAINT, "regex", 1 << 20, 1 << 23)),
        (lambda model: model.detokenize([2560]), (INVALID, "token_ids", 2559, 2560)),
        (lambda model: model.tokenize("a", ["x"]), (INVALID, "allow_special", None, None)),
        (lambda _: StarChat.load(n_ctx=1), (INVALID, "n_ctx", 2, 1)),
        (lambda _: StarChat.load(n_threads=1000), (INVALID, "n_threads", 256, 1000)),
    ],
    ids=lambda value: "-".join(map(str, value[:2])) if isinstance(value, tuple) else "",
)
def test_errors_say_which_argument_and_how_much(
    nano: StarChat, ask: Callable[[StarChat], object], expected: tuple[Any, ...]
) -> None:
    with pytest.raises(StarChatError) as raised:
        ask(nano)
    assert fields(raised.value) == expected


def test_a_schema_that_no_tool_can_satisfy_is_told_by_its_place(nano: StarChat) -> None:
    schema = {
        "properties": {"a": {"type": "integer", "minimum": 2, "maximum": 1}},
        "required": ["a"],
    }
    tools: list[dict[str, Any]] = [
        {"name": "f"},
        {"type": "function", "function": {"name": "g", "parameters": schema}},
    ]
    with pytest.raises(errors.ConstraintError, match="tool 'g'") as raised:
        nano.chat(HELLO, tools=tools)
    assert raised.value.param == "tools[1].function.parameters"


def test_the_result_of_a_closed_stream_has_a_code_of_its_own(nano: StarChat) -> None:
    stream = nano.stream_complete("a")
    stream.close()
    with pytest.raises(InvalidRequestError) as raised:
        stream.result()
    assert raised.value.code == "stream_closed"
