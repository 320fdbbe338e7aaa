"""Agents around ChatStarChat: both strategies of structured output, parallel tools, memory."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, Field

from langchain_starchat import ChatStarChat
from support.scripted_model import reply


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


# ---- scripted: what agents make of replies --------------------------------------------------


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


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dialogue_goes_on_after_a_call_that_was_cut(chat: ChatStarChat, streaming: bool) -> None:
    @tool
    def say(text: Annotated[str, Field(min_length=1000)]) -> str:
        """Say a text."""
        return text

    model = ChatStarChat(temperature=0, max_tokens=40, streaming=streaming)
    say_it = model.bind_tools([say], tool_choice="say").invoke("Hello")
    assert say_it.invalid_tool_calls and not say_it.tool_calls
    state = create_agent(model, [say]).invoke({"messages": ["Hello", say_it, "Go on"]})
    assert isinstance(state["messages"][-1], AIMessage)


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
def test_a_provider_strategy_asks_for_json_after_the_tools(script: Any, schema: Any) -> None:
    model = script(reply("", TWO_CALLS[:1]), reply("It is 3."), reply(JSON))
    state = create_agent(ChatStarChat(), [add], response_format=schema).invoke(ask())
    assert state["structured_response"] == Verdict(answer="yes")
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert "json_schema" in model.asked[-1][1]


def test_a_provider_strategy_tells_of_json_that_was_cut(script: Any) -> None:
    script(reply(JSON[:-3], reason="length"))
    with pytest.raises(StructuredOutputValidationError):
        create_agent(ChatStarChat(), response_format=ProviderStrategy(Verdict)).invoke(ask())


def test_a_tool_strategy_asks_for_a_call(script: Any) -> None:
    model = script(reply("", TWO_CALLS[:1]), reply("", [("Verdict", {"answer": "no"})]))
    state = create_agent(ChatStarChat(), [add], response_format=ToolStrategy(Verdict)).invoke(ask())
    assert state["structured_response"] == Verdict(answer="no")
    assert all(options["tool_choice"] == "any" for _, options in model.asked)


# ---- on the embedded model ------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Verdict, ProviderStrategy(Verdict)], ids=["auto", "provider"])
async def test_structured_responses_on_every_path(chat: ChatStarChat, strategy: Any) -> None:
    model = ChatStarChat(temperature=0, max_tokens=60)
    agent = create_agent(model, response_format=strategy, system_prompt="Be brief.")
    for state in (agent.invoke(ask()), await agent.ainvoke(ask())):
        assert isinstance(state["structured_response"], Verdict)


def test_memory_holds_calls_and_results(chat: ChatStarChat) -> None:
    calls = 0

    @tool
    def now() -> str:
        """Get the time."""
        nonlocal calls
        calls += 1
        return "12:00"

    forced = chat.bind_tools([now], tool_choice="now", parallel_tool_calls=False)

    def answer(state: MessagesState) -> dict[str, Any]:
        messages = state["messages"]
        model = chat if isinstance(messages[-1], ToolMessage) else forced
        return {"messages": [model.invoke(messages)]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", answer)
    builder.add_node("tools", ToolNode([now]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for n_turns in (1, 2):
        state = graph.invoke(ask(), config)
        assert calls == n_turns
        assert [m.type for m in state["messages"]] == ["human", "ai", "tool", "ai"] * n_turns
    usage = state["messages"][-1].usage_metadata
    assert usage["input_tokens"] == chat.get_num_tokens_from_messages(state["messages"][:-1])
