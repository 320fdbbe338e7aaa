"""OpenAI's forms of messages, tools, choices and formats become starchat's own."""

from __future__ import annotations

from typing import Any

import pytest

from starchat import InvalidRequestError, StarChat, ToolCall
from starchat.openai import (
    read_arguments,
    read_messages,
    read_response_format,
    read_text_part,
    read_tool_calls,
    read_tool_choice,
    read_tools,
    system_first,
)


def call(id: str = "c1", name: str = "add", arguments: Any = '{"a": 1}') -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


# ---- messages -------------------------------------------------------------------------------


def test_a_dialogue_with_calls_as_agents_send_it() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "What is 1 + 2?", "name": "eve"},
        {"role": "assistant", "content": None, "tool_calls": [call()], "refusal": None},
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "It is 3.", "tool_calls": None, "audio": None},
    ]
    assert read_messages(messages) == [
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [ToolCall("c1", "add", {"a": 1})]},
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "It is 3."},
    ]


def test_the_chat_methods_take_what_is_read(nano: StarChat) -> None:
    messages = read_messages(
        [
            {"role": "user", "content": [{"type": "text", "text": "What is 1 + 2?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call()]},
            {"role": "tool", "content": [{"type": "text", "text": "3"}], "tool_call_id": "c1"},
            {"role": "developer", "content": "Be brief."},
        ]
    )
    tools = read_tools([{"type": "function", "function": {"name": "add"}}])
    choice = read_tool_choice({"type": "function", "function": {"name": "add"}})
    reply = nano.chat(messages, tools=tools, tool_choice=choice, max_tokens=60)
    assert [call.name for call in reply.tool_calls][:1] == ["add"]
    schema = read_response_format({"type": "json_object", "schema": {"const": 1}})
    assert nano.chat(messages, json_schema=schema).text == "1"


def test_system_messages_come_first_in_their_order() -> None:
    roles = ["user", "system", "assistant", "developer"]
    messages = read_messages([{"role": role, "content": role} for role in roles])
    assert [message["content"] for message in messages] == [
        "system",
        "developer",
        "user",
        "assistant",
    ]
    assert system_first(messages) == messages


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_texts_of_parts_are_joined_by_line_breaks(kind: str) -> None:
    content = [{"type": kind, "text": "a"}, {"type": kind, "text": "b"}]
    assert read_messages([{"role": "user", "content": content}])[0]["content"] == "a\nb"


def test_a_refusal_is_a_text_of_the_assistant() -> None:
    assert read_text_part("content[0]", {"type": "refusal", "refusal": "No."}) == "No."


def test_generated_ids_stay_with_their_message() -> None:
    messages = read_messages([{"role": "assistant", "content": "a", "token_ids": [5, 6]}])
    assert messages[0]["token_ids"] == [5, 6]


def test_the_callers_messages_stay_as_they_are() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [call()]}
    read_messages([message])
    assert message == {"role": "assistant", "content": None, "tool_calls": [call()]}


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("messages", "param", "problem"),
    [
        pytest.param("Hi", "messages", "expected a list, got 'Hi'", id="no list"),
        pytest.param(["Hi"], "messages[0]", "expected a mapping with role", id="no mapping"),
        pytest.param(
            [{"role": "judge", "content": "x"}],
            "messages[0].role",
            "expected one of system, developer, user, assistant, tool, got 'judge'",
            id="unknown role",
        ),
        pytest.param(
            [{"role": "user", "content": None}],
            "messages[0].content",
            "expected a list, got None",
            id="no content",
        ),
        pytest.param(
            [{"role": "user", "content": ["a", IMAGE]}],
            "messages[0].content[1]",
            "got one of type 'image_url': this model reads text only",
            id="image",
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "text", "text": 7}]}],
            "messages[0].content[0]",
            "expected a text block",
            id="text that is none",
        ),
        pytest.param(
            [{"role": "assistant", "content": "", "tool_calls": [call(), {"id": "1"}]}],
            "messages[0].tool_calls[1]",
            "expected {'id': …, 'function': {'name': …, 'arguments': …}}",
            id="call",
        ),
        pytest.param(
            [{"role": "assistant", "content": "", "tool_calls": [call(arguments='{"a": 1')]}],
            "messages[0].tool_calls[0].function.arguments",
            "expected the JSON text of an object",
            id="cut arguments",
        ),
    ],
)
def test_wrong_messages_are_refused_by_place(messages: Any, param: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        read_messages(messages)
    assert raised.value.param == param
    assert str(raised.value).startswith(f"{param}: ") and problem in str(raised.value)


@pytest.mark.parametrize("arguments", ["", "{}", {}])
def test_calls_may_have_no_arguments(arguments: Any) -> None:
    assert read_arguments("arguments", arguments) == {}


def test_arguments_longer_than_any_context_are_not_read() -> None:
    with pytest.raises(InvalidRequestError, match="expected at most 1,048,576 characters, got 2,0"):
        read_arguments("arguments", "[" * 2**21)


@pytest.mark.parametrize("arguments", ["[1]", "null", '{"a": NaN}', "{" * 100_000, None, 7])
def test_arguments_that_are_no_json_object_are_refused(arguments: Any) -> None:
    with pytest.raises(InvalidRequestError, match="arguments: expected the JSON text"):
        read_arguments("arguments", arguments)


def test_calls_may_be_absent() -> None:
    assert read_tool_calls("tool_calls", None) == []


# ---- tools ----------------------------------------------------------------------------------

FUNCTION = {"name": "now", "description": "The time.", "parameters": {}, "strict": True}


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ({"type": "function", "function": FUNCTION}, {"type": "function", "function": FUNCTION}),
        ({"type": "function", **FUNCTION}, FUNCTION),
        (FUNCTION, FUNCTION),
    ],
    ids=["chat completions", "responses", "plain"],
)
def test_every_form_of_a_tool_is_one_that_chat_methods_take(
    nano: StarChat, tool: Any, expected: Any
) -> None:
    (read,) = read_tools([tool])
    assert read == expected
    messages = [{"role": "user", "content": "Hi"}]
    assert nano.count_tokens(messages, [read]) == nano.count_tokens(messages, [FUNCTION])


