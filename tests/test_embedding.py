"""Embeddings: against transformers, the same bits in any company, cancellation, errors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from starchat import (
    StarChat,
)
from support.tiny_model import Shape, write_tiny

TEXTS = ["x", "def add(a, b):", "import os\n" * 40, "naïve 🙂 \0 <|end|> \ud83d", "x", " " * 300]


@pytest.fixture
def model(tiny_model_path: Path) -> Iterator[StarChat]:
    with StarChat.load(tiny_model_path) as model:
        yield model


# ---- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "error"), [("f32", 1e-3), ("f16", 1e-3), ("q4_0", 0.04), ("q8_0", 0.04)]
)
@pytest.mark.parametrize("multi_query", [True, False], ids=["folded", "unfolded"])
def test_vectors_are_the_mean_of_transformers_hidden_states(
    tmp_path: Path, type: str, error: float, multi_query: bool
) -> None:
    """Within twice the distance that rounding leaves: of keys and values to half precision (2**-11),
    of activations to 1/254 of the largest of 32 (0.6 %) in each of 3 layers x 4 products.
    """
    oracle = pytest.importorskip("support.oracle", reason="torch and transformers are the oracle")
    torch = importlib.import_module("torch")
    shape = Shape(n_embd=128, n_head=4, n_layer=3, n_ctx=400)
    tiny = write_tiny(tmp_path / "tiny.bin", type, shape, multi_query=multi_query)
    reference = oracle.transformers_model(tiny).transformer
    with StarChat.load(tiny.path) as model:
        vectors = model.embed(TEXTS)
        for text, vector in zip(TEXTS, vectors, strict=True):
            with torch.no_grad():
                states = reference(torch.tensor([model.tokenize(text)])).last_hidden_state[0]
            expected = states.double().mean(0).numpy()
            distance = np.linalg.norm(vector - expected / np.linalg.norm(expected))
            assert distance <= error
