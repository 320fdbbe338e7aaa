"""Nothing blocks the event loop: blockbuster raises where a call of its default list would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_starchat import ChatStarChat, StarChatEmbeddings, StarChatLLM
from random_file import write_random_file
from starchat import Loader, StarChat

blockbuster = pytest.importorskip("blockbuster")

SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 4}


class Verdict(BaseModel):
    """What is right."""

    answer: Literal["yes", "no"]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_file(tmp_path_factory.mktemp("random") / "tiny.bin", n_ctx=2048).parent


@pytest.fixture
def fields(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The fields of a model that is not loaded yet, by a relative path."""
    monkeypatch.chdir(folder)
    with blockbuster.blockbuster_ctx():
        yield {"model_path": "tiny.bin", **SHORT}


async def read(stream: AsyncIterator[Any]) -> list[Any]:
    return [piece async for piece in stream]


async def test_a_chat_model_from_its_construction_on(fields: dict[str, Any]) -> None:
    model = ChatStarChat(cache=InMemoryCache(), **fields)
    assert model.profile
    count = model.get_num_tokens_from_messages([HumanMessage("Hi"), AIMessage("Hello")])
    assert count == model.get_num_tokens_from_messages([HumanMessage("Hi"), AIMessage("Hello")])
    assert isinstance(await model.ainvoke("Hi"), AIMessage)
    assert await read(model.astream("Hi"))
    assert await read(model.astream_events("Hi", version="v2"))
    assert len(await model.abatch(["a", "b"])) == 2
    assert len(await read(model.abatch_as_completed(["a", "b"]))) == 2


async def test_counting_tokens_of_a_folder(folder: Path) -> None:
    """Its files are small and JSON; the weights are not read."""
    pytest.importorskip("safetensors")
    from support.folders import SHAPE, checkpoint, write_folder

    root = write_folder(folder / "hf", checkpoint())
    expected = StarChat.load(root).tokenize("def on")
    with blockbuster.blockbuster_ctx():
        model = ChatStarChat(model_path=root, **SHORT)
        assert model.profile and model.profile["max_input_tokens"] <= SHAPE.n_ctx
        assert model.get_num_tokens("def on") == len(expected)
        assert not model._loaded
        assert isinstance(await model.ainvoke("Hi"), AIMessage)


async def test_tools_and_structured_output(fields: dict[str, Any]) -> None:
    model = ChatStarChat(**fields | {"max_tokens": 40})
    assert await model.with_structured_output(Verdict).ainvoke("?")
    assert await model.bind_tools([add], tool_choice="any").ainvoke("?")
    assert (await model.ainvoke("?", grammar='root ::= "a"')).text == "a"


async def test_agents(fields: dict[str, Any]) -> None:
    agents = pytest.importorskip("langchain.agents")
    model = ChatStarChat(**fields | {"max_tokens": 40})
    for options in ({"tools": [add]}, {"tools": [add], "response_format": Verdict}):
        agent = agents.create_agent(model, **options)
        assert (await agent.ainvoke({"messages": ["Hi"]}))["messages"]


async def test_a_completion_model(fields: dict[str, Any]) -> None:
    model = StarChatLLM(**fields)
    assert isinstance(await model.ainvoke("Hi"), str)
    assert await read(model.astream("Hi"))
    assert len(await model.abatch(["a", "b"])) == 2
    assert len(await read(model.abatch_as_completed(["a", "b"]))) == 2


async def test_embeddings(fields: dict[str, Any]) -> None:
    embeddings = StarChatEmbeddings(model_path=fields["model_path"])
    assert await embeddings.aembed_query("a")
    assert len(await embeddings.aembed_documents(["a", "b"])) == 2


async def test_starchat_itself(fields: dict[str, Any]) -> None:
    model = await Loader().aload(fields["model_path"])
    assert isinstance(model, StarChat)
    question = [{"role": "user", "content": "Hi"}]
    replies = [model.achat(question, seed=seed, max_tokens=4) for seed in range(80)]
    assert len(await asyncio.gather(*replies)) == 80
    assert await read(model.astream_chat(question, max_tokens=4, tools=[{"name": "now"}]))
    assert len(await model.aembed(["a", "b"])) == 2
    async with model.astream_complete("a", ignore_eos=True) as stream:
        await anext(stream)
    task = asyncio.create_task(model.acomplete("a", ignore_eos=True))
    await asyncio.sleep(0)
    task.cancel()
    assert await asyncio.gather(task, return_exceptions=True)
    model.close()
