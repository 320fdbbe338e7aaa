"""What the tests of the LangChain adapter share: greedy models on the embedded weights.

Without `langchain-tests` in the environment nothing of this folder is collected.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from starchat import StarChat
from support.scripted_model import ScriptedModel

if TYPE_CHECKING:
    from langchain_starchat import ChatStarChat, StarChatLLM

collect_ignore_glob = [] if find_spec("langchain_tests") else ["test_*.py"]

SECOND_EDITION = 6  # layers of the embedded model; the first one had 4, and never saw a tool
NEED_UNDERSTANDING = {
    "test_agent_calls_its_tools",
    "test_agent_loop",
    "test_extraction",
    "test_json_mode",
    "test_structured_output[typeddict]",
    "test_structured_output_async[typeddict]",
    "test_structured_output_optional_param",
    "test_structured_output_pydantic_2_v1",
    "test_tool_calling",
    "test_tool_calling_async",
    "test_tool_calling_with_no_arguments",
    "test_unicode_tool_call_integration",
}
LONG = 600  # tokens: more than an unread stream and one drained chunk hold (256 each)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, until its second edition, what asks the embedded model to understand tools."""
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    names = [{item.name, getattr(item, "originalname", "")} for item in ours]
    asking = [i for i, these in zip(ours, names, strict=True) if these & NEED_UNDERSTANDING]
    if asking and StarChat.load().info.n_layer < SECOND_EDITION:
        for item in asking:
            item.add_marker(pytest.mark.skip("the embedded model was never trained on tools"))


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
