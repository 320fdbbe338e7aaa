"""LangChain messages ↔ starchat messages, without a model."""

from __future__ import annotations

import json
import threading
from functools import reduce
from operator import add
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

from langchain_starchat import ChatStarChat, chat_models
from langchain_starchat.messages import MessageChunks, to_ai_message, to_starchat
from scripted_model import reply
from starchat import Chunk, InvalidRequestError, TokenLogprob, ToolCall, Usage
from starchat.chat.messages import check_messages


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
        pytest.param(ChatMessage(content="x", role="judge"), "got 'judge'", id="unknown role"),
    ],
)
def test_what_the_template_cannot_hold_is_refused(message: BaseMessage, expected: str) -> None:
    with pytest.raises(InvalidRequestError, match=expected):
        convert(message)


CALLS: Any = [
    {"name": "add", "args": {"a": 1}, "id": "c1"},
    {"name": "now", "args": {}, "id": None},
]


@pytest.mark.parametrize(
    "content",
    [
        "Let me see.",
        [{"type": "text", "text": "Let me see."}, {"type": "tool_use", "id": "c1", "name": "add"}],
        [{"type": "text", "text": "Let me see."}, {"type": "tool_call", **CALLS[0]}],
    ],
    ids=["text", "as Anthropic's", "standard blocks"],
)
def test_calls_and_their_results_have_a_place(content: Any) -> None:
    result = ToolMessage("3", name="add", tool_call_id="c1", artifact={"kept": "elsewhere"})
    turns = to_starchat([AIMessage(content, tool_calls=CALLS), result], "nano")
    assert turns == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                ToolCall("c1", "add", {"a": 1}),
                ToolCall("call_0_1", "now", {}),
            ],
        },
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
    ]


@pytest.mark.parametrize(
    ("content", "shown"),
    [("no such file", "Error: no such file"), ("Error: no such file", "Error: no such file")],
)
def test_a_failed_tool_says_so(content: str, shown: str) -> None:
    failed = ToolMessage(content, tool_call_id="c1", status="error")
    assert to_starchat([failed], "nano")[0]["content"] == shown


def test_functions_of_2023_are_calls_and_results() -> None:
    asked = {"function_call": {"name": "add", "arguments": '{"a": 1}'}}
    answers = [
        FunctionMessage(content="3", name="add"),
        ChatMessage(content="3", role="function", additional_kwargs={"name": "add"}),
        ChatMessage(content="3", role="tool", additional_kwargs={"tool_call_id": "call_0_0"}),
    ]
    for answer in answers:
        called, result = to_starchat([AIMessage("", additional_kwargs=asked), answer], "nano")
        assert called["tool_calls"] == [ToolCall("call_0_0", "add", {"a": 1})]
        assert (result["role"], result["content"]) == ("tool", "3")
        assert result["tool_call_id"] == "call_0_0"


@pytest.mark.parametrize(
    ("arguments", "read"),
    [("", {}), ('{"a": 1', {"a": 1}), ("[]", {}), (None, {}), ({"a": 1}, {"a": 1})],
)
def test_arguments_of_a_function_are_read_as_far_as_they_go(arguments: Any, read: Any) -> None:
    called = {"function_call": {"name": "f", "arguments": arguments}}
    (turn,) = to_starchat([AIMessage("", additional_kwargs=called)], "nano")
    assert turn["tool_calls"] == [ToolCall("call_0_0", "f", read)]


@pytest.mark.parametrize("before", [HumanMessage("?"), AIMessage("Hm.")])
def test_a_function_that_was_not_called_has_no_result(before: BaseMessage) -> None:
    messages = [before, FunctionMessage(content="3", name="f")]
    with pytest.raises(InvalidRequestError, match="answers the call ''"):
        check_messages(to_starchat(messages, "nano"))
    assert check_messages(to_starchat(messages, "nano", part=True), part=True)


