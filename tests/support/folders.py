"""Folders with random weights, as transformers and AutoGPTQ write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from starchat.convert.vocabulary import rebuilt_merges, to_letters
from support.tiny_model import CONTROL, MERGED, ROLES, Shape, random_weights

SHAPE = Shape()
Arrays = dict[str, np.ndarray]


def hf_name(name: str) -> str:
    """Return the name of a tensor in a checkpoint of transformers."""
    if name == "model/lm_head":
        return "lm_head.weight"
    ends = {"w": "weight", "g": "weight", "b": "bias"}
    *path, last = name.removeprefix("model/").split("/")
    path = [f"h.{part[1:]}" if part[0] == "h" and part[1:].isdigit() else part for part in path]
    return ".".join(["transformer", *path, ends[last] if path else f"{last}.weight"])


def checkpoint(multi_query: bool = True, shape: Shape = SHAPE, **options: Any) -> Arrays:
    """Return the tensors of a checkpoint in f16."""
    options = {"lm_head": "absent", **options}
    weights = random_weights(shape, multi_query=multi_query, **options)
    return {hf_name(name): values.astype(np.float16) for name, values in weights.items()}


def old_layout() -> Arrays:
    """Return the tensors as SantaCoder has them: q apart, matrices transposed, a mask."""
    tensors = {}
    for name, values in checkpoint().items():
        is_matrix = values.ndim == 2 and ".h." in name
        if ".c_attn." in name:
            q, kv = np.split(values, [SHAPE.n_embd])
            for part, rows in ("q_attn", q), ("kv_attn", kv):
                tensors[name.replace("c_attn", part)] = np.ascontiguousarray(rows.T)
        else:
            tensors[name] = np.ascontiguousarray(values.T) if is_matrix else values
    tensors["transformer.h.0.attn.bias"] = np.zeros((1, 1, 4, 4), np.uint8)
    return tensors


def write_folder(root: Path, tensors: Arrays | None, shape: Shape = SHAPE, **config: Any) -> Path:
    """Write a folder as Hugging Face has it, with the vocabulary of the tiny models."""
    root.mkdir(exist_ok=True)
    settings = {
        "architectures": ["GPTBigCodeForCausalLM"],
        "n_embd": shape.n_embd,
        "n_head": shape.n_head,
        "n_layer": shape.n_layer,
        "n_positions": shape.n_ctx,
        "multi_query": True,
        **config,
    }
    (root / "config.json").write_text(json.dumps(settings))
    ordinary = [bytes([value]) for value in range(256)] + [text.encode() for text in MERGED]
    vocab = {to_letters(token): len(CONTROL) + id for id, token in enumerate(ordinary)}
    controls = {text: id for id, text in enumerate(CONTROL)}
    controls |= {text: len(CONTROL) + len(ordinary) + id for id, text in enumerate(ROLES)}
    merges = [[to_letters(left), to_letters(right)] for left, right in rebuilt_merges(ordinary)]
    added = [{"id": id, "content": text, "special": True} for text, id in controls.items()]
    model = {"vocab": vocab, "merges": merges}
    (root / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    (root / "README.md").write_text("---\nlicense: bigcode-openrail-m\n---\n# A model\n")
    if tensors is not None:
        save_file(tensors, root / "model.safetensors")
    return root


def pack(codes: np.ndarray, axis: int, bits: int = 4) -> np.ndarray:
    """Return the codes that fit into each word, along an axis."""
    n = 32 // bits
    codes = np.moveaxis(codes.astype(np.uint32), axis, -1).reshape(-1, codes.shape[axis] // n, n)
    words = (codes << np.arange(0, 32, bits, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)
    return np.ascontiguousarray((words.T if axis == 0 else words).view(np.int32))


def unpack(words: np.ndarray, axis: int) -> np.ndarray:
    """Return the codes that pack() has packed."""
    words = np.moveaxis(words.view(np.uint32), axis, -1)[..., None]
    codes = (words >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(len(words), -1)
    return np.moveaxis(codes, -1, axis)


def gptq_tensors(
    group: int,
    is_symmetric: bool,
    shift: int,
    act_order: bool,
    shape: Shape = SHAPE,
    multi_query: bool = True,
    bits: int = 4,
) -> tuple[Arrays, Arrays]:
    """Return the tensors of a checkpoint, and the weights of its linears in double precision."""
    random = np.random.default_rng(0)
    tensors, weights = checkpoint(multi_query, shape), {}
    for name in [n for n, t in tensors.items() if t.ndim == 2 and ".h." in n]:
        n_out, n_in = tensors.pop(name).shape
        size = n_in if group == -1 else group
        n_groups = -(-n_in // size)
        code = random.integers(0, 1 << bits, (n_in, n_out))
        zero = np.full((n_groups, n_out), 1 << bits - 1)
        if not is_symmetric:
            zero = random.integers(1, 1 << bits, (n_groups, n_out))
        scale = random.uniform(0.003, 0.08, (n_groups, n_out)) / (1 << bits)
        scale = scale.astype(np.float16)
        g_idx = np.arange(n_in, dtype=np.int32) // size
        if act_order:
            g_idx = random.permutation(g_idx)
        prefix = name.removesuffix("weight")
        tensors[prefix + "qweight"] = pack(code, 0, bits)
        tensors[prefix + "qzeros"] = pack(zero - shift, 1, bits)
        tensors[prefix + "scales"] = scale
        tensors[prefix + "g_idx"] = g_idx
        weights[name] = (scale[g_idx].astype(np.float64) * (code - zero[g_idx])).T
    return tensors, weights
