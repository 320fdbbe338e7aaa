"""No call holds the GIL above 50 ms, and no async call its event loop above 20 ms of CPU time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import starchat
from starchat import StarChat
from support.gil_meter import longest_hold_ms, longest_hold_of_loop_ms

pytestmark = pytest.mark.nightly

USER = [{"role": "user", "content": "hi"}]
N = 100_000_000
TEXTS = {
    "words": "word " * (N // 5),
    "frame": "<|system|>\n" * (N // 11),
    "marks": "<" * (N // 4),
    "characters": "\U0001f600" * (N // 16),
}
IDS = [300 + i % 2000 for i in range(10_000_000)]


def call(**fields: Any) -> list[dict[str, Any]]:
    """A dialogue with one call of a tool."""
    made = {"id": "1", "name": "f", "arguments": {}} | fields
    return [*USER, {"role": "assistant", "content": "", "tool_calls": [made]}]


OF_TEXTS: dict[str, Callable[[StarChat, Any], object]] = {
    "tokenize": lambda m, text: m.tokenize(text[: N // 5]),
    "count": lambda m, text: m.count_tokens([{"role": "user", "content": text}]),
    "count of most": lambda m, text: m.count_tokens(
        [{"role": "assistant", "content": text[: 2**22 - 99], "token_ids": [97]}]
    ),
    "count of a result": lambda m, text: m.count_tokens(
        [{"role": "tool", "content": text[: 2**22 - 99]}]
    ),
    "count of a name": lambda m, text: m.count_tokens(call(name=text[: 2**22 - 99])),
    "raw prompt": lambda m, text: m.tokenize_prompt(text),
    "most of a raw prompt": lambda m, text: m.tokenize_prompt(text[: 2**22]),
    "chat": lambda m, text: m.chat([{"role": "user", "content": text}]),
    "name": lambda m, text: m.chat(call(name=text)),
    "arguments": lambda m, text: m.chat(call(arguments={"x": text})),
    "complete": lambda m, text: m.complete(text),
    "escape": lambda m, text: starchat.escape(text[: N // 5]),
    "embed": lambda m, text: m.embed(text),
    "regex": lambda m, text: m.chat(USER, regex=text),
    "description": lambda m, text: m.chat(USER, tools=[{"name": "f", "description": text}]),
    "stop": lambda m, text: m.chat(USER, stop=text),
    "role": lambda m, text: m.chat([{"role": text, "content": text}]),
}


@pytest.mark.filterwarnings("ignore::starchat.ControlTokenWarning")
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", OF_TEXTS)
def test_texts(nano: StarChat, name: str, text: str) -> None:
    assert longest_hold_ms(lambda: OF_TEXTS[name](nano, TEXTS[text])) < 50


OF_LISTS: dict[str, Callable[[StarChat], object]] = {
    "detokenize": lambda m: m.detokenize(IDS),
    "complete": lambda m: m.complete(IDS),
    "logits": lambda m: m.logits(IDS),
    "history": lambda m: m.count_tokens([{"role": "assistant", "content": "a", "token_ids": IDS}]),
    "arguments": lambda m: m.count_tokens(call(arguments={"x": IDS})),
    "most arguments": lambda m: m.count_tokens(call(arguments={"x": IDS[:2_000_000]})),
    "messages": lambda m: m.count_tokens(USER * 1_000_000),
    "results": lambda m: m.count_tokens([{"role": "tool", "content": "a"}] * 500_000),
    "stop": lambda m: m.chat(USER, stop=IDS),  # type: ignore[arg-type]
    "choice": lambda m: m.chat(USER, choice=IDS),  # type: ignore[arg-type]
    "embed": lambda m: m.embed(IDS),  # type: ignore[arg-type]
    "tools": lambda m: m.chat(USER, tools=IDS),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", OF_LISTS)
def test_lists(nano: StarChat, name: str) -> None:
    assert longest_hold_ms(lambda: OF_LISTS[name](nano)) < 50


DEEP: dict[str, Any] = {}
for _ in range(100_000):
    DEEP = {"items": DEEP}
SCHEMAS: dict[str, Any] = {
    "floats": {"enum": [i / 7 for i in range(45_000)]},
    "texts": {"enum": [f"value {i}" for i in range(60_000)]},
    "long integers": {"enum": [10**4000 + i for i in range(300)]},
    "properties": {"properties": {f"p{i}": {"type": "string"} for i in range(20_000)}},
    "look ahead": {"type": "string", "pattern": "^(?=" + "a" * 900_000},
    "looks ahead": {"type": "string", "pattern": "^" + "(?=.*a)" * 100_000 + "x"},
    "deep": DEEP,
    "distinct": {
        "anyOf": [{"type": "array", "uniqueItems": True, "items": {"enum": [*range(6)]}}] * 8000
    },
    "reference": {"$ref": "#/" + "%41" * 250_000},
}
GRAMMARS = {
    "literal": 'start: %json {"const": "' + "a" * 900_000 + '"}',
    "backslashes": '%json"' + "\\" * 1_000_000,
    "GBNF": "root ::= " + '"a" | ' * 40_000 + '"b"',
    "large GBNF": "root ::= " + '"a" | ' * 150_000 + '"b"',
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("place", ["schema", "tool"])
def test_schemas(nano: StarChat, name: str, place: str) -> None:
    schema = SCHEMAS[name]
    tool = {"name": "f", "parameters": {"properties": {"a": schema}}}
    options: Any = {"json_schema": schema} if place == "schema" else {"tools": [tool]}
    assert longest_hold_ms(lambda: nano.chat(USER, max_tokens=1, **options)) < 50


@pytest.mark.parametrize("name", GRAMMARS)
def test_grammars(nano: StarChat, name: str) -> None:
    text = GRAMMARS[name]
    assert longest_hold_ms(lambda: nano.chat(USER, max_tokens=1, grammar=text)) < 50


OF_TASKS: dict[str, Callable[[StarChat], Awaitable[object]]] = {
    "text": lambda m: m.achat([{"role": "user", "content": TEXTS["words"]}]),
    "messages": lambda m: m.achat(USER * 100_000),
    "schema": lambda m: m.achat(USER, json_schema=SCHEMAS["properties"], max_tokens=1),
    "tools": lambda m: m.achat(USER, tools=[{"name": "f", "parameters": SCHEMAS["properties"]}]),
    "stop": lambda m: m.achat(USER, stop=["x"] * 100_000),
    "ids": lambda m: m.acomplete(IDS),
    "texts": lambda m: m.aembed(["word " * 100] * 300),
    "many": lambda m: asyncio.wait_for(m.achat(USER, n=1024, max_tokens=2), 60),
}


@pytest.mark.parametrize("name", OF_TASKS)
def test_event_loops(nano: StarChat, name: str) -> None:
    assert longest_hold_of_loop_ms(lambda: OF_TASKS[name](nano)) < 20
