"""ChatStarChat as LangChain uses it: chains, streams, callbacks, caches, threads and tasks."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core import exceptions
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    get_usage_metadata_callback,
)
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from langchain_starchat import ChatStarChat, ContextOverflow
from random_file import write_random_file
from starchat import (
    ContextLengthError,
    InvalidRequestError,
    StarChat,
)

QUESTION = "How do I sort a list in Python?"


@pytest.fixture
def chain(chat: ChatStarChat) -> Runnable[dict[str, str], str]:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")])
    return prompt | chat | StrOutputParser()


@pytest.fixture
def loads_seen(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that called StarChat.load."""
    seen: list[threading.Thread] = []
    load = StarChat.load

    def spy(*args: Any, **kwargs: Any) -> StarChat:
        seen.append(threading.current_thread())
        time.sleep(0.01)
        return load(*args, **kwargs)

    monkeypatch.setattr(StarChat, "load", spy)
    return seen


async def joined(texts: AsyncIterator[str]) -> str:
    return "".join([text async for text in texts])


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.ends = 0
        self.errors: list[BaseException] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends += 1

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


class AwaitedTokens(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)  # proves that it was awaited
        self.tokens.append(token)


# ---- chains ---------------------------------------------------------------------------------


async def test_every_way_through_a_chain_gives_the_same_text(
    chain: Runnable[dict[str, str], str],
) -> None:
    inputs = [{"question": QUESTION}, {"question": "How do I reverse a string?"}]
    texts = [chain.invoke(value) for value in inputs]
    assert all(texts)
    assert ["".join(chain.stream(value)) for value in inputs] == texts
    assert chain.batch(inputs) == texts
    assert [await chain.ainvoke(value) for value in inputs] == texts
    assert [await joined(chain.astream(value)) for value in inputs] == texts
    assert await chain.abatch(inputs) == texts


