"""Types of tensors by name, and their blocks: what the core says and makes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core

__all__ = ["TYPES", "dequantize", "quantize"]

Array: TypeAlias = npt.NDArray[Any]

TYPES: Mapping[str, _core.TensorType] = {type.name: type for type in _core.tensor_types()}


def quantize(array: Array, type: str, n_threads: int = 0) -> npt.NDArray[np.uint8]:
    """Return the rows of `array` as bytes of `type`: shape (…, n_cols) → (…, row bytes).

    The bytes do not depend on the number of threads; 0: one for each core.
    Raises ValueError for weights that are not finite or too large for a half-precision scale.

    >>> quantize(np.ones((2, 64), np.float32), "q4_0").shape
    (2, 36)
    """
    array = np.asarray(array, np.float32)
    blocks = _core.quantize(_rows(array), type, n_threads)
    return blocks.reshape(*array.shape[:-1], blocks.shape[1])


def dequantize(data: npt.NDArray[np.uint8], type: str) -> npt.NDArray[np.float32]:
    """Return the weights in `data`: shape (…, row bytes) → float32 (…, n_cols).

    >>> dequantize(quantize(np.full((1, 32), 127, np.float32), "q8_0"), "q8_0").shape
    (1, 32)
    """
    data = np.asarray(data, np.uint8)
    weights = _core.dequantize(_rows(data), type)
    return weights.reshape(*data.shape[:-1], weights.shape[1])


def _rows(array: Array) -> Array:
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
