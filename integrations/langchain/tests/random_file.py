"""A model file of random weights: small, deterministic, with StarChat's roles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from starchat.convert.ggml_writer import tensor_shapes, write_ggml

ROLES = [b"<|system|>", b"<|user|>", b"<|assistant|>", b"<|end|>"]
VOCABULARY = [b"<|endoftext|>", *[bytes([value]) for value in range(256)], *ROLES]


def write_random_file(path: Path, seed: int = 0, n_ctx: int = 96) -> Path:
    """Write a q8_0 file of 2 layers; return its path."""
    sizes = {"n_ctx": n_ctx, "n_embd": 64, "n_layer": 2}
    random = np.random.default_rng(seed)
    shapes = tensor_shapes(n_vocab=len(VOCABULARY), lm_head=False, **sizes)
    tensors = {name: random.normal(0, 0.1, shape) for name, shape in shapes.items()}
    write_ggml(path, n_head=4, vocab=VOCABULARY, tensors=tensors, type="q8_0", **sizes)
    return path
