"""Adapters over the wire: OpenAI's, against the server, say what starchat's say in this process."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from llama_index.core import SummaryIndex
from llama_index.core.schema import TextNode
from llama_index.llms.openai_like import OpenAILike
from llama_index.llms.starchat import StarChat as StarChatOfLlamaIndex
from pydantic import BaseModel, Field
from starlette.testclient import TestClient

from langchain_starchat import ChatStarChat, StarChatEmbeddings, StarChatLLM
from support.server import N_CTX, app, client, server_model

__all__ = ["app", "client", "server_model"]

OPTIONS: dict[str, Any] = {"seed": 1, "max_tokens": 120, "temperature": 0.7}


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@tool
def now() -> str:
    """Tell the time."""
    return "12:00"


@pytest.fixture
def wire(client: TestClient) -> dict[str, Any]:
    """How langchain-openai reaches the server in this process."""
    return {
        "base_url": "http://localhost/v1",
        "api_key": "none",
        "model": "starchat",
        "http_client": client,
    }


def said(messages: list[BaseMessage]) -> list[Any]:
    """Return what messages say, without ids."""
    return [
        (
            message.type,
            message.content,
            [(call["name"], call["args"]) for call in message.tool_calls]
            if isinstance(message, AIMessage)
            else None,
        )
        for message in messages
    ]


@pytest.mark.parametrize("choice", ["auto", "any"])
def test_an_agent_with_three_tools_does_the_same(wire: dict[str, Any], choice: str) -> None:
    dialogues = []
    for model in (ChatOpenAI(**wire, **OPTIONS), ChatStarChat(n_ctx=N_CTX, **OPTIONS)):
        if choice == "any":
            bound = model.bind_tools([add, multiply, now], tool_choice="any")
            dialogues.append(said([bound.invoke("What is 17 + 25?")]))
            continue
        agent = create_agent(model, [add, multiply, now], system_prompt="Use the tools.")
        state = agent.invoke({"messages": ["What is 17 + 25?"]}, {"recursion_limit": 20})
        dialogues.append(said(state["messages"]))
    assert dialogues[0] == dialogues[1]
    assert choice == "auto" or any(calls for _, _, calls in dialogues[0])


class Total(BaseModel):
    """A sum."""

    total: int = Field(ge=0, le=99)


def test_structured_output_and_streams_are_the_same(wire: dict[str, Any]) -> None:
    replies = []
    for model in (ChatOpenAI(**wire, **OPTIONS), ChatStarChat(n_ctx=N_CTX, **OPTIONS)):
        held = model.with_structured_output(Total, method="json_schema").invoke("1 + 2?")
        streamed = "".join([str(chunk.content) for chunk in model.stream("Hello")])
        replies.append((held, streamed, model.invoke("Hello").content))
    assert replies[0] == replies[1]
    assert replies[0][1] == replies[0][2]


def test_completions_and_vectors_are_the_same(wire: dict[str, Any]) -> None:
    options = {**OPTIONS, "temperature": 0.0}
    texts = [
        model.invoke("import os\n")
        for model in (OpenAI(**wire, **options), StarChatLLM(n_ctx=N_CTX, **options))
    ]
    assert texts[0] == texts[1]
    over = OpenAIEmbeddings(**wire, check_embedding_ctx_length=False)
    vectors = [model.embed_documents(["a", "b"]) for model in (over, StarChatEmbeddings())]
    assert vectors[0] == vectors[1]


def test_a_query_engine_answers_the_same(client: TestClient) -> None:
    options = {"temperature": 0.5, "max_tokens": 60}
    over = OpenAILike(
        model="starchat",
        api_base="http://localhost/v1",
        api_key="none",
        http_client=client,
        is_chat_model=True,
        context_window=N_CTX,
        additional_kwargs={"seed": 3},
        **options,
    )
    here = StarChatOfLlamaIndex(n_ctx=N_CTX, seed=3, **options)
    index = SummaryIndex([TextNode(text="A list is sorted by the method sort().")])
    question = "How do I sort a list?"
    answers = [str(index.as_query_engine(llm=llm).query(question)) for llm in (over, here)]
    assert answers[0] == answers[1] and answers[0]
