"""Embeddings: against transformers, the same bits in any company, cancellation, errors."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import (
    ContextLengthError,
    EngineClosedError,
    ForkError,
    InvalidRequestError,
    NumericalError,
    StarChat,
    embedding,
)
from starchat._core import SamplingParams
from starchat._core.machine import instruction_sets
from support.scheduling import run
from support.tiny_model import Shape, write_tiny

testing: Any = importlib.import_module("starchat._core.testing")

TEXTS = ["x", "def add(a, b):", "import os\n" * 40, "naïve 🙂 \0 <|end|> \ud83d", "x", " " * 300]


@pytest.fixture
def model(tiny_model_path: Path) -> Iterator[StarChat]:
    with StarChat.load(tiny_model_path) as model:
        yield model


def bits(vectors: npt.NDArray[np.float32]) -> bytes:
    assert vectors.dtype == np.float32
    return vectors.tobytes()


# ---- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "error"), [("f32", 1e-3), ("f16", 1e-3), ("q4_0", 0.04), ("q8_0", 0.04)]
)
@pytest.mark.parametrize("multi_query", [True, False], ids=["folded", "unfolded"])
def test_vectors_are_the_mean_of_transformers_hidden_states(
    tmp_path: Path, type: str, error: float, multi_query: bool
) -> None:
    """Within twice the distance that rounding leaves: of keys and values to half precision
    (2**-11), of activations to 1/254 of the largest of 32 (0.6 %) in each of 3 layers x 4 products.
    """
    oracle = pytest.importorskip("support.oracle", reason="torch and transformers are the oracle")
    torch = importlib.import_module("torch")
    shape = Shape(n_embd=128, n_head=4, n_layer=3, n_ctx=400)
    tiny = write_tiny(tmp_path / "tiny.bin", type, shape, multi_query=multi_query)
    reference = oracle.transformers_model(tiny).transformer
    with StarChat.load(tiny.path) as model:
        vectors = model.embed(TEXTS)
        for text, vector in zip(TEXTS, vectors, strict=True):
            with torch.no_grad():
                states = reference(torch.tensor([model.tokenize(text)])).last_hidden_state[0]
            expected = states.double().mean(0).numpy()
            assert np.linalg.norm(vector - expected / np.linalg.norm(expected)) <= error


def test_shapes_and_lengths(model: StarChat) -> None:
    vectors = model.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), model.info.n_embd)
    assert np.linalg.norm(vectors.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-6)
    assert bits(model.embed("x")) == bits(vectors[:1])
    assert model.embed(()).shape == (0, model.info.n_embd)


# ---- the same bits --------------------------------------------------------------------------


def test_threads_and_instruction_sets_do_not_change_a_bit(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for isa in instruction_sets():
        monkeypatch.setenv("STARCHAT_ISA", isa)
        for n_threads in (1, 3):
            link = tmp_path / f"{isa}-{n_threads}.bin"  # a file of its own has its own engine
            link.write_bytes(tiny_model_path.read_bytes())
            with StarChat.load(link, n_threads=n_threads) as model:
                assert model.info.isa == isa
                seen.add(bits(model.embed(TEXTS)))
    assert len(seen) == 1


def test_what_was_computed_before_neither_helps_nor_changes(model: StarChat) -> None:
    text = TEXTS[2]
    fresh = bits(model.embed(text))
    model.complete(text, max_tokens=2)
    before = model.stats()
    assert before["prefix_pages"] > 0
    assert bits(model.embed(text)) == fresh
    after = model.stats()
    assert after["cached_tokens"] == before["cached_tokens"], "every token's state is needed"
    assert after["prefix_pages"] == before["prefix_pages"], "an index drives no dialogue out"


def test_replies_and_embeddings_at_once_are_what_they_are_alone(model: StarChat) -> None:
    prompts = [f"def f{i}(x):\n" * (i + 1) for i in range(6)]
    texts = [TEXTS[i % len(TEXTS)] + "y" * i for i in range(40)]
    options: dict[str, Any] = {"max_tokens": 40, "seed": 3, "ignore_eos": True}
    replies = [model.complete(prompt, **options).token_ids for prompt in prompts]
    vectors = bits(model.embed(texts))

    async def together() -> tuple[list[Any], list[Any]]:
        asking = asyncio.gather(*(model.acomplete(prompt, **options) for prompt in prompts))
        embedding = asyncio.gather(*(model.aembed(texts) for _ in range(3)))
        sync = asyncio.to_thread(model.embed, texts)
        return await asking, [*await embedding, await sync]

    asked, embedded = asyncio.run(together())
    assert [reply.token_ids for reply in asked] == replies
    assert {bits(each) for each in embedded} == {vectors}
    assert model.stats()["kv_pages_used"] == 0


def pooled(scheduler: Any, started: Any) -> list[float]:
    stream, result = started
    stream.drain()
    assert stream.finish_reason == "length"
    vector: list[float] = result.vector.tolist()
    return vector


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.lists(st.integers(0, 63), min_size=1, max_size=90), min_size=1, max_size=6),
    prompts=st.lists(st.lists(st.integers(0, 63), min_size=1, max_size=40), max_size=4),
    max_columns=st.integers(1, 40),
    gap=st.integers(0, 3),
)
def test_any_chunks_and_company_give_the_same_bits(
    texts: list[list[int]], prompts: list[list[int]], max_columns: int, gap: int
) -> None:
    def alone(ids: list[int]) -> list[float]:
        scheduler = testing.Scheduler(max_columns=256)
        started = scheduler.embed(ids)
        run(scheduler)
        return pooled(scheduler, started)

    def reply(scheduler: Any, ids: list[int]) -> Any:
        return scheduler.add(ids, SamplingParams(max_tokens=20, seed=5))

    quiet = testing.Scheduler(max_columns=256)
    expected = [reply(quiet, ids) for ids in prompts]
    run(quiet)

    busy = testing.Scheduler(max_columns=max_columns)
    streams = [reply(busy, ids) for ids in prompts]
    started = []
    for ids in texts:
        started.append(busy.embed(ids))
        for _ in range(gap):
            busy.step()
    run(busy)
    assert [pooled(busy, each) for each in started] == [alone(ids) for ids in texts]
    assert [[token.id for token in stream.drain()] for stream in streams] == [
        [token.id for token in stream.drain()] for stream in expected
    ]
    assert busy.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}


# ---- a long list ----------------------------------------------------------------------------


def test_progress_counts_texts_and_may_end_the_call(model: StarChat) -> None:
    calls: list[tuple[int, int]] = []
    model.embed(TEXTS, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, len(TEXTS)) for n in range(1, len(TEXTS) + 1)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.embed(TEXTS * 100, progress=stop)
    model.complete("x", max_tokens=1)  # at its end the engine has dropped what was cancelled
    assert model.stats()["waiting"] == model.stats()["running"] == 0
    assert bits(model.embed(TEXTS)) == bits(asyncio.run(model.aembed(TEXTS)))


def test_few_texts_are_in_the_engine_at_a_time(
    model: StarChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a reply which is asked for meanwhile has no long list before it."""
    most = 0

    def watch(done: int, total: int) -> None:
        nonlocal most
        stats = model.stats()
        most = max(most, stats["running"] + stats["waiting"])

    model.embed(["short"] * 200, progress=watch)
    assert most < embedding._MAX_TEXTS
    monkeypatch.setattr(embedding, "_MAX_TOKENS", 64)
    most = 0
    model.embed(["a longer text " * 12] * 10, progress=watch)
    assert most == 0, "one is longer than 64: they go one by one"


