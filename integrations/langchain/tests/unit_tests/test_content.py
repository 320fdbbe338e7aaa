"""What other models, providers and MCP servers leave in messages → text."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_starchat.messages import to_starchat
from starchat import InvalidRequestError

PNG = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
NOTE = base64.b64encode("naïve".encode()).decode()


def content(message: Any) -> str:
    (turn,) = to_starchat([message], "nano")
    return turn["content"]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([{"type": "reasoning", "reasoning": "Easy.", "text": "Easy."}], ""),
        ([{"type": "thinking", "thinking": "Easy.", "signature": "s"}], ""),
        ([{"type": "redacted_thinking", "data": "AA=="}], ""),
        ([{"type": "reasoning_content", "reasoning_content": {"text": "Easy."}}], ""),
        ([{"type": "server_tool_call", "name": "web_search", "args": {}, "id": "s1"}], ""),
        ([{"type": "server_tool_result", "tool_call_id": "s1", "output": [{"url": "x"}]}], ""),
        ([{"type": "web_search_tool_result", "content": [{"url": "x", "title": "t"}]}], ""),
        ([{"type": "executable_code", "executable_code": "1 + 1"}], ""),
        ([{"type": "refusal", "refusal": "I will not."}], "I will not."),
        ([{"type": "refusal"}], ""),
        ([{"type": "non_standard", "value": {"type": "thinking", "thinking": "x"}}], ""),
        ([{"type": "non_standard", "value": {"type": "text", "text": "said"}}], "said"),
        ([{"type": "of_tomorrow", "payload": [1]}], ""),
        ([{"text": "untyped"}], "untyped"),
        ([{"reasoningContent": {"text": "x"}}], ""),
        ([{**PNG}], "[image not shown]"),
        ([{"type": "image_generation_call", "result": "iVBO"}], "[image not shown]"),
    ],
    ids=lambda value: value[0].get("type", "untyped") if isinstance(value, list) else "",
)
def test_a_reply_of_another_model_is_its_text(blocks: Any, expected: str) -> None:
    assert content(AIMessage([*blocks, {"type": "text", "text": "It is 4."}])) == (
        f"{expected}It is 4."
    )


def test_a_refusal_beside_the_content_is_said() -> None:
    assert content(AIMessage("", additional_kwargs={"refusal": "I will not."})) == "I will not."
    assert content(AIMessage("Yes", additional_kwargs={"refusal": None})) == "Yes"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (PNG, "[image not shown]"),
        (
            {"type": "image_url", "image_url": {"url": "data:"}},
            "[image not shown]",
        ),
        ({"type": "media", "mime_type": "audio/wav", "data": "UklGRg=="}, "[audio not shown]"),
        ({"type": "video", "url": "https://host/v.mp4"}, "[video not shown]"),
        ({"type": "file", "url": "https://host/a.pdf"}, "[file not shown]"),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}},
            "[file not shown]",
        ),
        ({"type": "of_tomorrow", "data": "AAAA"}, "[file not shown]"),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}},
            "[file not shown]",
        ),
        ({"image": {"format": "png", "source": {"bytes": b"x"}}}, "[image not shown]"),
        ({"document": {"format": "pdf", "source": {"bytes": b"x"}}}, "[file not shown]"),
        ({"type": "text", "text": None}, ""),
        ({"type": "json", "json": {"é": [1]}}, '{"é": [1]}'),
        ({"json": [1, 2]}, "[1, 2]"),
        ({"type": "row", "id": 3}, '{"type": "row", "id": 3}'),
        (
            {"type": "tool_result", "content": ["3", PNG]},
            "3[image not shown]",
        ),
        ({"type": "search_result", "content": [{"type": "text", "text": "found"}]}, "found"),
    ],
    ids=lambda value: value.get("type", "untyped") if isinstance(value, dict) else "",
)
def test_what_a_tool_returns_is_text_or_a_placeholder(block: Any, expected: str) -> None:
    result = ToolMessage(["Done: ", block], tool_call_id="c1")
    assert content(result) == f"Done: {expected}"


@pytest.mark.parametrize("kind", [HumanMessage, SystemMessage, ToolMessage])
@pytest.mark.parametrize(
    "block",
    [
        {"text": "naïve"},
        {"type": "text-plain", "text": "naïve", "mime_type": "text/plain"},
        {"type": "file", "source_type": "text", "text": "naïve"},
        {"type": "file", "base64": NOTE, "mime_type": "text/csv"},
        {"type": "file", "source_type": "base64", "data": NOTE, "mime_type": "text/plain"},
        {"type": "document", "source": {"type": "text", "data": "naïve"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "text/plain", "data": NOTE},
        },
        {"type": "file", "file": {"filename": "a", "file_data": f"data:text/plain;base64,{NOTE}"}},
        {"type": "input_file", "file_data": f"data:text/csv;charset=utf-8;base64,{NOTE}"},
        {"type": "media", "mime_type": "text/markdown", "data": NOTE},
        {"type": "media", "mime_type": "text/markdown", "data": "naïve".encode()},
        {"document": {"format": "md", "name": "a", "source": {"bytes": "naïve".encode()}}},
    ],
)
def test_a_text_file_is_its_text(kind: Any, block: Any) -> None:
    more = {"tool_call_id": "c1"} if kind is ToolMessage else {}
    assert content(kind([block, {"cachePoint": {"type": "default"}}], **more)) == "naïve"


@pytest.mark.parametrize("kind", [HumanMessage, SystemMessage])
@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (PNG, "expected a text block, got one of type 'image'"),
        ({"type": "file", "url": "https://host/a.pdf"}, "got one of type 'file'"),
        ({"type": "non_standard", "value": PNG}, "got one of type 'image'"),
        ({"type": "file", "base64": "?", "mime_type": "text/plain"}, "a text file in base64"),
        ({"type": "text", "text": None}, "expected a text block"),
    ],
)
def test_what_a_person_shows_and_the_model_cannot_see_is_an_error(
    kind: Any, block: Any, problem: str
) -> None:
    with pytest.raises(InvalidRequestError, match=rf"messages\[0\].content\[1\]: .*{problem}"):
        content(kind(["What is this?", block]))


def test_a_part_to_be_counted_has_placeholders_for_all() -> None:
    (turn,) = to_starchat([HumanMessage([PNG])], "nano", part=True)
    assert turn["content"] == "[image not shown]"
