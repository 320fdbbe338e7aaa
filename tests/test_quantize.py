"""Quantizers: ggml's bytes where a type has them, elsewhere an error no larger than ggml's."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from starchat import InvalidRequestError, _core
from starchat.convert.tensor_types import TYPES, dequantize, quantize
from support.gil_meter import longest_hold_ms
from support.quantizer_errors import SETS, nmse, weights

gguf = pytest.importorskip("gguf")

FLOATS = ("f32", "f16", "bf16")
EXACT = ("f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
SEARCHED = [name for name in TYPES if name not in (*EXACT, "f32")]

#: NMSE of ggml_quantize_chunk without importance matrix (llama-cpp-python 0.3.36), for SETS:
#: `PYTHONPATH=tests python -m support.quantizer_errors libggml-base.so`
GGML_ERRORS = {
    "q2_k": (8.8452e-02, 1.0126e-01, 9.2435e-02),
    "q3_k": (2.2687e-02, 3.5561e-02, 2.5800e-02),
    "q4_k": (5.1001e-03, 8.7075e-03, 5.7733e-03),
    "q5_k": (1.3035e-03, 2.1939e-03, 1.4649e-03),
    "q6_k": (3.1462e-04, 7.5699e-04, 4.0852e-04),
    "iq4_nl": (5.7681e-03, 1.2458e-02, 7.1157e-03),
    "iq4_xs": (5.8570e-03, 1.2856e-02, 7.2683e-03),
}


def reference(rows: np.ndarray, type: str) -> bytes:
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(rows, gguf.GGMLQuantizationType[type.upper()]).tobytes()


# Scales below 1e-38 have no finite inverse: gguf then casts NaN to integers, which means nothing.
# Of zeros of both signs, ggml's C takes the first for a minimum, numpy another one.
weights_like = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([32, 64])),
    elements=st.floats(-1e4, 1e4, width=32),
).map(lambda x: np.where(np.abs(x) < 1e-20, np.float32(0), x))


@pytest.mark.parametrize("type", EXACT)
@given(rows=weights_like)
def test_bytes_equal_those_of_gguf(type: str, rows: np.ndarray) -> None:
    assert quantize(rows, type).tobytes() == reference(rows, type)


@pytest.mark.parametrize("type", EXACT)
def test_bytes_equal_those_of_gguf_for_many_scales_and_ties(type: str) -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((3000, 384), np.float32)
    rows *= random.choice([0, -0.0, 1e-9, 1e-3, 1, 300], (3000, 1)).astype(np.float32)
    rows[::5] = np.round(rows[::5] * 4) / 4  # ties in rounding and between extremes
    rows[7::9] = rows[7::9, :1]  # constant rows
    if TYPES[type].halves[1:]:
        rows += np.float32(0)  # no -0.0
    assert quantize(rows, type).tobytes() == reference(rows, type)


@pytest.mark.parametrize("type", ["q4_1", "q5_1"])
def test_the_first_of_zeros_of_both_signs_is_the_minimum(type: str) -> None:
    rows = np.zeros((2, 32), np.float32)
    rows[0, 1:], rows[1, 0] = -0.0, -0.0
    assert quantize(rows, type)[:, :4].view(np.uint16).tolist() == [[0, 0], [0, 0x8000]]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("type", SEARCHED)
def test_the_error_is_no_larger_than_that_of_ggml(type: str, name: str) -> None:
    assert nmse(weights(name), type, quantize) <= GGML_ERRORS[type][SETS.index(name)]


@pytest.mark.parametrize("type", SEARCHED)
@settings(max_examples=30)
@example(rows=np.float32([[3e-8] + [0] * 255]))  # no iq4 value but 0 · d is so small
@given(
    rows=hnp.arrays(
        np.float32,
        (1, 256),
        elements=st.one_of(
            st.sampled_from([0.0, 1.0, -1.0, 1e-30, -1e-7, 6e4]),
            st.floats(-1e4, 1e4, width=32),
        ),
    )
)
def test_no_weights_are_worse_than_zeros(type: str, rows: np.ndarray) -> None:
    rows = rows.astype(np.float64)
    error = np.square(dequantize(quantize(rows, type), type) - rows).sum()
    assert error <= np.square(rows).sum() * (1 + 1e-6)


@pytest.mark.parametrize("type", SEARCHED)
@pytest.mark.parametrize(("scale", "growth"), [(1e3, 1.02), (1e-5, 2)])
def test_the_error_grows_little_where_scales_are_subnormal_halves(
    type: str, scale: float, growth: float
) -> None:
    rows = weights("gaussian")[:4] / np.float32(0.02)
    assert nmse(rows * np.float32(scale), type, quantize) < growth * nmse(rows, type, quantize)


@pytest.mark.parametrize("type", SEARCHED)
def test_parts_with_hardly_any_difference_keep_their_level(type: str) -> None:
    constant = np.repeat(np.random.default_rng(7).standard_normal((8, 1)), 512, axis=1)
    assert nmse(constant.astype(np.float32), type, quantize) < 1e-6
    rising = np.linspace(-0.5, 0.5, 4096, dtype=np.float32)[None]
    assert nmse(rising, type, quantize) < 5e-4


@pytest.mark.parametrize("type", SEARCHED)
def test_weights_that_count_more_have_a_smaller_error(type: str) -> None:
    rows = weights("outliers")[:8]
    importance = np.random.default_rng(2).choice([0.1, 10], rows.shape[1]).astype(np.float32)

    def error(blocks: np.ndarray) -> float:
        return float((importance * np.square(dequantize(blocks, type) - rows)).sum())

    plain = quantize(rows, type)
    assert error(_core.quantize(rows, type, importance=importance)) < 0.97 * error(plain)
    same = _core.quantize(rows, type, importance=np.full(rows.shape[1], 4, np.float32))
    assert np.array_equal(same, plain)  # a power of two changes nothing


@pytest.mark.parametrize("type", TYPES)
def test_bytes_do_not_depend_on_threads_and_neighbours(type: str) -> None:
    rows = np.random.default_rng(3).standard_normal((360, 768), np.float32)
    alone = quantize(rows, type, 1)
    for n_threads in (2, 5):
        assert np.array_equal(quantize(rows, type, n_threads), alone)
    assert np.array_equal(
        np.concatenate([quantize(row[None], type) for row in rows[:3]]), alone[:3]
    )


def test_iq4_nl_takes_rows_of_blocks_that_are_not_four() -> None:
    rows = np.random.default_rng(4).standard_normal((3, 160), np.float32)
    blocks = quantize(rows, "iq4_nl")
    assert np.array_equal(blocks[:, -18:], quantize(rows[:, 128:], "iq4_nl"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e9])
@pytest.mark.parametrize("type", TYPES)
def test_weights_beyond_the_type_are_refused(type: str, value: float) -> None:
    rows = np.zeros((2, 512), np.float32)
    rows[1, 300] = value
    if np.isfinite(value) and type in ("f32", "bf16"):
        assert dequantize(quantize(rows, type), type)[1, 300] == pytest.approx(value, rel=0.01)
        return
    with pytest.raises(ValueError, match=f"not finite, or too large for {type}"):
        quantize(rows, type)


def test_impossible_types_widths_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown tensor type 'q9_k', expected one of f32, f16"):
        quantize(np.zeros((1, 32), np.float32), "q9_k")
    with pytest.raises(ValueError, match="rows of 33 weights do not divide into blocks of 32"):
        quantize(np.zeros((1, 33), np.float32), "q4_0")
    with pytest.raises(ValueError, match="rows of 128 weights do not divide into blocks of 256"):
        quantize(np.zeros((1, 128), np.float32), "q4_k")
    with pytest.raises(ValueError, match="rows of 17 bytes do not divide into q4_0 blocks of 18"):
        dequantize(np.zeros((1, 17), np.uint8), "q4_0")
    with pytest.raises(InvalidRequestError, match="expected rows of one length"):
        _core.quantize(np.zeros(32, np.float32), "q4_0")
    with pytest.raises(InvalidRequestError, match="importance: expected 256 values, got 32"):
        _core.quantize(np.zeros((1, 256), np.float32), "q4_k", importance=np.ones(32, np.float32))
    assert quantize(np.zeros((0, 256), np.float32), "q4_k").shape == (0, 144)


def test_other_threads_run_meanwhile() -> None:
    rows = np.random.default_rng(5).standard_normal((2000, 1024), np.float32)
    blocks = np.zeros((16000, TYPES["q3_k"].row_bytes(1024)), np.uint8)
    assert longest_hold_ms(lambda: _core.quantize(rows, "q4_k", 1)) < 50
    assert longest_hold_ms(lambda: _core.dequantize(blocks, "q3_k")) < 50


def test_a_signal_ends_the_work() -> None:
    rows = np.random.default_rng(6).standard_normal((8000, 1024), np.float32)
    start = time.process_time()
    _core.quantize(rows[:800], "q2_k", 1)
    tenth = time.process_time() - start

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGVTALRM, interrupt)
    start = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)  # of this process's CPU time
        with pytest.raises(KeyboardInterrupt):
            _core.quantize(rows, "q2_k", 1)
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert time.process_time() - start < 6 * tenth
