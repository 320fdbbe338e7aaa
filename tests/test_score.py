"""score(): the log probabilities of a prompt's own tokens, computed as prompts are."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import (
    ContextLengthError,
    EngineClosedError,
    InvalidRequestError,
    Limits,
    NumericalError,
    StarChat,
    TokenLogprob,
)
from starchat._core import ReadyQueue, SamplingParams
from starchat.generation import Scoring, astream
from support.scheduling import testing, wait_until

TEXT = "def add(a, b):\n    return a + b\n\n\n" * 9


@pytest.fixture(scope="module")
def model() -> Iterator[StarChat]:
    with StarChat.load(n_ctx=512) as model:
        yield model


def columns(model: StarChat) -> int:
    return model.stats()["columns"]


@pytest.mark.parametrize("n_tokens", [1, 2, 33, 300])
def test_scores_are_the_log_softmax_of_the_logits(model: StarChat, n_tokens: int) -> None:
    ids = [*model.tokenize(TEXT), *range(300)][:n_tokens]
    logits = model.logits(ids).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scored = model.score(ids, logprobs=3)
    assert [token.token_id for token in scored] == ids[1:]
    for position, token in enumerate(scored):
        row = expected[position]
        assert token.logprob == pytest.approx(row[token.token_id], abs=1e-9)
        best = np.argsort(-row, kind="stable")[:3]
        assert [each.token_id for each in token.best] == best.tolist()
        assert [each.logprob for each in token.best] == pytest.approx(row[best], abs=1e-9)
        assert token.bytes == model._engine.tokenizer.token_bytes(token.token_id)


def test_a_reply_has_the_scores_that_it_was_chosen_with(model: StarChat) -> None:
    prompt = model.tokenize(TEXT)[:40]
    reply = model.complete(prompt, logprobs=2, seed=3, max_tokens=24, ignore_eos=True)
    scored = model.score([*prompt, *reply.token_ids], logprobs=2)
    assert scored[len(prompt) - 1 :] == reply.logprobs


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_neither_slices_nor_other_requests_change_a_score(data: st.DataObject) -> None:
    prompt = [i * 7 % 60 for i in range(data.draw(st.integers(1, 90)))]
    whole = testing.Scheduler(max_columns=256)
    expected = whole.score(prompt, 2)
    whole.step()
    scheduler = testing.Scheduler(max_columns=data.draw(st.integers(1, 64)))
    others = [scheduler.add([*prompt[: 5 * i], i], SamplingParams(max_tokens=20)) for i in range(2)]
    stream = scheduler.score(prompt, 2)
    while scheduler.step():
        for other in others:
            other.drain()
    assert stream.drain() == expected.drain()
    assert stream.finish_reason == "length"


def test_a_reply_to_a_scored_prompt_computes_it_no_more(model: StarChat) -> None:
    ids = model.tokenize("print(1)\n" + TEXT)[:65]
    model.score(ids, cache_salt="Ada")
    assert model.complete(ids, max_tokens=1, cache_salt="Ada").usage.cached_tokens == 64
    assert model.complete(ids, max_tokens=1, cache_salt="Bob").usage.cached_tokens == 0


@pytest.mark.filterwarnings("ignore::starchat.ControlTokenWarning")
def test_a_text_is_read_as_complete_reads_it(model: StarChat) -> None:
    card = "<|user|>\nHello<|end|>\n<|assistant|>"
    end = model.tokenize("<|assistant|>", allow_special=True)
    assert [model.score(card)[-1].token_id] == end
    assert model.score("Ada\n" + card, leading_text=True)[-1].token_id == end[0]
    assert model.score(card, allow_special=False)[-1].token == ">"


def test_progress_is_told(model: StarChat) -> None:
    seen: list[tuple[int, int]] = []
    ids = [i % 60 for i in range(400)]
    scored = model.score(ids, prompt_progress=lambda *progress: seen.append(progress))
    assert len(scored) == 399
    assert seen[-1] == (400, 400)
    assert len(seen) > 1


def test_the_async_call_returns_the_same(model: StarChat) -> None:
    async def ask(prompt: Any) -> tuple[TokenLogprob, ...]:
        return await model.ascore(prompt, logprobs=1)

    long = [1, 2] * 250 + [3]
    for prompt in (TEXT, long):  # a thread prepares what is long
        assert asyncio.run(ask(prompt)) == model.score(prompt, logprobs=1)


@pytest.mark.parametrize(
    ("prompt", "options", "problem"),
    [
        ("", {}, "prompt has 0 tokens"),
        ([1] * 513, {}, "prompt has 513 tokens, the context holds 512"),
        ("x" * 100_000, {}, "prompt has at least"),
        ([1, 10**6], {}, "prompt token 1: expected an id from 0"),
        ("a", {"logprobs": 21}, "logprobs: expected at most 20"),
        ("a", {"logprobs": "1"}, "logprobs: expected an integer"),
        ("a", {"logprobs": -1}, "logprobs: expected"),
        ("a", {"cache_salt": 1}, "cache_salt"),
        ("a", {"prompt_progress": 1}, "prompt_progress"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    model: StarChat, prompt: Any, options: dict[str, Any], problem: str
) -> None:
    kind = ContextLengthError if "the context" in problem else InvalidRequestError
    with pytest.raises(kind, match=problem):
        model.score(prompt, **options)
    with pytest.raises(kind, match=problem):
        asyncio.run(model.ascore(prompt, **options))


# ---- ends and bounds ------------------------------------------------------------------------


def test_a_cancelled_score_ends_within_a_step() -> None:
    scheduler = testing.Scheduler(max_columns=4)
    stream = scheduler.score([1] * 100, 0)
    scheduler.step()
    stream.cancel()
    scheduler.step()
    assert scheduler.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}


def test_an_unread_score_waits_when_its_stream_is_full() -> None:
    scheduler = testing.Scheduler(max_columns=64, n_ctx=2048)
    stream = scheduler.score([1] * 2000, 0)
    while scheduler.step():
        pass
    n_first = len(stream.drain())
    assert 256 <= n_first < 256 + 64
    n_rest = 0
    while stream.finish_reason is None:
        scheduler.step()
        n_rest += len(stream.drain())
    assert n_first + n_rest == 1999


def test_logits_that_are_not_finite_are_an_error() -> None:
    scheduler = testing.Scheduler(nan_id=5)
    stream = scheduler.score([1, 2, 3, 4, 5, 6], 0)
    scheduler.step()
    assert [stream.next().id for _ in range(4)] == [2, 3, 4, 5]
    with pytest.raises(NumericalError):
        stream.next()


def test_cancelling_the_task_ends_the_work() -> None:
    engine = testing.engine(step_s=0.01, n_ctx=4096)
    handle: Any = SimpleNamespace(engine=engine, limits=Limits())

    async def ask() -> None:
        stream = astream(lambda: Scoring(handle, [1] * 2000, {}), {})
        task = asyncio.create_task(stream.result())
        await asyncio.sleep(0.05)
        assert engine.stats()["running"] == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    wait_until(lambda: engine.stats()["running"] == 0)
    assert engine.stats()["steps"] < 2000 / 16
    engine.close()


def test_closing_the_model_ends_a_score() -> None:
    engine = testing.engine(step_s=0.01, n_ctx=4096)
    queue = ReadyQueue()
    stream = engine.score([1] * 4000, 0, queue, 7)
    assert queue.wait() == [7]
    engine.close()
    with pytest.raises(EngineClosedError):
        while stream.next():
            pass


def test_log_probabilities_of_tokens_that_cannot_be_are_numbers(model: StarChat) -> None:
    scored = model.score([*range(200)])
    assert all(math.isfinite(token.logprob) and token.logprob < 0 for token in scored)
