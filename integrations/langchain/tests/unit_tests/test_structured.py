"""Structured output from scripted replies: what is asked, what is cut, what does not validate."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import pytest
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel, ConfigDict, Field, field_validator

from langchain_starchat import ChatStarChat, CutReplyError
from langchain_starchat.schemas import json_schema
from scripted_model import reply
from starchat import InvalidRequestError

QUESTION = "Is a list mutable?"


class Verdict(BaseModel):
    """What is right."""

    answer: Literal["yes", "no"] = Field(description="yes or no")
    score: int = Field(ge=0, le=9)


FUNCTION = {"name": "verdict", "parameters": Verdict.model_json_schema()}


def test_dicts_grow_and_instances_come_whole(script: Any) -> None:
    said = '{"answer": "yes", "score": 7}'
    script(*[reply(said)] * 2)
    grown = list(ChatStarChat().with_structured_output(Verdict.model_json_schema()).stream("?"))
    assert grown[0] == {} and grown[-1] == {"answer": "yes", "score": 7}
    assert all(piece.keys() <= after.keys() for piece, after in pairwise(grown))
    assert list(ChatStarChat().with_structured_output(Verdict).stream("?")) == [
        Verdict(answer="yes", score=7)
    ]


def test_instances_are_validated_all_the_same(script: Any) -> None:
    class Even(BaseModel):
        model_config = ConfigDict(strict=True)
        number: int

        @field_validator("number")
        @classmethod
        def check(cls, number: int) -> int:
            if number % 2:
                raise ValueError("it is odd")
            return number

    script(*[reply('{"number": 3}')] * 3, reply('{"number": 4}'))
    model = ChatStarChat().with_structured_output(Even)
    with pytest.raises(OutputParserException, match="it is odd"):
        model.invoke("?")
    with pytest.raises(OutputParserException, match="it is odd"):
        list(model.stream("?"))
    both = ChatStarChat().with_structured_output(Even, include_raw=True).invoke("?")
    assert "it is odd" in str(both["parsing_error"])
    assert model.invoke("?") == Even(number=4)


@pytest.mark.parametrize(
    ("said", "calls", "reason"),
    [
        ("", [("verdict", '{"answer": "y')], "length"),
        ("", [], "length"),
        ("I would rather not.", [], "stop"),
    ],
    ids=["cut in a call", "cut before a call", "no call"],
)
def test_a_call_that_is_missing_is_an_error(
    script: Any, said: str, calls: Any, reason: Any
) -> None:
    script(*[reply(said, calls, reason)] * 2)
    model = ChatStarChat().with_structured_output(FUNCTION, method="function_calling")
    with pytest.raises(OutputParserException):
        model.invoke("?")
    with pytest.raises(OutputParserException):
        list(model.stream("?"))


@pytest.mark.parametrize(
    ("method", "said", "calls", "text", "partial"),
    [
        pytest.param(*case, id=f"{case[0]} {case[3]}")
        for case in [
            ("json_schema", '{"answer": "ye', [], '{"answer": "ye', {"answer": "ye"}),
            ("json_mode", '{"a": [1, 2', [], '{"a": [1, 2', {"a": [1]}),
            ("function_calling", "", [("verdict", '{"a": "y')], '{"a": "y', {"a": "y"}),
            ("function_calling", "", [("verdict", '{"a": [1, 2')], '{"a": [1, 2', {"a": [1]}),
            ("function_calling", "", [("verdict", '{"a": "y\\')], '{"a": "y\\', {"a": "y"}),
            ("function_calling", "", [], "", None),
        ]
    ],
)
def test_the_error_of_a_cut_reply_has_what_was_written(
    script: Any, method: Any, said: str, calls: Any, text: str, partial: Any
) -> None:
    script(*[reply(said, calls, "length")] * 3)
    model = ChatStarChat().with_structured_output(FUNCTION, method=method)
    with pytest.raises(CutReplyError) as invoked:
        model.invoke("?")
    with pytest.raises(CutReplyError) as streamed:
        list(model.stream("?"))
    both = ChatStarChat().with_structured_output(FUNCTION, method=method, include_raw=True)
    errors = [invoked.value, streamed.value, both.invoke("?")["parsing_error"]]
    for error in errors:
        assert isinstance(error, OutputParserException)
        assert (error.text, error.partial, error.llm_output) == (text, partial, text)


def test_json_of_json_mode_may_be_cut_too(script: Any) -> None:
    script(reply('{"text": "a', reason="length"), reply("{}"))
    model = ChatStarChat().with_structured_output(method="json_mode")
    with pytest.raises(OutputParserException, match="cut at max_tokens"):
        model.invoke("?")
    assert model.invoke("?") == {}


def test_what_is_complete_may_end_at_max_tokens(script: Any) -> None:
    script(reply('{"score": 1}', reason="length"), reply("12", reason="length"))
    assert ChatStarChat().with_structured_output({"type": "object"}).invoke("?") == {"score": 1}
    with pytest.raises(OutputParserException, match="cut at max_tokens"):  # perhaps it is 123
        ChatStarChat().with_structured_output({"type": "integer"}).invoke("?")


def test_the_prompt_shows_the_schema_with_its_descriptions(script: Any) -> None:
    model = script(reply('{"answer": "yes", "score": 1}'))
    ChatStarChat().with_structured_output(Verdict).invoke([("system", "Be brief."), QUESTION])
    ((dialogue, options),) = model.asked
    question, shown = dialogue[-1]["content"].split("\n\n")
    assert question == QUESTION
    schema = json.loads(shown.partition(": ")[2])
    assert schema == options["json_schema"]
    assert schema["properties"]["answer"]["description"] == "yes or no"


# ---- tools beside a format ------------------------------------------------------------------

FORMAT = {"type": "json_schema", "json_schema": {"schema": Verdict.model_json_schema()}}
NOW = {"name": "now", "parameters": {"type": "object", "properties": {}}}


async def both_ways(model: Any) -> list[Any]:
    chunks = list(model.stream("?"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return [model.invoke("?"), await model.ainvoke("?"), total]


async def test_tools_beside_a_format_are_one_request(script: Any) -> None:
    said = '{"answer": "no", "score": 2}'
    calls: list[list[tuple[str, Any]]] = [[("now", {})], []]
    model = script(*[reply("" if made else said, made) for made in calls for _ in range(3)])
    bound = ChatStarChat().bind_tools([NOW], response_format=FORMAT, parallel_tool_calls=False)
    for made in calls:
        for message in await both_ways(bound):
            assert message.text == ("" if made else said)
            assert [call["name"] for call in message.tool_calls] == [name for name, _ in made]
            assert message.usage_metadata["input_tokens"] == 7
    assert len(model.asked) == 6 and all(stream.closed for stream in model.streams)
    for _, options in model.asked:
        assert options["tools"] and options["json_schema"]["required"] == ["answer", "score"]
        assert options["parallel_tool_calls"] is False


def test_json_beside_tools_streams_as_it_is_written(script: Any) -> None:
    said = '{"answer": "no", "score": 2}'
    script(reply(said))
    bound = ChatStarChat().bind_tools([NOW], response_format=FORMAT)
    assert [chunk.text for chunk in bound.stream("?") if chunk.text][:2] == ['{"an', "swer"]


def test_a_format_beside_tools_is_shown_in_the_system_turn(script: Any) -> None:
    model = script(*[reply("{}")] * 2)
    bound = ChatStarChat().bind_tools([NOW], response_format=FORMAT)
    bound.invoke([("system", "Be brief."), QUESTION])
    bound.invoke([QUESTION], response_format={"type": "json_object"})
    brief, shown, question = model.asked[0][0]
    assert (brief["content"], question["content"]) == ("Be brief.", QUESTION)
    assert (brief["role"], shown["role"]) == ("system", "system")
    words, _, schema = shown["content"].partition(": ")
    assert words == "If you call no tool, answer with JSON by this schema"
    assert json.loads(schema) == model.asked[0][1]["json_schema"]
    assert model.asked[1] == ([question], model.asked[1][1] | {"json_schema": True})


@pytest.mark.parametrize(("choice", "has_json"), [("any", False), ("now", False), ("none", True)])
def test_a_choice_leaves_calls_or_json(script: Any, choice: str, has_json: bool) -> None:
    model = script(reply("{}") if has_json else reply("", [("now", {})]))
    ChatStarChat().bind_tools([NOW], tool_choice=choice, response_format=FORMAT).invoke(QUESTION)
    ((dialogue, options),) = model.asked
    assert ("json_schema" in options) is has_json
    assert ("schema" in dialogue[-1]["content"]) is has_json


async def test_a_structured_reply_that_calls_tools_has_no_object_yet(script: Any) -> None:
    script(*[reply("", [("now", {})])] * 4)
    model = ChatStarChat().with_structured_output(Verdict, tools=[NOW])
    assert model.invoke("?") is await model.ainvoke("?") is None
    assert not [piece for piece in model.stream("?") if piece]
    both = ChatStarChat().with_structured_output(Verdict, tools=[NOW], include_raw=True).invoke("?")
    assert both["parsed"] is both["parsing_error"] is None
    assert both["raw"].tool_calls


def test_two_schemas_are_refused(script: Any) -> None:
    script()
    with pytest.raises(InvalidRequestError, match="json_schema and response_format: expected one"):
        ChatStarChat().invoke("?", response_format=FORMAT, json_schema=True)


# ---- schemas and formats --------------------------------------------------------------------


class Node(BaseModel):
    """A tree."""

    title: str
    below: list[Node] | None = None
    extra: dict[str, int] = {}


def test_schemas_lose_titles_and_close_where_they_are_silent() -> None:
    schema = json_schema(Node)
    node = schema["$defs"]["Node"]
    assert node["additionalProperties"] is False and "title" not in node
    assert node["properties"]["title"] == {"type": "string"}
    assert node["properties"]["extra"]["additionalProperties"] == {"type": "integer"}
    combined = {"allOf": [{"properties": {"a": {}}}], "properties": {"b": {}}}
    assert json_schema(combined) == combined


@pytest.mark.parametrize("form", [{"type": "xml"}, {"type": "json_schema"}, "json", 7])
def test_formats_of_no_known_form_are_refused(script: Any, form: Any) -> None:
    script()
    with pytest.raises(InvalidRequestError, match="response_format: expected"):
        ChatStarChat().invoke("?", response_format=form)


def test_methods_and_schemas_are_checked_at_once() -> None:
    with pytest.raises(InvalidRequestError, match="method: expected 'json_schema'"):
        ChatStarChat().with_structured_output(Verdict, method="yaml")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="schema: method 'json_schema' needs one"):
        ChatStarChat().with_structured_output()


NAMED = {"name": "verdict", "strict": True, "schema": Verdict.model_json_schema()}


@pytest.mark.parametrize("schema", [NAMED, {"type": "json_schema", "json_schema": NAMED}])
def test_openai_response_formats_are_read(script: Any, schema: Any) -> None:
    said = {"answer": "yes", "score": 7}
    model = script(reply(json.dumps(said)), reply("", [("verdict", said)]))
    assert ChatStarChat().with_structured_output(schema).invoke("?")["score"] == 7
    called = ChatStarChat().with_structured_output(schema, method="function_calling")
    assert called.invoke("?")["score"] == 7
    (_, written), (_, forced) = model.asked
    assert written["json_schema"] == json_schema(Verdict.model_json_schema())
    assert forced["tools"][0]["function"]["parameters"]["required"] == ["answer", "score"]


def test_a_schema_without_a_title_is_called_by_a_name(script: Any) -> None:
    held = {"type": "object", "properties": {"score": {"type": "integer"}}}
    untitled = {"$defs": {"S": held}, "$ref": "#/$defs/S"}  # as of pydantic's recursive classes
    asked = script(reply("", [("answer", {"score": 7})])).asked
    model = ChatStarChat().with_structured_output(untitled, method="function_calling")
    assert model.invoke("?") == {"score": 7}
    assert asked[0][1]["tools"][0]["function"]["parameters"] == untitled


@pytest.mark.parametrize("schema", [list[Verdict], Verdict | None, int, partial(max, 1)], ids=str)
def test_a_type_that_is_no_class_with_fields_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequestError, match="field of"):
        ChatStarChat().with_structured_output(schema)


def test_json_mode_returns_no_list_of_a_class() -> None:
    with pytest.raises(InvalidRequestError, match="schema: expected a class or a dict"):
        ChatStarChat().with_structured_output(list[Verdict], method="json_mode")


def test_tools_stand_beside_structured_output(script: Any) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model = script(reply("", [("add", {"a": 1, "b": 2})]), reply('{"answer": "no", "score": 0}'))
    judge = ChatStarChat().with_structured_output(Verdict, tools=[add], include_raw=True)
    called, judged = judge.invoke("?"), judge.invoke("?")
    assert called["raw"].tool_calls[0]["name"] == "add"
    assert called["parsed"] is called["parsing_error"] is None
    assert judged["parsed"] == Verdict(answer="no", score=0)
    assert [tool["function"]["name"] for tool in model.asked[0][1]["tools"]] == ["add"]
    with pytest.raises(InvalidRequestError, match="tools: method 'function_calling'"):
        ChatStarChat().with_structured_output(Verdict, method="function_calling", tools=[add])