@pytest.mark.parametrize("tools", [None, [], ()])
def test_there_may_be_no_tools(tools: Any) -> None:
    assert read_tools(tools) == []


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ({"name": "now"}, "tools: expected a list"),
        ([7], r"tools\[0\]: expected a mapping, got 7"),
        ([FUNCTION, {"type": "web_search"}], r"tools\[1\]: expected the type 'function', got 'web"),
        ([{"type": "custom", "name": "x"}], r"tools\[0\]: .* got 'custom'"),
    ],
    ids=str,
)
def test_other_tools_are_refused(tools: Any, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        read_tools(tools)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        (False, None),
        (True, "any"),
        ("auto", "auto"),
        ("any", "any"),
        ("required", "required"),
        ("none", "none"),
        ("now", "now"),
        ({"type": "function", "function": {"name": "now"}}, "now"),
        ({"type": "function", "name": "now"}, "now"),
        ({"type": "tool", "name": "now"}, "now"),
        ({"type": "auto"}, "auto"),
        ({"type": "any", "disable_parallel_tool_use": True}, "any"),
        ({"type": "required"}, "required"),
        ({"type": "none"}, "none"),
    ],
    ids=str,
)
def test_every_form_of_a_choice(choice: Any, expected: str | None) -> None:
    assert read_tool_choice(choice) == expected


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        (7, "expected 'auto', 'any', 'required', 'none', the name of a tool, or .*, got 7"),
        ({"name": "now"}, "expected 'auto'"),
        ({"type": "function"}, "expected 'auto'"),
        ({"type": ["auto"]}, "expected 'auto'"),
        ({"type": "custom", "name": "x"}, "expected 'auto'"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
            "'allowed_tools' is not supported: pass these tools alone, as tools",
        ),
    ],
    ids=str,
)
def test_other_choices_are_refused(choice: Any, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^tool_choice: {problem}") as raised:
        read_tool_choice(choice)
    assert raised.value.param == "tool_choice"


# ---- formats --------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, True),
        ({"type": "json_object", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_object", "value": SCHEMA}, SCHEMA),  # huggingface_hub's InferenceClient
        ({"type": "json", "value": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"strict": True, "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "name": "x", "schema": SCHEMA}, SCHEMA),
    ],
    ids=str,
)
def test_every_form_of_a_format(form: Any, expected: Any) -> None:
    assert read_response_format(form) == expected


@pytest.mark.parametrize(
    "form", ["json", 7, {}, {"type": "xml"}, {"type": "json_schema"}, {"type": "grammar"}], ids=str
)
def test_other_formats_are_refused(form: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"^response_format: expected") as raised:
        read_response_format(form)
    assert raised.value.param == "response_format"
