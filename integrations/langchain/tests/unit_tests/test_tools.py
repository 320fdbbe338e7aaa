"""ChatStarChat with tools and scripted replies: what it asks of the engine, and what it returns."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Annotated, Any, Literal

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field, v1
from typing_extensions import TypedDict

from langchain_starchat import ChatStarChat
from scripted_model import reply
from starchat import InvalidRequestError


@tool
def get_weather(city: Literal["Paris", "Oslo"], days: Annotated[int, Field(ge=1, le=3)]) -> str:
    """Get the weather."""
    return f"rain in {city} for {days} days"


@tool
def now() -> str:
    """Get the time."""
    return "12:00"


class Weather(BaseModel):
    """Get the weather."""

    city: str


class WeatherDict(TypedDict):
    """Get the weather."""

    city: str


def weather(city: str) -> str:
    """Get the weather."""
    return city


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
QUESTION = "How is the weather in Paris?"


async def answers(model: Any, question: Any) -> list[AIMessage]:
    """Return the replies on the four paths."""
    return [
        model.invoke(question),
        reduce(add, model.stream(question)),
        await model.ainvoke(question),
        reduce(add, [chunk async for chunk in model.astream(question)]),
    ]


@pytest.mark.parametrize(
    "definition",
    [
        weather,
        tool("weather")(weather),
        Weather,
        WeatherDict,
        {"name": "weather", "description": "Get the weather.", "parameters": PARAMETERS},
        {"name": "weather", "description": "Get the weather.", "input_schema": PARAMETERS},
        {"title": "weather", "description": "Get the weather.", **PARAMETERS},
    ],
    ids=["function", "tool", "pydantic", "TypedDict", "OpenAI", "Anthropic", "JSON Schema"],
)
def test_every_form_of_a_tool_becomes_the_same_definition(script: Any, definition: Any) -> None:
    model = script(reply("x"))
    ChatStarChat().bind_tools([definition]).invoke("Hi")
    ((_, options),) = model.asked
    (definition,) = options["tools"]
    function = definition["function"]
    assert function["name"].lower().startswith("weather")
    assert function["description"] == "Get the weather."
    assert function["parameters"] == PARAMETERS


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        (False, None),
        (True, "any"),
        ("any", "any"),
        ("required", "required"),
        ("auto", "auto"),
        ("none", "none"),
        ("now", "now"),
        ({"type": "function", "function": {"name": "now"}}, "now"),
        ({"type": "tool", "name": "now"}, "now"),
        ({"type": "any"}, "any"),
    ],
    ids=str,
)
def test_every_form_of_a_choice_reaches_the_engine(script: Any, choice: Any, expected: Any) -> None:
    model = script(reply("x"), reply("x"))
    ChatStarChat().bind_tools([now], tool_choice=choice, parallel_tool_calls=False).invoke("Hi")
    ChatStarChat().invoke("Hi", tools=[{"name": "now"}], tool_choice=choice)
    (_, bound), (_, called) = model.asked
    assert bound["tool_choice"] == called["tool_choice"] == expected
    assert bound["parallel_tool_calls"] is False


def test_a_schema_without_a_title_names_no_tool() -> None:
    with pytest.raises(InvalidRequestError, match=r"tools\[0\]: this JSON Schema has no title"):
        ChatStarChat().bind_tools([PARAMETERS])


def test_bounds_of_pydantic_1_are_kept(script: Any) -> None:
    class Person(v1.BaseModel):
        age: int = v1.Field(ge=0, le=9)

    @tool(args_schema=Person)
    def greet(age: int) -> str:
        """Greet a person."""
        return str(age)

    model = script(reply("x"))
    ChatStarChat().bind_tools([greet]).invoke("Hi")
    function = model.asked[0][1]["tools"][0]["function"]
    assert function["parameters"]["properties"]["age"]["maximum"] == 9


def test_strict_closes_the_schema_that_the_model_sees(script: Any) -> None:
    model = script(reply("x"))
    ChatStarChat().bind_tools([Weather], strict=True).invoke("Hi")
    function = model.asked[0][1]["tools"][0]["function"]
    assert function["strict"] is True
    assert function["parameters"]["additionalProperties"] is False


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_text_and_calls_stream_into_one_message(script: Any, version: str) -> None:
    calls = [("get_weather", {"city": "Oslo", "days": 2}), ("now", {})]
    script(*[reply("Let me see.", calls)] * 4)
    for message in await answers(ChatStarChat(output_version=version), QUESTION):
        assert message.text == "Let me see."
        assert [(call["name"], call["args"]) for call in message.tool_calls] == calls
        blocks = [(block["type"], block.get("name")) for block in message.content_blocks]
        assert blocks == [("text", None), ("tool_call", "get_weather"), ("tool_call", "now")]


def test_a_cache_keeps_tools_apart(script: Any) -> None:
    model = script(reply("a"), reply("b"), reply("c"))
    chat = ChatStarChat(cache=InMemoryCache())
    for bound in (chat.bind_tools([now]), chat.bind_tools([get_weather]), chat):
        assert bound.invoke("Hi").text == bound.invoke("Hi").text
    assert len(model.asked) == 3
