"""The forward pass against transformers in fp32, and against itself: chunks, threads, ISAs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from starchat import CorruptFileError, NumericalError, StarChat
from starchat._core import inspect, testing
from starchat._core.machine import instruction_sets
from starchat.convert.ggml_writer import TYPES
from support.tiny_model import Shape, tiled, write_tiny

SHAPES = {
    "wide": Shape(n_embd=256, n_head=8, n_layer=3, n_ctx=300),
    "odd": Shape(n_embd=96, n_head=48, n_layer=2, n_ctx=100, n_vocab=307),  # head_dim 2
    "one_head": Shape(n_embd=32, n_head=1, n_layer=1, n_ctx=64),
}


def token_ids(shape: Shape, n: int, seed: int = 1) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, shape.n_vocab, n)


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("multi_query", [True, False], ids=["folded", "unfolded"])
def test_logits_equal_transformers(
    tmp_path: Path, type: str, shape: str, multi_query: bool
) -> None:
    """Mean KL ≤ 1.5e-3 and the same top token ≥ 98 %; near-ties of 0.05 nats do not count."""
    oracle = pytest.importorskip("support.oracle", reason="torch and transformers are the oracle")
    tiny = write_tiny(tmp_path / "tiny.bin", type, SHAPES[shape], multi_query=multi_query)
    ids = token_ids(tiny.shape, min(250, tiny.shape.n_ctx))
    expected = oracle.log_probabilities(oracle.transformers_model(tiny), ids)
    actual = log_softmax(testing.Forward(str(tiny.path)).run(ids.tolist()))
    divergence = (np.exp(expected) * (expected - actual)).sum(axis=1).mean()
    assert divergence <= (1.5e-3 if type.startswith("q") else 1e-5)
    best = actual.argmax(axis=1)[:, None]
    behind = expected.max(axis=1, keepdims=True) - np.take_along_axis(expected, best, axis=1)
    assert (behind <= 5e-2).mean() >= 0.98


@pytest.mark.parametrize("lm_head", ["own", "absent"])
def test_output_matrix_of_its_own_or_absent(tmp_path: Path, lm_head: str) -> None:
    oracle = pytest.importorskip("support.oracle", reason="torch and transformers are the oracle")
    tiny = write_tiny(tmp_path / "tiny.bin", "q8_0", lm_head=lm_head)  # type: ignore[arg-type]
    ids = token_ids(tiny.shape, 50)
    expected = oracle.log_probabilities(oracle.transformers_model(tiny), ids)
    actual = log_softmax(testing.Forward(str(tiny.path)).run(ids.tolist()))
    assert (np.exp(expected) * (expected - actual)).sum(axis=1).mean() <= 1.5e-3


@pytest.mark.parametrize("first", range(len(TYPES)))
def test_a_layer_of_mixed_types_equals_transformers(tmp_path: Path, first: int) -> None:
    """Each matrix of another type than its neighbours; the files hold the same weights."""
    oracle = pytest.importorskip("support.oracle", reason="torch and transformers are the oracle")
    types = [*TYPES]
    shape = Shape(n_embd=128, n_head=4, n_layer=2)
    files = {
        type: write_tiny(tmp_path / f"{type}.bin", type, shape, lm_head="own") for type in types
    }
    base = files[types[first]]
    paths, weights = {}, dict(base.dequantized)
    matrices = [name for name, values in weights.items() if values.ndim == 2 and name[6:] != "wpe"]
    for i, name in enumerate(matrices):
        other = files[types[(first + 3 * i) % len(types)]]
        paths[name], weights[name] = str(other.path), other.dequantized[name]
    mixed = replace(base, type="f32", weights=weights)
    ids = token_ids(shape, 90)
    expected = oracle.log_probabilities(oracle.transformers_model(mixed), ids)
    actual = log_softmax(testing.Forward(str(base.path), paths=paths).run(ids.tolist()))
    assert (np.exp(expected) * (expected - actual)).sum(axis=1).mean() <= 1.5e-3


@pytest.mark.parametrize("n_kv_head", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("type", ["f32", "q4_1"])
def test_key_heads_that_groups_of_query_heads_share(
    tmp_path: Path, type: str, n_kv_head: int
) -> None:
    oracle = pytest.importorskip("support.oracle", reason="torch and transformers are the oracle")
    shape = Shape(n_embd=96, n_head=12, n_layer=2)
    tiny = write_tiny(tmp_path / "tiny.bin", type, shape, multi_query=False, n_kv_head=n_kv_head)
    assert inspect(str(tiny.path))["n_kv_head"] == n_kv_head
    ids = token_ids(shape, 90)
    expected = oracle.log_probabilities(oracle.transformers_model(tiny), ids)
    actual = log_softmax(testing.Forward(str(tiny.path)).run(ids.tolist()))
    divergence = (np.exp(expected) * (expected - actual)).sum(axis=1).mean()
    assert divergence <= (1.5e-3 if type.startswith("q") else 1e-5)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("multi_query", [True, False], ids=["folded", "unfolded"])
def test_chunks_threads_and_instruction_sets_do_not_change_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type: str, multi_query: bool
) -> None:
    shape = Shape(n_embd=96, n_head=6, n_layer=2, n_ctx=200)
    path = str(write_tiny(tmp_path / "tiny.bin", type, shape, multi_query=multi_query).path)
    ids = token_ids(shape, 120).tolist()
    reference: npt.NDArray[np.uint32] | None = None
    for isa in instruction_sets():
        monkeypatch.setenv("STARCHAT_ISA", isa)
        for n_threads, chunks in ((1, (120,)), (2, (1,) * 5 + (17, 32, 1, 65)), (3, (64, 56))):
            model = testing.Forward(path, n_threads, 128 if n_threads == 2 else 0)
            parts, at = [], 0
            for n in chunks:
                parts.append(model.run(ids[at : at + n]))
                at += n
            bits = np.concatenate(parts).view(np.uint32)
            reference = bits if reference is None else reference
            assert np.array_equal(bits, reference), (isa, n_threads)


def test_one_differing_copy_of_a_value_head_unfolds_the_model(tmp_path: Path) -> None:
    """Only the altered head changes: at the first position each head's output is its own value."""
    tiny = write_tiny(tmp_path / "tiny.bin", "q4_0")
    info = inspect(str(tiny.path))
    bias = next(t for t in info["tensors"] if t["name"] == "model/h0/attn/c_attn/b")
    altered = tmp_path / "altered.bin"
    data = bytearray(tiny.path.read_bytes())
    last_value = bias["offset"] + 4 * (3 * tiny.shape.n_embd - 1)
    data[last_value : last_value + 4] = np.float32(0.125).tobytes()
    altered.write_bytes(data)
    assert info["multi_query"] and not inspect(str(altered))["multi_query"]
    folded, unfolded = testing.Forward(str(tiny.path)), testing.Forward(str(altered))
    assert unfolded.weight_bytes > folded.weight_bytes
    oracle = pytest.importorskip("support.oracle", reason="torch and transformers are the oracle")
    weights = tiled(tiny.weights, tiny.shape)
    weights["model/h0/attn/c_attn/b"] = weights["model/h0/attn/c_attn/b"].copy()
    weights["model/h0/attn/c_attn/b"][-1] = 0.125
    ids = token_ids(tiny.shape, 40)
    expected = oracle.log_probabilities(
        oracle.transformers_model(replace(tiny, path=altered, weights=weights)), ids
    )
    actual = log_softmax(unfolded.run(ids.tolist()))
    assert (np.exp(expected) * (expected - actual)).sum(axis=1).mean() <= 1.5e-3


