"""Prompts that cannot fit are refused before they are read, and long texts are read in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starchat import (
    ContextLengthError,
    InvalidRequestError,
    Limits,
    StarChat,
    checks,
    escape,
    generation,
)
from starchat import model as model_module
from starchat._core import Tokenizer
from starchat.chat import framed_prompt, tools
from starchat.chat.framed_prompt import least_characters
from starchat.chat.tools import contains, plain_text
from starchat.prompt_room import PromptRoom

N_CTX = 2048  # the embedded model's
LONG = "word " * 20_000
ANSWER = {"role": "assistant", "content": "a"}
CALL = {"id": "1", "name": "f", "arguments": {"x": [0] * 100_000}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


TOO_LONG: dict[str, tuple[Callable[[StarChat], object], str, str]] = {
    "text": (lambda m: m.chat([user(LONG)]), "messages", "prompt has at least"),
    "texts": (lambda m: m.chat([user(LONG[:9000])] * 5), "messages", "prompt has at least"),
    "messages": (lambda m: m.chat([user("hi")] * 1025), "messages", "at least 2,050 tokens"),
    "call": (
        lambda m: m.chat([user("a"), ANSWER | {"tool_calls": [CALL]}]),
        "messages",
        "prompt has at least",
    ),
    "ids of a message": (
        lambda m: m.chat([user("a"), ANSWER | {"token_ids": ["x"] * 3000}, user("b")]),
        "messages",
        "prompt has 3,000 tokens",
    ),
    "prompt": (lambda m: m.complete(LONG), "prompt", "prompt has at least"),
    "blanks": (lambda m: m.complete(" " * 100_000), "prompt", "prompt has at least"),
    "ids": (lambda m: m.complete(["x"] * 3000), "prompt", "prompt has 3,000 tokens"),  # type: ignore[list-item]
    "infill": (lambda m: m.infill(LONG[:30_000], LONG[:30_000]), "prompt", "prompt has at least"),
    "embedding": (lambda m: m.embed(["a", LONG]), "texts[1]", r"texts\[1\] has at least"),
    "logits": (lambda m: m.logits(["x"] * 3000), "token_ids", "token_ids has 3,000 tokens"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_what_cannot_fit_is_refused_by_its_length(nano: StarChat, name: str) -> None:
    ask, param, sentence = TOO_LONG[name]
    with pytest.raises(ContextLengthError, match=f"{sentence}.*holds 2,048: shorten it by") as told:
        ask(nano)
    error = told.value
    assert (error.param, error.limit) == (param, N_CTX)
    assert isinstance(error.got, int)
    assert error.got > N_CTX


def test_what_leaves_no_ids_does_not_count(nano: StarChat) -> None:
    framed = " " * 100_000 + "<|system|>\n<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>"
    assert nano.complete(framed, max_tokens=1).usage.prompt_tokens < 20
    assert least_characters(framed) == len(framed.strip())
    assert least_characters(escape("<|end|>" * 9)) == len("<|end|>" * 9)
    assert least_characters("  a") == 3
    assert least_characters("  ") == 2


def test_a_vocabulary_that_drops_characters_refuses_nothing_by_length() -> None:
    room = PromptRoom("prompt", Limits(), Tokenizer([b"a"]), 8)
    room.take(1_000_000)
    with pytest.raises(ContextLengthError, match="prompt has at least 9 tokens"):
        room.take(0, 9)


# ---- long texts, in pieces --------------------------------------------------------------------

LINES = st.lists(
    st.sampled_from(["<tool_call>", "<tool_result>", " ", "\n", "a", "<", "[", "|", "P"]),
    max_size=30,
)


@given(LINES, st.integers(1, 9))
def test_pieces_of_a_long_text_are_read_as_the_whole(parts: list[str], size: int) -> None:
    text = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "_PIECE", size)
        patch.setattr(framed_prompt, "_PIECE", size)
        assert plain_text(text) == tools._MARKED.sub(" ", text)
        assert contains(text, "<tool_call>") == ("<tool_call>" in text)
        assert escape(text) == framed_prompt._BEGINNING.sub(f"\\g<0>{framed_prompt._MARK}", text)
        stripped = text.lstrip()
        n_blank = len(text) - len(stripped) if stripped.startswith("<") else 0
        assert least_characters(text) == len(text) - n_blank


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_ids_are_decoded_in_slices(
    nano: StarChat, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    ids = nano.tokenize("naïve 🙂 \ud800漢")
    cut = ids[:-1]
    whole = nano._engine.tokenizer.decode
    expected = [whole(some).decode("utf-8", "replace") for some in (ids, cut)]
    monkeypatch.setattr(checks, "_SLICE", size)
    assert [nano.detokenize(ids), nano.detokenize(cut)] == expected


def test_a_count_is_that_of_the_prompt(nano: StarChat) -> None:
    reply = nano.chat([user("Hi")], max_tokens=3, temperature=0)
    said = {"role": "assistant", "content": reply.text, "token_ids": reply.token_ids}
    dialogue = [user("<tool_call>\n\n"), said, user("\nb")]
    next_reply = nano.chat(dialogue, max_tokens=1)
    assert nano.count_tokens(dialogue) == next_reply.usage.prompt_tokens
    assert nano.count_tokens([user(LONG)]) > 10 * N_CTX


SMALL = Limits(text_characters=50)
NAMED = {"id": "1", "name": "x" * 20, "arguments": {}}
TOO_MUCH: dict[str, Callable[[StarChat], object]] = {
    "messages": lambda m: m.count_tokens([user("a" * 30)] * 2),
    "turns": lambda m: m.count_tokens([user("")] * 30),
    "result": lambda m: m.count_tokens([{"role": "tool", "content": "a" * 51}]),
    "name": lambda m: m.count_tokens([ANSWER | {"tool_calls": [NAMED | {"name": "x" * 51}]}]),
    "names": lambda m: m.count_tokens(
        [ANSWER | {"tool_calls": [NAMED]}, {"role": "tool", "content": "a", "tool_call_id": "1"}]
    ),
    "arguments": lambda m: m.count_tokens(
        [ANSWER | {"tool_calls": [NAMED | {"arguments": {"x": [0] * 51}}]}]
    ),
    "ids": lambda m: m.count_tokens([ANSWER | {"token_ids": ["x"] * 51}]),
    "prompt": lambda m: m.tokenize_prompt("a" * 51),
    "completion": lambda m: m.complete("a" * 51),
    "embedding": lambda m: m.embed("a" * 51),
    "text of ids": lambda m: m.detokenize([97] * 51),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_beyond_the_bound_of_texts_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"expected at most 50 characters.*text_char"):
        TOO_MUCH[name](StarChat.load(limits=SMALL))


@pytest.mark.parametrize("ask", ["chat", "complete", "infill"])
def test_a_prompt_of_many_ids_never_becomes_the_cores_list(
    ask: str, nano: StarChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(generation.Generation, "compile", lambda *_: seen.append(1))
    monkeypatch.setattr(model_module, "infill_prompt", lambda *_: [97] * 3000)
    text = "\u4e16" * 2000  # three ids each, though few characters
    asked = {"chat": [user(text)], "complete": text, "infill": ""}[ask]
    with pytest.raises(ContextLengthError, match=r"prompt has \d,\d{3} tokens, the context holds"):
        getattr(nano, ask)(*([asked] if ask != "infill" else ["", ""]))
    assert not seen


def test_so_many_names_are_no_control_tokens(nano: StarChat) -> None:
    with pytest.raises(InvalidRequestError, match="allow_special: expected at most 1,024 names"):
        nano.tokenize("a", ["<|end|>"] * 1025)
