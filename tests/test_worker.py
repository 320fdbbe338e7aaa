"""Requests that take long to prepare: in a thread, not in the event loop, and ended like others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from starchat import ContextLengthError, InvalidRequestError, StarChat
from starchat import worker as worker_module
from starchat.async_waker import in_worker
from starchat.chat.template import ChatTemplate
from starchat.embedding import EmbeddingJob
from starchat.errors import ForkError, OutOfMemoryError
from starchat.generation import Generation
from starchat.partial_reply import PartialReplies, PartialReply
from starchat.request_size import MOST_CHARACTERS, MOST_VALUES, is_small
from starchat.stream import AsyncStream, Submitted
from starchat.text_stream import StopStrings, TextStream
from starchat.types import ToolCall
from starchat.worker import Job, Wakeable, Workers
from support.fake_core import ByteVocabulary, FakeTokens
from support.processes import run_python

QUESTION = [{"role": "user", "content": "Hi"}]
LONG = "word " * MOST_CHARACTERS  # more tokens than the context too
READ = "word " * 8_000  # too long as well, but not by its length alone
NOW = {"name": "now"}


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen within 10 s")


def no_worker_left() -> bool:
    return not any(t.name == "starchat-worker" for t in threading.enumerate())


# ---- which requests ---------------------------------------------------------------------------


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that check, render, compile and submit."""
    seen: set[int] = set()

    def noted(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def note(*args: Any, **kwargs: Any) -> Any:
            seen.add(threading.get_ident())
            return method(*args, **kwargs)

        monkeypatch.setattr(kind, name, note)

    for name in ("__init__", "compile", "submit"):
        noted(Generation, name)
    noted(ChatTemplate, "render")
    noted(StarChat, "tokenize_prompt")
    return seen


ASKED: dict[str, Callable[[StarChat], Any]] = {
    "long text": lambda m: m.achat([{"role": "user", "content": READ}]),
    "many messages": lambda m: m.achat([*QUESTION] * (MOST_VALUES * 9 // 20), max_tokens=2),
    "tools": lambda m: m.achat(QUESTION, tools=[NOW], max_tokens=2),
    "schema": lambda m: m.achat(QUESTION, json_schema=True, max_tokens=2),
    "choice": lambda m: m.acomplete("a", choice=["b"], max_tokens=2),
    "long prompt": lambda m: m.acomplete(READ),
    "many ids": lambda m: m.acomplete([70] * (MOST_VALUES + 1), max_tokens=2),
    "long stop": lambda m: m.acomplete("a", stop=[LONG], max_tokens=2),
    "many replies": lambda m: m.acomplete("a", n=65, max_tokens=1),
}


@pytest.mark.parametrize("name", ASKED)
async def test_what_takes_long_never_runs_in_the_loop(
    nano: StarChat, threads: set[int], name: str
) -> None:
    with contextlib.suppress(InvalidRequestError):
        await ASKED[name](nano)
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("ask", ["achat", "acomplete"])
async def test_a_small_request_is_prepared_by_the_way(
    nano: StarChat, threads: set[int], ask: str
) -> None:
    asked = QUESTION if ask == "achat" else "a"
    await getattr(nano, ask)(asked, max_tokens=2, stop=["x"], logit_bias={70: 1.0}, n=2)
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize(("texts", "in_loop"), [("a", True), (["a b" * 999] * 11, False)])
async def test_many_texts_to_embed_are_read_in_a_thread(
    nano: StarChat, monkeypatch: pytest.MonkeyPatch, texts: Any, in_loop: bool
) -> None:
    read: list[int] = []

    def note(*_: object) -> None:
        read.append(threading.get_ident())
        raise InvalidRequestError("enough")

    monkeypatch.setattr(EmbeddingJob, "__init__", note)
    with pytest.raises(InvalidRequestError, match="enough"):
        await nano.aembed(texts)
    assert [thread == threading.get_ident() for thread in read] == [in_loop]


async def test_a_cancelled_task_does_not_wait_for_its_thread() -> None:
    begun, go_on = threading.Event(), threading.Event()
    task = asyncio.create_task(in_worker(lambda: begun.set() or go_on.wait(20)))
    await asyncio.sleep(0)
    assert begun.wait(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    wait_until(no_worker_left)
    assert await in_worker(lambda: 7) == 7


class _Own(dict[str, object]):
    pass


@pytest.mark.parametrize(
    ("value", "small"),
    [
        (None, True),
        ("a" * MOST_CHARACTERS, True),
        ("a" * (MOST_CHARACTERS + 1), False),
        ([{"role": "user", "content": "a" * 1000}] * 40, False),
        ([1.5] * MOST_VALUES, True),
        ([[1]] * MOST_VALUES, False),
        ({"a" * (MOST_CHARACTERS + 1): 1}, False),
        (range(3), False),
        (_Own(role="user"), False),
        ([ToolCall("1", "f", {"x": "a" * MOST_CHARACTERS})], False),
        ([ToolCall("1", "f", {"x": "a"}), print], True),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_small_are_few_plain_values_with_few_characters(value: object, small: bool) -> None:
    assert is_small(value) is small


async def test_errors_come_by_the_call_or_where_the_stream_is_read(nano: StarChat) -> None:
    with pytest.raises(InvalidRequestError, match="temperature"):
        nano.astream_chat(QUESTION, temperature="hot")  # type: ignore[arg-type]
    long = [{"role": "user", "content": LONG}]
    stream = nano.astream_chat(long, temperature="hot")  # type: ignore[arg-type]
    with pytest.raises(ContextLengthError):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    with pytest.raises(InvalidRequestError, match="no result"):
        await stream.result()
    with pytest.raises(ContextLengthError):
        await nano.achat(long)


async def test_prepared_in_a_thread_the_reply_is_the_same(nano: StarChat) -> None:
    options: dict[str, Any] = {"regex": "[a-z ]{20}", "temperature": 0}
    assert await nano.achat(QUESTION, **options) == nano.chat(QUESTION, **options)
    told: list[tuple[int, int]] = []
    reply = await nano.achat(QUESTION, **options, n=3, prompt_progress=lambda *p: told.append(p))
    assert len(reply.choices) == 3
    assert told[-1] == (reply.usage.prompt_tokens,) * 2


# ---- ends before it is prepared ---------------------------------------------------------------


class Gate:
    """A request that a worker prepares until the gate opens."""

    def __init__(self) -> None:
        self.tokens = FakeTokens(b"a")
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, job: Job[Submitted]) -> Submitted:
        self.begun.set()
        assert self.open.wait(20)
        vocabulary: Any = ByteVocabulary()
        tokens: Any = self.tokens
        reply = PartialReply(tokens, TextStream(StopStrings(())), vocabulary, 1)
        return Submitted(PartialReplies([reply]), ())


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()
    wait_until(no_worker_left)


def prepared(gate: Gate) -> AsyncStream:
    stream = AsyncStream()
    stream.prepare(gate)
    assert gate.begun.wait(20)
    assert stream.prompt_progress == (0, 0)
    return stream


def is_ended(gate: Gate) -> bool:
    gc.collect()
    return gate.tokens.cancelled


async def test_cancelling_the_task_ends_what_is_being_prepared(gate: Gate) -> None:
    reading = asyncio.create_task(prepared(gate).result())
    await asyncio.sleep(0.02)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    gate.open.set()
    wait_until(lambda: is_ended(gate))


async def test_closing_the_stream_ends_what_is_being_prepared(gate: Gate) -> None:
    stream = prepared(gate)
    reading = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0.02)
    await stream.aclose()
    assert await asyncio.wait_for(reading, 20) is None
    gate.open.set()
    wait_until(lambda: is_ended(gate))


async def test_dropping_the_stream_ends_what_is_being_prepared(gate: Gate) -> None:
    prepared(gate)
    gc.collect()
    gate.open.set()
    wait_until(lambda: is_ended(gate))


@pytest.mark.parametrize("end", ["close", "drop"])
async def test_a_stream_that_nobody_reads_is_not_submitted(
    nano: StarChat, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    submitted: list[object] = []
    monkeypatch.setattr(Generation, "compile", lambda self: begun.set() or go_on.wait(20))
    monkeypatch.setattr(Generation, "submit", lambda self: submitted.append(self))
    stream = nano.astream_chat(QUESTION, choice=["a"])
    assert begun.wait(20)
    if end == "close":
        await stream.aclose()
    del stream
    gc.collect()
    go_on.set()
    wait_until(no_worker_left)
    assert not submitted


async def test_other_tasks_run_while_a_request_is_prepared(gate: Gate) -> None:
    reading = asyncio.create_task(anext(prepared(gate)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not reading.done()
    gate.tokens.push(finish_reason="stop")
    gate.open.set()
    assert (await asyncio.wait_for(reading, 20)).finish_reason == "stop"


# ---- the threads ------------------------------------------------------------------------------


class Reader:
    def __init__(self) -> None:
        self.woken = threading.Event()

    def wake(self) -> None:
        self.woken.set()


def job_of(call: Callable[[], object], reader: Wakeable) -> Job[object]:
    return Job(lambda _: call(), reader)


def test_few_threads_run_all_jobs_and_end_with_them() -> None:
    few = Workers(2)
    running, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)
    done: list[int] = []

    def work(i: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if i < 2:
            both.wait(20)
        time.sleep(0.001)
        with lock:
            running -= 1
            done.append(i)

    readers = [Reader() for _ in range(20)]
    for i, reader in enumerate(readers):
        few.submit(job_of(lambda i=i: work(i), reader))  # type: ignore[misc]
    assert all(reader.woken.wait(20) for reader in readers)
    assert sorted(done) == list(range(20))
    assert most == 2
    wait_until(no_worker_left)


def test_without_a_thread_it_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    few, reader = Workers(), Reader()
    with pytest.raises(OutOfMemoryError, match="can't start new thread"):
        few.submit(job_of(int, reader))
    monkeypatch.undo()
    few.submit(job_of(int, reader))
    assert reader.woken.wait(20)


def test_a_reader_that_had_no_memory_is_woken_again() -> None:
    class Failing(Reader):
        def wake(self) -> None:
            if not self.failed:
                self.failed = True
                raise MemoryError
            super().wake()

        failed = False

    reader = Failing()
    Workers().submit(job_of(int, reader))
    assert reader.woken.wait(20)


def test_a_forked_child_does_not_wait_for_the_parents_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = Reader()
    job = job_of(int, reader)
    monkeypatch.setattr(worker_module.os, "getpid", lambda: -1)
    with pytest.raises(ForkError, match="ask again"):
        _ = job.is_done


@pytest.mark.integration
def test_gevent_runs_other_greenlets_while_a_request_is_prepared() -> None:
    result = run_python("""
        from gevent import monkey
        monkey.patch_all()
        import asyncio, gevent
        from starchat import ContextLengthError, StarChat
        model, ticks = StarChat.load(), []
        def tick():
            while True:
                ticks.append(1)
                gevent.sleep(0.001)
        ticking = gevent.spawn(tick)
        print(asyncio.run(model.acomplete("a", choice=["abc"])).text)
        try:
            asyncio.run(model.acomplete("a" * 40_000))
        except ContextLengthError:
            print(len(ticks) > 1)
    """)
    assert result.stdout == "abc\nTrue\n", result.stderr


@pytest.mark.integration
def test_the_program_ends_while_a_request_is_prepared() -> None:
    result = run_python("""
        import asyncio, time
        from starchat import StarChat
        from starchat.generation import Generation
        Generation.compile = lambda self: time.sleep(600)
        model = StarChat.load()
        async def ask():
            stream = model.astream_complete("a", choice=["b"])
            long = model.astream_complete("ab" * 40_000)
            await asyncio.sleep(0.01)
        asyncio.run(ask())
        print("end")
    """)
    assert (result.returncode, result.stdout) == (0, "end\n"), result.stderr