def test_results_without_ids_find_the_call_of_their_name() -> None:
    calls: Any = [{"name": name, "args": {}, "id": None} for name in ("add", "now")]
    results = [ToolMessage(name, name=name, tool_call_id="") for name in ("now", "add")]
    turns = to_starchat([AIMessage("", tool_calls=calls), *results], "nano")
    assert [turn["tool_call_id"] for turn in turns[1:]] == ["call_0_1", "call_0_0"]


def test_calls_and_results_without_ids_pair_in_order() -> None:
    calls: Any = [{"name": "now", "args": {}, "id": id} for id in (None, "c1", "")]
    results = [ToolMessage(str(n), tool_call_id=id) for n, id in enumerate(["", "c1", ""])]
    turns = to_starchat([AIMessage("", tool_calls=calls), *results] * 2, "nano")
    made = [[call.id for call in turn["tool_calls"]] for turn in turns[::4]]  # type: ignore[union-attr]
    assert made == [["call_0_0", "c1", "call_0_2"], ["call_4_0", "c1", "call_4_2"]]
    answered = [turn["tool_call_id"] for turn in turns if turn["role"] == "tool"]
    assert answered == [*made[0], *made[1]]


def test_system_messages_move_out_of_a_calls_way() -> None:
    messages = [
        HumanMessage("b"),
        AIMessage("", tool_calls=CALLS[:1]),
        SystemMessage("a"),
        ToolMessage("3", tool_call_id="c1"),
    ]
    assert [role for role, _ in convert(*messages)] == ["system", "user", "assistant", "tool"]


def test_generated_ids_return_to_the_model_that_made_them() -> None:
    message = to_ai_message([Chunk("hi", (5, 6), (), "stop", Usage(3, 2))], "nano")
    assert to_starchat([message], "nano")[0]["token_ids"] == [5, 6]
    assert "token_ids" not in to_starchat([message], "beta")[0]


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = [HumanMessage("b"), SystemMessage("a"), AIMessage("", tool_calls=CALLS)]
    before = [message.model_copy(deep=True) for message in messages]
    to_starchat(messages, "nano")
    assert messages == before


# ---- replies --------------------------------------------------------------------------------


def pieces(chunks: list[Chunk]) -> list[AIMessageChunk]:
    writer = MessageChunks("nano")
    found = [generation.message for chunk in chunks for generation in writer.feed(chunk)]
    assert all(isinstance(message, AIMessageChunk) for message in found)
    return found  # type: ignore[return-value]


def added(chunks: list[Chunk]) -> AIMessageChunk:
    return reduce(add, pieces(chunks))


LOGPROBS = (
    TokenLogprob(5, "h", -0.1, ((5, "h", -0.1),), b"h", (b"h",)),
    TokenLogprob(6, "i", -0.2, bytes=b"i"),
)


@pytest.mark.parametrize(
    "chunks",
    [
        [
            Chunk("h", (5,), LOGPROBS[:1]),
            Chunk("i", (6,), LOGPROBS[1:], finish_reason="length", usage=Usage(3, 2)),
        ],
        reply("Nothing but text"),
        reply("", [("add", {"a": 1, "b": [2, "]"]})]),
        reply("Let me see.", [("add", {"a": 1}), ("now", {}), ("add", {"a": {"b": None}})]),
    ],
    ids=["logprobs", "text", "a call", "text and calls"],
)
def test_added_chunks_equal_the_whole_message(chunks: list[Chunk]) -> None:
    whole, sum_of_chunks = to_ai_message(chunks, "nano"), added(chunks)
    assert sum_of_chunks.content == whole.content
    assert sum_of_chunks.tool_calls == whole.tool_calls
    assert sum_of_chunks.invalid_tool_calls == whole.invalid_tool_calls == []
    assert sum_of_chunks.usage_metadata == whole.usage_metadata
    assert sum_of_chunks.response_metadata == whole.response_metadata
    assert sum_of_chunks.additional_kwargs == whole.additional_kwargs
    assert sum_of_chunks.chunk_position == "last"


