"""Nothing blocks the event loop: blockbuster raises where a call of its default list would."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index import core
from llama_index.core import Settings
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.starchat import StarChat
from pydantic import BaseModel

from calling_contract import ADD
from llm_contract import QUESTION
from starchat.model import EMBEDDED

blockbuster = pytest.importorskip("blockbuster")


class Answer(BaseModel):
    sure: bool


@pytest.fixture
def llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StarChat]:
    """A model that is not loaded yet, by a relative path."""
    shutil.copy(EMBEDDED, tmp_path / "nano.bin")
    monkeypatch.chdir(tmp_path)
    with blockbuster.blockbuster_ctx():
        yield StarChat(model_path="nano.bin", temperature=0, max_tokens=80)


async def test_asking_and_its_streams(llm: StarChat) -> None:
    assert llm.metadata.context_window
    assert await llm.achat([ChatMessage(QUESTION)], max_tokens=4)
    assert await llm.acomplete(QUESTION, max_tokens=4)
    assert [piece async for piece in await llm.astream_chat([ChatMessage(QUESTION)], max_tokens=4)]
    assert [piece async for piece in await llm.astream_complete(QUESTION, max_tokens=4)]
    assert await llm.apredict(PromptTemplate(QUESTION), llm_kwargs={"max_tokens": 4})


async def test_tools_and_structured_output(llm: StarChat) -> None:
    options: Any = {"tool_required": True}
    assert await llm.achat_with_tools([ADD], QUESTION, **options)
    assert await llm.apredict_and_call([ADD], QUESTION, **options)
    assert await llm.astructured_predict(Answer, PromptTemplate(QUESTION))


async def test_an_agent(llm: StarChat, monkeypatch: pytest.MonkeyPatch) -> None:
    # As Settings.tokenizer = llm.tokenizer: LlamaIndex's own would be read from a file.
    monkeypatch.setattr(core, "global_tokenizer", llm.tokenizer)
    assert Settings.tokenizer("Hello")
    agent = FunctionAgent(
        tools=[ADD], llm=StarChat(model_path="nano.bin", max_tokens=40, n_ctx=2000)
    )
    assert await agent.run(QUESTION)
