"""What a guest sends neither stops an event loop nor changes the class of an error."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import HumanMessage, ToolMessage

import starchat
from langchain_starchat import ChatStarChat, StarChatLLM, chat_models
from langchain_starchat.content import content_text
from random_file import write_random_file
from starchat.model_settings import rows, rows_async

MANY = ["x" * 2**22]
ASKED: dict[str, Callable[[], Any]] = {
    "chat": lambda: ChatStarChat(cache=InMemoryCache()).invoke("a", stop=MANY),
    "achat": lambda: asyncio.run(ChatStarChat(cache=InMemoryCache()).ainvoke("a", stop=MANY)),
    "text": lambda: StarChatLLM(cache=InMemoryCache()).invoke("a", choice=MANY),
    "atext": lambda: asyncio.run(StarChatLLM(cache=InMemoryCache()).ainvoke("a", choice=MANY)),
}


@pytest.mark.parametrize("name", ASKED)
def test_options_of_any_size_do_not_become_a_cache_key(name: str) -> None:
    with pytest.raises(starchat.InvalidRequestError, match="expected at most 4,194,304 bytes"):
        ASKED[name]()


async def test_the_event_loop_goes_on_while_vectors_become_lists() -> None:
    vectors, n = np.arange(100.0).reshape(50, 2), 0

    async def tick() -> None:
        nonlocal n
        while True:
            await asyncio.sleep(0)
            n += 1

    ticking = asyncio.ensure_future(tick())
    assert await rows_async(vectors) == rows(vectors) == vectors.tolist()
    ticking.cancel()
    assert n >= 49


def test_a_text_file_that_no_context_holds_is_not_decoded() -> None:
    file = {"type": "file", "mime_type": "text/plain", "base64": "YQ==" * (2**20 + 1)}
    with pytest.raises(starchat.InvalidRequestError, match="at most 4,194,304 bytes, got 4,194,3"):
        content_text("content", [file], "user")
    file["base64"] = base64.b64encode(b"a" * 1000).decode()
    assert content_text("content", [file], "user") == "a" * 1000


@pytest.mark.parametrize("size", [10, 100_000])
async def test_long_parts_are_converted_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    threads = []

    def convert(*_: object) -> Any:
        threads.append(threading.get_ident())
        raise starchat.InvalidRequestError("enough")

    monkeypatch.setattr(chat_models, "to_starchat", convert)
    result = ToolMessage([{"json": {"x": "a" * size}}], tool_call_id="1")
    with pytest.raises(starchat.InvalidRequestError, match="enough"):
        await ChatStarChat().ainvoke([result])
    assert [thread == threading.get_ident() for thread in threads] == [size == 10]


WRONG: dict[str, tuple[Any, dict[str, Any]]] = {
    "long": ("word " * 20_000, {}),
    "small": ("a", {"top_p": 2}),
    "schema": ("a", {"json_schema": {"type": "strng"}}),
    "grammar": ("a", {"grammar": "start: nothing"}),
    "unknown": ([HumanMessage("a")] * 301, {"temprature": 1}),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("model", [ChatStarChat, StarChatLLM])
async def test_all_ways_of_asking_raise_the_same_class(
    name: str, model: Any, tmp_path: Path
) -> None:
    llm = model(model_path=write_random_file(tmp_path / "tiny.bin"))
    given, options = WRONG[name]
    found = []
    for ask in (
        lambda: asyncio.to_thread(llm.invoke, given, **options),
        lambda: asyncio.to_thread(lambda: list(llm.stream(given, **options))),
        lambda: llm.ainvoke(given, **options),
        lambda: drain(llm.astream(given, **options)),
    ):
        with pytest.raises(starchat.InvalidRequestError) as raised:
            await ask()
        found.append((type(raised.value), raised.value.param, str(raised.value)))
    assert found == [found[0]] * 4


async def drain(chunks: Any) -> list[Any]:
    return [chunk async for chunk in chunks]