def test_an_impossible_instruction_set_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starchat.errors import UnsupportedFeatureError

    path = str(write_tiny(tmp_path / "tiny.bin").path)
    monkeypatch.setenv("STARCHAT_ISA", "mmx")
    with pytest.raises(UnsupportedFeatureError, match=r"STARCHAT_ISA=mmx: this machine .* can run"):
        testing.Forward(path)


def overwrite(path: Path, tensor: str, at: int, value: bytes) -> None:
    """Put bytes into a tensor's data."""
    place = next(t for t in inspect(str(path))["tensors"] if t["name"] == tensor)
    data = bytearray(path.read_bytes())
    start = place["offset"] + at
    data[start : start + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(
    "tensor",
    ["wte", "wpe", "ln_f/g", "h1/ln_2/b", "h0/attn/c_attn/w", "h0/attn/c_attn/b", "h1/mlp/c_fc/w"],
)
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, tensor: str, type: str, value: float
) -> None:
    path = write_tiny(tmp_path / "tiny.bin", type, lm_head="absent").path
    is_matrix = tensor.endswith("/w") or tensor == "wte"
    half = is_matrix and type != "f32"  # a block begins with its f16 scale
    bad = np.float16(value) if half else np.float32(value)
    overwrite(path, f"model/{tensor}", 0, bad.tobytes())
    with pytest.raises(CorruptFileError, match=f"model/{tensor}: holds values that are not finite"):
        testing.Forward(str(path))


@pytest.mark.parametrize("tensor", ["ln_f/g", "h0/ln_1/g", "h1/ln_2/b", "h1/mlp/c_fc/b"])
@pytest.mark.parametrize("type", ["q4_0", "q8_0", "f16"])
def test_overflow_is_an_error_on_every_instruction_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str, type: str
) -> None:
    path = write_tiny(tmp_path / "tiny.bin", type).path
    overwrite(path, f"model/{tensor}", 0, np.float32([3e38] * 60).tobytes())
    for isa in instruction_sets():
        monkeypatch.setenv("STARCHAT_ISA", isa)
        with StarChat.load(path) as model, pytest.raises(NumericalError, match="not finite"):
            model.complete([5, 6, 7], max_tokens=3)
