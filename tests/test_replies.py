"""n replies of one prompt: the tokens of n requests, for one computation of the prompt."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import Chunk, Completion, EngineClosedError, InvalidRequestError, StarChat, Usage
from starchat._core import ReadyQueue, SamplingParams
from starchat.partial_reply import PartialReplies, PartialReply
from starchat.text_stream import TextStream
from support.fake_core import ByteVocabulary, FakeCounts, FakeTokens
from support.scheduling import alone, finish, submit, testing, wait_until

PROMPT = [i * 7 % 60 for i in range(100)]


# ---- the scheduler --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_each_reply_is_that_of_a_request_with_its_own_seed(data: st.DataObject) -> None:
    period = data.draw(st.sampled_from([0, 5]))
    scheduler = testing.Scheduler(
        max_columns=data.draw(st.sampled_from([4, 33, 256])),
        max_sequences=data.draw(st.sampled_from([1, 3, 64])),
        period=period,
        prefix_cache_bytes=data.draw(st.sampled_from([-1, 0])),
    )
    groups = []
    for _ in range(data.draw(st.integers(1, 3))):
        prompt = PROMPT[: data.draw(st.integers(1, 100))]
        sampling = {
            "max_tokens": data.draw(st.integers(1, 40)),
            "seed": data.draw(st.integers(0, 9)),
            "temperature": 1.0,
            "logprobs": data.draw(st.sampled_from([-1, 0])),
        }
        n = data.draw(st.integers(1, 5))
        groups.append(
            (prompt, sampling, scheduler.add_replies(prompt, SamplingParams(**sampling), n))
        )
        for _ in range(data.draw(st.integers(0, 3))):
            scheduler.step()
    streams = [stream for _, _, group in groups for stream in group]
    n_drained = [[t.id for t in stream.drain()] for stream in streams]
    rest = finish(scheduler, *streams)
    replies = iter([before + after for before, after in zip(n_drained, rest, strict=True)])
    for prompt, sampling, group in groups:
        for i in range(len(group)):
            own = sampling | {"seed": sampling["seed"] + i, "logprobs": -1}
            assert next(replies) == alone(prompt, period, **own)
    assert scheduler.stats()["kv_pages_used"] == 0


@pytest.mark.parametrize("n_prompt", [1, 32, 33, 100], ids=str)
@pytest.mark.parametrize("prefix_cache_bytes", [-1, 0], ids=["cache", "no cache"])
def test_the_prompt_is_computed_once(n_prompt: int, prefix_cache_bytes: int) -> None:
    scheduler = testing.Scheduler(max_columns=16, prefix_cache_bytes=prefix_cache_bytes)
    params = SamplingParams(max_tokens=5, speculation=False)
    streams = scheduler.add_replies(PROMPT[:n_prompt], params, 8)
    n_columns = 0
    while scheduler.step():
        n_columns += sum(n for _, n in scheduler.runs)
    assert n_columns == n_prompt + 8 * 4  # the fifth token of a reply is never computed
    assert sorted(stream.counts.cached_tokens for stream in streams) == [0, *[n_prompt] * 7]


def test_more_replies_than_run_at_once_wait_for_a_place() -> None:
    scheduler = testing.Scheduler(max_columns=16, max_sequences=2, prefix_cache_bytes=0)
    streams = scheduler.add_replies(PROMPT, SamplingParams(max_tokens=3, temperature=1), 5)
    scheduler.step()
    assert (scheduler.stats()["running"], scheduler.stats()["waiting"]) == (2, 3)
    n_columns = 16
    while scheduler.step():
        n_columns += sum(n for _, n in scheduler.runs)
    assert n_columns <= 100 + 5 * 2 * 2  # with guesses
    assert [len(stream.drain()) for stream in streams] == [3] * 5


@pytest.mark.parametrize("n_steps", range(1, 9))
def test_a_cancelled_first_reply_leaves_the_prompt_to_the_others(n_steps: int) -> None:
    scheduler = testing.Scheduler(max_columns=16, prefix_cache_bytes=0)
    sampling = {"max_tokens": 9, "temperature": 1.0, "seed": 4}
    first, *others = scheduler.add_replies(PROMPT, SamplingParams(**sampling), 3)
    for _ in range(n_steps):
        scheduler.step()
    first.cancel()
    got = finish(scheduler, *others)
    assert got == [alone(PROMPT, **sampling | {"seed": seed}) for seed in (5, 6)]


def test_a_failed_computation_of_the_prompt_ends_no_other_reply() -> None:
    scheduler = testing.Scheduler(max_columns=16)
    first, *others = scheduler.add_replies(PROMPT, SamplingParams(max_tokens=3), 3)
    scheduler.fail_next("bad_alloc")
    got = finish(scheduler, *others)
    assert got == [alone(PROMPT, max_tokens=3, seed=seed) for seed in (1, 2)]
    with pytest.raises(Exception, match="no memory is left"):
        first.next()


# ---- progress -------------------------------------------------------------------------------


def test_the_progress_of_a_prompt_counts_cached_tokens() -> None:
    scheduler = testing.Scheduler(max_columns=16)
    stream = scheduler.add(PROMPT, SamplingParams(max_tokens=1))
    done = []
    while scheduler.step():
        done.append(stream.counts.prompt_done)
    assert done == [*range(16, 100, 16), 100]
    stream = scheduler.add([*PROMPT, 1], SamplingParams(max_tokens=1))
    scheduler.step()
    assert stream.counts.prompt_done == 101


# ---- the methods ----------------------------------------------------------------------------

QUESTION = [{"role": "user", "content": "How do I sort a list? " * 12}]
DRAWN: dict[str, Any] = {"temperature": 1.2, "seed": 3, "max_tokens": 12}


@pytest.fixture(scope="module")
def model(tiny_model_path: Path) -> Iterator[StarChat]:
    with StarChat.load(tiny_model_path) as model:
        yield model


def singles(model: StarChat, n: int, **options: Any) -> list[tuple[int, ...]]:
    options = DRAWN | options
    seeds = range(options["seed"], options["seed"] + n)
    return [model.chat(QUESTION, **options | {"seed": seed}).token_ids for seed in seeds]


@pytest.mark.parametrize(
    "options",
    [{}, {"logprobs": 1}, {"stop": "e"}, {"choice": ["yes", "no", "perhaps"]}],
    ids=["plain", "logprobs", "stop", "constrained"],
)
def test_the_choices_are_the_replies_of_single_requests(
    model: StarChat, options: dict[str, Any]
) -> None:
    reply = model.chat(QUESTION, n=3, **DRAWN, **options)
    assert [choice.token_ids for choice in reply.choices] == singles(model, 3, **options)
    assert reply.choices[0] is reply
    alone = model.chat(QUESTION, **DRAWN, **options)
    assert dataclasses.replace(reply, others=()) == alone
    assert alone.choices == (alone,)


def test_every_method_has_n(model: StarChat) -> None:
    async def ask() -> list[Completion]:
        return [await model.achat(QUESTION, n=3, **DRAWN), await model.acomplete("a", n=3, **DRAWN)]

    asked = [model.complete("a", n=3, **DRAWN), *asyncio.run(ask())]
    assert asked[0].choices == asked[2].choices
    assert [choice.token_ids for choice in asked[1].choices] == singles(model, 3)


def test_chunks_say_which_reply_they_belong_to(model: StarChat) -> None:
    async def read() -> list[Chunk]:
        return [chunk async for chunk in model.astream_chat(QUESTION, n=3, **DRAWN)]

    stream = model.stream_chat(QUESTION, n=3, **DRAWN)
    for chunks in (list(stream), asyncio.run(read())):
        by_reply = [[c for c in chunks if c.index == index] for index in range(3)]
        ids = [sum((c.token_ids for c in reply), ()) for reply in by_reply]
        assert ids == singles(model, 3)
        assert [sum(c.usage is not None for c in reply) for reply in by_reply] == [1, 1, 1]
    assert "".join(c.text for c in by_reply[1]) == stream.result().choices[1].text


def test_the_total_counts_the_prompt_once(model: StarChat) -> None:
    n_columns = model.stats()["columns"]
    reply = model.complete("c" * 300, n=4, ignore_eos=True, speculation=False, **DRAWN)
    n_prompt = reply.usage.prompt_tokens
    assert reply.total_usage == Usage(n_prompt, 4 * 12)
    assert [choice.usage.cached_tokens for choice in reply.choices] == [0, *[n_prompt] * 3]
    assert model.stats()["columns"] - n_columns == n_prompt + 4 * 11


def test_replies_longer_than_a_stream_holds_run_together(model: StarChat) -> None:
    n_steps = model.stats()["steps"]
    long = {"ignore_eos": True, "speculation": False, "max_tokens": 400, "seed": 1}
    reply = model.complete("d", n=8, **long)
    assert [len(choice.token_ids) for choice in reply.choices] == [400] * 8
    assert model.stats()["steps"] - n_steps < 2 * 400


def test_closing_ends_all_replies(model: StarChat) -> None:
    with model.stream_complete("a", n=3, ignore_eos=True) as stream:
        next(stream)
    wait_until(lambda: model.stats()["running"] == 0)
    assert list(stream) == []
    with pytest.raises(InvalidRequestError, match="was closed before its end"):
        stream.result()


def test_an_error_of_the_engine_reaches_the_reader_each_time(tiny_model_path: Path) -> None:
    with StarChat.load(tiny_model_path, n_ctx=500) as model:
        stream = model.stream_complete("a", n=2, ignore_eos=True)
        next(stream)
    for _ in range(2):
        with pytest.raises(EngineClosedError):
            stream.result()


@pytest.mark.parametrize("n", [0, -1, 1025, True, "2", 1.5], ids=repr)
def test_n_is_an_integer_of_at_least_one(model: StarChat, n: Any) -> None:
    with pytest.raises(InvalidRequestError, match="n: expected an integer from 1 to 1,024, got"):
        model.complete("a", n=n)


# ---- progress of a prompt -------------------------------------------------------------------


def test_progress_is_called_where_the_reply_is_read(model: StarChat) -> None:
    seen: list[tuple[int, int, int]] = []

    def note(done: int, total: int) -> None:
        seen.append((done, total, threading.get_ident()))

    async def note_async(done: int, total: int) -> None:
        await asyncio.sleep(0)
        note(done, total)

    replies = [
        model.complete("x" * 450, prompt_progress=note, max_tokens=2),
        asyncio.run(model.acomplete("y" * 450, prompt_progress=note, max_tokens=2)),
        asyncio.run(model.acomplete("z" * 450, prompt_progress=note_async, max_tokens=2)),
    ]
    n = replies[0].usage.prompt_tokens
    # 256 tokens a step; a reader that is slower than this tiny model sees only the last one
    assert {(done, total) for done, total, _ in seen} <= {(256, n), (n, n)}
    assert [done for done, _, _ in seen].count(n) == 3
    assert {thread for _, _, thread in seen} == {threading.get_ident()}


def test_a_reader_is_woken_by_every_step_of_a_long_prompt() -> None:
    queue, engine = ReadyQueue(), testing.engine(step_s=0.03)  # 16 columns a step
    stream = submit(engine, [1] * 60, SamplingParams(max_tokens=1), queue, 7)
    done = []
    while not done or done[-1] < 60:
        assert queue.wait() == [7]
        tokens = stream.drain()
        done.append(stream.counts.prompt_done)
    assert (done, len(tokens)) == ([16, 32, 48, 60], 1)


def test_each_progress_is_told_once() -> None:
    tokens, told = FakeTokens(), []
    fake: Any = tokens
    reply = PartialReply(fake, TextStream(()), ByteVocabulary(), 100)
    replies = PartialReplies([reply], lambda done, total: told.append((done, total)))
    for done in (0, 40, 40, 100, 100):
        tokens.counts = FakeCounts(prompt_done=done)
        replies.progress()
    assert told == [(40, 100), (100, 100)]


def test_what_progress_raises_ends_the_reply(model: StarChat) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyError(done)

    stream = model.stream_complete("w" * 450, prompt_progress=fail, ignore_eos=True)
    with pytest.raises(KeyError, match=r"256|450"):
        next(stream)
    wait_until(lambda: model.stats()["running"] == 0)
    assert list(stream) == []
    with pytest.raises(InvalidRequestError, match="prompt_progress: expected a function or None"):
        model.complete("a", prompt_progress=3)  # type: ignore[arg-type]


def test_any_thread_reads_the_progress_of_a_stream(model: StarChat) -> None:
    with model.stream_complete("v" * 400, n=2, max_tokens=2) as stream:
        wait_until(lambda: stream.prompt_progress[0] == stream.prompt_progress[1])
        assert stream.prompt_progress[1] == stream.result().usage.prompt_tokens
