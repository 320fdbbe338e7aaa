"""Tokens → chunks, played by hand: what comes when, how replies end, who wakes whom."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from starchat import StarChat
from starchat._core import SamplingParams
from starchat.async_waker import AsyncWaker
from starchat.errors import EngineClosedError, InvalidRequestError
from starchat.partial_reply import PartialReply
from starchat.stream import AsyncStream, Stream
from starchat.text_stream import TextStream
from support.fake_core import ByteVocabulary, FakeQueue, FakeToken, FakeTokens
from support.scheduling import run, submit, testing

BYTES = ByteVocabulary()
END = BYTES.control.index("<|end|>")


def request_of(tokens: FakeTokens, stop: Sequence[str] = (), n_prompt: int = 3) -> PartialReply:
    fake: Any = tokens
    return PartialReply(fake, TextStream(stop), BYTES, n_prompt)


def stream_of(
    text: str, finish_reason: str | None = "stop", stop: Sequence[str] = ()
) -> tuple[Stream, FakeTokens]:
    tokens = FakeTokens(BYTES.encode(text), finish_reason)
    return Stream(request_of(tokens, stop)), tokens


# ---- chunks ---------------------------------------------------------------------------------


def test_only_the_last_chunk_has_finish_reason_and_usage() -> None:
    tokens = FakeTokens()
    request = request_of(tokens)
    first = request.advance([fake(id) for id in BYTES.encode("ab")])
    tokens.push(finish_reason="length")
    last = request.advance([fake(id) for id in BYTES.encode("c")])
    assert first is not None and last is not None
    assert (first.text, first.finish_reason, first.usage) == ("ab", None, None)
    assert (last.text, last.finish_reason) == ("c", "length")
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 3)


def fake(id: int, **more: Any) -> Any:
    return FakeToken(id, **more)


def test_tokens_of_half_a_character_come_with_the_character() -> None:
    request = request_of(FakeTokens())
    a, b, c, d = BYTES.encode("🙂")
    assert request.advance([fake(a), fake(b)]) is None
    chunk = request.advance([fake(c), fake(d)])
    assert chunk is not None
    assert (chunk.text, chunk.token_ids) == ("🙂", (a, b, c, d))


def test_control_tokens_are_among_the_ids_and_not_in_the_text() -> None:
    stream = Stream(request_of(FakeTokens([*BYTES.encode("a"), END, *BYTES.encode("b")], "stop")))
    reply = stream.result()
    assert reply.text == "ab"
    assert END in reply.token_ids


def test_log_probabilities_name_their_tokens() -> None:
    a, b = BYTES.encode("ab")
    tokens = FakeTokens()
    tokens.push(FakeToken(a, -0.5, [(a, -0.5), (b, -1.5)]), finish_reason="length")
    (logprob,) = Stream(request_of(tokens)).result().logprobs
    assert (logprob.token_id, logprob.token, logprob.logprob) == (a, "a", -0.5)
    assert logprob.top == ((a, "a", -0.5), (b, "b", -1.5))
    assert logprob.bytes == b"a"
    assert [(best.token_id, best.logprob, best.bytes) for best in logprob.best] == [
        (a, -0.5, b"a"),
        (b, -1.5, b"b"),
    ]


# ---- ends -----------------------------------------------------------------------------------


def test_a_stop_string_ends_the_reply_and_the_sequence() -> None:
    stream, tokens = stream_of("ab##c", finish_reason=None, stop=["##"])
    reply = stream.result()
    assert (reply.text, reply.finish_reason, reply.stop_string) == ("ab", "stop", "##")
    assert reply.token_ids == tuple(BYTES.encode("ab##"))  # those generated so far
    assert reply.usage.completion_tokens == 4
    assert tokens.cancelled


def test_a_stop_string_at_the_token_limit_counts_as_stop() -> None:
    stream, _ = stream_of("ab##", finish_reason="length", stop=["##"])
    assert stream.result().finish_reason == "stop"


def test_text_held_for_a_stop_string_comes_with_the_last_chunk() -> None:
    stream, _ = stream_of("ab#", finish_reason="length", stop=["##"])
    reply = stream.result()
    assert (reply.text, reply.finish_reason, reply.stop_string) == ("ab#", "length", "")


def test_an_empty_reply_is_one_last_chunk() -> None:
    stream, _ = stream_of("", finish_reason="stop")
    (chunk,) = stream
    assert (chunk.text, chunk.token_ids, chunk.finish_reason) == ("", (), "stop")


def test_result_includes_what_was_read_before() -> None:
    tokens = FakeTokens(BYTES.encode("a"))
    stream = Stream(request_of(tokens))
    assert next(stream).text == "a"
    tokens.push(*BYTES.encode("b"), finish_reason="stop")
    assert stream.result().text == "ab"
    assert stream.result().text == "ab"  # any number of times


def test_a_closed_stream_ends_and_has_no_result() -> None:
    stream, tokens = stream_of("ab", finish_reason=None)
    with stream:
        next(stream)
    assert tokens.cancelled
    assert list(stream) == []
    with pytest.raises(InvalidRequestError, match="closed before its end"):
        stream.result()


def test_closing_after_the_end_keeps_the_result() -> None:
    stream, _ = stream_of("ab")
    assert stream.result().text == "ab"
    stream.close()
    assert stream.result().text == "ab"


def test_the_engines_error_reaches_the_reader() -> None:
    stream, tokens = stream_of("ab", finish_reason=None)
    next(stream)
    tokens.fail(EngineClosedError("closed"))
    with pytest.raises(EngineClosedError, match="closed"):
        stream.result()


def test_a_token_before_an_error_is_not_lost() -> None:
    stream, tokens = stream_of("a", finish_reason=None)
    take = tokens.next

    def take_and_fail() -> Any:
        token = take()
        tokens.fail(EngineClosedError("closed"))  # between next() and drain()
        return token

    tokens.next = take_and_fail  # type: ignore[method-assign]
    assert next(stream).text == "a"
    with pytest.raises(EngineClosedError, match="closed"):
        next(stream)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle.dumps])
def test_a_stream_is_not_copied(duplicate: Callable[[Any], Any]) -> None:
    stream, _ = stream_of("ab")
    with pytest.raises(TypeError, match=r"keep its result\(\)"):
        duplicate(stream)


def test_a_dropped_stream_cancels_its_sequence() -> None:
    stream, tokens = stream_of("ab", finish_reason=None)
    del stream
    gc.collect()
    assert tokens.cancelled


# ---- async ----------------------------------------------------------------------------------


@pytest.fixture
def waker() -> Iterator[AsyncWaker]:
    queue: Any = FakeQueue()
    waker = AsyncWaker(queue)
    yield waker
    waker.close()
    assert not waker._thread.is_alive()


def async_stream(waker: AsyncWaker, tokens: FakeTokens, stop: Sequence[str] = ()) -> AsyncStream:
    queue: Any = waker.queue
    key = waker.new_key()
    tokens.on_news = lambda: queue.push(key)
    stream = AsyncStream(request_of(tokens, stop))
    waker.attach(key, stream)
    return stream


async def test_an_async_reader_is_woken_by_the_waker(waker: AsyncWaker) -> None:
    tokens = FakeTokens()
    stream = async_stream(waker, tokens)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.02)
    assert not reading.done()
    tokens.push(*BYTES.encode("hi"), finish_reason="stop")
    assert (await reading).text == "hi"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_news_before_the_first_look_are_not_missed(waker: AsyncWaker) -> None:
    tokens = FakeTokens()
    stream = async_stream(waker, tokens)
    tokens.push(*BYTES.encode("hi"), finish_reason="stop")
    await asyncio.sleep(0.02)
    assert (await stream.result()).text == "hi"


async def test_many_streams_written_by_threads_all_arrive(waker: AsyncWaker) -> None:
    n_streams, text = 40, "naïve 🙂 " * 20
    tokens = [FakeTokens() for _ in range(n_streams)]
    streams = [async_stream(waker, t) for t in tokens]

    def write(some: list[FakeTokens]) -> None:
        for id in BYTES.encode(text):
            for t in some:
                t.push(id)
        for t in some:
            t.push(finish_reason="stop")

    writers = [threading.Thread(target=write, args=(tokens[i::4],)) for i in range(4)]
    for writer in writers:
        writer.start()
    replies = await asyncio.gather(*(stream.result() for stream in streams))
    assert {reply.text for reply in replies} == {text}


async def test_cancelling_the_task_cancels_the_sequence(waker: AsyncWaker) -> None:
    tokens = FakeTokens()
    reading = asyncio.create_task(async_stream(waker, tokens).result())
    await asyncio.sleep(0.02)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert tokens.cancelled


async def test_leaving_the_block_closes_the_stream(waker: AsyncWaker) -> None:
    tokens = FakeTokens(BYTES.encode("a"))
    async with async_stream(waker, tokens) as stream:
        async for _ in stream:
            break
    assert tokens.cancelled


async def test_aclose_ends_a_reader_that_waits(waker: AsyncWaker) -> None:
    stream = async_stream(waker, FakeTokens())
    reading = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0.02)
    await stream.aclose()
    assert await asyncio.wait_for(reading, 20) is None


async def test_two_readers_of_one_stream_are_refused(waker: AsyncWaker) -> None:
    stream = async_stream(waker, FakeTokens())
    reading = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0.02)
    with pytest.raises(RuntimeError, match="already being read"):
        await anext(stream)
    await stream.aclose()
    await reading


async def test_other_tasks_have_their_turn_though_the_engine_is_ahead(waker: AsyncWaker) -> None:
    stream = async_stream(waker, FakeTokens(BYTES.encode("ab"), "stop"))
    turns = asyncio.create_task(asyncio.sleep(0))
    await anext(stream)
    await anext(stream, None)
    assert turns.done()


async def test_a_reader_that_waited_gives_no_second_turn(
    waker: AsyncWaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    async def let_others_run() -> None:
        given.append(1)

    monkeypatch.setattr("starchat.stream._let_others_run", let_others_run)
    tokens = FakeTokens()
    stream = async_stream(waker, tokens)
    for text in ("a", "b", "c"):
        reading = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.02)
        tokens.push(*BYTES.encode(text))
        assert (await reading).text == text
    assert len(given) == 1  # before the first
    tokens.push(*BYTES.encode("d"))
    await asyncio.sleep(0.02)
    await anext(stream)  # at once
    tokens.push(*BYTES.encode("e"))
    await asyncio.sleep(0.02)
    await anext(stream)
    assert len(given) == 2


async def test_a_timeout_ends_a_reader_that_never_waits(waker: AsyncWaker) -> None:
    tokens = FakeTokens(BYTES.encode("a"))
    stream = async_stream(waker, tokens)

    async def read() -> None:
        async for _ in stream:
            tokens.push(*BYTES.encode("a"))

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(read(), 0.05)
    assert tokens.cancelled


async def test_a_task_that_nobody_keeps_is_not_collected_while_it_waits(waker: AsyncWaker) -> None:
    tokens = FakeTokens()
    replies = []

    async def read(stream: AsyncStream) -> None:
        replies.append(await stream.result())

    asyncio.create_task(read(async_stream(waker, tokens)))  # noqa: RUF006
    for text in ("a", "b"):  # it waits again after the first
        await asyncio.sleep(0.02)
        gc.collect()
        tokens.push(*BYTES.encode(text))
    await asyncio.sleep(0.02)
    gc.collect()
    tokens.push(finish_reason="stop")
    for _ in range(1000):
        if replies:
            break
        await asyncio.sleep(0.01)
    assert [reply.text for reply in replies] == ["ab"]
    assert not AsyncStream._waiting


async def test_a_dropped_async_stream_cancels_its_sequence(waker: AsyncWaker) -> None:
    tokens = FakeTokens()
    stream = async_stream(waker, tokens)
    tokens.push(*BYTES.encode("a"))
    assert (await anext(stream)).text == "a"
    gone = weakref.ref(stream)
    del stream
    gc.collect()
    assert gone() is None
    assert tokens.cancelled


def test_a_closed_event_loop_cancels_its_sequences(waker: AsyncWaker) -> None:
    tokens = FakeTokens()
    stream = async_stream(waker, tokens)
    loop = asyncio.new_event_loop()
    reading = loop.create_task(anext(stream, None))
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()
    tokens.push(*BYTES.encode("a"))
    for _ in range(1000):
        if tokens.cancelled:
            break
        threading.Event().wait(0.01)
    assert tokens.cancelled
    reading._log_destroy_pending = False  # type: ignore[attr-defined]


def test_one_stream_may_be_read_in_one_loop_after_another(waker: AsyncWaker) -> None:
    tokens = FakeTokens(BYTES.encode("a"))
    stream = async_stream(waker, tokens)

    async def read() -> str:
        return (await anext(stream)).text

    assert asyncio.run(read()) == "a"
    tokens.push(*BYTES.encode("b"))
    assert asyncio.run(read()) == "b"


# ---- times ----------------------------------------------------------------------------------


def test_a_reply_has_the_log_probability_of_the_token_that_ended_it(nano: StarChat) -> None:
    prompt = nano.tokenize_prompt("<|system|>\n<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>")
    (end,) = nano.tokenize("<|end|>", allow_special=True)
    reply = nano.complete(prompt, temperature=0, logprobs=1)
    assert reply.stop_token is not None and reply.stop_token.best[0].token_id == end
    scores = nano.score([*prompt, *reply.token_ids, end])
    assert (reply.stop_token.token_id, reply.stop_token.logprob) == (end, scores[-1].logprob)
    for other in ({"logprobs": None}, {"max_tokens": 1}, {"stop": ["."]}, {"choice": ["yes"]}):
        how: dict[str, Any] = {"temperature": 0, "logprobs": 1, **other}
        assert nano.complete(prompt, **how).stop_token is None
    *_, last = nano.stream_complete(prompt, temperature=0, logprobs=1)
    assert last.stop_token == reply.stop_token


def test_the_engine_measures_queue_prompt_and_decoding() -> None:
    engine = testing.engine(step_s=0.01, max_columns=16)
    began = time.monotonic()
    stream = submit(engine, [1] * 64, SamplingParams(max_tokens=5, speculation=False))
    while stream.next():
        pass
    taken = time.monotonic() - began
    counts = stream.counts
    assert counts.queue_seconds >= 0
    assert counts.prompt_seconds >= 4 * 0.01  # 64 tokens, 16 in a step
    assert counts.decode_seconds >= 4 * 0.01  # the first token comes with the last step of these
    assert counts.queue_seconds + counts.prompt_seconds + counts.decode_seconds <= taken
    engine.close()


def test_the_wait_for_the_first_step_is_not_the_prompts() -> None:
    scheduler = testing.Scheduler()
    first, second = [scheduler.add([1, 2, 3], SamplingParams(max_tokens=n, seed=1)) for n in (1, 2)]
    time.sleep(0.05)
    run(scheduler)
    assert first.counts.queue_seconds >= 0.05 > first.counts.prompt_seconds
    time.sleep(0.05)
    assert second.counts.decode_seconds < 0.05  # up to the last token, not to now


def test_replies_to_a_shared_prompt_take_no_time_for_it() -> None:
    engine = testing.engine(step_s=0.01, max_columns=16)
    streams = engine.submit_replies([1] * 64, SamplingParams(max_tokens=2), None, [0, 1])
    for stream in streams:
        while stream.next():
            pass
    first, second = [stream.counts for stream in streams]
    assert first.prompt_seconds >= 0.04 > 0.01 > second.prompt_seconds
    engine.close()


def test_usage_has_the_times_of_the_engine(nano: StarChat) -> None:
    usage = nano.complete("def add(a, b):", max_tokens=8, ignore_eos=True).usage
    assert min(usage.queue_seconds, usage.prompt_seconds, usage.decode_seconds) > 0
    assert usage == replace(usage, decode_seconds=0)  # as with the other work
    assert (usage + usage).decode_seconds == 2 * usage.decode_seconds
    stopped = nano.complete("def add(a, b):", max_tokens=8, ignore_eos=True, stop=" ").usage
    assert stopped.decode_seconds > 0
