"""Nothing blocks the event loop: blockbuster raises where a call of its default list would."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from llama_index import core
from llama_index.core import Settings
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, DocumentBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.starchat import StarChat, base
from pydantic import BaseModel

import starchat
from calling_contract import ADD
from llm_contract import QUESTION
from starchat import InvalidRequestError
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


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "long": ("word " * 20_000, {}),
    "small": ("a", {"top_p": 2}),
    "schema": ("a", {"json_schema": {"type": "strng"}}),
    "grammar": ("a", {"grammar": "start: nothing"}),
    "too long to be looked at": ("<|user|>" * 600_000, {}),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("method", ["chat", "complete"])
async def test_all_ways_of_asking_raise_the_same_class(
    name: str, method: str, llm: StarChat
) -> None:
    """Also the async streams do so at the call, before anything is read."""
    text, options = WRONG[name]
    given: Any = [ChatMessage(text)] if method == "chat" else text
    found = []
    for way in ("", "stream_", "a", "astream_"):
        with pytest.raises(InvalidRequestError) as raised:
            ask = partial(getattr(llm, way + method), given, **options)
            await (ask() if way.startswith("a") else asyncio.to_thread(ask))
        found.append((type(raised.value), raised.value.param, str(raised.value)))
    assert found == [found[0]] * 4


async def test_long_prompts_and_files_are_looked_at_in_a_thread(
    llm: StarChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def refuse(*_: Any) -> Any:
        threads.append(threading.get_ident())
        raise InvalidRequestError("enough")

    monkeypatch.setattr(base, "to_starchat", refuse)
    file = ChatMessage(blocks=[DocumentBlock(data=b"a", document_mimetype="text/plain")])
    for answer in (llm.acomplete("a" * 100_000), llm.achat([file]), llm.acomplete("a")):
        with pytest.raises(InvalidRequestError, match="enough"):
            await answer
    assert [thread == threading.get_ident() for thread in threads] == [False, False, True]


def test_a_prompt_that_is_too_long_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starchat, "is_framed", lambda prompt: pytest.fail("searched"))
    with pytest.raises(InvalidRequestError, match="expected at most 4,194,304 characters"):
        StarChat().complete("a" * (2**22 + 1))
