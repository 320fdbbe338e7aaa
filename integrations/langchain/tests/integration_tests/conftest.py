"""What the integration tests share: greedy models on the weights that starchat brings along."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from langchain_starchat import ChatStarChat, StarChatLLM
from starchat import StarChat

LONG = 600  # tokens: more than an unread stream and one drained chunk hold (256 each)


@pytest.fixture(scope="session")
def nano() -> Iterator[StarChat]:
    """The embedded model."""
    with StarChat.load() as model:
        yield model


@pytest.fixture
def chat(nano: StarChat) -> ChatStarChat:
    return ChatStarChat(temperature=0, max_tokens=40, min_tokens=8)


@pytest.fixture
def long_chat(nano: StarChat) -> ChatStarChat:
    return ChatStarChat(temperature=0, max_tokens=LONG, ignore_eos=True)


@pytest.fixture
def llm(nano: StarChat) -> StarChatLLM:
    return StarChatLLM(temperature=0, max_tokens=40, min_tokens=8)


@pytest.fixture
def long_llm(nano: StarChat) -> StarChatLLM:
    return StarChatLLM(temperature=0, max_tokens=LONG, ignore_eos=True)


@pytest.fixture
def wait_until_idle(nano: StarChat) -> Callable[[], None]:
    """Return once no sequence runs or waits; fail after half a minute."""

    def wait() -> None:
        end = time.monotonic() + 30
        while (stats := nano.stats())["running"] or stats["waiting"]:
            assert time.monotonic() < end, f"sequences still run: {stats}"
            time.sleep(0.002)

    return wait


@pytest.fixture
def stopped_early(nano: StarChat, wait_until_idle: Callable[[], None]) -> Callable[[], None]:
    """Fail unless the one reply since then, of LONG tokens, was given up before its end."""
    wait_until_idle()
    n_before = nano.stats()["tokens"]

    def check() -> None:
        wait_until_idle()
        assert nano.stats()["tokens"] - n_before < LONG

    return check
