"""What each step computes, played step by step over a fake model that hashes what it cached."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starchat._core import SamplingParams
from starchat.errors import (
    ContextLengthError,
    InvalidRequestError,
    NumericalError,
    OutOfMemoryError,
)
from support.processes import run_python
from support.scheduling import alone, finish, ids_of, run, testing

PAGE = 32  # positions


# ---- what a step computes -------------------------------------------------------------------


@pytest.mark.parametrize("max_columns", [1, 2, 7, 31, 32, 33, 100, 256])
def test_any_chunking_of_the_prompt_gives_the_same_tokens(max_columns: int) -> None:
    prompt = [i % 50 for i in range(100)]
    scheduler = testing.Scheduler(max_columns=max_columns)
    stream = scheduler.add(prompt, SamplingParams(max_tokens=20, seed=4))
    run(scheduler)
    assert ids_of(stream) == alone(prompt, max_tokens=20, seed=4)
    assert stream.finish_reason == "length"


def test_a_long_prompt_never_starves_decoding() -> None:
    scheduler = testing.Scheduler(max_columns=8)
    chatty = scheduler.add([1], SamplingParams(max_tokens=50))
    scheduler.step()
    newcomer = scheduler.add(list(range(60)), SamplingParams(max_tokens=2))
    for n in range(1, 9):
        scheduler.step()
        assert scheduler.runs == [(n, 1), ((n - 1) * 7, 7)]
        assert len(chatty.drain()) == 1 + (n == 1)
        assert newcomer.drain() == []


@settings(deadline=None, max_examples=50)
@given(
    read_ms=st.floats(0.01, 100),
    column_ms=st.floats(0.01, 10),
    n_streams=st.integers(1, 16),
    n_quiet=st.integers(1, 9),
)
@example(read_ms=0.125, column_ms=1.0, n_streams=1, n_quiet=3)  # one column a step
def test_a_long_prompt_stretches_no_step_beyond_four(
    read_ms: float, column_ms: float, n_streams: int, n_quiet: int
) -> None:
    scheduler = testing.Scheduler(max_columns=256, n_ctx=1000)

    def step() -> tuple[int, float]:
        """Play a machine that reads all weights in read_ms, then calculates."""
        scheduler.step()
        n_columns = sum(n for _, n in scheduler.runs)
        took_ms = read_ms + column_ms * n_columns
        scheduler.took(took_ms / 1e3)
        return n_columns, took_ms

    params = SamplingParams(max_tokens=990, speculation=False)  # beyond the end of the prompt
    streams = [scheduler.add([id] * 9, params) for id in range(n_streams)]
    step()
    for _ in range(n_quiet):
        step()
    n_columns, normal_ms = step()
    assert n_columns == n_streams
    newcomer = scheduler.add([60] * 900, SamplingParams(max_tokens=1))
    n_steps, widths = 0, []
    while not newcomer.drain():
        for stream in streams:
            stream.drain()
        n_columns, took_ms = step()
        assert took_ms <= 4 * normal_ms * 1.001
        assert n_columns > n_streams, "the prompt goes on"
        widths.append(n_columns)
        n_steps += 1
    # Nor is the machine left idle: it calculates as long as it reads, or as all streams take.
    if n_steps > 12:
        assert max(widths) * column_ms >= read_ms or max(widths) >= 3 * n_streams


def test_a_failed_step_says_nothing_about_the_machine() -> None:
    scheduler = testing.Scheduler(max_columns=256, n_ctx=1000)

    def width_of_a_mixed_step() -> int:
        chatty = scheduler.add([1], SamplingParams(max_tokens=99, speculation=False))
        for _ in range(3):
            scheduler.step()
            scheduler.took(0.010)
        late = scheduler.add([2] * 900, SamplingParams(max_tokens=1))
        scheduler.step()
        width = sum(n for _, n in scheduler.runs)
        chatty.cancel()
        late.cancel()
        return width

    def prefill(id: int, seconds: float) -> None:
        stream = scheduler.add([id] * 256, SamplingParams(max_tokens=1))
        scheduler.step()
        scheduler.took(seconds)
        stream.cancel()

    prefill(3, 0.256)
    width = width_of_a_mixed_step()
    assert 24 <= width <= 30, "three times the ten columns that take as long as reading"
    scheduler.fail_next("NumericalError")
    prefill(4, 1e-6)
    assert width_of_a_mixed_step() <= width


def test_a_prompt_that_nobody_waits_for_is_computed_in_wide_steps() -> None:
    scheduler = testing.Scheduler(max_columns=256, n_ctx=1000)
    for id in range(3):
        stream = scheduler.add([id] * 400, SamplingParams(max_tokens=9))
        scheduler.step()
        assert scheduler.runs == [(0, 256)]
        scheduler.took(9.0)
        while scheduler.step():
            scheduler.took(0.1)
        assert len(stream.drain()) == 9


def test_prompts_share_what_decoding_leaves() -> None:
    scheduler = testing.Scheduler(max_columns=16)
    prompts = [[1], [2] * 60, [3] * 4, [4] * 60]
    streams = [scheduler.add(prompt, SamplingParams(max_tokens=9)) for prompt in prompts]
    scheduler.step()
    assert scheduler.runs == [(0, 1), (0, 5), (0, 4), (0, 6)]
    scheduler.step()
    assert scheduler.runs == [(1, 1), (4, 1), (5, 7), (6, 7)], "decoding first"
    assert [len(stream.drain()) for stream in streams] == [2, 0, 2, 0]


def test_decoding_leaves_half_of_the_columns_to_prompts() -> None:
    scheduler = testing.Scheduler(max_columns=8)
    streams = [scheduler.add([id], SamplingParams(max_tokens=50)) for id in range(6)]
    scheduler.step()
    assert scheduler.stats() == {"running": 4, "waiting": 2, "kv_pages_used": 4}
    assert [len(stream.drain()) for stream in streams] == [1, 1, 1, 1, 0, 0]


def test_first_come_first_served() -> None:
    scheduler = testing.Scheduler(max_sequences=2)
    streams = [scheduler.add([id], SamplingParams(max_tokens=2)) for id in range(5)]
    served = []
    while scheduler.step():
        served.append([len(stream.drain()) for stream in streams])
    assert served[:5] == [[1, 1, 0, 0, 0]] * 2 + [[0, 0, 1, 1, 0]] * 2 + [[0, 0, 0, 0, 1]]


# ---- ends -----------------------------------------------------------------------------------


def test_stop_id_is_reported_and_not_emitted() -> None:
    tokens = alone([5, 6], max_tokens=10)
    stop = tokens[4]
    n = tokens.index(stop)
    scheduler = testing.Scheduler()
    stream: Any = scheduler.add([5, 6], SamplingParams(max_tokens=10, stop_token_ids=[stop]))
    run(scheduler)
    assert not stream.finish_reason, "tokens are still to be read"
    assert ids_of(stream) == tokens[:n]
    assert (stream.finish_reason, stream.stop_token.id) == ("stop", stop)


def test_a_full_context_is_the_length() -> None:
    scheduler = testing.Scheduler(n_ctx=40)
    stream = scheduler.add([1] * 30, SamplingParams(max_tokens=10**12))
    run(scheduler)
    assert len(ids_of(stream)) == 10
    assert (stream.finish_reason, stream.stop_token) == ("length", None)
    assert scheduler.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}


def test_without_max_tokens_a_reply_fills_the_context() -> None:
    scheduler = testing.Scheduler(n_ctx=40)
    stream = scheduler.add([1] * 10, SamplingParams())
    assert len(finish(scheduler, stream)[0]) == 30
    assert stream.finish_reason == "length"
    with pytest.raises(InvalidRequestError, match=r"min_tokens: expected 0 to max_tokens \(30\)"):
        scheduler.add([1] * 10, SamplingParams(min_tokens=31))


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5], ids=["waiting", "prefill", "prefill 2", "decode"])
def test_cancelling_frees_memory_within_one_step(n_steps: int) -> None:
    scheduler = testing.Scheduler(max_columns=32)
    stream = scheduler.add([1] * 100, SamplingParams(max_tokens=50))
    for _ in range(n_steps):
        scheduler.step()
    stream.cancel()
    before = scheduler.n_signals
    assert scheduler.step(), "something changed"
    assert scheduler.runs == [], "nothing is computed for it"
    assert scheduler.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}
    stream.drain()
    assert stream.finish_reason == "cancelled"
    assert stream.next() is None
    assert not scheduler.step()
    stream.cancel()
    assert scheduler.n_signals == before + 1


def test_dropping_a_stream_cancels_it() -> None:
    scheduler = testing.Scheduler()
    scheduler.add([1], SamplingParams(max_tokens=50))
    scheduler.step()
    assert scheduler.stats()["running"] == 0


# ---- slow readers ---------------------------------------------------------------------------


def test_a_slow_reader_pauses_only_its_own_sequence() -> None:
    scheduler = testing.Scheduler(n_ctx=2000)
    slow = scheduler.add([1], SamplingParams(max_tokens=300))
    quick = scheduler.add([2], SamplingParams(max_tokens=600))
    read: list[int] = []
    while scheduler.step():
        read += ids_of(quick)
    assert len(read) == 600
    assert scheduler.stats()["running"] == 1

    n_before = scheduler.n_signals
    first = slow.next()
    assert scheduler.n_signals == n_before + 1, "room again: the engine must wake up"
    rest = ids_of(slow)
    assert len(rest) == 255
    run(scheduler)
    longest = testing.Scheduler(n_ctx=2000)
    stream = longest.add([1], SamplingParams(max_tokens=250))
    run(longest)
    assert [first.id, *rest][:250] == ids_of(stream)
    assert len(ids_of(slow)) == 300 - 256
    assert slow.finish_reason == "length"


def test_streams_that_nobody_reads_keep_nobody_out() -> None:
    scheduler = testing.Scheduler(n_ctx=1000, max_sequences=2)
    streams = [scheduler.add([id], SamplingParams(max_tokens=300)) for id in range(7)]
    run(scheduler)
    assert scheduler.stats()["waiting"] == 0
    lengths = [0] * 7
    while min(lengths) < 300:  # all have room again, at most two per step are computed
        for i, stream in enumerate(streams):
            lengths[i] += len(stream.drain())
        scheduler.step()
        assert len(scheduler.runs) <= 2
    assert lengths == [300] * 7


# ---- errors ---------------------------------------------------------------------------------


def test_logits_that_are_not_finite_end_only_their_sequence() -> None:
    scheduler = testing.Scheduler(nan_id=13)
    well = scheduler.add([1, 2], SamplingParams(max_tokens=9, logit_bias={13: -100}))
    ill = scheduler.add([1, 13], SamplingParams(max_tokens=9))
    run(scheduler)
    with pytest.raises(NumericalError, match="logits that are not finite"):
        ill.next()
    assert ids_of(well) == alone([1, 2], max_tokens=9, logit_bias={13: -100})


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        ("NumericalError", NumericalError, "was told to fail"),
        ("bad_alloc", OutOfMemoryError, "no memory is left to continue this sequence"),
    ],
)
def test_a_failing_step_ends_those_in_it(failure: str, error: type, message: str) -> None:
    scheduler = testing.Scheduler(max_sequences=1)
    first = scheduler.add([1], SamplingParams(max_tokens=3))
    second = scheduler.add([2], SamplingParams(max_tokens=3))
    scheduler.step()
    scheduler.fail_next(failure)
    run(scheduler)
    assert len(first.drain()) == 1, "what came before the error is still read"
    for read in (first.next, first.drain):
        with pytest.raises(error, match=message):
            read()
    assert first.finish_reason is None
    assert ids_of(second) == alone([2], max_tokens=3)
    assert scheduler.stats()["kv_pages_used"] == 0


@pytest.mark.integration
def test_memory_that_ends_ends_only_the_sequence_that_asks() -> None:
    code = """
        import resource
        from starchat._core import SamplingParams, testing
        from starchat.errors import OutOfMemoryError
        scheduler = testing.Scheduler(head_dim=2**21)  # pages of 256 MiB
        short = scheduler.add([1], SamplingParams(max_tokens=30))
        scheduler.step()
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, -1))
        long = scheduler.add([2] * 20, SamplingParams(max_tokens=30))
        while scheduler.step():
            pass
        try:
            long.next()
        except OutOfMemoryError as error:
            print(error)
        print(len(short.drain()), short.finish_reason)
    """
    result = run_python(code)
    error, short = result.stdout.splitlines()
    assert error.startswith("cannot allocate 256 MiB"), result.stderr
    assert short == "30 length"


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], InvalidRequestError, "prompt has 0 tokens, expected at least 1"),
        ([3, 64], InvalidRequestError, "prompt token 1: expected an id from 0 to 63, got 64"),
        ([-1], InvalidRequestError, "prompt token 0: expected an id from 0 to 63, got -1"),
        (
            [1] * 1256,
            ContextLengthError,
            "prompt has 1,256 tokens, the context holds 256 with at least one new token: "
            "shorten it by 1,001",
        ),
        ([1] * 256, ContextLengthError, "shorten it by 1"),
    ],
    ids=["empty", "id too large", "id negative", "too long", "no room for a token"],
)
def test_refused_prompts(prompt: list[int], error: type, message: str) -> None:
    with pytest.raises(error) as caught:
        testing.Scheduler().add(prompt, SamplingParams())
    assert str(caught.value).endswith(message)


# ---- everything at once ---------------------------------------------------------------------

requests = st.tuples(
    st.lists(st.integers(0, 63), min_size=1, max_size=80),
    st.fixed_dictionaries(
        {
            "max_tokens": st.integers(1, 40),
            "seed": st.integers(0, 2**64 - 1),
            "temperature": st.sampled_from([0.0, 0.2, 1.0]),
            "repetition_penalty": st.sampled_from([1.0, 1.3]),
            "stop_token_ids": st.lists(st.integers(0, 63), max_size=2),
        }
    ),
    st.integers(0, 12),  # steps before it comes
    st.one_of(st.none(), st.integers(0, 30)),  # steps before it is cancelled
)


@settings(deadline=None, max_examples=100)
@given(st.lists(requests, max_size=9), st.integers(1, 40), st.integers(1, 5))
def test_any_company_gives_the_same_tokens(
    work: list[Any], max_columns: int, max_sequences: int
) -> None:
    scheduler = testing.Scheduler(max_columns=max_columns, max_sequences=max_sequences)
    streams: dict[int, Any] = {}
    for now in range(31):
        for i, (prompt, fields, start, cancel) in enumerate(work):
            if start == now:
                streams[i] = scheduler.add(prompt, SamplingParams(**fields))
            if cancel is not None and start + cancel == now:
                streams[i].cancel()
        scheduler.step()
    run(scheduler)
    for i, (prompt, fields, _, _) in enumerate(work):
        expected, got = alone(prompt, **fields), ids_of(streams[i])
        if streams[i].finish_reason == "cancelled":
            expected = expected[: len(got)]
        assert got == expected
    assert scheduler.stats() == {"running": 0, "waiting": 0, "kv_pages_used": 0}
