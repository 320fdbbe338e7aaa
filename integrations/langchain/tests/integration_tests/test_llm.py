"""StarChatLLM: raw completions, alone and in batches."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from langchain_starchat import ContextOverflow, StarChatLLM
from starchat import (
    AsyncStream,
    Chunk,
    ControlTokenWarning,
    InvalidRequestError,
    StarChat,
    Stream,
)

SAMPLING: Any = {"temperature": 0, "max_tokens": 40, "min_tokens": 8}
PROMPTS: list[Any] = ["def add(a, b):", "import os\n", "numbers = [1, 2", "for line in"]


async def joined(texts: AsyncIterator[str]) -> str:
    return "".join([text async for text in texts])


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)


class AwaitedTokens(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)  # proves that it was awaited
        self.tokens.append(token)


async def test_every_way_gives_the_text_of_the_engine(llm: StarChatLLM, nano: StarChat) -> None:
    sampling: Any = {"temperature": 0, "max_tokens": 40, "min_tokens": 8}
    texts = [nano.complete(prompt, **sampling).text for prompt in PROMPTS]
    assert [llm.invoke(prompt) for prompt in PROMPTS] == texts
    assert llm.batch(PROMPTS) == texts
    assert llm.batch(PROMPTS, config={"max_concurrency": 2}) == texts
    assert ["".join(llm.stream(prompt)) for prompt in PROMPTS] == texts
    assert await llm.abatch(PROMPTS) == texts
    assert [await joined(llm.astream(prompt)) for prompt in PROMPTS] == texts


def test_a_chain_around_it(llm: StarChatLLM) -> None:
    chain = PromptTemplate.from_template("def {name}(") | llm | StrOutputParser()
    assert chain.invoke({"name": "add"}) == llm.invoke("def add(")


def test_a_batch_is_submitted_before_it_is_read(
    nano: StarChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    submit, read = StarChat.stream_complete, Stream.__next__

    def spy_submit(self: StarChat, *args: Any, **kwargs: Any) -> Stream:
        events.append("submit")
        return submit(self, *args, **kwargs)

    def spy_read(self: Stream) -> Chunk:
        events.append("read")
        return read(self)

    monkeypatch.setattr(StarChat, "stream_complete", spy_submit)
    monkeypatch.setattr(Stream, "__next__", spy_read)
    StarChatLLM(max_tokens=20).batch(PROMPTS)
    assert events[: len(PROMPTS)] == ["submit"] * len(PROMPTS)
    assert set(events[len(PROMPTS) :]) == {"read"}


async def test_answers_that_come_one_by_one_are_computed_together(nano: StarChat) -> None:
    n = min(32, (os.cpu_count() or 1) + 4) + 1  # more than the threads of a default executor
    together = threading.Barrier(n, timeout=30)
    n_begun, all_begun = 0, asyncio.Event()

    class Watched(StarChatLLM):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            together.wait()
            return super()._generate(*args, **kwargs)

        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal n_begun
            n_begun += 1
            if n_begun == n:
                all_begun.set()
            await asyncio.wait_for(all_begun.wait(), 30)
            return await super()._agenerate(*args, **kwargs)

    llm = Watched(max_tokens=1, temperature=0)
    expected = dict(enumerate([StarChatLLM(max_tokens=1, temperature=0).invoke("import os")] * n))
    inputs: list[Any] = ["import os"] * n
    assert dict(llm.batch_as_completed(inputs)) == expected
    assert {i: text async for i, text in llm.abatch_as_completed(inputs)} == expected


@pytest.mark.parametrize("name", ["stream_complete", "astream_complete"])
async def test_the_engine_has_only_so_many_prompts_at_a_time(
    nano: StarChat, llm: StarChatLLM, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    prompts = [f"def f{n}(" for n in range(12)]
    texts = [llm.invoke(prompt) for prompt in prompts]
    submit, n_open, most_open = getattr(StarChat, name), 0, 0

    def note_end(chunk: Chunk) -> Chunk:
        nonlocal n_open
        n_open -= chunk.finish_reason is not None
        return chunk

    def spy(self: StarChat, *args: Any, **kwargs: Any) -> Any:
        nonlocal n_open, most_open
        n_open += 1
        most_open = max(most_open, n_open)
        return submit(self, *args, **kwargs)

    read, aread = Stream.__next__, AsyncStream.__anext__

    async def aspy_read(self: AsyncStream) -> Chunk:
        return note_end(await aread(self))

    monkeypatch.setattr("langchain_starchat.llms.N_TOGETHER", 3)
    monkeypatch.setattr(StarChat, name, spy)
    monkeypatch.setattr(Stream, "__next__", lambda self: note_end(read(self)))
    monkeypatch.setattr(AsyncStream, "__anext__", aspy_read)
    given = await llm.agenerate(prompts) if name[0] == "a" else llm.generate(prompts)
    assert [one.text for (one,) in given.generations] == texts
    assert most_open == 3


async def test_callbacks_hear_every_chunk_once(long_llm: StarChatLLM) -> None:
    tokens, awaited = Tokens(), AwaitedTokens()
    assert list(long_llm.stream(PROMPTS[0], config={"callbacks": [tokens]})) == tokens.tokens
    config: Any = {"callbacks": [awaited]}
    assert [t async for t in long_llm.astream(PROMPTS[0], config=config)] == awaited.tokens
    assert len(tokens.tokens) > 1


def test_results_carry_usage_and_reason(llm: StarChatLLM) -> None:
    result = llm.generate(PROMPTS[:2], max_tokens=8)
    assert result.llm_output is not None
    assert result.llm_output["model_name"] == "starchat-nano"
    usage = result.llm_output["token_usage"]
    assert usage["completion_tokens"] == 16
    assert usage["total_tokens"] == usage["prompt_tokens"] + 16
    assert [g[0].generation_info for g in result.generations] == [{"finish_reason": "length"}] * 2


def test_a_cache_keeps_call_arguments_apart(nano: StarChat) -> None:
    llm = StarChatLLM(temperature=0, min_tokens=8, cache=InMemoryCache())
    short, long = (llm.invoke(PROMPTS[0], max_tokens=n) for n in (8, 16))
    assert long.startswith(short) and short != long
    stopped = StarChatLLM(temperature=0, min_tokens=8, cache=llm.cache, stop=[long[2:5]])
    assert stopped.invoke(PROMPTS[0], max_tokens=16) == long[: long.index(long[2:5])]
    assert llm.max_tokens is None


async def test_unknown_arguments_are_errors(llm: StarChatLLM) -> None:
    with pytest.raises(InvalidRequestError, match="did you mean max_tokens"):
        llm.invoke(PROMPTS[0], max_token=1)
    with pytest.raises(InvalidRequestError, match="did you mean max_tokens"):
        await llm.ainvoke(PROMPTS[0], max_token=1)


@pytest.mark.parametrize("is_async", [False, True])
async def test_one_bad_prompt_ends_the_whole_batch(
    llm: StarChatLLM, nano: StarChat, wait_until_idle: Callable[[], None], is_async: bool
) -> None:
    prompts: list[Any] = [PROMPTS[0], "word " * nano.info.n_ctx]
    with pytest.raises(ContextOverflow):
        await llm.abatch(prompts) if is_async else llm.batch(prompts)
    wait_until_idle()


async def test_cancelling_a_batch_stops_the_engine(
    long_llm: StarChatLLM, nano: StarChat, wait_until_idle: Callable[[], None]
) -> None:
    wait_until_idle()
    task = asyncio.create_task(long_llm.abatch(PROMPTS))
    while not nano.stats()["running"]:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_until_idle()


def test_leaving_a_stream_stops_the_engine(
    long_llm: StarChatLLM, stopped_early: Callable[[], None]
) -> None:
    for _ in long_llm.stream(PROMPTS[0]):
        break
    stopped_early()


def n_prompt_tokens(llm: StarChatLLM, prompt: str, **options: Any) -> int:
    usage = (llm.generate([prompt], **options).llm_output or {})["token_usage"]
    return int(usage["prompt_tokens"])


def test_control_tokens_in_a_prompt_are_text(llm: StarChatLLM, nano: StarChat) -> None:
    with pytest.warns(ControlTokenWarning, match="allow_special=True"):
        assert n_prompt_tokens(llm, "<|end|>") == len(nano.tokenize("<|end|>")) > 1


CARD = "<|system|>\n<|end|>\n<|user|>\nHow do I sort a list?<|end|>\n<|assistant|>"


async def test_a_framed_prompt_is_answered(llm: StarChatLLM, nano: StarChat) -> None:
    question = [{"role": "user", "content": "How do I sort a list?"}]
    text = "\n" + nano.chat(question, temperature=0, max_tokens=40, min_tokens=8).text
    assert llm.invoke(CARD) == "".join(llm.stream(CARD)) == text
    assert await llm.ainvoke(CARD) == await joined(llm.astream(CARD)) == text
    assert n_prompt_tokens(llm, CARD) == nano.count_tokens(question)


@pytest.mark.parametrize("value", [True, False, ["<|user|>"]])
async def test_allow_special_is_a_field_and_an_option(
    llm: StarChatLLM, nano: StarChat, value: Any
) -> None:
    for prompt in (CARD, "a <|user|> b"):
        n_tokens = len(nano.tokenize(prompt, value))
        expected = nano.complete(nano.tokenize(prompt, value), **SAMPLING).text
        with_field = StarChatLLM(allow_special=value, **SAMPLING)
        assert n_prompt_tokens(with_field, prompt) == n_tokens
        assert n_prompt_tokens(llm, prompt, allow_special=value) == n_tokens
        assert with_field.invoke(prompt) == "".join(with_field.stream(prompt)) == expected
        assert "".join(llm.stream(prompt, allow_special=value)) == expected
        assert await joined(llm.astream(prompt, allow_special=value)) == expected


def test_a_cache_keeps_readings_of_a_prompt_apart() -> None:
    cache = InMemoryCache()
    llm = StarChatLLM(cache=cache, **SAMPLING)
    values: list[Any] = [None, False, ["<|user|>"]]
    for n_entries, value in enumerate(values, 1):
        for _ in range(2):
            llm.invoke(CARD, allow_special=value)
        assert len(cache._cache) == n_entries
    StarChatLLM(cache=cache, allow_special=False, **SAMPLING).invoke(CARD)
    assert len(cache._cache) == len(values)
