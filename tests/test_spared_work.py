"""What is not computed twice, and what is computed ahead: the tokens never change for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import Completion, InvalidRequestError, StarChat
from starchat._core import SamplingParams, TokenStream
from support.random_requests import draw_request
from support.scheduling import alone, finish, testing
from support.tiny_model import Shape, write_tiny

PAGE = 32  # positions
SYSTEM = [i * 7 % 60 for i in range(100)]


def counts(stream: TokenStream) -> tuple[int, int, int, int]:
    found = stream.counts
    return (
        found.cached_tokens,
        found.guessed_tokens,
        found.accepted_tokens,
        found.forced_tokens,
    )


# ---- beginnings -----------------------------------------------------------------------------


def test_the_next_turn_computes_only_what_is_new() -> None:
    scheduler = testing.Scheduler(max_columns=256)
    first = scheduler.add(SYSTEM, SamplingParams(max_tokens=40))
    reply = finish(scheduler, first)[0]
    turn = [*SYSTEM, *reply, 1, 2, 3]
    second = scheduler.add(turn, SamplingParams(max_tokens=9))
    scheduler.step()
    n_kept = (len(SYSTEM) + len(reply) - 1) // PAGE * PAGE  # the last token was never computed
    assert scheduler.runs[0] == (n_kept, len(turn) - n_kept)
    assert counts(second)[0] == n_kept
    finish(scheduler, second)
    assert counts(first) == (0, 0, 0, 0)


def test_the_last_id_of_a_prompt_is_always_computed() -> None:
    scheduler = testing.Scheduler(max_columns=256)
    prompt = SYSTEM[: 2 * PAGE]
    expected = alone(prompt, max_tokens=5)
    for n_spared in (0, PAGE, PAGE):
        stream = scheduler.add(prompt, SamplingParams(max_tokens=5))
        assert finish(scheduler, stream) == [expected]
        assert counts(stream)[0] == n_spared


def test_requests_that_begin_alike_and_come_together_compute_it_once() -> None:
    scheduler = testing.Scheduler(max_columns=64)
    prompts = [[*SYSTEM, i, i + 1] for i in range(8)]
    streams = [scheduler.add(prompt, SamplingParams(max_tokens=6, seed=3)) for prompt in prompts]
    n_columns = 0
    ids: list[list[int]] = [[] for _ in streams]
    while scheduler.step():
        n_columns += sum(n for _, n in scheduler.runs)
        for got, stream in zip(ids, streams, strict=True):
            got += [token.id for token in stream.drain()]
    assert ids == [alone(prompt, max_tokens=6, seed=3) for prompt in prompts]
    n_own = len(SYSTEM) + 2 - 3 * PAGE  # behind the last page that all share
    n_guessed = sum(counts(stream)[1] for stream in streams)
    assert n_columns == 3 * PAGE + 8 * (n_own + 5) + n_guessed


def test_a_cancelled_leader_leaves_the_others_to_themselves() -> None:
    scheduler = testing.Scheduler(max_columns=16)
    leader = scheduler.add([*SYSTEM, 1], SamplingParams(max_tokens=2))
    follower = scheduler.add([*SYSTEM, 2], SamplingParams(max_tokens=2))
    scheduler.step()
    assert scheduler.runs == [(0, 16)]
    leader.cancel()
    assert finish(scheduler, follower) == [alone([*SYSTEM, 2], max_tokens=2)]


def test_the_least_recently_used_goes_first_and_the_budget_holds() -> None:
    page_bytes = testing.Scheduler().page_bytes
    scheduler = testing.Scheduler(max_columns=256, prefix_cache_bytes=4 * page_bytes + 1)

    def spared(prompt: list[int]) -> int:
        stream = scheduler.add(prompt, SamplingParams(max_tokens=1))
        finish(scheduler, stream)
        assert scheduler.n_prefix_pages <= 4
        return int(counts(stream)[0])

    first, second, third = ([start] * (2 * PAGE + 1) for start in (1, 2, 3))
    assert [spared(p) for p in (first, second, first, third)] == [0, 0, 2 * PAGE, 0]
    assert [spared(first), spared(second)] == [2 * PAGE, 0]


def test_memory_that_is_needed_is_taken_from_what_is_kept() -> None:
    scheduler = testing.Scheduler(max_columns=256)
    finish(scheduler, scheduler.add(SYSTEM, SamplingParams(max_tokens=1)))
    assert scheduler.n_prefix_pages == 3
    assert scheduler.stats()["kv_pages_used"] == 0


def test_pages_are_found_with_their_own_salt_only() -> None:
    scheduler = testing.Scheduler(max_columns=256, prefix_cache_bytes=1 << 30)

    def spared(cache_salt: str) -> int:
        stream = scheduler.add(SYSTEM, SamplingParams(max_tokens=1), cache_salt=cache_salt)
        assert finish(scheduler, stream) == [alone(SYSTEM, max_tokens=1)]
        return int(counts(stream)[0])

    salts = ["", "", "ann", "bob", "ann", ""]
    assert [spared(salt) for salt in salts] == [0, 96, 0, 0, 96, 96]
    assert scheduler.n_prefix_pages == 3 * 3


def test_prompts_of_other_salts_are_not_waited_for() -> None:
    scheduler = testing.Scheduler(max_columns=64, prefix_cache_bytes=1 << 30)
    salts = ["ann", "bob", "", "ann"]
    streams = [
        scheduler.add([*SYSTEM, i], SamplingParams(max_tokens=1), cache_salt=salt)
        for i, salt in enumerate(salts)
    ]
    scheduler.step()
    assert [first for first, _ in scheduler.runs] == [0, 0, 0], "one for each salt goes ahead"
    finish(scheduler, *streams)
    assert [counts(stream)[0] for stream in streams] == [0, 0, 0, 3 * PAGE]


def test_the_budget_holds_for_all_salts_together() -> None:
    page_bytes = testing.Scheduler().page_bytes
    scheduler = testing.Scheduler(max_columns=256, prefix_cache_bytes=4 * page_bytes)

    def spared(cache_salt: str) -> int:
        stream = scheduler.add([1] * 70, SamplingParams(max_tokens=1), cache_salt=cache_salt)
        finish(scheduler, stream)
        assert scheduler.n_prefix_pages <= 4
        return int(counts(stream)[0])

    salts = ["ann", "bob", "ann", "eve", "ann", "bob"]
    assert [spared(salt) for salt in salts] == [0, 0, 64, 0, 64, 0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_history_gives_the_tokens_of_a_sequence_alone(data: st.DataObject) -> None:
    period = data.draw(st.sampled_from([0, 5, 40]))
    scheduler = testing.Scheduler(
        max_columns=data.draw(st.sampled_from([4, 33, 256])),
        period=period,
        prefix_cache_bytes=data.draw(st.sampled_from([-1, 0, 1000])),
    )
    known = [SYSTEM]
    for _ in range(data.draw(st.integers(1, 3))):
        batch = []
        for _ in range(data.draw(st.integers(1, 4))):
            prompt, sampling = draw_request(data, known)
            salt = data.draw(st.sampled_from(["", "", "ann", "bob"]))
            stream = scheduler.add(prompt, SamplingParams(**sampling), cache_salt=salt)
            batch.append((prompt, sampling, stream))
        results = finish(scheduler, *(stream for _, _, stream in batch))
        for (prompt, sampling, _), ids in zip(batch, results, strict=True):
            assert ids == alone(prompt, period, **sampling)
            if len(prompt) + len(ids) < 200:
                known.append([*prompt, *ids])


# ---- guesses --------------------------------------------------------------------------------


def test_text_that_quotes_itself_takes_few_steps() -> None:
    scheduler = testing.Scheduler(max_columns=64, period=20)
    prompt = list(range(20))
    params = SamplingParams(max_tokens=200, temperature=0)
    stream = scheduler.add(prompt, params)
    n_steps, ids = 0, []
    while scheduler.step():
        n_steps += 1
        ids += [token.id for token in stream.drain()]
    assert ids == alone(prompt, 20, max_tokens=200, temperature=0)
    _, n_guessed, n_accepted, _ = counts(stream)
    assert n_accepted == 200 - n_steps and n_steps < 120 and n_guessed >= n_accepted


def test_a_quotation_goes_on_behind_a_token_that_was_replaced() -> None:
    scheduler = testing.Scheduler(max_columns=64, period=40)  # every eighth id or so is another
    prompt = list(range(40))
    stream = scheduler.add(prompt, SamplingParams(max_tokens=200, temperature=0))
    n_steps, ids = 0, []
    while scheduler.step():
        n_steps += 1
        ids += [token.id for token in stream.drain()]
    assert ids == alone(prompt, 40, max_tokens=200, temperature=0)
    assert n_steps < 80  # three steps more for each of them, were it to match three ids first


def test_text_that_quotes_nothing_is_hardly_guessed() -> None:
    scheduler = testing.Scheduler(n_vocab=8)  # trigrams recur by chance
    stream = scheduler.add([1], SamplingParams(max_tokens=200, temperature=5.0, top_k=0, top_p=1))
    finish(scheduler, stream)
    _, n_guessed, *_ = counts(stream)
    assert n_guessed <= 60


def test_off_switch() -> None:
    scheduler = testing.Scheduler(period=20)
    params = SamplingParams(max_tokens=100, temperature=0, speculation=False)
    stream = scheduler.add(list(range(20)), params)
    finish(scheduler, stream)
    assert counts(stream) == (0, 0, 0, 0)


def test_a_stop_id_within_a_guess_ends_there() -> None:
    prompt = list(range(20)) * 2
    expected = alone(prompt, 20, max_tokens=60, temperature=0)
    stop = expected[30]
    scheduler = testing.Scheduler(max_columns=64, period=20)
    stream = scheduler.add(
        prompt, SamplingParams(max_tokens=60, temperature=0, stop_token_ids=[stop])
    )
    assert finish(scheduler, stream) == [expected[: expected.index(stop)]]
    assert (stream.finish_reason, stream.stop_token.id) == ("stop", stop)


def test_many_at_once_leave_no_room_for_guesses() -> None:
    scheduler = testing.Scheduler(max_columns=64, period=20)
    prompt = list(range(20)) * 2
    streams = [scheduler.add([*prompt, i], SamplingParams(max_tokens=20)) for i in range(16)]
    finish(scheduler, *streams)
    assert sum(counts(stream)[1] for stream in streams[1:]) == 0


# ---- the real model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(n_embd=96, n_head=6, n_layer=2, n_ctx=512)
    return write_tiny(tmp_path_factory.mktemp("spared") / "tiny.bin", "q4_0", shape).path


def test_every_asking_method_keeps_prompts_within_a_salt(path: Path) -> None:
    text = "abc " * 40
    with StarChat.load(path) as model:
        dialogue: Any = [{"role": "user", "content": text}]
        ways: list[Callable[..., Completion]] = [
            lambda **options: model.chat(dialogue, **options),
            lambda **options: model.complete(text, **options),
            lambda **options: asyncio.run(model.achat(dialogue, **options)),
            lambda **options: asyncio.run(model.acomplete(text, **options)),
            lambda **options: model.complete(text, prompt_progress=lambda *_: None, **options),
            lambda **options: model.complete(text, n=2, **options),
        ]
        for i, ask in enumerate(ways):
            salts = [f"ann {i}", f"ann {i}", f"bob {i}", f"bob {i}"]
            found = [ask(cache_salt=salt, max_tokens=1).usage.cached_tokens > 0 for salt in salts]
            assert found == [False, True, False, True], i
        assert model.complete(text, max_tokens=1).usage.cached_tokens == 0


@pytest.mark.parametrize("salt", ["", b"ann", 1], ids=repr)
def test_a_salt_is_a_text(path: Path, salt: Any) -> None:
    with (
        StarChat.load(path) as model,
        pytest.raises(InvalidRequestError, match="cache_salt: expected a text that is not empty"),
    ):
        model.complete("a", cache_salt=salt)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_dialogue_is_the_same_with_everything_off(path: Path, temperature: float) -> None:
    options: dict[str, Any] = {"max_tokens": 60, "temperature": temperature, "seed": 5}
    replies = []
    for kept, speculation in ((None, True), (0, False)):
        messages: list[Any] = [{"role": "system", "content": "Be brief. " * 12}]
        with StarChat.load(
            path, prefix_cache_bytes=kept, n_threads=2 if kept is None else 1
        ) as model:
            for turn in range(3):
                messages.append({"role": "user", "content": f"abc abc abc {turn}"})
                reply = model.chat(messages, speculation=speculation, ignore_eos=True, **options)
                messages.append(
                    {"role": "assistant", "content": reply.text, "token_ids": reply.token_ids}
                )
                replies.append(reply)
            if kept is None:
                assert reply.usage.cached_tokens > 200
                assert model.stats()["prefix_pages"] > 0
            else:
                assert reply.usage.cached_tokens == reply.usage.guessed_tokens == 0
    assert replies[:3] == replies[3:]
