"""Errors of quantizers on three sets of weights; as a program, those of ggml's.

`PYTHONPATH=tests python -m support.quantizer_errors libggml-base.so` prints the numbers that
test_quantize.py holds, with a library of ggml, as llama-cpp-python builds one. It is no part of
the tests.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from starchat import _core
from starchat.convert.tensor_types import TYPES, dequantize
from starchat.model import EMBEDDED

SETS = "gaussian", "outliers", "nano"

Floats = npt.NDArray[np.float32]


@functools.cache
def weights(name: str) -> Floats:
    """Return rows of a multiple of 256 weights: one of SETS."""
    random = np.random.default_rng(0)
    if name == "nano":  # two layers of the embedded model
        return np.concatenate([rows.reshape(-1, 256) for rows in _nano()])
    rows = random.standard_normal((64, 4096), np.float32) * np.float32(0.02)
    if name == "outliers":  # one weight in a hundred is ten times as large
        rows *= np.where(random.random(rows.shape) < 0.01, np.float32(10), np.float32(1))
    return rows


def _nano() -> list[Floats]:
    names = [tensor["name"] for tensor in _core.inspect(EMBEDDED)["tensors"]]
    return [
        embedded_matrix(name)
        for name in names
        if name.startswith(("model/h0/", "model/h5/")) and name.endswith("/w")
    ]


def embedded_matrix(name: str) -> Floats:
    """Return a matrix of the embedded model."""
    [tensor] = (each for each in _core.inspect(EMBEDDED)["tensors"] if each["name"] == name)
    data = np.fromfile(EMBEDDED, np.uint8, tensor["size_bytes"], offset=tensor["offset"])
    return dequantize(data.reshape(tensor["shape"][0], -1), tensor["type"])


def nmse(
    rows: Floats, type: str, quantize: Callable[[Floats, str], npt.NDArray[np.uint8]]
) -> float:
    """Return the squared error as a share of the weights' squares."""
    error = np.square(dequantize(quantize(rows, type), type) - rows, dtype=np.float64).sum()
    return float(error / np.square(rows, dtype=np.float64).sum())


def ggml_quantizer(path: str) -> Callable[[Floats, str], npt.NDArray[np.uint8]]:
    """Return ggml_quantize_chunk of a library, without an importance matrix."""
    chunk = ctypes.CDLL(path, mode=ctypes.RTLD_LOCAL).ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]

    def quantize(rows: Floats, type: str) -> npt.NDArray[np.uint8]:
        n_rows, n_cols = rows.shape
        rows = np.ascontiguousarray(rows, np.float32)
        out = np.zeros((n_rows, TYPES[type].row_bytes(n_cols)), np.uint8)
        chunk(TYPES[type].ggml_id, rows.ctypes.data, out.ctypes.data, 0, n_rows, n_cols, None)
        return out

    return quantize


if __name__ == "__main__":
    theirs = ggml_quantizer(sys.argv[1])
    for name in TYPES:
        errors = (f"{nmse(weights(each), name, theirs):.4e}" for each in SETS)
        print(f'    "{name}": ({", ".join(errors)}),')
