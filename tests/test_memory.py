"""Memory that runs out: a MemoryError for those who need it, and nothing else happens."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from starchat import InvalidRequestError, OutOfMemoryError, StarChat, _core
from starchat.async_waker import AsyncWaker
from starchat.threads import new_lock
from support.failing_memory import CORE, outcomes


@pytest.mark.parametrize(
    ("call", "count"), [("stream", 1), ("async", 1), ("ask", 100_000)], ids=lambda value: str(value)
)
def test_an_allocation_that_fails_is_a_memory_error(
    failing_memory: Path, call: str, count: int
) -> None:
    """Every seventh of the first ones; all of them in tests/nightly/test_memory.py."""
    found = outcomes(failing_memory, CORE, call, range(1, 133, 7), count)
    assert set(found) <= {"MemoryError", "fine"}, found
    assert found["MemoryError"] > 12, "most of them are needed"


def test_a_thread_that_cannot_start_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(OutOfMemoryError, match="can't start new thread: free memory"):
        AsyncWaker()


def test_a_lock_that_cannot_be_made_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("can't allocate lock")

    monkeypatch.setattr(threading, "Lock", fail)
    with pytest.raises(MemoryError, match="can't allocate lock: free memory"):
        new_lock()


@pytest.mark.parametrize("n_failing", [1, 1_000_000])
def test_an_error_that_finds_no_memory_is_a_memory_error(n_failing: int) -> None:
    testcapi = pytest.importorskip("_testcapi", reason="makes allocations of Python fail")
    tokenizer = _core.Tokenizer([bytes([value]) for value in range(256)])
    found = []
    for first in range(200):
        try:
            testcapi.set_nomemory(first, first + n_failing)
            try:
                tokenizer.decode([256])
            finally:
                testcapi.remove_mem_hooks()
        except Exception as error:
            found.append(type(error))
    assert set(found) == {MemoryError, InvalidRequestError}
    assert found.count(MemoryError) > 20


class ScarceQueue:
    """Hands on two keys at once, and fails before and behind them."""

    def __init__(self) -> None:
        self.calls = [MemoryError(), [1, 2], MemoryError(), []]

    def wait(self) -> list[int]:
        call = self.calls.pop(0)
        if isinstance(call, MemoryError):
            raise call
        return call

    def close(self) -> None:
        pass


def test_the_waker_tells_its_news_when_there_is_memory_again() -> None:
    woken = []

    class Reader:
        def __init__(self, key: int) -> None:
            self.key, self.failures = key, [MemoryError()]

        def wake(self) -> None:
            if self.failures:
                raise self.failures.pop()
            woken.append(self.key)

    queue = ScarceQueue()
    calls = queue.calls
    queue.calls = [[]]
    waker = AsyncWaker(queue)  # type: ignore[arg-type]
    waker.close()
    readers = [Reader(1), Reader(2)]
    for reader in readers:
        waker.attach(reader.key, reader)
    queue.calls = calls
    waker._run()
    assert woken == [1, 2]


def test_a_memory_error_closes_a_stream_and_frees_what_was_read(nano: StarChat) -> None:
    stream = nano.stream_complete("def add(", max_tokens=400, ignore_eos=True)
    next(stream)
    (reply,) = stream._replies.all

    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(tokens, name)

        def next(self) -> _core.Token:
            raise MemoryError

    tokens, reply.tokens = reply.tokens, Broken()  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        next(stream)
    assert not reply._chunks
    assert list(stream) == [], "a reply that lacks tokens is not read on"
    assert tokens.finish_reason in ("cancelled", None)
