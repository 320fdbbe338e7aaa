"""Errors are starchat's and LangChain's at once: what retries, fallbacks and middleware look at."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core import exceptions
from langchain_core.messages import HumanMessage

import starchat
from langchain_starchat import ChatStarChat, ContextOverflow, StarChatEmbeddings, StarChatLLM
from langchain_starchat.errors import langchain_errors
from random_file import write_random_file

pytestmark = pytest.mark.skipif(
    not hasattr(exceptions, "ModelError"), reason="this version of LangChain has no ModelError"
)
ALL = [
    kind
    for name in starchat.errors.__dict__
    if isinstance(kind := getattr(starchat.errors, name), type)
    and issubclass(kind, starchat.StarChatError)
]


def raised(error: starchat.StarChatError) -> Any:
    with pytest.raises(type(error)) as caught, langchain_errors():
        raise error
    return caught.value


@pytest.mark.parametrize("kind", ALL)
def test_every_error_says_whether_a_retry_may_help(kind: type[starchat.StarChatError]) -> None:
    error = raised(kind("why", param="p", limit=1, got="x", code="error"))
    assert isinstance(error, exceptions.ModelError)
    passing = starchat.OutOfMemoryError, starchat.DownloadError
    assert error.is_retryable == issubclass(kind, passing)
    for same in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is type(error)
        assert (str(same), same.param, same.limit, same.got, same.code) == (
            "why",
            "p",
            1,
            "x",
            "error",
        )


def test_the_kinds_of_permanent_errors_are_told_apart() -> None:
    assert isinstance(raised(starchat.ContextLengthError("")), ContextOverflow)
    assert isinstance(raised(starchat.FileAccessError("")), exceptions.ModelNotFoundError)
    assert isinstance(raised(starchat.ConstraintError("")), exceptions.ModelInvalidRequestError)


def drain(stream: Any) -> None:
    list(stream)


async def adrain(stream: Any) -> None:
    async for _ in stream:
        pass


SYNC: dict[str, Callable[[Path], Any]] = {
    "invoke": lambda file: ChatStarChat(model_path=file).invoke("Hi"),
    "stream": lambda file: drain(ChatStarChat(model_path=file).stream("Hi")),
    "batch": lambda file: ChatStarChat(model_path=file).batch(["Hi"]),
    "count": lambda file: ChatStarChat(model_path=file).get_num_tokens_from_messages(
        [HumanMessage("Hi")]
    ),
    "tokens": lambda file: ChatStarChat(model_path=file).get_num_tokens("Hi"),
    "complete": lambda file: StarChatLLM(model_path=file).invoke("Hi"),
    "stream of text": lambda file: drain(StarChatLLM(model_path=file).stream("Hi")),
    "embed": lambda file: StarChatEmbeddings(model_path=file).embed_query("Hi"),
}
ASYNC: dict[str, Callable[[Path], Any]] = {
    "invoke": lambda file: ChatStarChat(model_path=file).ainvoke("Hi"),
    "stream": lambda file: adrain(ChatStarChat(model_path=file).astream("Hi")),
    "complete": lambda file: StarChatLLM(model_path=file).ainvoke("Hi"),
    "stream of text": lambda file: adrain(StarChatLLM(model_path=file).astream("Hi")),
    "embed": lambda file: StarChatEmbeddings(model_path=file).aembed_query("Hi"),
}


@pytest.mark.parametrize("call", SYNC.values(), ids=SYNC)
def test_a_missing_file_is_permanent(call: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(exceptions.ModelNotFoundError, match=r"absent\.bin") as caught:
        call(tmp_path / "absent.bin")
    assert isinstance(caught.value, starchat.FileAccessError)


@pytest.mark.parametrize("call", ASYNC.values(), ids=ASYNC)
async def test_a_missing_file_is_permanent_for_tasks(
    call: Callable[[Path], Any], tmp_path: Path
) -> None:
    with pytest.raises(exceptions.ModelNotFoundError, match=r"absent\.bin"):
        await call(tmp_path / "absent.bin")


@pytest.mark.parametrize(
    "call",
    [
        lambda llm: llm.invoke("Hi", top_p=2),
        lambda llm: llm.invoke([HumanMessage([{"type": "image", "url": "x"}])]),
        lambda llm: llm.bind_tools([], tool_choice=3),
        lambda llm: llm.with_structured_output(None),
    ],
    ids=["parameter", "picture", "tool choice", "no schema"],
)
def test_a_wrong_request_is_permanent(call: Callable[[Any], Any], tmp_path: Path) -> None:
    llm = ChatStarChat(model_path=write_random_file(tmp_path / "tiny.bin"))
    with pytest.raises(exceptions.ModelInvalidRequestError):
        call(llm)


def test_middleware_does_not_retry_what_is_permanent(tmp_path: Path) -> None:
    agents = pytest.importorskip("langchain.agents")
    middleware = pytest.importorskip("langchain.agents.middleware")
    calls = []

    class Counted(ChatStarChat):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return super()._generate(*args, **kwargs)

    retry = middleware.ModelRetryMiddleware(on_failure="error", initial_delay=0)
    agent = agents.create_agent(Counted(model_path=tmp_path / "absent.bin"), middleware=[retry])
    with pytest.raises(starchat.FileAccessError):
        agent.invoke({"messages": ["Hi"]})
    assert len(calls) == 1
