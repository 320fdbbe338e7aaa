"""n replies of one prompt, and the progress of a long prompt, as callbacks see them."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda

from langchain_starchat import ChatStarChat, StarChatLLM
from random_file import write_random_file
from starchat import InvalidRequestError, StarChat

DRAWN: dict[str, Any] = {"temperature": 1.2, "seed": 5, "max_tokens": 9, "ignore_eos": True}
QUESTION = [HumanMessage("How do I sort a list?")]
LONG = "x" * 1500  # tokens; a step has 256


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random_file(tmp_path_factory.mktemp("replies") / "m.bin", n_ctx=1700))


@pytest.fixture
def llm(path: str) -> StarChatLLM:
    return StarChatLLM(model_path=path, **DRAWN)


@pytest.fixture
def chat(path: str) -> ChatStarChat:
    return ChatStarChat(model_path=path, **DRAWN)


async def test_generate_has_n_texts_for_each_prompt(llm: StarChatLLM) -> None:
    prompts = ["def add(", "import "]
    singles = [[llm.invoke(prompt, seed=seed) for seed in (5, 6, 7)] for prompt in prompts]
    own = llm.model_copy(update={"n": 3})
    for result in (llm.generate(prompts, n=3), await own.agenerate(prompts)):
        assert [[each.text for each in texts] for texts in result.generations] == singles
        assert result.llm_output and result.llm_output["token_usage"] == {
            "prompt_tokens": 8 + 7,
            "completion_tokens": 6 * 9,
            "total_tokens": 8 + 7 + 6 * 9,
        }
    assert own.invoke(prompts[0]) == singles[0][0]
    assert "".join(own.stream(prompts[0])) == singles[0][0]


async def test_generate_has_n_messages_for_each_dialogue(chat: ChatStarChat) -> None:
    singles = [chat.invoke(QUESTION, seed=seed).content for seed in (5, 6, 7)]
    own = chat.model_copy(update={"n": 3})
    handler = {"callbacks": [BaseCallbackHandler()]}
    for result in (own.generate([QUESTION]), await chat.agenerate([QUESTION], n=3, **handler)):
        replies: Any = result.generations[0]
        assert [reply.text for reply in replies] == singles
        usages = [reply.message.usage_metadata for reply in replies]
        n_prompt = chat.get_num_tokens_from_messages(QUESTION)
        assert [usage["input_tokens"] for usage in usages] == [n_prompt, 0, 0]
        assert [usage["output_tokens"] for usage in usages] == [9, 9, 9]
    assert own.invoke(QUESTION).content == singles[0]
    assert "".join(chunk.text for chunk in own.stream(QUESTION)) == singles[0]


async def test_callbacks_that_stream_lose_no_reply(chat: ChatStarChat) -> None:
    events = [event async for event in chat.bind(n=3).astream_events(QUESTION)]
    streamed = "".join(
        e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"
    )
    assert streamed == chat.invoke(QUESTION).content
    streaming = ChatStarChat(model_path=chat.model_path, streaming=True, n=3, **DRAWN)
    assert len(streaming.generate([QUESTION]).generations[0]) == 3


def test_n_belongs_to_the_cache_key(llm: StarChatLLM, chat: ChatStarChat) -> None:
    for model, asked in ((llm, ["a"]), (chat, [QUESTION])):
        cached: Any = model.model_copy(update={"cache": InMemoryCache()})
        assert [len(cached.generate(asked, n=n).generations[0]) for n in (1, 2, 2, 3)] == [
            1,
            2,
            2,
            3,
        ]


def test_a_salt_keeps_cached_tokens_within_a_guest(chat: ChatStarChat, llm: StarChatLLM) -> None:
    def found(model: ChatStarChat, **call: Any) -> bool:
        (message,) = model.generate([[HumanMessage("abc " * 40)]], **call).generations[0]
        return bool(message.message.usage_metadata["input_token_details"].get("cache_read"))  # type: ignore

    ann = chat.model_copy(update={"cache_salt": "ann"})
    asked = [found(ann), found(ann), found(chat), found(ann, cache_salt="bob"), found(ann)]
    assert asked == [False, True, False, False, True]
    assert ann._identifying_params != chat._identifying_params, "answers are cached apart, too"
    with pytest.raises(InvalidRequestError, match="cache_salt: expected a text"):
        llm.invoke("a", cache_salt="")


def test_a_wrong_n_is_named(llm: StarChatLLM, chat: ChatStarChat) -> None:
    for ask in (lambda: llm.generate(["a"], n=0), lambda: chat.generate([QUESTION], n=0)):
        with pytest.raises(InvalidRequestError, match="n: expected an integer from 1"):
            ask()


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.seen.append((name, data))


class AwaitedEvents(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.seen.append((name, data))


def check(seen: list[tuple[str, Any]]) -> None:
    assert len(seen) > 1
    assert {name for name, _ in seen} == {"prompt_progress"}
    done = [data["done"] for _, data in seen]
    total = seen[0][1]["total"]
    assert total >= 1500
    assert done == sorted(set(done))
    assert done[-1] == total
    assert all(data["total"] == total for _, data in seen)


async def test_callbacks_get_the_progress_of_a_long_prompt(path: str) -> None:
    with StarChat.load(path):
        models: list[Any] = [
            StarChatLLM(model_path=path, max_tokens=1),
            ChatStarChat(model_path=path, max_tokens=1),
        ]
        for i, model in enumerate(models):
            ways = [
                lambda text, config, model=model: model.invoke(text, config),
                lambda text, config, model=model: list(model.stream(text, config)),
            ]
            for j, ask in enumerate(ways):
                events = Events()
                ask(f"{i}{j}{LONG}", {"callbacks": [events]})
                check(events.seen)
            awaited = AwaitedEvents()
            await model.ainvoke(f"{i}a{LONG}", {"callbacks": [awaited]})
            check(awaited.seen)
            awaited = AwaitedEvents()
            async for _ in model.astream(f"{i}b{LONG}", {"callbacks": [awaited]}):
                pass
            check(awaited.seen)


async def test_a_chat_model_within_a_chain_tells_its_progress_too(path: str) -> None:
    chain = RunnableLambda(lambda text: text) | ChatStarChat(model_path=path, max_tokens=1)
    ways = [
        chain.astream_events(f"c{LONG}"),
        RunnableLambda(chain.invoke).astream_events(f"d{LONG}"),
        RunnableLambda(chain.ainvoke).astream_events(f"e{LONG}"),
    ]
    for events in ways:
        seen = [(e["name"], e["data"]) async for e in events if e["event"] == "on_custom_event"]
        check(seen)


def test_a_short_prompt_has_no_events(llm: StarChatLLM) -> None:
    events = Events()
    llm.invoke("a", {"callbacks": [events]})
    assert events.seen == []
    told: list[tuple[int, int]] = []
    llm.invoke("a", prompt_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
