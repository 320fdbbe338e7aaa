"""Draft models: what they guess changes no token, whatever they are and whatever fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starchat import FileAccessError, InvalidRequestError, OutOfMemoryError, StarChat, _core
from starchat._core import SamplingParams
from starchat.bench import measure
from starchat.cli.options import ModelOptions
from starchat.lazy_model import Loader
from starchat.model_settings import ModelSettings
from starchat.server.service import Service
from starchat.server.settings import ServerSettings
from support.random_requests import draw_request
from support.scheduling import alone, finish, ids_of, testing
from support.tiny_model import ROLES, Shape, vocabulary, write_tiny

PAGE = 32  # positions
PROMPT = [i * 7 % 60 for i in range(40)]


def scheduler_with(draft: dict[str, Any], **more: Any) -> Any:
    return testing.Scheduler(**{"max_columns": 256} | more, draft=testing.Draft(**draft))


# ---- the same tokens ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0}, {"temperature": 1.0, "top_k": 0, "top_p": 1, "seed": 3}],
    ids=["greedy", "sampled"],
)
def test_a_model_that_guesses_for_itself_is_always_right(sampling: dict[str, Any]) -> None:
    scheduler = scheduler_with({})
    stream = scheduler.add(PROMPT, SamplingParams(max_tokens=100, **sampling))
    n_steps, ids = 0, []
    while scheduler.step():
        n_steps += 1
        ids += ids_of(stream)
    assert ids == alone(PROMPT, max_tokens=100, **sampling)
    stats = scheduler.draft_stats()
    assert stats["accepted_drafts"] == stats["drafted_tokens"] > 60
    assert n_steps < 40


def test_behind_a_wrong_guess_the_draft_goes_on_from_what_was_said() -> None:
    scheduler = scheduler_with({"differs": 10})
    stream = scheduler.add(PROMPT, SamplingParams(max_tokens=150, temperature=0))
    assert finish(scheduler, stream) == [alone(PROMPT, max_tokens=150, temperature=0)]
    stats = scheduler.draft_stats()
    assert 100 < stats["accepted_drafts"] < stats["drafted_tokens"]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_history_with_any_draft_gives_the_tokens_of_a_sequence_alone(
    data: st.DataObject,
) -> None:
    period = data.draw(st.sampled_from([0, 0, 5, 40]))
    scheduler = scheduler_with(
        {
            "n_vocab": data.draw(st.sampled_from([64, 50, 70])),
            "n_ctx": data.draw(st.sampled_from([256, 70])),
            "max_columns": data.draw(st.sampled_from([3, 20, 256])),
            "nan_id": data.draw(st.sampled_from([-1, -1, 7])),
            "differs": data.draw(st.sampled_from([0, 1, 2, 10])),
        },
        max_columns=data.draw(st.sampled_from([4, 33, 256])),
        period=period,
        prefix_cache_bytes=data.draw(st.sampled_from([-1, 0, 1000])),
    )
    known = [PROMPT]
    for _ in range(data.draw(st.integers(1, 3))):
        asked = []
        for _ in range(data.draw(st.integers(1, 4))):
            prompt, sampling = draw_request(data, known)
            speculation = data.draw(st.sampled_from([True, True, False]))
            stream = scheduler.add(prompt, SamplingParams(speculation=speculation, **sampling))
            asked.append((prompt, sampling, stream))
        n_steps = data.draw(st.integers(0, 60))
        cancelled = data.draw(st.sampled_from([None, *range(len(asked))]))
        results: list[list[int]] = [[] for _ in asked]
        while scheduler.step():
            if data.draw(st.booleans()):
                scheduler.took(data.draw(st.sampled_from([1e-3, 1.0, 30.0])))
            if (n_steps := n_steps - 1) == 0 and cancelled is not None:
                asked[cancelled][2].cancel()
            if data.draw(st.integers(0, 20)) == 0:
                scheduler.fail_draft(data.draw(st.sampled_from(["NumericalError", "bad_alloc"])))
            for got, (_, _, stream) in zip(results, asked, strict=True):
                got += ids_of(stream)
        for i, ((prompt, sampling, _), ids) in enumerate(zip(asked, results, strict=True)):
            expected = alone(prompt, period, **sampling)
            assert ids == expected[: len(ids)] if i == cancelled else ids == expected
            if len(prompt) + len(ids) < 200:
                known.append([*prompt, *ids])
    stats = scheduler.draft_stats()
    assert stats["draft_pages_used"] == stats["draft_prefix_pages"]


def test_replies_to_one_prompt_share_what_the_draft_has_read() -> None:
    prompt = [i * 7 % 60 for i in range(100)]
    scheduler = scheduler_with({})
    streams = scheduler.add_replies(prompt, SamplingParams(max_tokens=60, temperature=2.0), 4)
    ids = finish(scheduler, *streams)
    assert ids == [alone(prompt, max_tokens=60, temperature=2.0, seed=i) for i in range(4)]
    stats = scheduler.draft_stats()
    assert stats["drafted_tokens"] > 0
    n_read = (
        stats["draft_columns"] - stats["drafted_tokens"]
    )  # each guess is read, or the one after
    assert n_read < 100 + 3 * PAGE + 4 * 8


# ---- what it costs --------------------------------------------------------------------------


def test_the_next_turn_finds_what_the_draft_has_read() -> None:
    scheduler = scheduler_with({})
    prompt = [i * 7 % 60 for i in range(100)]
    sampling: dict[str, Any] = {"max_tokens": 40, "temperature": 0}
    reply = finish(scheduler, scheduler.add(prompt, SamplingParams(**sampling)))[0]
    n_before = scheduler.draft_stats()["draft_columns"]
    turn = [*prompt, *reply, 1, 2, 3]
    again = finish(scheduler, scheduler.add(turn, SamplingParams(**sampling)))[0]
    assert again == alone(turn, **sampling)
    assert scheduler.draft_stats()["draft_columns"] - n_before < PAGE + 3 + 2 * 40


def test_a_cancelled_reply_leaves_no_pages_of_the_draft() -> None:
    scheduler = scheduler_with({}, prefix_cache_bytes=0)
    stream = scheduler.add(PROMPT, SamplingParams(max_tokens=100, temperature=0))
    for _ in range(5):
        scheduler.step()
        ids_of(stream)
    assert scheduler.draft_stats()["draft_pages_used"] > 0
    stream.cancel()
    scheduler.step()
    assert scheduler.draft_stats()["draft_pages_used"] == 0


@pytest.mark.parametrize("error", ["NumericalError", "bad_alloc"])
def test_a_draft_that_fails_ends_no_reply(error: str) -> None:
    scheduler = scheduler_with({})
    stream = scheduler.add(PROMPT, SamplingParams(max_tokens=60, temperature=0))
    ids = []
    for i in range(70):
        if i == 3:
            scheduler.fail_draft(error)
        scheduler.step()
        ids += ids_of(stream)
    assert ids == alone(PROMPT, max_tokens=60, temperature=0)
    assert stream.finish_reason == "length"


def test_behind_the_drafts_context_nothing_is_guessed() -> None:
    scheduler = scheduler_with({"n_ctx": 64})
    stream = scheduler.add(PROMPT, SamplingParams(max_tokens=100, temperature=0))
    ids: list[int] = []
    while scheduler.step():
        ids += ids_of(stream)
        assert all(first + n <= 64 for first, n in scheduler.draft_runs)
    assert ids == alone(PROMPT, max_tokens=100, temperature=0)
    assert 0 < scheduler.draft_stats()["drafted_tokens"] <= 24


def test_speculation_can_be_switched_off_for_a_reply() -> None:
    scheduler = scheduler_with({})
    params = SamplingParams(max_tokens=50, temperature=0, speculation=False)
    finish(scheduler, scheduler.add(PROMPT, params))
    assert scheduler.draft_stats()["draft_columns"] == 0


# ---- the choice -----------------------------------------------------------------------------


def simulate(
    policy: Any,
    acceptance: Callable[[int], float],
    *,
    n_tokens: int,
    draft_s: float,
    growth: float,
    n_streams: int = 1,
    seed: int = 0,
) -> float:
    """Return the speed of a stream, relative to one without guesses, by a clock of the test."""
    draw = random.Random(seed)

    def step_s(n_columns: int) -> float:
        return 1 + growth * (n_columns - 1)

    n_done, total_s = 0, 0.0
    while n_done < n_tokens:
        k, _ = policy.choose(n_streams)
        n_columns = n_streams * (1 + k)
        drafted_s = k * draft_s
        for _ in range(k):
            policy.draft_took(n_streams, draft_s)
        policy.begin_step(n_columns, n_streams, drafted_s)
        policy.step_took(n_columns, step_s(n_columns))
        n_right = 0
        while n_right < k and draw.random() < acceptance(n_done):
            n_right += 1
        policy.end_step(True, k, n_right)
        n_done += n_right + 1
        total_s += step_s(n_columns) + drafted_s
    return n_done * step_s(n_streams) / total_s


@pytest.mark.parametrize("draft_s", [0.02, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("growth", [0.02, 0.13, 0.5])
@pytest.mark.parametrize("n_streams", [1, 4])
def test_no_stream_is_slower_than_the_floor(draft_s: float, growth: float, n_streams: int) -> None:
    for name, acceptance in {
        "never right": lambda n: 0.0,
        "seldom": lambda n: 0.2,
        "at first": lambda n: 0.9 if n < 50 else 0.0,
        "later": lambda n: 0.0 if n < 150 else 0.9,
        "often": lambda n: 0.6,
    }.items():
        policy = testing.GuessPolicy()
        for stream in range(4):
            policy.begin_stream()
            how = {"draft_s": draft_s, "growth": growth, "n_streams": n_streams, "seed": stream}
            speed = simulate(policy, acceptance, n_tokens=300, **how)
            assert speed > 0.97, (name, stream)


@pytest.mark.parametrize("growth", [0.02, 0.13, 0.3])
def test_a_stream_pays_little_for_what_others_have_shown(growth: float) -> None:
    policy = testing.GuessPolicy()
    for stream in range(12):
        policy.begin_stream()
        is_right = stream % 3 != 2
        how = {"n_tokens": 100, "draft_s": 0.1, "growth": growth, "seed": stream}
        speed = simulate(policy, lambda n, right=is_right: 0.95 if right else 0.0, **how)
        assert speed > 0.97, stream


def test_a_good_and_cheap_draft_is_used_and_a_dear_one_is_not() -> None:
    policy = testing.GuessPolicy()
    for _ in range(2):
        policy.begin_stream()
        speed = simulate(policy, lambda n: 0.8, n_tokens=300, draft_s=0.02, growth=0.05)
    assert speed > 2
    policy = testing.GuessPolicy()
    speed = simulate(policy, lambda n: 0.8, n_tokens=300, draft_s=1.5, growth=0.05)
    assert speed == pytest.approx(1, abs=0.03)


def test_look_up_is_kept_where_it_brings_more() -> None:
    policy = testing.GuessPolicy()
    for _ in range(20):
        policy.begin_step(8, 1, 0.0)
        policy.end_step(False, 7, 7)
    assert policy.choose(n_found=7) == (0, 7)
    for _ in range(20):
        policy.begin_step(8, 1, 0.0)
        policy.end_step(False, 7, 0)
    policy.read_prompt(1e6)
    n_drafted, n_found = policy.choose(n_found=7)
    assert n_drafted > 0 and n_found == 0


def test_a_long_prompt_is_read_where_the_stream_can_lose_it() -> None:
    policy = testing.GuessPolicy()
    policy.step_took(1, 1.0)
    policy.draft_took(64, 6.4)  # 0.1 s a column
    assert policy.may_catch_up(4, 0.0, 1000)
    assert not policy.may_catch_up(1000, 0.0, 1000)
    policy.read_prompt(6000.0)
    assert policy.may_catch_up(1000, 0.0, 1000)


# ---- model files ----------------------------------------------------------------------------

TARGET = Shape(n_embd=96, n_head=6, n_layer=2, n_ctx=512)
#: without the roles, as StarCoder's vocabulary is that of StarChat without them
SMALL = Shape(n_embd=64, n_head=4, n_layer=1, n_ctx=256, n_vocab=len(vocabulary()) - len(ROLES))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("draft") / "target.bin", "q4_0", TARGET).path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("draft") / "small.bin", "q8_0", SMALL).path


def test_the_same_model_as_its_own_draft_accepts_every_greedy_guess(target: Path) -> None:
    options: dict[str, Any] = {"max_tokens": 120, "temperature": 0, "ignore_eos": True}
    with StarChat.load(target) as plain, StarChat.load(target, draft=target) as model:
        assert model.info.draft == str(target) and "guesses ahead" in str(model.info)
        expected = plain.complete("def f(", speculation=False, **options)
        assert model.complete("def f(", **options).token_ids == expected.token_ids
        stats = model.stats()
        assert stats["accepted_drafts"] == stats["drafted_tokens"]


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 4},
        {"temperature": 1.5, "seed": 1, "frequency_penalty": 0.3},
        {"n": 3, "temperature": 0.8, "seed": 7},
        {"regex": "[ab]{3,40}c", "temperature": 0.5, "seed": 2},
        {"json_schema": {"type": "array", "items": {"type": "integer"}, "maxItems": 5}, "seed": 0},
        {"logprobs": 2, "temperature": 0.3, "seed": 5},
    ],
    ids=lambda more: " ".join(more),
)
def test_replies_are_the_same_with_and_without_a_draft(
    target: Path, small: Path, more: dict[str, Any]
) -> None:
    question: Any = [{"role": "user", "content": "abc abc " * 8}]
    options = {"max_tokens": 60} | more
    with StarChat.load(target) as plain, StarChat.load(target, draft=small) as model:
        for _ in range(2):
            expected = plain.chat(question, speculation=False, **options)
            reply = model.chat(question, **options)
            assert reply.text == expected.text and reply.token_ids == expected.token_ids
            assert [each.text for each in reply.choices] == [e.text for e in expected.choices]
            assert reply.logprobs == expected.logprobs


def test_what_a_draft_takes_of_memory_counts(target: Path, small: Path) -> None:
    with StarChat.load(target) as plain, StarChat.load(target, draft=small) as model:
        alone, both = plain.memory(), model.memory()
        assert both.weight_bytes > alone.weight_bytes
        assert both.bytes_of(100) > alone.bytes_of(100)


def test_a_draft_counts_before_weights_are_read(
    target: Path, small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    need = _core.inspect(target)["memory"]["total"]
    (tmp_path / "proc" / "meminfo").write_text(f"MemAvailable: {need // 1024 + 1} kB\n")
    monkeypatch.setattr("starchat.engine_registry.MACHINE", str(tmp_path))
    StarChat.load(target).close()
    with pytest.raises(OutOfMemoryError, match=r"draft model \d+\.\d MB") as error:
        StarChat.load(target, draft=small)
    assert error.value.got is not None and float(error.value.got) > need


def test_drafts_share_weights_within_the_process(target: Path, small: Path) -> None:
    with StarChat.load(target, draft=small) as first, StarChat.load(small) as second:
        assert first.info.draft == second.info.file
    with StarChat.load(target, draft=small) as first, StarChat.load(target, draft=small) as second:
        assert first._engine is second._engine


def test_another_vocabulary_is_refused(target: Path, tmp_path: Path) -> None:
    words = vocabulary()
    words[200], words[201] = words[201], words[200]
    other = write_tiny(tmp_path / "other.bin", "q8_0", SMALL, vocab=words[: SMALL.n_vocab]).path
    with pytest.raises(
        InvalidRequestError, match=r"draft: .*other.bin has another vocabulary"
    ) as e:
        StarChat.load(target, draft=other)
    assert e.value.param == "draft" and "token 200" in str(e.value)
    assert "same family" in str(e.value)
    with StarChat.load(target), pytest.raises(InvalidRequestError, match="another vocabulary"):
        StarChat.load(target, draft=other)  # the weights are in memory


def test_a_draft_that_is_no_file_is_named(target: Path) -> None:
    with pytest.raises(FileAccessError, match=r"draft: .*nowhere.bin"):
        StarChat.load(target, draft="nowhere.bin")
    with pytest.raises(InvalidRequestError, match="draft: "):
        StarChat.load(target, draft=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "load",
    [
        lambda file, draft: Loader().load(file, draft=draft),
        lambda file, draft: ModelSettings(model_path=file, draft=Path(draft)).engine,
        lambda file, draft: ModelOptions(model=file, draft=draft).load(),
    ],
    ids=["Loader", "adapters", "command"],
)
def test_every_way_of_loading_knows_it(
    target: Path, small: Path, load: Callable[[str, str], StarChat]
) -> None:
    with load(str(target), str(small)) as model:
        assert model.info.draft == str(small)


async def test_the_server_knows_it(target: Path, small: Path) -> None:
    service = Service(ServerSettings(model=str(target), draft=str(small)))
    await service.load()
    assert service.info.draft == str(small)
    service.close()


def test_bench_measures_with_guesses(target: Path) -> None:
    with StarChat.load(target, draft=target, prefix_cache_bytes=0) as model:
        speed = measure(model, n_prompt=8, n_tokens=8, n_runs=1)
    assert speed.guessed and len(speed.guessed.tokens_per_s) == 1
    assert '"guessed"' in speed.to_json()
