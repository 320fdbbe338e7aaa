"""What the tests of the LangChain adapter share: greedy models on the embedded weights.

Without `langchain-tests` in the environment nothing of this folder is collected.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from starchat import StarChat
from support.scripted_model import ScriptedModel

if TYPE_CHECKING:
    from langchain_starchat import ChatStarChat, StarChatLLM

collect_ignore_glob = [] if find_spec("langchain_tests") else ["test_*.py"]

LONG = 600  # tokens: more than an unread stream and one drained chunk hold (256 each)


@pytest.fixture
def chat(nano: StarChat) -> ChatStarChat:
    from langchain_starchat import ChatStarChat

    return ChatStarChat(temperature=0, max_tokens=40, min_tokens=8)


@pytest.fixture
def long_chat(nano: StarChat) -> ChatStarChat:
    from langchain_starchat import ChatStarChat

    return ChatStarChat(temperature=0, max_tokens=LONG, ignore_eos=True)


@pytest.fixture
def llm(nano: StarChat) -> StarChatLLM:
    from langchain_starchat import StarChatLLM

    return StarChatLLM(temperature=0, max_tokens=40, min_tokens=8)


@pytest.fixture
def long_llm(nano: StarChat) -> StarChatLLM:
    from langchain_starchat import StarChatLLM

    return StarChatLLM(temperature=0, max_tokens=LONG, ignore_eos=True)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes every ChatStarChat say these replies, and returns what it is asked."""

    def use(*replies: Any) -> ScriptedModel:
        from langchain_starchat import ChatStarChat

        model = ScriptedModel(*replies)

        async def loaded(_: Any) -> ScriptedModel:
            return model

        monkeypatch.setattr(ChatStarChat, "_model", lambda _: model)
        monkeypatch.setattr(ChatStarChat, "_amodel", loaded)
        return model

    return use


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
