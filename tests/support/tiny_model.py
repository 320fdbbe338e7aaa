"""Tiny GPTBigCode models as ggml files: random but deterministic weights, a byte-level vocabulary.

The weights are kept as float32 arrays under the file's names, so that a test can compare what
the core computes with a plain implementation. Needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from starchat.convert.ggml_writer import TYPES, tile_multi_query, write_ggml
from starchat.convert.tensor_types import dequantize, quantize

Weights = dict[str, npt.NDArray[np.float32]]

CONTROL = [
    *("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>"),
    *("<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>"),
    *("<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>"),
    *("<commit_before>", "<commit_msg>", "<commit_after>", "<reponame>"),
]
MERGED = ["  ", "    ", "er", "in", "on", "re", " t", " a", "he", " the", "or", "de", "def", " def"]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def vocabulary(n_vocab: int | None = None) -> list[bytes]:
    """Return control tokens, the 256 bytes, merges in order, and StarChat's roles at the end.

    Another `n_vocab` cuts it (roles first), or pads it as converters do: by its last token.
    """
    tokens = [token.encode() for token in CONTROL]
    tokens += [bytes([value]) for value in range(256)]
    tokens += [token.encode() for token in MERGED + ROLES]
    n_vocab = len(tokens) if n_vocab is None else n_vocab
    return tokens[:n_vocab] + [tokens[-1]] * (n_vocab - len(tokens))


@dataclass(frozen=True)
class Shape:
    """Hyper-parameters of a tiny model; the defaults suit most tests."""

    n_embd: int = 64
    n_head: int = 4
    n_layer: int = 2
    n_ctx: int = 96
    n_vocab: int = len(vocabulary())

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


def random_weights(
    shape: Shape,
    seed: int = 0,
    *,
    multi_query: bool = True,
    lm_head: Literal["tied", "own", "absent"] = "tied",
) -> Weights:
    """Return float32 weights; c_attn has n_embd + 2·head_dim rows if `multi_query`, else 3·n_embd.

    Their size keeps activations near 1 and logits far apart, so that greedy choices are stable.
    """
    random = np.random.default_rng(seed)

    def normal(*size: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = random.standard_normal(size, np.float32)
        values *= np.float32(scale)
        return values

    n = shape.n_embd
    weights = {
        "model/wte": normal(shape.n_vocab, n, scale=0.3),
        "model/wpe": normal(shape.n_ctx, n, scale=0.1),
    }
    n_kv = 2 * (shape.head_dim if multi_query else n)
    linear = {
        "attn/c_attn": (n + n_kv, n),
        "attn/c_proj": (n, n),
        "mlp/c_fc": (4 * n, n),
        "mlp/c_proj": (n, 4 * n),
    }
    for layer in range(shape.n_layer):
        for norm in ("ln_1", "ln_2"):
            weights[f"model/h{layer}/{norm}/g"] = 1 + normal(n, scale=0.1)
            weights[f"model/h{layer}/{norm}/b"] = normal(n, scale=0.1)
        for name, (n_out, n_in) in linear.items():
            weights[f"model/h{layer}/{name}/w"] = normal(n_out, n_in, scale=n_in**-0.5)
            weights[f"model/h{layer}/{name}/b"] = normal(n_out, scale=0.1)
    weights["model/ln_f/g"] = 1 + normal(n, scale=0.1)
    weights["model/ln_f/b"] = normal(n, scale=0.1)
    if lm_head != "absent":
        own = normal(shape.n_vocab, n, scale=0.3)
        weights["model/lm_head"] = own if lm_head == "own" else weights["model/wte"]
    return weights


def tiled(weights: Weights, shape: Shape) -> Weights:
    """Return the weights as files store them: K and V heads repeated for every query head."""
    multi_query_rows = shape.n_embd + 2 * shape.head_dim
    return {
        name: tile_multi_query(values, shape.n_head)
        if "/c_attn/" in name and len(values) == multi_query_rows
        else values
        for name, values in weights.items()
    }


@dataclass(frozen=True)
class TinyModel:
    """A file and the weights it was written from."""

    path: Path
    shape: Shape
    type: str
    weights: Weights  # before quantization; multi-query ones are not tiled

    @cached_property
    def dequantized(self) -> Weights:
        """The weights that the file really holds, in the shapes of `weights`."""
        return {
            name: dequantize(quantize(values, self.type), self.type)
            if values.ndim == 2 and name != "model/wpe"
            else values
            for name, values in self.weights.items()
        }


def write_tiny(
    path: Path | str,
    type: str = "q4_0",
    shape: Shape | None = None,
    *,
    seed: int = 0,
    multi_query: bool = True,
    lm_head: Literal["tied", "own", "absent"] = "tied",
    version: int = 2,
    n_kv_head: int | None = None,
    vocab: list[bytes] | None = None,
) -> TinyModel:
    """Write a random model (`random_weights`) to `path` and return it.

    With `n_kv_head` and not `multi_query`, groups of query heads have the same key and value head.
    """
    assert type in TYPES
    shape = shape or Shape()
    weights = random_weights(shape, seed, multi_query=multi_query, lm_head=lm_head)
    for name, values in weights.items():
        if n_kv_head and "/c_attn/" in name:
            q, *kv = np.split(values, 3)
            heads = [part.reshape(n_kv_head, -1, shape.head_dim, *part.shape[1:]) for part in kv]
            heads = [np.repeat(part[:, :1], part.shape[1], axis=1) for part in heads]
            weights[name] = np.concatenate([q, *(part.reshape(q.shape) for part in heads)])
    write_ggml(
        path,
        n_ctx=shape.n_ctx,
        n_embd=shape.n_embd,
        n_head=shape.n_head,
        n_layer=shape.n_layer,
        vocab=vocab or vocabulary(shape.n_vocab),
        tensors=tiled(weights, shape),
        type=type,
        version=version,
    )
    return TinyModel(Path(path), shape, type, weights)