def test_a_reply_overtakes_a_long_list_and_closing_ends_it(tiny_model_path: Path) -> None:
    texts = ["import os\n" * 10] * 3000
    n_done, begun = 0, threading.Event()

    def count(done: int, total: int) -> None:
        nonlocal n_done
        n_done = done
        begun.set()

    with ThreadPoolExecutor(1) as pool, StarChat.load(tiny_model_path, n_ctx=256) as model:
        embedding = pool.submit(model.embed, texts, progress=count)
        assert begun.wait(20)
        model.complete("def", max_tokens=5, ignore_eos=True)
        assert n_done < len(texts)
        model.close()
        with pytest.raises(EngineClosedError, match="closed"):
            embedding.result(20)


def test_cancelling_a_task_ends_what_it_waits_for(model: StarChat) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(model.aembed(["import os\n" * 40] * 3000))
        while not model.stats()["running"]:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    model.complete("x", max_tokens=1)
    assert model.stats()["running"] == model.stats()["waiting"] == 0


@pytest.mark.parametrize("n_steps", [0, 1, 2], ids=["waiting", "begun", "further"])
def test_a_cancelled_embedding_is_dropped_within_one_step(n_steps: int) -> None:
    scheduler = testing.Scheduler(max_columns=32)
    stream, _ = scheduler.embed([1] * 100)
    for _ in range(n_steps):
        scheduler.step()
    stream.cancel()
    scheduler.step()
    assert scheduler.runs == []
    assert scheduler.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("", "texts is empty: an empty text has no embedding; leave it out"),
        (["x", ""], "texts[1] is empty: an empty text has no embedding; leave it out"),
        (["x", 5], "texts[1]: expected a string, got 5"),
        (b"x", "texts: expected a string or a list of them, got b'x'"),
        (None, "texts: expected a string or a list of them, got None"),
        ({"x": 1}, "texts: expected a string or a list of them, got {'x': 1}"),
    ],
    ids=["empty", "empty in a list", "number", "bytes", "none", "mapping"],
)
def test_what_has_no_vector(model: StarChat, texts: Any, message: str) -> None:
    before = model.stats()["steps"]
    for ask in (model.embed, lambda texts: asyncio.run(model.aembed(texts))):
        with pytest.raises(InvalidRequestError) as caught:
            ask(texts)
        assert str(caught.value) == message
    assert model.stats()["steps"] == before