async def test_astream_events_tell_each_chunk(chat: ChatStarChat) -> None:
    events = [event async for event in chat.astream_events(QUESTION, version="v2")]
    chunks = [e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(chunk.text for chunk in chunks) == chat.invoke(QUESTION).text


def test_agents_work_without_tools(chat: ChatStarChat) -> None:
    agents = pytest.importorskip("langchain.agents")
    agent = agents.create_agent(chat, system_prompt="Be brief.")
    state = agent.invoke({"messages": [HumanMessage(QUESTION)]})
    assert state["messages"][-1].text == chat.invoke([("system", "Be brief."), QUESTION]).text


# ---- streams --------------------------------------------------------------------------------


def test_first_chunk_comes_before_the_last_token_is_computed(
    long_chat: ChatStarChat, nano: StarChat, wait_until_idle: Callable[[], None]
) -> None:
    wait_until_idle()
    n_before = nano.stats()["tokens"]
    stream = long_chat.stream(QUESTION)
    next(stream)
    n_early = nano.stats()["tokens"] - n_before
    *_, last = stream
    assert last.usage_metadata is not None
    assert n_early < last.usage_metadata["output_tokens"]


def test_a_stream_ends_with_one_chunk_of_metadata(long_chat: ChatStarChat) -> None:
    *pieces, last = long_chat.stream(QUESTION)
    assert len(pieces) > 1
    assert last.chunk_position == "last"
    assert last.content == ""
    assert set(last.response_metadata) >= {"model_name", "model_provider", "finish_reason"}
    assert not any(piece.usage_metadata or piece.response_metadata for piece in pieces)


def test_leaving_a_stream_stops_the_engine(
    long_chat: ChatStarChat, stopped_early: Callable[[], None]
) -> None:
    for _ in long_chat.stream(QUESTION):
        break
    stopped_early()


async def test_leaving_an_async_stream_stops_the_engine(
    long_chat: ChatStarChat, nano: StarChat, stopped_early: Callable[[], None]
) -> None:
    async for _ in long_chat.astream(QUESTION):
        break
    for _ in range(1000):  # the event loop closes the abandoned generators, one after the other
        if not nano.stats()["running"]:
            break
        await asyncio.sleep(0.01)
    stopped_early()


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancelling_a_task_stops_the_engine(
    long_chat: ChatStarChat, nano: StarChat, stopped_early: Callable[[], None], streaming: bool
) -> None:
    async def ask() -> None:
        if streaming:
            async for _ in long_chat.astream(QUESTION):
                pass
        else:
            await long_chat.ainvoke(QUESTION)

    task = asyncio.create_task(ask())
    while not nano.stats()["running"]:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stopped_early()


async def test_the_event_loop_runs_on_while_a_reply_is_written(long_chat: ChatStarChat) -> None:
    task = asyncio.create_task(long_chat.ainvoke(QUESTION))
    n_turns = 0
    while not task.done():
        await asyncio.sleep(0.001)
        n_turns += 1
    assert (await task).response_metadata["finish_reason"] == "length"
    assert n_turns > 2  # a method that blocks lets the loop turn once


# ---- callbacks ------------------------------------------------------------------------------


async def test_callbacks_hear_every_chunk_once(chat: ChatStarChat) -> None:
    sync = Tokens()
    chunks = [c.content for c in chat.stream(QUESTION, config={"callbacks": [sync]})]
    assert sync.tokens == chunks
    assert sync.ends == 1
    awaited = AwaitedTokens()
    config: Any = {"callbacks": [awaited]}
    achunks = [c.content async for c in chat.astream(QUESTION, config=config)]
    assert awaited.tokens == achunks


async def test_streaming_true_lets_invoke_tell_callbacks(chat: ChatStarChat) -> None:
    streaming = ChatStarChat(temperature=0, max_tokens=40, min_tokens=8, streaming=True)
    tokens, awaited = Tokens(), AwaitedTokens()
    text = streaming.invoke(QUESTION, config={"callbacks": [tokens]}).text
    assert text == chat.invoke(QUESTION).text == "".join(tokens.tokens)
    assert (await streaming.ainvoke(QUESTION, config={"callbacks": [awaited]})).text == text
    assert "".join(awaited.tokens) == text
    assert chat.invoke(QUESTION, stream=True).text == text


def test_errors_reach_callbacks(chat: ChatStarChat) -> None:
    tokens = Tokens()
    with pytest.raises(InvalidRequestError):
        list(chat.stream(QUESTION, config={"callbacks": [tokens]}, temperature=-1))
    (error,) = tokens.errors
    assert isinstance(error, InvalidRequestError)
    framework = getattr(exceptions, "ModelInvalidRequestError", exceptions.LangChainException)
    assert isinstance(error, framework)


def test_a_calls_arguments_win_over_fields(chat: ChatStarChat) -> None:
    before = chat._identifying_params
    short = chat.invoke(QUESTION, max_tokens=3, min_tokens=3)
    assert short.usage_metadata is not None
    assert short.usage_metadata["output_tokens"] == 3
    assert short.response_metadata["finish_reason"] == "length"
    (*_, last) = chat.bind(max_tokens=5, min_tokens=5).stream(QUESTION)
    assert isinstance(last, AIMessageChunk)
    assert last.usage_metadata is not None
    assert last.usage_metadata["output_tokens"] == 5
    assert chat._identifying_params == before


def test_unknown_arguments_are_errors(chat: ChatStarChat) -> None:
    with pytest.raises(InvalidRequestError, match="'temprature': did you mean temperature"):
        chat.invoke(QUESTION, temprature=1)
    with pytest.raises(ValueError, match="no argument 'temprature': did you mean 'temperature'"):
        ChatStarChat(temprature=1)  # type: ignore[call-arg]


def test_calls_change_neither_model_nor_messages(chat: ChatStarChat) -> None:
    messages = [HumanMessage(QUESTION), SystemMessage("Be brief.")]
    before = copy.deepcopy(messages), chat._identifying_params
    chat.invoke(messages, stop=["x"], seed=1)
    list(chat.stream(messages, temperature=1.0, seed=1))
    assert (messages, chat._identifying_params) == before


@pytest.mark.parametrize("as_field", [False, True])
async def test_stop_strings_end_the_reply_wherever_chunks_break(
    nano: StarChat, chat: ChatStarChat, as_field: bool
) -> None:
    text = chat.invoke(QUESTION).text
    stop = text[4:8]
    expected = text[: text.index(stop)]
    fields: Any = {"temperature": 0, "max_tokens": 40, "min_tokens": 8}
    model = ChatStarChat(**fields, stop=[stop] if as_field else ["never"])
    call: Any = {} if as_field else {"stop": [stop]}
    message = model.invoke(QUESTION, **call)
    assert (message.text, message.response_metadata["finish_reason"]) == (expected, "stop")
    assert "".join([c.text for c in model.stream(QUESTION, **call)]) == expected
    assert "".join([c.text async for c in model.astream(QUESTION, **call)]) == expected
    assert model.invoke(QUESTION, stop=[]).text == text


def test_the_same_seed_gives_the_same_text(chat: ChatStarChat) -> None:
    first, again, other = [
        chat.invoke(QUESTION, temperature=5, top_k=0, top_p=1.0, seed=seed).text
        for seed in (7, 7, 8)
    ]
    assert first == again != other


def test_logprobs_are_metadata_of_every_token(chat: ChatStarChat) -> None:
    message = chat.invoke(QUESTION, logprobs=2)
    entries = message.response_metadata["logprobs"]["content"]
    assert [e["token_id"] for e in entries] == message.additional_kwargs["token_ids"]
    assert all(e["logprob"] <= 0 and len(e["top_logprobs"]) == 2 for e in entries)
    assert b"".join([bytes(e["bytes"]) for e in entries]).decode().strip() == message.content
    assert all(best["bytes"] for e in entries for best in e["top_logprobs"])


# ---- errors ---------------------------------------------------------------------------------


async def test_a_prompt_too_long_says_so_in_every_path(chat: ChatStarChat, nano: StarChat) -> None:
    prompt = "word " * nano.info.n_ctx
    for error in (ContextOverflow, ContextLengthError, ContextOverflowError, InvalidRequestError):
        with pytest.raises(error, match=f"context holds {nano.info.n_ctx:,}"):
            chat.invoke(prompt)
    with pytest.raises(ContextOverflow):
        list(chat.stream(prompt))
    with pytest.raises(ContextOverflow):
        await chat.ainvoke(prompt)
    with pytest.raises(ContextOverflow):
        async for _ in chat.astream(prompt):
            pass


# ---- caches ---------------------------------------------------------------------------------


def test_a_cache_answers_the_same_question_again(nano: StarChat) -> None:
    model = ChatStarChat(cache=InMemoryCache(), temperature=5, top_k=0, top_p=1.0)
    assert model.invoke(QUESTION, max_tokens=30).text == model.invoke(QUESTION, max_tokens=30).text


# ---- concurrency and loading ----------------------------------------------------------------


async def test_sixteen_tasks_get_the_answers_that_each_gets_alone(chat: ChatStarChat) -> None:
    questions: list[Any] = [f"How do I print the number {n}?" for n in range(16)]
    alone = [chat.invoke(question).text for question in questions]
    together = await asyncio.gather(*[chat.ainvoke(question) for question in questions])
    assert [message.text for message in together] == alone
    assert [message.text for message in chat.batch(questions)] == alone


@pytest.mark.parametrize("method", ["batch", "batch_as_completed"])
@pytest.mark.parametrize("is_chain", [False, True], ids=["model", "chain"])
def test_a_batch_asks_all_at_once(is_chain: bool, method: str) -> None:
    if is_chain and method == "batch_as_completed":
        pytest.skip("a chain runs each input by itself, with LangChain's threads")
    n = min(32, (os.cpu_count() or 1) + 4) + 1  # more than the threads of a default executor
    together = threading.Barrier(n, timeout=30)

    class Watched(ChatStarChat):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            together.wait()
            return super()._generate(*args, **kwargs)

    model = Watched(max_tokens=1)
    runnable: Runnable[Any, Any] = (
        ChatPromptTemplate.from_template("{it}") | model if is_chain else model
    )
    inputs = [{"it": "Hello"} if is_chain else "Hello"] * n
    assert len(list(getattr(runnable, method)(inputs))) == n


def test_a_batch_keeps_to_max_concurrency() -> None:
    n_running, most = 0, 0
    lock = threading.Lock()

    class Watched(ChatStarChat):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal n_running, most
            with lock:
                n_running += 1
                most = max(most, n_running)
            time.sleep(0.01)
            with lock:
                n_running -= 1
            return super()._generate(*args, **kwargs)

    Watched(max_tokens=1).batch(["Hello"] * 6, {"max_concurrency": 2})
    assert most <= 2


def test_threads_load_a_model_once(nano: StarChat, loads_seen: list[threading.Thread]) -> None:
    model = ChatStarChat(max_tokens=1)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(model.invoke, [QUESTION] * 8))) == 8
    assert len(loads_seen) == 1


