"""Tensor types: the weights of every block against the `gguf` package, bit for bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from starchat import _core

gguf = pytest.importorskip("gguf")

N_WEIGHTS = 1 << 20


def random_blocks(type: _core.TensorType, n_blocks: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Blocks with every pattern of codes and small scales; their halves are normal numbers."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (n_blocks, type.block_bytes), np.uint8)
    for at in type.halves:
        halves = random.standard_normal((n_blocks, 1)).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8)
    return blocks


@pytest.mark.parametrize("type", _core.tensor_types(), ids=lambda type: type.name)
def test_weights_of_random_blocks_equal_those_of_gguf(type: _core.TensorType) -> None:
    blocks = random_blocks(type, N_WEIGHTS // type.block_weights)
    reference = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(type.ggml_id)).ravel()
    weights = _core.dequantize(blocks, type.name).ravel()
    numbers = ~np.isnan(reference)  # bits of NaN have no meaning
    assert numbers.mean() > 0.95  # all but what is infinite or NaN
    np.testing.assert_array_equal(np.isnan(weights), ~numbers)
    np.testing.assert_array_equal(
        weights[numbers].view(np.uint32), reference[numbers].view(np.uint32)
    )
