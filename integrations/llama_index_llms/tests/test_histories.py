"""Histories that other models and their integrations left are read; what a human shows is not."""

import threading
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.llms.starchat import StarChat, base
from llama_index.llms.starchat.messages import to_starchat
from pydantic import BaseModel

import starchat
from llm_contract import CHATS, last

PICTURE = ImageBlock(image=b"GIF89a")
CACHE = CachePoint(cache_control=CacheControl(type="ephemeral"))
CITATION = CitationBlock(
    cited_content="42", source="s", title="t", additional_location_info={"page": 1}
)
TEXT_FILE = DocumentBlock(data=b"x = 1\n# \xc3\xa9", document_mimetype="text/x-python")


def contents(role: str, *blocks: Any) -> str:
    (turn,) = to_starchat([ChatMessage(role=role, blocks=blocks)])
    return turn["content"]


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        pytest.param([ThinkingBlock(content="Hm."), TextBlock(text="Hi!")], "Hi!", id="thought"),
        pytest.param([ThinkingBlock()], "", id="hidden thought alone"),
        pytest.param([TextBlock(text="a"), CACHE], "a", id="cache point"),
        pytest.param([TextBlock(text="It is 42."), CITATION], "It is 42.", id="citation"),
        pytest.param([TextBlock(text="See:"), PICTURE], "See:\n[image]", id="picture"),
        pytest.param([AudioBlock(audio=b"RIFF")], "[audio]", id="audio"),
        pytest.param([DocumentBlock(data=b"%PDF-1.4")], "[document]", id="file"),
    ],
)
def test_what_an_assistant_said(blocks: list[Any], text: str) -> None:
    assert contents("assistant", *blocks) == text


def test_what_a_tool_showed_is_named() -> None:
    call = ToolCallBlock(tool_call_id="1", tool_name="look")
    picture = ChatMessage([PICTURE], role="tool", additional_kwargs={"tool_call_id": "1"})
    turns = to_starchat([ChatMessage(role="assistant", blocks=[call]), picture])
    assert turns[1] == {"role": "tool", "content": "[image]", "tool_call_id": "1"}


@pytest.mark.parametrize("role", ["user", "system"])
def test_what_a_human_shows_is_read_or_refused(role: str) -> None:
    for block in (PICTURE, AudioBlock(audio=b"RIFF"), DocumentBlock(data=b"%PDF-1.4")):
        with pytest.raises(starchat.InvalidRequestError, match=r"messages\[0\]: .*reads text only"):
            contents(role, block)
    assert contents(role, TEXT_FILE) == "x = 1\n# é"
    assert contents(role, CitableBlock(title="t", source="s", content="So."), CACHE) == "So."
    assert contents(role, CITATION) == "42"
    with pytest.raises(starchat.InvalidRequestError, match="ImageBlock"):
        contents(role, CitableBlock(title="t", source="s", content=[PICTURE]))


@pytest.mark.parametrize("way", CHATS)
async def test_thoughts_take_no_tokens(way: str) -> None:
    llm = StarChat(temperature=0, max_tokens=4)
    said = [TextBlock(text="Hi!")]
    counts = [
        (
            await last(
                llm,
                way,
                [
                    ChatMessage("Hello"),
                    ChatMessage(role="assistant", blocks=blocks),
                    ChatMessage("Sort."),
                ],
            )
        ).raw["usage"]["prompt_tokens"]
        for blocks in (said, [ThinkingBlock(content="Hm. " * 9), *said])
    ]
    assert counts[0] == counts[1]


# ---- calls and results ------------------------------------------------------------------------


def result(text: str, **details: Any) -> ChatMessage:
    return ChatMessage(text, role="tool", additional_kwargs=details)


def block(number: int, id: str | None = None, name: str = "add") -> ToolCallBlock:
    return ToolCallBlock(tool_call_id=id, tool_name=name, tool_kwargs={"a": number})


def answers(calls: list[ToolCallBlock], results: list[ChatMessage]) -> dict[int, str]:
    """Return the result that each call got, by its argument."""
    asked, *turns = to_starchat([ChatMessage(role="assistant", blocks=calls), *results])
    numbers = {call.id: call.arguments["a"] for call in asked["tool_calls"]}
    assert len(numbers) == len(calls)
    return {numbers[turn["tool_call_id"]]: turn["content"] for turn in turns}


@pytest.mark.parametrize("id", [None, "", "add", "same"])
def test_results_pair_in_order_where_ids_do_not_tell(id: str | None) -> None:
    calls = [block(1, id), block(2, id), block(3, id)]
    without: list[dict[str, str]] = [{"name": "add"}, {}]
    for details in [{"tool_call_id": id or "add"}, *(without if id != "same" else [])]:
        results = [result(text, **details) for text in "xyz"]
        assert answers(calls, results) == {1: "x", 2: "y", 3: "z"}


