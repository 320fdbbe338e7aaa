"""What agents make of scripted replies: parallel calls, failures, structured output."""

from __future__ import annotations

from typing import Any, Literal

import pytest

pytest.importorskip("langchain.agents")

from langchain.agents import create_agent
from langchain.agents.structured_output import (
    ProviderStrategy,
    StructuredOutputValidationError,
    ToolStrategy,
)
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel

from langchain_starchat import ChatStarChat
from scripted_model import reply


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def fail() -> str:
    """Fail."""
    raise ValueError("it fails")


class Verdict(BaseModel):
    """What is right."""

    answer: Literal["yes", "no"]


TWO_CALLS = [("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})]
JSON = '{"answer": "yes"}'


def ask() -> Any:
    return {"messages": [HumanMessage("What is 1 + 2, and 3 + 4?")]}


async def test_parallel_calls_are_run_and_answered(script: Any) -> None:
    model = script(*[reply("", TWO_CALLS), reply("3 and 7.")] * 2)
    agent = create_agent(ChatStarChat(), [add])
    for state in (agent.invoke(ask()), await agent.ainvoke(ask())):
        _, asked, first, second, last = state["messages"]
        assert [call["args"] for call in asked.tool_calls] == [args for _, args in TWO_CALLS]
        assert (first.text, second.text, last.text) == ("3", "7", "3 and 7.")
    dialogue, options = model.asked[1]
    assert [turn["role"] for turn in dialogue] == ["user", "assistant", "tool", "tool"]
    assert [tool["function"]["name"] for tool in options["tools"]] == ["add"]


def test_agents_stream_their_calls(script: Any) -> None:
    script(reply("", TWO_CALLS[:1]), reply("It is 3."))
    stream = create_agent(ChatStarChat(), [add]).stream(ask(), stream_mode="messages")
    pieces = [message for message, _ in stream]
    args = [call["args"] for piece in pieces for call in getattr(piece, "tool_call_chunks", [])]
    assert len(args) > 2 and "".join(args) == '{"a": 1, "b": 2}'
    assert "".join([p.text for p in pieces if not isinstance(p, ToolMessage)]) == "It is 3."


def test_agents_never_run_a_call_that_was_cut(script: Any) -> None:
    for stream in (False, True):
        script(reply("", [("add", '{"a": 1, "b": 2')], "length"))
        agent = create_agent(ChatStarChat(streaming=stream), [add])
        (*_, last) = agent.invoke(ask())["messages"]
        assert isinstance(last, AIMessage) and last.invalid_tool_calls


def test_errors_of_tools_reach_the_model(script: Any) -> None:
    model = script(reply("", [("fail", {})]), reply("It failed."))
    builder = StateGraph(MessagesState)
    bound = ChatStarChat().bind_tools([fail])
    builder.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode([fail], handle_tool_errors=True))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    assert builder.compile().invoke(ask())["messages"][-1].text == "It failed."
    assert model.asked[1][0][-1]["content"].startswith("Error: ")


@pytest.mark.parametrize("schema", [Verdict, ProviderStrategy(Verdict)], ids=["auto", "provider"])
def test_a_provider_strategy_asks_once_for_calls_or_json(script: Any, schema: Any) -> None:
    model = script(reply("", TWO_CALLS[:1]), reply(JSON))
    state = create_agent(ChatStarChat(), [add], response_format=schema).invoke(ask())
    assert state["structured_response"] == Verdict(answer="yes")
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert len(model.asked) == 2
    assert all(options["tools"] and options["json_schema"] for _, options in model.asked)


def test_a_provider_strategy_tells_of_json_that_was_cut(script: Any) -> None:
    script(reply(JSON[:-3], reason="length"))
    with pytest.raises(StructuredOutputValidationError):
        create_agent(ChatStarChat(), response_format=ProviderStrategy(Verdict)).invoke(ask())


def test_a_tool_strategy_asks_for_a_call(script: Any) -> None:
    model = script(reply("", TWO_CALLS[:1]), reply("", [("Verdict", {"answer": "no"})]))
    state = create_agent(ChatStarChat(), [add], response_format=ToolStrategy(Verdict)).invoke(ask())
    assert state["structured_response"] == Verdict(answer="no")
    assert all(options["tool_choice"] == "any" for _, options in model.asked)
