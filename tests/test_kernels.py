"""Every kernel on every instruction set of this machine: against float64, and bit for bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from starchat._core import TensorType, tensor_types, testing
from starchat._core.machine import instruction_sets
from starchat.convert.ggml_writer import TYPES
from starchat.convert.tensor_types import dequantize, quantize

ISAS = instruction_sets()
FloatArray = npt.NDArray[np.float32]


def normalised_error(actual: FloatArray, expected: npt.NDArray[np.float64]) -> float:
    return float(np.sum((actual - expected) ** 2) / np.sum(expected**2))


def same_bits(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.array_equal(a.view(np.uint32), b.view(np.uint32)))


def gaussian(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_scalar_twin_is_always_there() -> None:
    assert ISAS[0] == "scalar"


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("n_cols", [32, 96, 512])
def test_packing_keeps_every_row(type: str, n_cols: int) -> None:
    rows = quantize(gaussian(37, n_cols), type)
    expected = dequantize(rows, type)
    matrix = testing.Matrix("scalar", type, rows)
    for i in range(37):
        assert same_bits(matrix.row(i), expected[i])


#: Types that only gguf can make weights of: random codes and scales under finite halves.
OTHERS = [type for type in tensor_types() if type.name not in TYPES]


def random_rows(type: TensorType, n_rows: int, n_cols: int) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(n_rows + n_cols)
    n_blocks = n_rows * n_cols // type.block_weights
    if type.name == "bf16":
        weights = random.standard_normal((n_rows, n_cols)).astype(np.float32)
        return np.ascontiguousarray(weights.view(np.uint16)[:, 1::2]).view(np.uint8)
    blocks = random.integers(0, 256, (n_blocks, type.block_bytes), np.uint8)
    for at in type.halves:
        halves = random.standard_normal((n_blocks, 1)).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8)
    return blocks.reshape(n_rows, -1)


def weights_of(type: TensorType, rows: npt.NDArray[np.uint8]) -> FloatArray:
    return dequantize(rows, type.name)


@pytest.mark.parametrize("type", OTHERS, ids=lambda type: type.name)
@pytest.mark.parametrize("n_blocks", [1, 3, 8, 11, 24])
def test_packing_keeps_every_row_of_the_other_types(type: TensorType, n_blocks: int) -> None:
    rows = random_rows(type, 33, 256 * n_blocks)
    matrix = testing.Matrix("scalar", type.name, rows)
    expected = weights_of(type, rows)
    for i in range(33):
        assert same_bits(matrix.row(i), expected[i])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", OTHERS, ids=lambda type: type.name)
@pytest.mark.parametrize("n_rows", [1, 17, 33])
def test_product_with_the_other_types(isa: str, type: TensorType, n_rows: int) -> None:
    """NMSE, the scalar bits, and columns that do not depend on their batch."""
    rows, x = random_rows(type, n_rows, 256 * 3), gaussian(72, 256 * 3, seed=1)
    matrix = testing.Matrix(isa, type.name, rows, 2)
    out = matrix.product(x)
    exact = x.astype(np.float64) @ weights_of(type, rows).astype(np.float64).T
    assert normalised_error(out, exact) <= (1e-11 if type.name == "bf16" else 1e-4)
    assert same_bits(out, testing.Matrix("scalar", type.name, rows).product(x))
    for n_columns in (1, 2, 5, 25):
        assert same_bits(matrix.product(x[:n_columns]), out[:n_columns])


def check_product(isa: str, type: str, rows: npt.NDArray[np.uint8], x: FloatArray) -> None:
    """NMSE ≤ 1e-4 from the activations' 8 bits, floats round at 2^-24 a step; the scalar bits."""
    out = testing.Matrix(isa, type, rows, 2).product(x)
    exact = x.astype(np.float64) @ dequantize(rows, type).astype(np.float64).T
    assert normalised_error(out, exact) <= (1e-4 if type.startswith("q") else 1e-11)
    assert same_bits(out, testing.Matrix("scalar", type, rows).product(x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("n_columns", [1, 2, 3, 7, 16, 37])
def test_product_is_accurate_and_has_the_scalar_bits(isa: str, type: str, n_columns: int) -> None:
    rows = quantize(gaussian(33, 1056), type)  # an odd number of blocks, a last strip of one row
    check_product(isa, type, rows, gaussian(n_columns, 1056, seed=1))


ACTIVATIONS = {"f32": "floats", "f16": "floats", "q4_1": "sums", "q5_1": "sums"}  # others: own


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("other", TYPES)
def test_activations_prepared_for_other_weights_are_refused(type: str, other: str) -> None:
    x = gaussian(3, 96)
    matrix = testing.Matrix("scalar", type, quantize(gaussian(48, 96), type))
    prepared_for = testing.Matrix("scalar", other, quantize(gaussian(48, 96), other))
    if ACTIVATIONS.get(type, type) == ACTIVATIONS.get(other, other):
        assert same_bits(matrix.product(x, prepared_for), matrix.product(x))
        return
    with pytest.raises(RuntimeError, match=rf"prepared for other weights than {type} \(48, 96\)"):
        matrix.product(x, prepared_for)


def test_activations_of_another_width_are_refused() -> None:
    matrix, wider = (
        testing.Matrix("scalar", "q4_0", quantize(gaussian(48, n), "q4_0")) for n in (64, 96)
    )
    with pytest.raises(RuntimeError, match="prepared for other weights"):
        matrix.product(gaussian(3, 96), wider)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", TYPES)
def test_large_activations_do_not_drown_small_ones(isa: str, type: str) -> None:
    """Blocks of activations from 1 to 2^-13, whose weights make up for it."""
    sizes = np.exp2(-(np.arange(33) * 3 % 14)).repeat(32).astype(np.float32)
    rows = quantize(gaussian(48, 1056) / sizes, type)
    check_product(isa, type, rows, gaussian(7, 1056, seed=1) * sizes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", TYPES)
def test_weights_of_zero_give_zero(isa: str, type: str) -> None:
    rows = quantize(np.zeros((48, 96), np.float32), type)
    assert not testing.Matrix(isa, type, rows).product(gaussian(3, 96)).any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", TYPES)
def test_product_of_extreme_blocks_does_not_overflow(isa: str, type: str) -> None:
    """All bits set, and the largest activations: 16-bit sums are at their bounds."""
    n_bytes = quantize(np.zeros((1, 64), np.float32), type).shape[1]
    half = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    for fill in (0x00, 0x80, 0xFF):
        rows = np.full((48, n_bytes), fill, np.uint8)
        if type.startswith("q"):
            block = rows.reshape(48, 2, -1)
            block[:, :, :2] = half
            if type.endswith("_1"):
                block[:, :, 2:4] = half
        else:
            rows = quantize(np.full((48, 64), float(fill), np.float32), type)
        for sign in (1.0, -1.0):
            x = np.full((5, 64), sign, np.float32)
            exact = x.astype(np.float64) @ dequantize(rows, type).astype(np.float64).T
            out = testing.Matrix(isa, type, rows).product(x)
            np.testing.assert_allclose(out, exact, rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", TYPES)
def test_a_column_does_not_depend_on_its_batch(isa: str, type: str) -> None:
    matrix = testing.Matrix(isa, type, quantize(gaussian(48, 256), type), 2)
    x = gaussian(33, 256, seed=2)
    together = matrix.product(x)
    for c in range(33):
        assert same_bits(matrix.product(x[c : c + 1])[0], together[c])


@pytest.mark.parametrize("isa", ISAS)
def test_zero_and_tiny_activations(isa: str) -> None:
    matrix = testing.Matrix(isa, "q4_0", quantize(gaussian(48, 64), "q4_0"))
    for value in (0.0, 1e-42, 1e-38, 1e-31):
        out = matrix.product(np.full((1, 64), value, np.float32))
        assert np.isfinite(out).all() and np.abs(out).max() <= 1e-28


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [32, 96, 6144])
@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.5])
def test_layer_norm(isa: str, n: int, eps: float) -> None:
    x, gain, bias = gaussian(n) * 3 + 1, gaussian(n, seed=1), gaussian(n, seed=2)
    wide = x.astype(np.float64)
    normal = (wide - wide.mean()) / np.sqrt(wide.var() + eps)
    out = testing.layer_norm(isa, x, gain, bias, eps)
    assert normalised_error(out, normal * gain + bias) <= 1e-12
    assert same_bits(out, testing.layer_norm("scalar", x, gain, bias, eps))


def test_layer_norm_sums_in_64_lanes() -> None:
    """Element i in lane i mod 64, then halves of the lanes: a device can divide this work."""

    def total(lanes: FloatArray) -> np.float32:
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        return np.float32(lanes[0])

    for n in (32, 96, *[160] * 20, 6144):  # many: an ulp of a sum is seen in few results
        x = gaussian(n) * 3 + 1
        rows = np.pad(x, (0, -n % 64)).reshape(-1, 64)
        sums, squares = np.zeros((2, 64), np.float32)
        for row in rows:
            sums += row
        mean = total(sums) / np.float32(n)
        for i, row in enumerate(rows):
            centred = np.where(np.arange(64) + 64 * i < n, row - mean, 0).astype(np.float64)
            squares = (centred * centred + squares).astype(np.float32)  # as fma
        inverse = np.float32(1) / np.sqrt(total(squares) / np.float32(n) + np.float32(1e-5))
        one, zero = np.ones(n, np.float32), np.zeros(n, np.float32)
        assert same_bits(testing.layer_norm("scalar", x, one, zero, 1e-5), (x - mean) * inverse)


@pytest.mark.parametrize("isa", ISAS)
def test_gelu(isa: str) -> None:
    x = np.concatenate(
        [np.linspace(-12, 12, 4096), [0.0, -0.0, 1e-30, -1e-30, 90, -90, 1e6, -1e6] * 2]
    ).astype(np.float32)
    wide = x.astype(np.float64)
    exact = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    out = testing.gelu(isa, x)
    assert normalised_error(out[:4096], exact[:4096]) <= 1e-13
    np.testing.assert_allclose(out, exact, rtol=2e-6, atol=1e-6)
    assert same_bits(out, testing.gelu("scalar", x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_heads", [1, 5, 8])
@pytest.mark.parametrize("head_dim", [2, 16, 24, 128])
@pytest.mark.parametrize("n_positions", [1, 16, 33, 200, 1100])
def test_attention(isa: str, n_heads: int, head_dim: int, n_positions: int) -> None:
    """NMSE ≤ 1e-6: keys and values are stored in f16, 2^-11 each."""
    q = gaussian(n_heads, head_dim)
    keys, values = gaussian(n_positions, head_dim, seed=1), gaussian(n_positions, head_dim, seed=2)
    scores = q.astype(np.float64) @ keys.astype(np.float64).T / np.sqrt(head_dim)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    out = testing.attention(isa, q, keys, values)
    assert normalised_error(out, weights @ values.astype(np.float64)) <= 1e-6
    assert same_bits(out, testing.attention("scalar", q, keys, values))


def test_means_of_attention_are_summed_in_spans_of_512_positions() -> None:
    """Scores of zero weigh all values alike; a power of two of them divides exactly."""
    q, values = np.zeros((3, 24), np.float32), gaussian(1024, 24)
    spans = [testing.attention("scalar", q, part, part) for part in (values[:512], values[512:])]
    whole = testing.attention("scalar", q, values, values)
    assert same_bits(whole, (spans[0] + spans[1]) / np.float32(2))


@pytest.mark.parametrize("type", ["f32", "f16"])
def test_products_of_floats_are_summed_in_groups_of_512(type: str) -> None:
    weights, x = gaussian(33, 1312), gaussian(5, 1312, seed=1)
    total = np.zeros((5, 33), np.float32)
    for first in range(0, 1312, 512):
        group = np.ascontiguousarray(weights[:, first : first + 512])
        matrix = testing.Matrix("scalar", type, quantize(group, type))
        total += matrix.product(np.ascontiguousarray(x[:, first : first + 512]))
    assert same_bits(testing.Matrix("scalar", type, quantize(weights, type)).product(x), total)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_so(isa: str, type: str, value: float) -> None:
    """8 bits have no NaN: it must come through all the same, in its own column only."""
    matrix = testing.Matrix(isa, type, quantize(gaussian(48, 96), type))
    x = gaussian(3, 96)
    x[1, 40] = value
    out = matrix.product(x)
    assert not np.isfinite(out[1]).any()
    assert np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_attention_passes_on_what_is_not_finite(isa: str, value: float) -> None:
    keys = gaussian(40, 16)
    keys[7, 3] = value  # infinite as f16
    out = testing.attention(isa, np.full((2, 16), 0.5, np.float32), keys, gaussian(40, 16))
    assert np.isnan(out).all()