def test_names_pair_calls_of_several_tools() -> None:
    calls = [block(1), block(2, name="sub"), block(3)]
    results = [
        result(text, tool_call_id=name)
        for text, name in zip("xyz", ("sub", "add", "add"), strict=True)
    ]
    assert answers(calls, results) == {2: "x", 1: "y", 3: "z"}


def test_ids_pair_in_any_order() -> None:
    calls = [block(1, "add"), block(2, "b", name="add"), block(3, "c")]
    results = [
        result(text, tool_call_id=id) for text, id in zip("xyz", ("c", "b", "add"), strict=True)
    ]
    assert answers(calls, results) == {3: "x", 2: "y", 1: "z"}


def test_a_result_without_its_call_is_refused() -> None:
    llm = StarChat(max_tokens=4)
    asked = ChatMessage(role="assistant", blocks=[block(1, "one")])
    for results, problem in (
        ([result("3", tool_call_id="two")], "answers the call 'two', but .* are: 'one'"),
        ([result("3")], "needs the id of the call"),
        ([result("3", tool_call_id="one")] * 2, "a second answer to the call 'one'"),
    ):
        with pytest.raises(starchat.InvalidRequestError, match=problem):
            llm.chat([asked, *results])


class Function(BaseModel):
    name: str = "add"
    arguments: str = '{"a": 7}'


class Call(BaseModel):
    """As OpenAI's client has it."""

    id: str = "id 1"
    type: str = "function"
    function: Function = Function()


@pytest.mark.parametrize(
    "older",
    [
        pytest.param(Call(), id="object"),
        pytest.param(Call().model_dump(), id="mapping"),
        pytest.param({"function": {"name": "add", "arguments": {"a": 7}}}, id="without id"),
        pytest.param({"type": "tool_use", "name": "add", "input": {"a": 7}, "id": "x"}, id="input"),
    ],
)
def test_older_forms_of_calls(older: Any) -> None:
    asked = ChatMessage(role="assistant", additional_kwargs={"tool_calls": [older, older]})
    first, second = to_starchat([asked])[0]["tool_calls"]
    assert (first.name, first.arguments) == ("add", {"a": 7})
    assert first.id != second.id


def test_a_function_message_answers_a_function_call() -> None:
    function = {"name": "add", "arguments": '{"a": 7}'}
    asked = ChatMessage(role="assistant", additional_kwargs={"function_call": function})
    told = ChatMessage("3", role="function", additional_kwargs={"name": "add"})
    called, answered = to_starchat([asked, told])
    assert called["tool_calls"] == [starchat.ToolCall("add", "add", {"a": 7})]
    assert answered["tool_call_id"] == "add"


def test_calls_with_the_same_id_get_short_ids_of_their_own() -> None:
    blocks = [ToolCallBlock(tool_call_id="a", tool_name="f", tool_kwargs={})] * 300
    (turn,) = to_starchat([ChatMessage(role="assistant", blocks=blocks)])
    ids = [call.id for call in turn["tool_calls"]]  # type: ignore[union-attr]
    assert len({*ids}) == 300
    assert max(map(len, ids)) < 9


def test_a_tool_beyond_the_bound_is_refused_by_name() -> None:
    tool = {"name": "f", "parameters": {"enum": ["x" * 200]}}
    llm = StarChat(limits={"tool_bytes": 99})  # type: ignore[arg-type]
    with pytest.raises(
        starchat.InvalidRequestError, match=r"tools\[0\] \('f'\): .*Limits.tool_bytes"
    ):
        llm.chat([ChatMessage("Hi")], tools=[tool])
    with pytest.raises(starchat.InvalidRequestError, match="logprobs: expected at most 20, got 21"):
        llm.chat([ChatMessage("Hi")], logprobs=21)


@pytest.mark.parametrize(
    ("messages", "in_loop"),
    [
        pytest.param([ChatMessage("a")] * 3, True, id="few"),
        pytest.param([ChatMessage("a")] * 301, False, id="many"),
        pytest.param([ChatMessage(blocks=[TextBlock(text="a")] * 301)], False, id="parts"),
    ],
)
async def test_long_histories_are_converted_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, messages: list[ChatMessage], in_loop: bool
) -> None:
    threads = []

    def convert(*_: object) -> Any:
        threads.append(threading.get_ident())
        raise starchat.InvalidRequestError("enough")

    monkeypatch.setattr(base, "to_starchat", convert)
    for ask in (StarChat().achat, StarChat().astream_chat):
        with pytest.raises(starchat.InvalidRequestError, match="enough"):
            await ask(messages)
    assert [thread == threading.get_ident() for thread in threads] == [in_loop] * 2