async def test_async_paths_load_outside_the_event_loop(
    nano: StarChat, loads_seen: list[threading.Thread]
) -> None:
    await ChatStarChat(max_tokens=1).ainvoke(QUESTION)
    async for _ in ChatStarChat(max_tokens=1).astream(QUESTION):
        pass
    assert len(loads_seen) == 2
    assert threading.current_thread() not in loads_seen


@pytest.mark.parametrize(
    "clone",
    [
        pytest.param(lambda model: pickle.loads(pickle.dumps(model)), id="pickle"),
        copy.deepcopy,
        copy.copy,
    ],
)
def test_copies_answer_alike(chat: ChatStarChat, clone: Any) -> None:
    text = chat.invoke(QUESTION).text
    twin = clone(chat)
    assert isinstance(twin, ChatStarChat)
    assert twin._identifying_params == chat._identifying_params
    assert twin.invoke(QUESTION).text == text


def test_a_copy_with_another_file_uses_that_file(chat: ChatStarChat, tmp_path: Path) -> None:
    chat.invoke(QUESTION)
    file = write_random_file(tmp_path / "tiny.bin")
    other = chat.model_copy(update={"model_path": str(file)})
    assert other.invoke("Hi").response_metadata["model_name"] == "tiny.bin"
    assert chat.invoke(QUESTION).response_metadata["model_name"] == "starchat-nano"


