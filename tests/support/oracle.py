"""transformers' GPTBigCode in fp32 over the weights that a tiny file really holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

from support.tiny_model import TinyModel


def transformers_model(tiny: TinyModel) -> GPTBigCodeForCausalLM:
    """Build the model; every one of its weights comes from the file."""
    shape, weights = tiny.shape, tiny.dequantized
    config = GPTBigCodeConfig(
        vocab_size=shape.n_vocab,
        n_positions=shape.n_ctx,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        activation_function="gelu_pytorch_tanh",
        multi_query=len(weights["model/h0/attn/c_attn/b"]) != 3 * shape.n_embd,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    model = GPTBigCodeForCausalLM(config).eval()
    state = {
        "lm_head.weight": weights.get("model/lm_head", weights["model/wte"]),
        "transformer.wte.weight": weights["model/wte"],
        "transformer.wpe.weight": weights["model/wpe"],
    }
    kinds = {"g": "weight", "w": "weight", "b": "bias"}
    for name, values in weights.items():
        *path, kind = name.split("/")[1:]
        if path:
            block = [f"h.{path[0][1:]}"] if path[0][0] == "h" else [path[0]]
            if path[-1] == "c_attn" and not config.multi_query:
                values = _by_head(values, shape.n_head)
            state[".".join(["transformer", *block, *path[1:], kinds[kind]])] = values
    loaded = model.load_state_dict(
        {name: torch.tensor(values) for name, values in state.items()}, strict=False
    )
    assert not loaded.missing_keys and not loaded.unexpected_keys, loaded
    return model


def _by_head(values: npt.NDArray[np.float32], n_head: int) -> npt.NDArray[np.float32]:
    """Rows q,k,v (each by head), as files have them, to rows by head (each q,k,v)."""
    parts = values.reshape(3, n_head, -1, *values.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(0, 1).reshape(values.shape))


def log_probabilities(
    model: GPTBigCodeForCausalLM, token_ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return (n_tokens, n_vocab) natural log probabilities."""
    with torch.no_grad():
        logits = model(torch.tensor(token_ids[None])).logits[0]
    result: npt.NDArray[np.float64] = logits.double().log_softmax(-1).numpy()
    return result
