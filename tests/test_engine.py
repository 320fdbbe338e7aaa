"""The engine with its thread, as Python sees it: on a tiny file, and over a slow fake model."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat._core import Engine, ReadyQueue, SamplingParams, TokenStream, inspect
from starchat.errors import (
    ContextLengthError,
    EngineClosedError,
    FileAccessError,
    ForkError,
    InvalidRequestError,
    NumericalError,
)
from support.processes import run_python
from support.scheduling import submit, wait_until
from support.tiny_model import Shape, write_tiny

testing: Any = importlib.import_module("starchat._core.testing")


def ids_of(stream: TokenStream) -> list[int]:
    """Read to the end."""
    return [token.id for token in iter(stream.next, None)]


@pytest.fixture(scope="module")
def engine(tiny_model_path: Path) -> Iterator[Engine]:
    engine = Engine(str(tiny_model_path), n_threads=2)
    yield engine
    engine.close()


@pytest.fixture
def slow() -> Iterator[Engine]:
    """A step takes 20 ms; a prompt of 200 ids takes 13 steps."""
    engine: Engine = testing.engine(step_s=0.02)
    yield engine
    engine.close()


# ---- results --------------------------------------------------------------------------------


def test_32_threads_get_the_same_tokens_as_alone(engine: Engine) -> None:
    def ask(i: int) -> list[int]:
        prompt = [(i * 37 + k) % 250 for k in range(1 + i * 5)]
        params = SamplingParams(max_tokens=16 + i, seed=i, temperature=1.0 if i % 3 else 0.0)
        return ids_of(submit(engine, prompt, params))

    one_by_one = [ask(i) for i in range(32)]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, range(32)))
    assert together == one_by_one
    assert len(set(map(tuple, together))) > 16, "they are different requests"
    stats = engine.stats()
    assert (stats["running"], stats["waiting"], stats["kv_pages_used"]) == (0, 0, 0)


def test_logits_are_those_that_sampling_sees(engine: Engine) -> None:
    prompt = [k * 7 % 250 for k in range(300)]  # more than one chunk
    logits = engine.logits(prompt)
    assert logits.dtype == np.float32
    assert logits.shape == (300, engine.info["n_vocab"])
    for n in (1, 77, 300):
        token = submit(engine, prompt[:n], SamplingParams(temperature=0, logprobs=0)).next()
        assert token is not None
        row = logits[n - 1].astype(np.float64)
        assert token.id == int(row.argmax())
        log_sum = row.max() + np.log(np.exp(row - row.max()).sum())
        assert token.logprob == pytest.approx(row.max() - log_sum, abs=1e-9)


def test_logits_may_fill_the_context_and_not_more(engine: Engine) -> None:
    n_ctx = engine.info["n_ctx"]
    assert len(engine.logits([1] * n_ctx)) == n_ctx
    with pytest.raises(ContextLengthError, match=r"context holds 512: shorten it by 1$"):
        engine.logits([1] * (n_ctx + 1))
    with pytest.raises(InvalidRequestError, match="prompt has 0 tokens"):
        engine.logits([])


def test_logits_outlive_the_engine(tiny_model_path: Path) -> None:
    engine = Engine(str(tiny_model_path))
    logits = engine.logits([1, 2, 3])
    copy = logits.copy()
    del engine
    assert np.array_equal(logits, copy)


def test_logits_that_are_not_finite() -> None:
    engine = testing.engine(nan_id=5)
    with pytest.raises(NumericalError, match="not finite"):
        engine.logits([1, 5])
    assert engine.logits([1]).shape == (1, 64)


def test_info_and_tokenizer(engine: Engine, tiny_model_path: Path) -> None:
    info = engine.info
    assert info["file"] == str(tiny_model_path)
    assert (info["quantization"], info["n_ctx"], info["n_threads"]) == ("q8_0", 512, 2)
    assert len(engine.tokenizer) == info["n_vocab"]


def test_refusals_are_raised_by_submit(engine: Engine) -> None:
    with pytest.raises(ContextLengthError, match="prompt has 600 tokens, the context holds 512"):
        submit(engine, [1] * 600, SamplingParams())
    with pytest.raises(InvalidRequestError, match="got 9,223,372,036,854,775,807"):
        submit(engine, [2**63 - 1], SamplingParams())
    with pytest.raises(InvalidRequestError, match="top_p: expected above 0"):
        submit(engine, [1], SamplingParams(top_p=0))


# ---- loading --------------------------------------------------------------------------------


def test_progress_grows_to_the_whole_file(tiny_model_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    Engine(str(tiny_model_path), progress=lambda done, total: calls.append((done, total))).close()
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize("n_kv_head", [None, 2, 1])
def test_the_comparison_of_copies_counts_as_progress(tmp_path: Path, n_kv_head: int | None) -> None:
    """Copies are read before any weight is packed: for StarChat beta in q4_0, 1.7 GB of them."""
    path = tmp_path / "copies.bin"
    write_tiny(path, multi_query=n_kv_head is None, n_kv_head=n_kv_head)
    calls: list[tuple[int, int]] = []
    inspect(path, progress=lambda *done_of_total: calls.append(done_of_total))
    assert calls == sorted(calls) and calls[0][1] > calls[-1][0] > 0
    copied_bytes = calls[-1][0]
    n_comparing, calls[:] = len(calls), []
    Engine(str(path), progress=lambda *done_of_total: calls.append(done_of_total)).close()
    assert calls == sorted(calls)
    assert calls[n_comparing - 1][0] == copied_bytes
    assert calls[-1][0] == calls[-1][1]


def test_an_inspection_can_be_ended(tiny_model_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect(tiny_model_path, progress=stop)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("least", [0, 1], ids=["while comparing", "while packing"])
def test_what_progress_raises_ends_the_load(
    tmp_path: Path, error: type[BaseException], least: int
) -> None:
    path = tmp_path / "no-copies.bin"
    write_tiny(path, shape=Shape(n_vocab=4096), multi_query=False, lm_head="own")
    raised = []

    def progress(done: int, total: int) -> None:
        if done >= least:
            raised.append(done)
            raise error("enough")

    with pytest.raises(error, match="enough"):
        Engine(str(path), progress=progress)
    assert len(raised) == 1


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match=r"missing\.bin"):
        Engine(str(tmp_path / "missing.bin"))


# ---- streams --------------------------------------------------------------------------------


def test_cancelling_during_prefill(slow: Engine) -> None:
    stream = submit(slow, [1] * 200, SamplingParams(max_tokens=50))
    wait_until(lambda: slow.stats()["kv_pages_used"] > 0)
    stream.cancel()
    steps = slow.stats()["steps"]
    assert stream.next() is None, "the reader does not wait for the step"
    assert stream.finish_reason == "cancelled"
    wait_until(lambda: slow.stats()["kv_pages_used"] == 0)
    assert slow.stats()["steps"] <= steps + 1


def test_dropping_a_stream_frees_its_memory(slow: Engine) -> None:
    stream = submit(slow, [1], SamplingParams(max_tokens=200))
    stream.next()
    del stream
    wait_until(lambda: slow.stats()["kv_pages_used"] == 0)


def test_a_slow_reader_does_not_disturb_others() -> None:
    engine = testing.engine(n_ctx=4000)
    unread = [submit(engine, [i], SamplingParams(max_tokens=1000)) for i in range(60, 64)]
    wait_until(lambda: engine.stats()["tokens"] == 4 * 256)
    assert len(ids_of(submit(engine, [1], SamplingParams(max_tokens=900)))) == 900
    assert engine.stats()["tokens"] == 4 * 256 + 900
    assert [len(ids_of(stream)) for stream in unread] == [1000] * 4


def test_streams_read_in_any_order() -> None:
    engine = testing.engine(n_ctx=2000)
    streams = [submit(engine, [i % 64], SamplingParams(max_tokens=300)) for i in range(100)]
    assert [len(ids_of(stream)) for stream in reversed(streams)] == [300] * 100


def test_closing_while_streaming(slow: Engine) -> None:
    streams = [submit(slow, [i], SamplingParams(max_tokens=200)) for i in range(3)]
    streams[0].next()
    caught: list[BaseException] = []

    def read() -> None:
        try:
            ids_of(streams[1])
        except EngineClosedError as error:
            caught.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    slow.close()
    slow.close()
    reader.join(timeout=10)
    assert [str(error) for error in caught] == [
        "the engine was closed while this sequence was running"
    ]
    for call in (
        lambda: ids_of(streams[2]),
        lambda: submit(slow, [1], SamplingParams()),
        lambda: slow.logits([1]),
    ):
        with pytest.raises(EngineClosedError, match="the engine was closed"):
            call()
    assert slow.stats()["kv_pages_used"] == 0


def test_a_stream_outlives_its_engine() -> None:
    engine = testing.engine(step_s=0.01)
    done = submit(engine, [1], SamplingParams(max_tokens=2))
    open_stream = submit(engine, [1], SamplingParams(max_tokens=200))
    for _ in range(3):  # the third is after the end of the other
        open_stream.next()
    del engine
    assert len(ids_of(done)) == 2
    with pytest.raises(EngineClosedError, match="closed while this sequence was running"):
        ids_of(open_stream)
    open_stream.cancel()


# ---- ready queue ----------------------------------------------------------------------------


def test_ready_queue_names_each_stream_once_until_drained() -> None:
    engine, queue = testing.engine(), ReadyQueue()
    streams = {k: submit(engine, [k], SamplingParams(max_tokens=50), queue, k) for k in range(5)}
    counts = dict.fromkeys(streams, 0)
    ended: set[int] = set()
    while len(ended) < 5:
        keys = queue.wait()
        assert len(keys) == len(set(keys)) > 0
        for key in keys:
            counts[key] += len(streams[key].drain())
            if streams[key].finish_reason:
                ended.add(key)
    assert counts == dict.fromkeys(streams, 50)


def test_ready_queue_tells_of_errors_after_tokens() -> None:
    engine, queue = testing.engine(step_s=0.02), ReadyQueue()
    stream = submit(engine, [1], SamplingParams(max_tokens=200), queue, 7)
    wait_until(lambda: engine.stats()["tokens"] >= 2)
    engine.close()
    assert queue.wait() == [7]
    assert len(stream.drain()) >= 2
    assert queue.wait() == [7]
    with pytest.raises(EngineClosedError):
        stream.drain()


def test_ready_queue_tells_of_cancelling() -> None:
    engine, queue = testing.engine(step_s=0.05), ReadyQueue()
    stream = submit(engine, [1], SamplingParams(), queue, 3)
    stream.cancel()
    assert queue.wait() == [3]
    stream.drain()  # nothing, unless a step came in between
    assert stream.finish_reason == "cancelled"


def test_closing_a_ready_queue_ends_the_wait() -> None:
    queue = ReadyQueue()
    results: list[list[int]] = []
    waiter = threading.Thread(target=lambda: results.append(queue.wait()))
    waiter.start()
    queue.close()
    waiter.join(timeout=10)
    assert results == [[]] and queue.wait() == []


# ---- the interpreter ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["next", "logits", "close"])
def test_the_gil_is_free_while_computing(method: str) -> None:
    engine = testing.engine(step_s=0.3)
    stream = submit(engine, [1], SamplingParams())
    call = {"next": stream.next, "logits": lambda: engine.logits([1]), "close": engine.close}[
        method
    ]
    done = threading.Event()
    n_turns = 0

    def count() -> None:
        nonlocal n_turns
        while not done.wait(0.001):
            n_turns += 1

    counter = threading.Thread(target=count)
    counter.start()
    time.sleep(0.02)
    before = n_turns
    call()
    during = n_turns - before
    done.set()
    counter.join()
    assert during > 4, "hardly one turn, were the GIL kept"


@pytest.mark.parametrize("method", ["next", "logits", "wait"])
def test_ctrl_c_ends_a_wait(method: str) -> None:
    engine, queue = testing.engine(step_s=1.0), ReadyQueue()
    stream = submit(engine, [1], SamplingParams())
    call = {"next": stream.next, "logits": lambda: engine.logits([1] * 50), "wait": queue.wait}
    began = time.monotonic()
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        call[method]()
    assert time.monotonic() - began < 0.9
    timer.join()


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_gets_fork_error_and_ends_cleanly(tiny_model_path: Path) -> None:
    code = """
        import os, sys, threading
        from starchat._core import Engine, ReadyQueue, SamplingParams
        from starchat.errors import ForkError
        engine, queue = Engine(sys.argv[1]), ReadyQueue()
        stream = engine.submit_replies([1], SamplingParams(max_tokens=500), None, [0])[0]
        waiter = threading.Thread(target=queue.wait, daemon=True)
        waiter.start()
        stream.next()
        if os.fork() == 0:
            calls = [
                lambda: engine.submit_replies([1], SamplingParams(), None, [0]),
                lambda: engine.logits([1]),
                engine.stats, stream.next, stream.drain, lambda: stream.finish_reason, queue.wait,
            ]
            for call in calls:
                try:
                    call()
                except ForkError as error:
                    print(error)
            stream.cancel()
            engine.close()
            assert engine.info["n_ctx"] == 512
            del stream, engine, queue
            own = Engine(sys.argv[1])
            print(own.submit_replies([1], SamplingParams(), None, [0])[0].next() is not None)
        else:
            assert os.wait()[1] == 0
            assert stream.next() is not None
            print("parent")
    """
    result = run_python(code, tiny_model_path)
    assert result.returncode == 0, result.stderr
    *errors, own, parent = result.stdout.splitlines()
    assert len(errors) == 7
    assert all("loaded before the process forked" in error for error in errors)
    assert (own, parent) == ("True", "parent")


def test_fork_error_in_a_child_of_this_process(slow: Engine) -> None:
    stream = submit(slow, [1], SamplingParams(max_tokens=200))
    pid = os.fork()
    if pid == 0:
        try:
            stream.next()
        except ForkError:
            os._exit(3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert stream.next() is not None


@pytest.mark.integration
@pytest.mark.parametrize("reader", ["nobody", "next", "queue"])
def test_the_interpreter_ends_with_open_streams(reader: str) -> None:
    code = """
        import sys, threading, time
        from starchat._core import ReadyQueue, SamplingParams, testing
        engine, queue = testing.engine(step_s=0.001, n_ctx=60000), ReadyQueue()
        streams = [
            engine.submit_replies([i], SamplingParams(max_tokens=30000), queue, [i])[0]
            for i in range(16)
        ]
        def read(stream):
            while stream.next():
                pass
        def waker(stream):
            while keys := queue.wait():
                for key in keys:
                    streams[key].drain()
        work = {"nobody": repr, "next": read, "queue": waker}[sys.argv[1]]
        for stream in streams:
            threading.Thread(target=work, args=[stream], daemon=True).start()
        time.sleep(0.05)
        print("end")
    """
    for _ in range(3):
        began = time.monotonic()
        result = run_python(code, reader)
        assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")
        assert time.monotonic() - began < 10