def test_a_call_streams_its_name_first_and_then_pieces_of_its_arguments() -> None:
    chunks = pieces(reply("", [("add", {"a": 12})]))
    head, *rest = [call for message in chunks for call in message.tool_call_chunks]
    expected = {"name": "add", "args": "", "id": "call_0", "index": 0, "type": "tool_call_chunk"}
    assert head == expected
    assert all((c["name"], c["id"], c["index"]) == (None, None, 0) for c in rest)
    assert json.loads("".join([c["args"] or "" for c in rest])) == {"a": 12}


def test_pieces_that_come_together_are_given_one_by_one() -> None:
    chunks = reply("", [("add", {"a": 1}), ("now", {})])
    at_once = Chunk(
        "",
        tuple([id for chunk in chunks for id in chunk.token_ids]),
        (),
        "tool_calls",
        Usage(1, 1),
        tuple([piece for chunk in chunks for piece in chunk.tool_calls]),
        chunks[-1].finished_calls,
    )
    assert added([at_once]).tool_calls == added(chunks).tool_calls
    assert added([at_once]).additional_kwargs == added(chunks).additional_kwargs


values = st.recursive(
    st.none() | st.integers() | st.floats(-1e300, 1e300) | st.text('a\\"{}[],:é ', max_size=6),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.just("k"), below),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.text('a\\"[', max_size=3), values), st.data(), st.booleans())
def test_a_call_that_was_cut_is_never_one_to_run(
    arguments: dict[str, Any], data: st.DataObject, ascii: bool
) -> None:
    text = json.dumps(arguments, ensure_ascii=ascii)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    chunks = reply("", [("now", {}), ("add", cut)], reason="length")
    whole, sum_of_chunks = to_ai_message(chunks, "nano"), added(chunks)
    for message in (whole, sum_of_chunks):
        assert [call["name"] for call in message.tool_calls] == ["now"]
        (invalid,) = message.invalid_tool_calls
        assert (invalid["name"], invalid["id"]) == ("add", "call_1")
        assert (invalid["args"] or "").startswith(cut)
    assert whole.invalid_tool_calls[0]["args"] == cut
    assert "max_tokens" in (whole.invalid_tool_calls[0]["error"] or "")


def test_calls_that_were_cut_are_not_said_again() -> None:
    message = to_ai_message(reply("Hm.", [("add", '{"a')], reason="length"), "nano")
    assert "tool_calls" not in to_starchat([message], "nano")[0]
    failed = ToolMessage("It is cut.", tool_call_id="call_0", status="error")
    turns = to_starchat([message, failed], "nano")  # as agents answer it
    assert turns[0]["tool_calls"] == [ToolCall("call_0", "add", {})]
    assert turns[1]["content"] == "Error: It is cut."


def test_metadata_comes_with_the_last_chunk_only() -> None:
    *rest, last = pieces(reply("text", [("add", {"a": 1})]))
    assert not any(chunk.response_metadata or chunk.chunk_position for chunk in rest)
    assert last.response_metadata["finish_reason"] == "tool_calls"
    assert last.content == "" and not last.tool_call_chunks


@pytest.mark.parametrize(
    ("messages", "options", "in_loop"),
    [
        pytest.param([HumanMessage("a")] * 3, {}, True, id="few"),
        pytest.param([HumanMessage("a")] * 301, {}, False, id="many"),
        pytest.param([HumanMessage(["a"] * 301)], {}, False, id="parts"),
        pytest.param([HumanMessage("a")], {"tools": [{"name": "f"}]}, False, id="tools"),
    ],
)
async def test_long_histories_are_converted_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, messages: list[Any], options: dict[str, Any], in_loop: bool
) -> None:
    threads = []

    def convert(*_: object) -> Any:
        threads.append(threading.get_ident())
        raise InvalidRequestError("enough")

    monkeypatch.setattr(chat_models, "to_starchat", convert)
    llm = ChatStarChat()
    with pytest.raises(InvalidRequestError, match="enough"):
        await llm.ainvoke(messages, **options)
    with pytest.raises(InvalidRequestError, match="enough"):
        async for _ in llm.astream(messages, **options):
            pass
    assert [thread == threading.get_ident() for thread in threads] == [in_loop] * 2
