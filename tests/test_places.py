"""Streams that nobody reads keep nobody out, and hold a bounded part of the KV cache."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import StarChat
from starchat._core import SamplingParams
from support.processes import run_python
from support.scheduling import alone, ids_of, run, testing

BEHIND = 32  # tokens that a reader may be behind
PROMPT = [i * 7 % 60 for i in range(70)]
LONG = SamplingParams(max_tokens=900, speculation=False)


def scheduler_of(n_places: int, unread_pages: int | None = None, **options: Any) -> Any:
    page_bytes = testing.Scheduler().page_bytes
    bound = {} if unread_pages is None else {"unread_bytes": unread_pages * page_bytes}
    settings: dict[str, Any] = {"n_ctx": 1000, "max_columns": 256, "prefix_cache_bytes": 0}
    return testing.Scheduler(max_sequences=n_places, **settings | options, **bound)


def steps_to_a_token(scheduler: Any, prompt: list[int]) -> int:
    """Ask, read along, and return the steps until the first token is there."""
    stream = scheduler.add(prompt, SamplingParams(max_tokens=1))
    for n in range(1, 2000):
        if stream.drain():
            return n
        scheduler.step()
    raise AssertionError("no token in 2,000 steps")


# ---- places ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_read", [0, 1, 5], ids="{} read".format)
@pytest.mark.parametrize("n_steps", [0, 1, 9], ids="after {}".format)
def test_streams_that_nobody_reads_keep_no_question_waiting(n_read: int, n_steps: int) -> None:
    scheduler = scheduler_of(2)
    streams = [scheduler.add([id], LONG) for id in range(40)]
    for stream in streams[:n_read]:
        stream.drain()  # once, and then no more
    for _ in range(n_steps):
        scheduler.step()
    most = 2 + n_read * (BEHIND + 1)
    assert steps_to_a_token(scheduler, [50]) <= most


def test_a_prompt_that_is_waited_for_is_computed_before_those_that_are_not() -> None:
    scheduler = scheduler_of(2, max_columns=16)
    unread = [scheduler.add([id] * 300, LONG) for id in range(2)]
    scheduler.step()
    asked = scheduler.add([3] * 32, SamplingParams(max_tokens=1))
    asked.drain()
    scheduler.step()
    assert scheduler.runs == [(0, 16)]
    scheduler.step()
    assert scheduler.runs == [(16, 16)]
    assert len(asked.drain()) == 1
    assert unread[0].counts.prompt_done == unread[1].counts.prompt_done == 8


@pytest.mark.parametrize(
    ("max_columns", "runs"),
    [
        (16, [[(0, 16)], [(16, 16)], [(32, 8), (3, 1), (3, 1)]]),
        (64, [[(0, 40)]]),  # though it makes the step long for the unread
    ],
    ids=str,
)
def test_a_prompt_that_is_waited_for_does_not_share_with_unread_streams(
    max_columns: int, runs: list[Any]
) -> None:
    scheduler = scheduler_of(2, max_columns=max_columns)
    unread = [scheduler.add([id], LONG) for id in range(2)]
    for _ in range(3):
        scheduler.step()
        if max_columns == 64:
            scheduler.took(0.01)  # so that 5 columns are most for a mixed step
    asked = scheduler.add([3] * 40, SamplingParams(max_tokens=1))
    asked.drain()
    for expected in runs:
        assert not asked.drain()
        scheduler.step()
        assert scheduler.runs == expected
    assert len(asked.drain()) == 1
    assert len(unread[0].drain()) == 3 + (max_columns == 16)


def test_columns_that_are_left_go_to_streams_that_nobody_reads() -> None:
    scheduler = scheduler_of(4)
    read = scheduler.add([1], LONG)
    unread = [scheduler.add([id], LONG) for id in range(2, 9)]
    for n in range(1, 300):
        scheduler.step()
        assert len(read.drain()) == 1
        assert len(scheduler.runs) <= 4
        if n == 256:
            assert [len(stream.drain()) for stream in unread[:3]] == [256] * 3


def test_a_stream_takes_its_place_back() -> None:
    scheduler = scheduler_of(1)
    first, second = (scheduler.add([id], LONG) for id in (1, 2))
    first.drain()
    second.drain()
    for _ in range(BEHIND + 1):
        scheduler.step()
    assert (len(first.drain()), scheduler.stats()["waiting"]) == (BEHIND + 1, 1)
    scheduler.step()
    assert (len(first.drain()), scheduler.stats()["waiting"]) == (1, 1)
    for _ in range(BEHIND + 2):
        scheduler.step()  # one more than a reader may be behind
    assert (len(second.drain()), scheduler.stats()["waiting"]) == (1, 0)
    for _ in range(4):
        scheduler.step()
    assert len(first.drain()) + len(second.drain()) == BEHIND + 2 + 4


def test_the_engine_is_told_when_a_reader_comes() -> None:
    scheduler = scheduler_of(2)
    stream = scheduler.add([1], LONG)
    n_before = scheduler.n_signals
    stream.drain()
    assert scheduler.n_signals == n_before + 1, "the first time"
    stream.drain()
    assert scheduler.n_signals == n_before + 1
    for _ in range(BEHIND + 2):
        scheduler.step()
    stream.next()
    assert scheduler.n_signals == n_before + 1, "still behind"
    stream.next()
    assert scheduler.n_signals == n_before + 2, "read again"
    stream.next()
    assert scheduler.n_signals == n_before + 2
    other = scheduler.add([2], LONG)
    scheduler.step()
    other.next()
    assert scheduler.n_signals == n_before + 3


def test_an_embedding_always_has_a_reader() -> None:
    scheduler = scheduler_of(2, unread_pages=0)
    alone = scheduler_of(2)
    results = []
    for each in (scheduler, alone):
        each.add([1], LONG)
        _, embedding = each.embed(PROMPT)
        run(each)
        results.append(list(embedding.vector))
    assert results[0] == results[1]


def test_an_embedding_without_a_place_is_never_computed_twice() -> None:
    by_itself = scheduler_of(1)
    _, expected = by_itself.embed(PROMPT * 2)
    run(by_itself)
    scheduler = scheduler_of(1, unread_pages=2, max_columns=8)  # the embedding has 5
    stream = scheduler.add([1], LONG)
    stream.drain()
    for _ in range(BEHIND + 2):
        scheduler.step()
    end, embedding = scheduler.embed(PROMPT * 2)
    for _ in range(40):
        scheduler.step()
        stream.drain()  # and takes its place back
    assert end.finish_reason
    assert list(embedding.vector) == list(expected.vector)


# ---- the bound ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_pages", [0, 1, 20, 25], ids=str)
def test_unread_streams_stay_within_their_bound(n_pages: int) -> None:
    scheduler = scheduler_of(3, n_pages)
    n_fitting = n_pages // 9  # each is to hold its prompt and a full stream: 257 positions
    streams = [scheduler.add([id], LONG) for id in range(9)]
    n_columns = 0
    while scheduler.step():
        n_columns += sum(n for _, n in scheduler.runs)
        assert scheduler.stats()["kv_pages_used"] <= n_pages
    assert [len(stream.drain()) for stream in streams] == [256] * n_fitting + [0] * (9 - n_fitting)
    assert n_columns == 256 * n_fitting, "nothing is computed twice"


@pytest.mark.parametrize("prefix_cache_bytes", [-1, 0], ids=["cache", "no cache"])
def test_the_longest_unread_stream_is_paused_and_goes_on_when_it_is_read(
    prefix_cache_bytes: int,
) -> None:
    scheduler = scheduler_of(4, unread_pages=8, prefix_cache_bytes=prefix_cache_bytes)
    sampling = {"max_tokens": 150, "temperature": 1.0}
    prompts = [[*PROMPT, id] for id in range(3)]  # 3 pages each
    streams = [scheduler.add(prompt, SamplingParams(**sampling)) for prompt in prompts]
    got = [ids_of(stream) for stream in streams]
    for n in range(100):
        scheduler.step()
        got[1] += ids_of(streams[1])
        if n < 5:
            got[2] += ids_of(streams[2])
    assert scheduler.stats() == {"running": 2, "waiting": 1, "kv_pages_used": 6 + 6}
    left = streams[0].counts
    got[0] += ids_of(streams[0])
    n_done = len(got[0])
    assert BEHIND < n_done < 100, "paused, as it was left first"
    scheduler.step()
    n_kept = 64 if prefix_cache_bytes else 0
    assert n_kept in [first for first, _ in scheduler.runs], "its ids are computed again"
    assert streams[0].counts == left, "and not counted again"
    while scheduler.step():
        got = [ids + ids_of(stream) for ids, stream in zip(got, streams, strict=True)]
    assert got == [alone(prompt, **sampling) for prompt in prompts]
    assert scheduler.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_reading_gives_the_same_tokens(data: st.DataObject) -> None:
    period = data.draw(st.sampled_from([0, 5]))
    scheduler = scheduler_of(
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(0, 12)),
        period=period,
        max_columns=data.draw(st.sampled_from([8, 33, 256])),
        prefix_cache_bytes=data.draw(st.sampled_from([-1, 0])),
    )
    wanted, streams = [], []
    for seed in range(data.draw(st.integers(1, 4))):
        prompt = PROMPT[: data.draw(st.integers(1, 70))]
        sampling = {"max_tokens": data.draw(st.integers(1, 90)), "temperature": 1.0, "seed": seed}
        n = data.draw(st.integers(1, 3))
        streams += scheduler.add_replies(prompt, SamplingParams(**sampling), n)
        wanted += [(prompt, sampling | {"seed": seed + i}) for i in range(n)]
    got: list[list[int]] = [[] for _ in streams]
    done, cached = [0] * len(streams), [0] * len(streams)

    def play(read: set[int]) -> None:
        scheduler.step()
        for i, stream in enumerate(streams):
            if i in read:
                got[i] += ids_of(stream)
            counts = stream.counts
            assert done[i] <= counts.prompt_done, "progress never goes back"
            assert counts.cached_tokens - cached[i] <= counts.prompt_done - done[i]
            done[i], cached[i] = counts.prompt_done, counts.cached_tokens

    for _ in range(data.draw(st.integers(0, 6))):
        read = data.draw(st.sets(st.sampled_from(range(len(streams)))))
        for _ in range(data.draw(st.integers(1, 60))):
            play(read)
    for i in range(len(streams)):  # one after the other
        while not streams[i].finish_reason:
            play({i})
    assert got == [alone(prompt, period, **sampling) for prompt, sampling in wanted]
    scheduler.step()
    assert scheduler.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}


@pytest.mark.integration
def test_where_memory_ends_what_nobody_reads_is_paused() -> None:
    code = """
        import resource
        from starchat._core import SamplingParams, testing
        scheduler = testing.Scheduler(head_dim=2**21, prefix_cache_bytes=0)  # pages of 256 MiB
        unread = scheduler.add([1], SamplingParams(max_tokens=5))
        scheduler.step()
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, -1))
        asked = scheduler.add([2], SamplingParams(max_tokens=5))
        asked.drain()
        while scheduler.step():
            pass
        print(len(asked.drain()), asked.finish_reason, len(unread.drain()), unread.finish_reason)
        while scheduler.step():
            pass
        print(len(unread.drain()), unread.finish_reason)
    """
    result = run_python(code)
    assert result.stdout.splitlines() == ["5 length 1 None", "4 length"], result.stderr


# ---- the methods ----------------------------------------------------------------------------


def test_questions_behind_unread_streams_are_answered_at_once(nano: StarChat) -> None:
    question = [{"role": "user", "content": "hi"}]

    async def ask() -> object:
        return await nano.achat(question, n=2, max_tokens=4)

    streams = [nano.stream_chat(question, ignore_eos=True, seed=seed) for seed in range(300)]
    n_steps = nano.stats()["steps"]
    nano.chat(question, max_tokens=4, ignore_eos=True)
    nano.chat(question, max_tokens=4, ignore_eos=True, n=2)
    asyncio.run(ask())
    n_steps = nano.stats()["steps"] - n_steps
    assert nano.stats()["waiting"] > 0
    for stream in streams:
        stream.close()
    assert n_steps < 256, "steps until a stream that nobody reads is full"


def test_replies_that_are_read_one_after_the_other(tiny_model_path: Any) -> None:
    options: dict[str, Any] = {"max_tokens": 300, "ignore_eos": True, "temperature": 1.0}
    with StarChat.load(tiny_model_path, n_threads=1) as model:
        expected = [model.complete("a", seed=seed, **options).token_ids for seed in range(3)]
    with StarChat.load(tiny_model_path, n_threads=1, limits={"unread_bytes": 0}) as model:
        streams = [model.stream_complete("a", seed=seed, **options) for seed in range(3)]
        assert len(model.complete("b", **options).token_ids) == 300
        assert model.stats()["tokens"] == 300, "of the others, nothing is computed unread"
        for _ in range(3):
            for stream in streams:
                next(stream)
        assert [stream.result().token_ids for stream in streams] == expected