def test_a_text_may_fill_the_context_and_not_more(model: StarChat) -> None:
    n_ctx = model.info.n_ctx
    full = "~" * n_ctx  # tokens of one byte
    assert model.embed(full).shape[0] == 1
    for ask in (model.embed, lambda texts: asyncio.run(model.aembed(texts))):
        with pytest.raises(ContextLengthError) as caught:
            ask(["x", full + "~" * 1000])
        assert str(caught.value) == (
            "texts[1] has 1,512 tokens, the context holds 512: shorten it by 1,000, or split it"
        )


def test_progress_that_is_no_function(model: StarChat) -> None:
    with pytest.raises(InvalidRequestError, match="progress: expected a function or None, got 5"):
        model.embed("x", progress=5)  # type: ignore[arg-type]


def test_states_that_are_not_finite_end_only_their_text() -> None:
    scheduler = testing.Scheduler(nan_id=13)
    well, ill = scheduler.embed([1, 2]), scheduler.embed([1, 13])
    run(scheduler)
    with pytest.raises(NumericalError, match="hidden states that are zero or not finite"):
        ill[0].next()
    assert np.linalg.norm(pooled(scheduler, well)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("failure", ["NumericalError", "bad_alloc"])
def test_a_failing_step_ends_the_embedding_in_it(failure: str) -> None:
    scheduler = testing.Scheduler()
    stream, _ = scheduler.embed([1, 2, 3])
    scheduler.fail_next(failure)
    run(scheduler)
    with pytest.raises((NumericalError, MemoryError)):
        stream.next()
    assert scheduler.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}


def test_a_closed_model(tiny_model_path: Path) -> None:
    model = StarChat.load(tiny_model_path)
    model.close()
    with pytest.raises(EngineClosedError, match="closed"):
        model.embed("x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told(model: StarChat) -> None:
    child = os.fork()
    if child == 0:
        try:
            model.embed("x")
        except ForkError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
