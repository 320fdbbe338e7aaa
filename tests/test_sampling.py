"""Logits to token id, against an independent numpy twin of every transformation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, currently_in_test_context, given, settings
from hypothesis import strategies as st

from starchat._core import SamplingParams, testing
from starchat.errors import InvalidRequestError, NumericalError

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
Floats = npt.NDArray[np.float64]


def adjusted(
    logits: Sequence[float], p: Mapping[str, Any], seen: Any = (), out: Any = ()
) -> Floats:
    """Everything that changes single logits, as float32 after each rule."""
    x = np.asarray(logits, np.float32).astype(np.float64)
    for id, bias in p.get("logit_bias", {}).items():
        x[id] = np.float32(x[id] + bias)
    recent = [*((id, False) for id in seen), *((id, True) for id in out)]
    recent = recent[-p.get("repetition_window", 0) :]  # [-0:] is all
    counts = Counter(id for id, is_output in recent if is_output)
    for id in {id for id, _ in recent}:
        penalty = p.get("repetition_penalty", 1.0)
        x[id] = x[id] / penalty if x[id] > 0 else x[id] * penalty
        if counts[id]:
            frequency = p.get("frequency_penalty", 0.0) * counts[id]
            x[id] -= frequency + p.get("presence_penalty", 0.0)
        x[id] = np.float32(x[id])
    if len(out) < p.get("min_tokens", 0):
        x[list(p["stop_token_ids"])] = -np.inf
    return x


def unambiguous(distances: Floats, tolerance: float) -> None:
    """Pass over examples where the last bit of a sum decides."""
    if currently_in_test_context():
        assume(np.abs(distances).min(initial=np.inf) > tolerance)


def survivors(x: Floats, p: Mapping[str, Any]) -> dict[int, float]:
    """What may be drawn, with weights relative to the best; best first."""
    order = sorted(range(len(x)), key=lambda id: (-x[id], id))
    if p["top_k"]:
        order = order[: p["top_k"]]
    weights = np.exp((x[order] - x.max()) / p["temperature"])
    if p["top_p"] < 1:
        before = np.cumsum(weights) - weights  # the weight of all better ones
        limit = p["top_p"] * weights.sum()
        unambiguous(before[1:] - limit, 1e-9 * limit)
        weights = weights[before < limit]
    threshold = p.get("min_p", 0.0)
    unambiguous(weights - threshold, 1e-12)
    kept = zip(order, weights, strict=False)
    return {id: w for id, w in kept if w >= threshold and w > 1e-300}


def candidates(
    logits: Any, p: Mapping[str, Any], seen: Any = (), out: Any = ()
) -> dict[int, float]:
    return dict(testing.candidates(list(logits), SamplingParams(**p), list(seen), list(out)))


def sample(logits: Any, p: Mapping[str, Any], seen: Any = (), out: Any = ()) -> int:
    return testing.sample(list(logits), SamplingParams(**p), list(seen), list(out)).id


def uniform(seed: int) -> float:
    """The first number of splitmix64-seeded xoshiro256** in [0, 1)."""
    mask, state = 2**64 - 1, []
    for _ in range(2):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        state.append(z ^ z >> 31)
    word = state[1] * 5 & mask
    word = (word << 7 | word >> 57) & mask
    return float((word * 9 & mask) >> 11) * 2.0**-53


# ---- properties -----------------------------------------------------------------------------

finite = st.floats(-30, 30, width=32)
ids = st.integers(0, 7)
parameters = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.05, 4),
        "top_k": st.integers(0, 10),
        "top_p": st.one_of(st.just(1.0), st.floats(0.01, 1)),
    },
    optional={
        "min_p": st.floats(0, 1),
        "repetition_penalty": st.floats(0.1, 5),
        "frequency_penalty": st.floats(-2, 2),
        "presence_penalty": st.floats(-2, 2),
        "repetition_window": st.integers(0, 8),
        "logit_bias": st.dictionaries(ids, st.floats(-100, 100)),
        "min_tokens": st.integers(0, 4),
        "stop_token_ids": st.lists(ids, max_size=3),
    },
)


@settings(max_examples=400, deadline=None)
@given(
    logits=st.lists(finite, min_size=8, max_size=200),
    p=parameters,
    seen=st.lists(ids, max_size=6),
    out=st.lists(ids, max_size=6),
    seed=st.integers(0, 2**64 - 1),
)
def test_candidates_and_draw_are_those_of_the_twin(
    logits: list[float], p: dict[str, Any], seen: list[int], out: list[int], seed: int
) -> None:
    p.setdefault("stop_token_ids", [])
    x = adjusted(logits, p, seen, out)
    found = candidates(logits, p, seen, out)
    expected = survivors(x, p)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-12, abs=0)

    sums = np.cumsum(list(found.values()))
    drawn = list(found)[np.searchsorted(sums, uniform(seed) * sums[-1], side="right")]
    assert sample(logits, {**p, "seed": seed}, seen, out) == drawn
    assert sample(logits, {**p, "temperature": 0}, seen, out) == int(np.argmax(x))


@settings(deadline=None)
@given(logits=st.lists(finite, min_size=2, max_size=300), n=st.integers(0, 5))
def test_logprobs_are_the_log_softmax_of_the_models_logits(logits: list[float], n: int) -> None:
    n = min(n, len(logits))
    params = SamplingParams(logprobs=n, logit_bias={0: 5.0}, repetition_penalty=1.5, seed=3)
    token = testing.sample(logits, params, [0, 1], [])
    x = np.asarray(logits, np.float64)
    expected = x - x.max() - math.log(np.exp(x - x.max()).sum())
    best = sorted(range(len(x)), key=lambda id: (-x[id], id))[:n]
    assert token.logprob == pytest.approx(expected[token.id], abs=1e-12)
    assert [id for id, _ in token.top_logprobs] == best
    assert [value for _, value in token.top_logprobs] == pytest.approx(expected[best], abs=1e-12)


@pytest.mark.parametrize("n_vocab", [1, 63, 64, 65, 1000, 49_156])
@pytest.mark.parametrize("top_k", [1, 50, 700])
def test_top_k_of_every_size(n_vocab: int, top_k: int) -> None:
    logits = np.random.default_rng(n_vocab).standard_normal(n_vocab).astype(np.float32)
    logits = np.round(logits, 2)  # many ties
    p = {**OFF, "top_k": top_k}
    expected = survivors(logits.astype(np.float64), p)
    found = candidates(logits, p)
    assert found.keys() == expected.keys()
    assert top_k >= n_vocab or list(found) == list(expected)  # best first where narrowed


@pytest.mark.parametrize("top_k", [0, 40], ids=["all", "top_k"])
def test_top_p_over_a_whole_vocabulary(top_k: int) -> None:
    logits = np.random.default_rng(5).normal(0, 3, 49_156).astype(np.float32)
    p = {"temperature": 0.9, "top_k": top_k, "top_p": 0.9}
    expected = survivors(logits.astype(np.float64), p)
    assert candidates(logits, p) == pytest.approx(expected, rel=1e-12)


# ---- choice ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "p",
    [OFF, {**OFF, "top_k": 6}, {**OFF, "top_p": 0.9}, {"temperature": 0.5, "top_k": 8}],
    ids=["plain", "top_k", "top_p", "cool"],
)
def test_draws_follow_the_distribution(p: dict[str, Any]) -> None:
    logits = np.linspace(-2, 1, 12)
    weights = candidates(logits, p)
    n, total = 5000, sum(weights.values())
    counts = Counter(sample(logits, {**p, "seed": seed}) for seed in range(n))
    assert counts.keys() <= weights.keys()
    chi2 = sum((counts[i] - n * w / total) ** 2 / (n * w / total) for i, w in weights.items())
    # Wilson-Hilferty: the 99.9 % quantile of chi-square; the seeds are fixed, so this cannot flap.
    k = len(weights) - 1
    assert chi2 < k * (1 - 2 / (9 * k) + 3.09 * math.sqrt(2 / (9 * k))) ** 3


def test_same_seed_same_tokens_on_every_machine() -> None:
    logits = [i * 7919 % 1000 / 128 for i in range(1000)]  # exact in float32
    drawn = [sample(logits, {**OFF, "seed": seed}) for seed in (0, 1, 2, 7, 2**64 - 1)]
    assert drawn == [605, 704, 102, 704, 560]


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-6], ids=str)
def test_greedy_takes_the_lowest_id_of_equals(temperature: float) -> None:
    logits = [0.0] * 300
    logits[77] = logits[201] = 3.0
    p = {"temperature": temperature, "top_k": 1}
    assert sample(logits, p) == 77


def test_an_infinite_bias_bans() -> None:
    p = {**OFF, "logit_bias": {0: -math.inf, 1: -math.inf}}
    assert candidates([9, 8, 1, 1], p) == {2: 1.0, 3: 1.0}


def test_extreme_values_stay_numbers() -> None:
    logits = [3e38, -3e38, 1.0, -math.inf]
    p = {**OFF, "logit_bias": {0: 3e38}, "repetition_penalty": 1e-30}
    assert candidates(logits, p, seen=[0, 1, 2]) == {0: 1.0}


def test_what_left_the_window_is_not_penalized() -> None:
    p = {"temperature": 0, "presence_penalty": 2.0, "repetition_window": 2}
    assert [sample([9, 8, 0], p, out=[0, *[2] * n]) for n in range(4)] == [1, 1, 0, 0]
    p = {"temperature": 0, "repetition_penalty": 2.0, "repetition_window": 3}
    assert [sample([9, 8, 0], p, seen=[0, *[2] * n]) for n in range(4)] == [1, 1, 1, 0]


def test_min_tokens_masks_stop_ids_until_reached() -> None:
    p = {"temperature": 0, "min_tokens": 2, "stop_token_ids": [0]}
    assert [sample([9, 1, 0], p, out=[1] * n) for n in range(4)] == [1, 1, 0, 0]


# ---- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("position", [0, 63, 64, 70])
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "drawn"])
def test_logits_that_are_not_finite(value: float, position: int, temperature: float) -> None:
    logits = [1.0] * 71
    logits[position] = value
    with pytest.raises(NumericalError, match="logits that are not finite"):
        sample(logits, {"temperature": temperature})


def test_every_token_masked() -> None:
    with pytest.raises(InvalidRequestError, match="mask every token of the vocabulary"):
        sample([1.0], {"logit_bias": {0: -math.inf}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
        ({"max_tokens": 4, "min_tokens": 5}, "min_tokens: expected 0 to max_tokens (4), got 5"),
        ({"min_tokens": -1}, "min_tokens: expected at least 0, got -1"),
        ({"temperature": math.nan}, "temperature: expected a finite number of at least 0"),
        ({"temperature": -0.1}, "(0: greedy), got -0.1"),
        ({"temperature": math.inf}, "(0: greedy), got inf"),
        ({"top_k": -1}, "top_k: expected at least 0 (0: off), got -1"),
        ({"top_p": 0}, "top_p: expected above 0 and at most 1 (1: off), got 0"),
        ({"top_p": 1.01}, "(1: off), got 1.01"),
        ({"top_p": math.nan}, "(1: off), got nan"),
        ({"min_p": -0.5}, "min_p: expected 0 to 1 (0: off), got -0.5"),
        ({"repetition_penalty": 0}, "repetition_penalty: expected a finite number above 0"),
        ({"frequency_penalty": 2.5}, "frequency_penalty: expected -2 to 2 (0: off), got 2.5"),
        ({"presence_penalty": math.nan}, "presence_penalty: expected -2 to 2 (0: off), got nan"),
        ({"repetition_window": -1}, "repetition_window: expected at least 0 (0: all tokens)"),
        ({"logit_bias": {9: 1}}, "logit_bias: expected a token id from 0 to 7, got 9"),
        ({"logit_bias": {2: math.nan}}, "logit_bias[2]: expected a finite number, or -inf"),
        ({"stop_token_ids": [-1]}, "stop_token_ids: expected a token id from 0 to 7, got -1"),
        ({"logprobs": 9}, "logprobs: expected -1 (none) to the size of the vocabulary (8)"),
        ({"seed": -1}, "seed: expected an integer of 64 bits, not negative, got -1"),
        ({"seed": 2**64}, "seed: expected an integer of 64 bits, not negative"),
        ({"max_tokens": 2**63}, "max_tokens: expected an integer of 64 bits, got"),
    ],
    ids=str,
)
def test_refused_parameters(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sample([0.0] * 8, fields)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_q": 1}, "SamplingParams has no field 'top_q'"),
        ({"temperature": "hot"}, "temperature: expected a number, got 'hot'"),
        ({"top_k": 1.5}, "top_k: expected an integer, got 1.5"),
        ({"logit_bias": [1]}, "logit_bias: expected a dict of token id to number, got"),
        ({"stop_token_ids": 3}, "stop_token_ids: expected a list of token ids, got 3"),
    ],
    ids=str,
)
def test_unknown_fields_and_wrong_types(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SamplingParams(**fields)
