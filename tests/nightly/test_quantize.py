"""Quantizers on millions of weights of many shapes; `starchat convert` of 400 MB, stopped."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from starchat.convert.ggml_writer import tensor_shapes, write_ggml
from starchat.convert.tensor_types import TYPES, quantize
from support.quantizer_errors import nmse
from support.tiny_model import vocabulary

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.nightly

EXACT = "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"
SEARCHED = [name for name in TYPES if TYPES[name].halves and name not in EXACT]

#: NMSE of ggml_quantize_chunk without importance matrix (llama-cpp-python 0.3.36), by
#: support.quantizer_errors.ggml_quantizer, in the order of SEARCHED.
GGML_ERRORS = {
    "uniform": (0.0547, 0.0157, 0.00298, 0.000766, 0.000175, 0.00413, 0.0042),
    "laplace": (0.119, 0.0311, 0.00723, 0.00185, 0.000474, 0.0078, 0.00792),
    "heavy tails": (0.0834, 0.0215, 0.00732, 0.00237, 0.000831, 0.00937, 0.00998),
    "positive": (0.0356, 0.0212, 0.00179, 0.000432, 0.000314, 0.00556, 0.00566),
    "negative": (0.0363, 0.0207, 0.00164, 0.000443, 0.000314, 0.00556, 0.00566),
    "mean 10": (0.0081, 0.00644, 0.000435, 0.000108, 8.31e-05, 0.00289, 0.00294),
    "mean -10": (0.000959, 0.00534, 5.88e-05, 1.61e-05, 8.34e-05, 0.00289, 0.00294),
    "sparse": (0.132, 0.00238, 0.00169, 0.00116, 3.55e-05, 0.00257, 0.00272),
    "scale of parts": (0.0878, 0.0224, 0.00558, 0.0016, 0.000336, 0.0057, 0.00602),
    "scale of columns": (0.142, 0.0322, 0.0102, 0.00273, 0.000826, 0.0115, 0.0118),
    "small": (0.0881, 0.0251, 0.00879, 4.88, 1, 0.015, 1),
    "large": (0.0877, 0.0228, 0.00509, 0.00131, 0.000315, 0.00576, 0.00585),
    "one of 256": (0.0288, 0.0057, 0.00258, 0.00173, 0.000694, 0.00408, 0.00698),
    "integers": (0.0554, 0.0157, 7.67e-05, 0.000158, 5.4e-05, 0.0041, 0.00417),
}


def rows_of(name: str) -> np.ndarray:
    """Return 16 rows of 4,096 weights."""
    random = np.random.default_rng(7)
    size = (16, 4096)
    normal = random.standard_normal(size)
    rows = {
        "uniform": lambda: random.uniform(-1, 1, size),
        "laplace": lambda: random.laplace(size=size),
        "heavy tails": lambda: np.clip(random.standard_t(2, size), -1e3, 1e3),
        "positive": lambda: np.abs(normal),
        "negative": lambda: -np.abs(normal),
        "mean 10": lambda: normal + 10,
        "mean -10": lambda: normal - 10,
        "sparse": lambda: normal * (random.random(size) < 0.05),
        "scale of parts": lambda: (
            normal * np.repeat(np.exp(random.normal(0, 1.5, (16, 256))), 16, 1)
        ),
        "scale of columns": lambda: normal * np.exp(random.standard_normal((1, 4096))),
        "small": lambda: normal * 1e-5,
        "large": lambda: normal * 1e4,
        "one of 256": lambda: normal * np.where(random.random(size) < 1 / 256, 100, 1),
        "integers": lambda: random.integers(-8, 8, size) * 0.1,
    }[name]()
    return np.ascontiguousarray(rows, np.float32)


@pytest.mark.parametrize("name", GGML_ERRORS)
@pytest.mark.parametrize("type", SEARCHED)
def test_the_error_is_no_larger_than_that_of_ggml(type: str, name: str) -> None:
    assert nmse(rows_of(name), type, quantize) <= GGML_ERRORS[name][SEARCHED.index(type)]


@pytest.mark.parametrize("type", EXACT)
def test_millions_of_bytes_equal_those_of_gguf(type: str) -> None:
    random = np.random.default_rng(8)
    for exponent in range(-20, 4, 3):
        scales = 10.0 ** random.uniform(exponent, exponent + 3, (2000, 1))
        rows = (random.standard_normal((2000, 512)) * scales).astype(np.float32)
        rows[::3] = np.round(rows[::3] / scales[::3].astype(np.float32) * 8) / 8
        with np.errstate(all="ignore"):
            expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[type.upper()])
        assert np.array_equal(quantize(rows, type), expected)


@pytest.mark.parametrize("type", TYPES)
def test_bytes_do_not_depend_on_the_number_of_threads(type: str) -> None:
    rows = np.random.default_rng(9).standard_normal((4000, 1024), np.float32)
    alone = quantize(rows, type, 1)
    for n_threads in range(2, 9):
        assert np.array_equal(quantize(rows, type, n_threads), alone)


def test_converting_takes_little_memory_and_stops_within_a_second(tmp_path: Path) -> None:
    source, target = tmp_path / "model.bin", tmp_path / "model.gguf"
    random = np.random.default_rng(10)

    def values(shape: tuple[int, ...]) -> list[np.ndarray]:
        return [random.standard_normal(shape, np.float32)]

    shapes = tensor_shapes(n_vocab=300, n_ctx=8, n_embd=2048, n_layer=4)
    write_ggml(
        source,
        n_ctx=8,
        n_embd=2048,
        n_head=16,
        n_layer=4,
        vocab=vocabulary(300),
        tensors={name: partial(values, size) for name, size in shapes.items()},
        type="f16",
    )
    command = [sys.executable, "-m", "starchat", "convert", source, target, "--type", "q2_k"]
    for wait_s in (1.5, 2.5, 3.5):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        time.sleep(wait_s)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        process.communicate()
        assert time.monotonic() - start < 1
        assert process.returncode == 130
        assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]
    subprocess.run(command, check=True)
    peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak_kb < 400_000
