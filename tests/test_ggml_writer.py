"""The writer, and weights of its blocks, against the `gguf` package."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat import _core
from starchat._core import testing
from starchat.convert.ggml_writer import (
    TYPES,
    tensor_shapes,
    tile_multi_query,
    write_ggml,
)
from starchat.convert.tensor_types import dequantize, quantize
from support.tiny_model import Shape, random_weights, tiled, vocabulary, write_tiny

gguf = pytest.importorskip("gguf")
QUANTIZED = [name for name in TYPES if name.startswith("q")]
SHAPE = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=8, n_vocab=40)


def reference_dequantize(data: np.ndarray, type: str) -> np.ndarray:
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[type.upper()])


def settings_of(shape: Shape) -> dict[str, Any]:
    return {
        "n_ctx": shape.n_ctx,
        "n_embd": shape.n_embd,
        "n_head": shape.n_head,
        "n_layer": shape.n_layer,
        "vocab": vocabulary(shape.n_vocab),
    }


@pytest.mark.parametrize("type", _core.tensor_types(), ids=lambda type: type.name)
def test_the_numbers_of_a_type_equal_those_of_gguf(type: _core.TensorType) -> None:
    its_type = gguf.GGMLQuantizationType[type.name.upper()]
    assert type.ggml_id == its_type
    assert (type.block_weights, type.block_bytes) == gguf.GGML_QUANT_SIZES[its_type]
    if type.name in TYPES:  # the others are in no ggml file
        prefix = "ALL" if type.name == "f32" else "MOSTLY"
        assert type.ftype == gguf.LlamaFileType[f"{prefix}_{type.name.upper()}"]


@pytest.mark.parametrize("type", TYPES)
def test_dequantized_bits_equal_those_of_gguf(type: str) -> None:
    random = np.random.default_rng(2)
    data = quantize(random.standard_normal((50, 96), np.float32), type)
    if type in QUANTIZED:  # every bit pattern of the quants, not only those that quantize() makes
        blocks = data.reshape(-1, TYPES[type].block_bytes)
        n_scales = 2 * len(TYPES[type].halves)
        blocks[:, n_scales:] = random.integers(0, 256, blocks[:, n_scales:].shape)
    weights = dequantize(data, type)
    assert weights.shape == (50, 96)
    assert weights.tobytes() == reference_dequantize(data, type).tobytes()


def test_every_half_becomes_the_same_float_in_the_core() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    expected = halves.view(np.float16).astype(np.float32)
    actual = dequantize(halves.view(np.uint8)[None], "f16")[0]
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(
        actual[numbers].view(np.uint32), expected[numbers].view(np.uint32)
    )


def test_floats_round_to_the_nearest_half_ties_to_even() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[:-1] + halves[1:]) / 2
    edges = np.concatenate([halves, middles, [65519.996, 65520, 1e30, 3.4e38, np.inf]])
    near = edges.astype(np.float32)
    values = np.concatenate([near, np.nextafter(near, np.float32(0)), near * np.float32(1.0000001)])
    values = np.concatenate([values, -values])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(testing.to_half(values), expected)
    nan = np.array([np.nan, -np.nan], np.float32)
    assert np.isnan(testing.to_half(nan).view(np.float16)).all()


def test_types_that_ggml_files_lack_are_refused(tmp_path: Path) -> None:
    tensors = tiled(random_weights(SHAPE), SHAPE)
    with pytest.raises(
        ValueError, match="ggml files have no type 'q2_k', expected one of f32, f16"
    ):
        write_ggml(tmp_path / "m.bin", **settings_of(SHAPE), tensors=tensors, type="q2_k")


def test_tiling_repeats_the_key_and_the_value_head() -> None:
    c_attn = np.arange(8 + 2 * 2)[:, None]  # 4 heads of 2 rows
    expected = [*range(8), *[8, 9] * 4, *[10, 11] * 4]
    assert tile_multi_query(c_attn, 4)[:, 0].tolist() == expected
    assert tile_multi_query(c_attn[:, 0], 4).tolist() == expected
    with pytest.raises(ValueError, match="c_attn has 13 rows, expected"):
        tile_multi_query(np.zeros(13), 4)


def test_file_starts_with_the_published_layout(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model.bin", "q5_1", SHAPE)
    data = model.path.read_bytes()
    assert data[:4] == b"lmgg"
    assert struct.unpack("<7i", data[4:32]) == (40, 8, 32, 2, 1, 2009, 40)
    assert data[32:49] == struct.pack("<I", 13) + b"<|endoftext|>"
    wte = data.index(b"model/wte")
    assert struct.unpack("<5i", data[wte - 20 : wte]) == (2, 9, 7, 32, 40)
    assert data[wte + 9 :].startswith(quantize(model.weights["model/wte"], "q5_1").tobytes())


@pytest.mark.parametrize("type", ["f32", "q4_0"])
def test_arrays_iterators_callables_and_raw_blocks_give_the_same_file(
    tmp_path: Path, type: str
) -> None:
    tensors = tiled(random_weights(SHAPE), SHAPE)
    wte = tensors["model/wte"]
    sources: dict[str, Any] = {
        "array": wte,
        "iterator": iter([wte[:7], wte[7:8], wte[8:]]),
        "callable": lambda: (wte[i : i + 3] for i in range(0, len(wte), 3)),
        "raw": quantize(wte, type),
        "raw rows": lambda: iter(quantize(wte, type)[:, None]),
        "float64": wte.astype(np.float64),
    }
    files = set()
    for name, source in sources.items():
        path = tmp_path / name
        write_ggml(path, **settings_of(SHAPE), tensors=tensors | {"model/wte": source}, type=type)
        files.add(path.read_bytes())
    assert len(files) == 1


def test_streamed_tensors_take_little_memory(tmp_path: Path) -> None:
    shape = Shape(n_embd=512, n_head=4, n_layer=4, n_ctx=8, n_vocab=40)
    random = np.random.default_rng(3)

    def rows(n_rows: int, n_cols: int) -> Any:
        for start in range(0, n_rows, 100):
            yield random.standard_normal((min(100, n_rows - start), n_cols), np.float32)

    shapes = tensor_shapes(n_vocab=40, n_ctx=8, n_embd=512, n_layer=4)
    tensors = {
        name: (lambda size=size: rows(*size)) if len(size) == 2 else np.zeros(size, np.float32)
        for name, size in shapes.items()
    }
    tracemalloc.start()
    write_ggml(tmp_path / "model.bin", **settings_of(shape), tensors=tensors, type="f32")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "model.bin").stat().st_size > 50_000_000
    assert peak_bytes < 5_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"model/wpe": None}, r"missing tensors \['model/wpe'\]", id="missing"),
        pytest.param({"extra": np.zeros(1)}, r"unknown tensors \['extra'\]", id="unknown"),
        pytest.param(
            {"model/wte": np.zeros((40, 64), np.float32)},
            r"model/wte: float32 rows 0 onwards have shape \[40, 64\], expected at most \[40, 32\]",
            id="wide",
        ),
        pytest.param(
            {"model/wte": [np.zeros((39, 32)), np.zeros((2, 32))]},
            r"model/wte: float64 rows 39 onwards have shape \[2, 32\], expected at most \[1, 32\]",
            id="too many rows",
        ),
        pytest.param(
            {"model/wte": iter([np.zeros((39, 32))])},
            "model/wte: 39 rows given, expected 40",
            id="too few rows",
        ),
        pytest.param(
            {"model/wte": np.zeros((40, 17), np.uint8)},
            r"model/wte: uint8 rows .* shape \[40, 17\], expected at most \[40, 18\]",
            id="raw width",
        ),
    ],
)
def test_wrong_tensors_are_refused_and_leave_no_file(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    tensors: dict[str, Any] = tiled(random_weights(SHAPE), SHAPE) | change
    tensors = {name: value for name, value in tensors.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        write_ggml(tmp_path / "m.bin", **settings_of(SHAPE), tensors=tensors, type="q4_0")
    assert list(tmp_path.iterdir()) == []
