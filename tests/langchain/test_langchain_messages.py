"""LangChain messages ↔ starchat messages, without a model."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_starchat.messages import to_ai_message, to_generation_chunks, to_starchat
from starchat import Chunk, Completion, InvalidRequestError, TokenLogprob, Usage


def convert(*messages: BaseMessage) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in to_starchat(messages, "nano")]


def test_roles_map_to_starchats_three() -> None:
    assert convert(SystemMessage("a"), HumanMessage("b", name="eve"), AIMessage("c")) == [
        ("system", "a"),
        ("user", "b"),
        ("assistant", "c"),
    ]


@pytest.mark.parametrize(
    ("role", "expected"),
    [("human", "user"), ("user", "user"), ("ai", "assistant"), ("system", "system")],
)
def test_chat_message_roles(role: str, expected: str) -> None:
    assert convert(ChatMessage(content="x", role=role)) == [(expected, "x")]


def test_message_chunks_are_messages() -> None:
    assert convert(HumanMessage("x"), AIMessageChunk(content="y")) == [
        ("user", "x"),
        ("assistant", "y"),
    ]


def test_late_system_messages_move_to_the_front_in_order() -> None:
    messages = [SystemMessage("a"), HumanMessage("b"), SystemMessage("c"), HumanMessage("d")]
    assert convert(*messages) == [("system", "a"), ("system", "c"), ("user", "b"), ("user", "d")]


def test_text_blocks_are_joined() -> None:
    content: Any = ["a", {"type": "text", "text": "b"}, {"type": "text", "text": "c", "index": 1}]
    assert convert(HumanMessage(content)) == [("user", "abc")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}]),
            r"messages\[0\].content\[0\]: expected a text block, got one of type 'image_url'",
            id="image",
        ),
        pytest.param(
            ToolMessage("3", tool_call_id="1"), r"messages\[0\]: .* got 'tool'", id="tool"
        ),
        pytest.param(
            FunctionMessage(content="3", name="f"),
            r"messages\[0\]: .* got 'function'",
            id="function",
        ),
        pytest.param(ChatMessage(content="x", role="judge"), "got 'judge'", id="unknown role"),
        pytest.param(
            AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
            r"messages\[0\]: .* tool calls",
            id="tool call",
        ),
    ],
)
def test_what_the_template_cannot_hold_is_refused(message: BaseMessage, expected: str) -> None:
    with pytest.raises(InvalidRequestError, match=expected):
        convert(message)


def test_generated_ids_return_to_the_model_that_made_them() -> None:
    reply = to_ai_message(Completion("hi", (5, 6), "stop", Usage(3, 2)), "nano")
    assert to_starchat([reply], "nano")[0]["token_ids"] == [5, 6]
    assert "token_ids" not in to_starchat([reply], "beta")[0]


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = [HumanMessage("b"), SystemMessage("a")]
    to_starchat(messages, "nano")
    assert [m.content for m in messages] == ["b", "a"]


def test_added_chunks_equal_the_whole_message() -> None:
    logprobs = (TokenLogprob(5, "h", -0.1, ((5, "h", -0.1),)), TokenLogprob(6, "i", -0.2))
    usage = Usage(3, 2)
    whole = to_ai_message(Completion("hi", (5, 6), "length", usage, logprobs), "nano")
    pieces = [
        Chunk("h", (5,), logprobs[:1]),
        Chunk("i", (6,), logprobs[1:], finish_reason="length", usage=usage),
    ]
    chunks = [c.message for piece in pieces for c in to_generation_chunks(piece, "nano")]
    added = reduce(add, chunks)
    assert isinstance(added, AIMessageChunk)
    assert [c.content for c in chunks] == ["h", "i", ""]
    assert added.content == whole.content
    assert added.usage_metadata == whole.usage_metadata
    assert added.response_metadata == whole.response_metadata
    assert added.additional_kwargs == whole.additional_kwargs
    assert added.chunk_position == "last"


def test_metadata_comes_with_the_last_chunk_only() -> None:
    (piece,) = to_generation_chunks(Chunk("h", (5,)), "nano")
    assert piece.message.response_metadata == {}
    assert isinstance(piece.message, AIMessageChunk)
    assert piece.message.chunk_position is None
