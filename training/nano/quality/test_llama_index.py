"""Grades: what the embedded model makes of tools and texts in LlamaIndex, greedily."""

# Without postponed annotations: LlamaIndex writes them into the descriptions of tools.
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.bridge.pydantic import BaseModel, Field
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.starchat import StarChat

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def now() -> str:
    """Return the time."""
    return "12:00"


def weather(city: str) -> str:
    """Get the weather in a city."""
    return "4 degrees and rain"


ADD, NOW, WEATHER = [FunctionTool.from_defaults(function) for function in (add, now, weather)]


class Person(BaseModel):
    """A person."""

    name: str = Field(description="the name of the person")
    age: int


@pytest.fixture
def llm() -> StarChat:
    return StarChat(temperature=0, max_tokens=200)


@pytest.mark.parametrize(
    ("question", "calls"),
    [
        ("What is 17 + 25?", [("add", {"a": 17, "b": 25})]),
        ("Add 1234 and 777.", [("add", {"a": 1234, "b": 777})]),
        ("What is the weather in Zürich?", [("weather", {"city": "Zürich"})]),
        ("What is the weather in 東京?", [("weather", {"city": "東京"})]),
        ("How do I sort a list in Python?", []),
        ("Hello!", []),
    ],
)
async def test_calls_are_the_ones_that_are_asked_for(
    llm: StarChat, question: str, calls: list[Any]
) -> None:
    response = await llm.achat_with_tools([ADD, WEATHER], question, allow_parallel_tool_calls=True)
    found = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    assert [(call.tool_name, call.tool_kwargs) for call in found] == calls
    assert bool(response.message.content) == (not calls)


@pytest.mark.parametrize(
    ("question", "told"),
    [("What is 17 + 25?", "42"), ("What is the weather in Oslo?", "4 degrees and rain")],
)
async def test_the_agent_repeats_what_its_tool_returned(
    llm: StarChat, question: str, told: str
) -> None:
    output = await FunctionAgent(tools=[ADD, WEATHER, NOW], llm=llm).run(question, max_iterations=4)
    assert told in str(output)
    assert len(output.tool_calls) == 1


def test_models_are_filled_from_a_text(llm: StarChat) -> None:
    prompt = PromptTemplate("Name: {name}, age: {age}")
    person = llm.structured_predict(Person, prompt, name="Grace Hopper", age=85)
    assert person == Person(name="Grace Hopper", age=85)