# ---- tokens and traits ----------------------------------------------------------------------


def test_tokens_are_counted_by_the_model(chat: ChatStarChat, nano: StarChat) -> None:
    text = "def naïve(x): return '🙂'"
    assert chat.get_token_ids(text) == nano.tokenize(text)
    assert chat.get_num_tokens(text) == len(nano.tokenize(text))
    messages = [SystemMessage("Be brief."), HumanMessage(QUESTION)]
    usage = chat.invoke(messages).usage_metadata
    assert usage is not None
    assert chat.get_num_tokens_from_messages(messages) == usage["input_tokens"]
    assert chat.get_num_tokens_from_messages([]) == 0


def test_usage_adds_up_and_reaches_the_usage_callback(chat: ChatStarChat) -> None:
    with get_usage_metadata_callback() as seen:
        usage = chat.invoke(QUESTION).usage_metadata
    assert usage is not None
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert seen.usage_metadata == {"starchat-nano": usage}


def test_the_profile_knows_the_context_once_loaded(chat: ChatStarChat, nano: StarChat) -> None:
    chat.invoke(QUESTION)
    assert chat.profile is not None
    assert chat.profile["max_input_tokens"] == nano.info.n_ctx
    assert chat.profile["tool_calling"] and chat.profile["tool_choice"]
    assert chat.profile["structured_output"]


async def test_a_reply_that_was_cut_goes_on(chat: ChatStarChat) -> None:
    whole = chat.invoke(QUESTION)
    cut = chat.invoke(QUESTION, max_tokens=9)
    history = [HumanMessage(QUESTION), cut]
    for rest in (
        chat.invoke(history, max_tokens=31, continue_final_message=True),
        await chat.ainvoke(history, max_tokens=31, continue_final_message=True),
        ChatStarChat(temperature=0, continue_final_message=True).invoke(history, max_tokens=31),
    ):
        assert cut.text + rest.text == whole.text
    with pytest.raises(InvalidRequestError, match="the last message must be the assistant's"):
        chat.invoke(QUESTION, continue_final_message=True)
