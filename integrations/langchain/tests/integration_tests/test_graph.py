"""ChatStarChat as a node of a LangGraph graph, with a memory of the dialogue."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langgraph")

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_starchat import ChatStarChat

QUESTION = "How do I sort a list in Python?"


@pytest.fixture
def graph(chat: ChatStarChat) -> Any:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [chat.invoke(state["messages"])]}

    async def answer_async(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await chat.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", RunnableLambda(answer, answer_async))
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=InMemorySaver())


async def test_a_thread_remembers_its_dialogue(graph: Any, chat: ChatStarChat) -> None:
    config = {"configurable": {"thread_id": "1"}}
    first = graph.invoke({"messages": [HumanMessage(QUESTION)]}, config)
    second = await graph.ainvoke({"messages": [HumanMessage("And in reverse?")]}, config)
    assert [m.type for m in second["messages"]] == ["human", "ai", "human", "ai"]
    assert second["messages"][1] == first["messages"][1]
    history = second["messages"][:3]
    assert second["messages"][3].text == chat.invoke(history).text
    other = {"configurable": {"thread_id": "2"}}
    fresh = graph.invoke({"messages": [HumanMessage("And in reverse?")]}, other)
    assert len(fresh["messages"]) == 2


def test_generated_ids_are_the_next_prompt(graph: Any, chat: ChatStarChat) -> None:
    config = {"configurable": {"thread_id": "1"}}
    state = graph.invoke({"messages": [HumanMessage(QUESTION)]}, config)
    reply = state["messages"][-1]
    assert isinstance(reply, AIMessage)
    history = [HumanMessage(QUESTION), reply, HumanMessage("And in reverse?")]
    n_prompt = chat.get_num_tokens_from_messages(history)
    graph.invoke({"messages": [history[-1]]}, config)
    last = graph.get_state(config).values["messages"][-1]
    assert last.usage_metadata["input_tokens"] == n_prompt


async def test_tokens_stream_out_of_the_graph(graph: Any, chat: ChatStarChat) -> None:
    text = chat.invoke(QUESTION).text
    question = {"messages": [HumanMessage(QUESTION)]}
    config = {"configurable": {"thread_id": "1"}}
    pieces = [m.text for m, _ in graph.stream(question, config, stream_mode="messages")]
    assert len(pieces) > 1
    assert "".join(pieces) == text
    config = {"configurable": {"thread_id": "2"}}
    stream = graph.astream(question, config, stream_mode="messages")
    assert "".join([m.text async for m, _ in stream]) == text
