"""GPTBigCode in double precision, in plain numpy: an oracle for logits that quantizes nothing.

Run as a program, it prints what transformers gives for the checkpoints of folders.py:
    python -m support.dense_forward
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
IDS = list(range(19, 79))


def logits(tensors: Mapping[str, Array], n_head: int, *, half_cache: bool = False) -> Array:
    """Return logits of IDS, from tensors named as in GGUF; half_cache: keys and values in f16."""

    def linear(x: Array, name: str) -> Array:
        return x @ wide(f"{name}.weight").T + wide(f"{name}.bias")

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + 1e-5) * wide(f"{name}.weight") + wide(f"{name}.bias")

    def wide(name: str) -> Array:
        return np.asarray(tensors[name], np.float64)

    n_tokens = len(IDS)
    x = wide("token_embd.weight")[IDS] + wide("position_embd.weight")[:n_tokens]
    n_embd = x.shape[1]
    for layer in range(sum(name.endswith("attn_qkv.bias") for name in tensors)):
        block = f"blk.{layer}."
        qkv = linear(norm(x, block + "attn_norm"), block + "attn_qkv")
        q, kv = qkv[:, :n_embd], qkv[:, n_embd:]
        if half_cache:
            kv = kv.astype(np.float16).astype(np.float64)
        q, k, v = (
            part.reshape(n_tokens, -1, n_embd // n_head) for part in (q, *np.split(kv, 2, 1))
        )
        k, v = (np.repeat(part, n_head // part.shape[1], axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(n_embd // n_head)
        scores[:, ~np.tri(n_tokens, dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, v).reshape(n_tokens, n_embd)
        x = x + linear(mixed, block + "attn_output")
        up = linear(norm(x, block + "ffn_norm"), block + "ffn_up")
        gelu = up / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        x = x + linear(gelu, block + "ffn_down")
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    return norm(x, "output_norm") @ wide(head).T


if __name__ == "__main__":
    import starchat  # noqa: F401, I001  before torch, which leaves no room for its libstdc++

    import torch
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    from support.folders import SHAPE, checkpoint

    for multi_query in True, False:
        config = GPTBigCodeConfig(
            vocab_size=SHAPE.n_vocab,
            n_positions=SHAPE.n_ctx,
            n_embd=SHAPE.n_embd,
            n_layer=SHAPE.n_layer,
            n_head=SHAPE.n_head,
            multi_query=multi_query,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
        model = GPTBigCodeForCausalLM(config).eval()
        tensors = checkpoint(multi_query, lm_head="own")
        state = {name: torch.from_numpy(t.astype(np.float32)) for name, t in tensors.items()}
        model.load_state_dict(state)
        with torch.no_grad():
            row = model(torch.tensor([IDS])).logits[0, -1, :8]
        print(multi_query, [round(float(value), 6) for value in row])
