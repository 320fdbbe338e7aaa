"""Agents around the embedded model: structured output, calls that are cut, memory."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

pytest.importorskip("langchain.agents")

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, Field

from langchain_starchat import ChatStarChat


class Verdict(BaseModel):
    """What is right."""

    answer: Literal["yes", "no"]


def ask() -> Any:
    return {"messages": [HumanMessage("What is 1 + 2, and 3 + 4?")]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dialogue_goes_on_after_a_call_that_was_cut(chat: ChatStarChat, streaming: bool) -> None:
    @tool
    def say(text: Annotated[str, Field(pattern="^(so ){100}$")]) -> str:
        """Say a text."""
        return text

    model = ChatStarChat(temperature=0, max_tokens=40, streaming=streaming)
    say_it = model.bind_tools([say], tool_choice="say").invoke("Hello")
    assert say_it.invalid_tool_calls and not say_it.tool_calls
    state = create_agent(model, [say]).invoke({"messages": ["Hello", say_it, "Go on"]})
    assert isinstance(state["messages"][-1], AIMessage)


@pytest.mark.parametrize("strategy", [Verdict, ProviderStrategy(Verdict)], ids=["auto", "provider"])
async def test_structured_responses_on_every_path(chat: ChatStarChat, strategy: Any) -> None:
    model = ChatStarChat(temperature=0, max_tokens=60)
    agent = create_agent(model, response_format=strategy, system_prompt="Be brief.")
    for state in (agent.invoke(ask()), await agent.ainvoke(ask())):
        assert isinstance(state["structured_response"], Verdict)


async def test_tools_beside_a_structured_response(chat: ChatStarChat) -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    class Total(BaseModel):
        total: int

    model = ChatStarChat(temperature=0, max_tokens=60)
    agent = create_agent(model, [add], response_format=ProviderStrategy(Total))
    asked: Any = {"messages": [HumanMessage("Add 17 and 25")]}
    for state in (agent.invoke(asked), await agent.ainvoke(asked)):
        last = state["messages"][-1]
        assert state["structured_response"] == Total.model_validate_json(last.text)
        n_tokens = len(last.additional_kwargs["token_ids"])
        assert last.usage_metadata["output_tokens"] == n_tokens


@pytest.mark.parametrize("keep", [("tokens", 90), ("fraction", 0.05), ("messages", 4)])
def test_a_long_history_is_summarized_by_the_models_own_count(
    chat: ChatStarChat, keep: Any
) -> None:
    count = chat.get_num_tokens_from_messages
    middleware = SummarizationMiddleware(
        chat, trigger=[("tokens", 500), ("fraction", 0.3)], keep=keep, token_counter=count
    )
    history: list[Any] = []
    for id in map(str, range(12)):
        call = {"name": "add", "args": {"a": 1, "b": 2}, "id": id}
        asked = [HumanMessage("Add 1 and 2"), AIMessage("", tool_calls=[call])]
        history += [*asked, ToolMessage("3", tool_call_id=id), AIMessage("It is 3.")]
    question = HumanMessage("How do I sort a list?")
    state = create_agent(chat, middleware=[middleware]).invoke({"messages": [*history, question]})
    messages = state["messages"]
    assert "summary" in messages[0].text and messages[-2].text == question.text
    assert count(messages) < count(history) / 2


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
