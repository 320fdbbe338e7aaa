"""GGUF files of tiny models, written by the `gguf` package: an independent writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat.convert.tensor_types import quantize
from starchat.convert.vocabulary import rebuilt_merges
from support.tiny_model import CONTROL, ROLES, Shape, Weights, vocabulary
from support.tokenizer_oracle import byte_characters

gguf = pytest.importorskip("gguf")

LAYER = {
    "ln_1/g": "attn_norm.weight", "ln_1/b": "attn_norm.bias",
    "attn/c_attn/w": "attn_qkv.weight", "attn/c_attn/b": "attn_qkv.bias",
    "attn/c_proj/w": "attn_output.weight", "attn/c_proj/b": "attn_output.bias",
    "ln_2/g": "ffn_norm.weight", "ln_2/b": "ffn_norm.bias",
    "mlp/c_fc/w": "ffn_up.weight", "mlp/c_fc/b": "ffn_up.bias",
    "mlp/c_proj/w": "ffn_down.weight", "mlp/c_proj/b": "ffn_down.bias",
}  # fmt: skip
NAMES = {
    "model/wte": "token_embd.weight", "model/wpe": "position_embd.weight",
    "model/ln_f/g": "output_norm.weight", "model/ln_f/b": "output_norm.bias",
    "model/lm_head": "output.weight",
}  # fmt: skip
NORMAL, CONTROL_KIND, USER_DEFINED, UNUSED = 1, 3, 4, 5
Pairs = Iterable[tuple[bytes, bytes]]


def gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, layer, rest = name.split("/", 2)
    return f"blk.{layer[1:]}.{LAYER[rest]}"


def encoded(token: bytes) -> bytes:
    """Return a token as GPT-2's vocabulary files spell it."""
    characters = byte_characters()
    return "".join(characters[byte] for byte in token).encode()


def tokens_of(generation: str, tokens: Sequence[bytes]) -> tuple[list[bytes], list[int] | None]:
    """Return the tokens and their kinds as the converters of a time wrote them."""
    control = {name.encode() for name in (*CONTROL, *ROLES)}
    if generation == "raw":
        return list(tokens), [NORMAL] * len(tokens)
    if generation == "raw without kinds":
        return list(tokens), None
    spelt = [token if token in control else encoded(token) for token in tokens]
    return spelt, [CONTROL_KIND if token in control else NORMAL for token in tokens]


def merges_of(tokens: Sequence[bytes]) -> Pairs:
    """Return the merges in the order of the ids, as in all files of StarCoder's family."""
    control = {name.encode() for name in (*CONTROL, *ROLES)}
    return rebuilt_merges([token for token in tokens if token not in control])


def write_gguf(
    path: Path,
    weights: Weights,
    shape: Shape,
    type_of: Callable[[str], str],
    *,
    generation: str = "encoded",
    tokens: Sequence[bytes] | None = None,
    kinds: Mapping[int, int] | None = None,
    merges: Pairs | None = None,
    keys: Mapping[str, Any] | None = None,
    arch: str = "starcoder",
    **options: Any,
) -> Path:
    """Write a model, each matrix in the type that `type_of` names.

    `keys` replace or add numbers, `kinds` those of ids; `merges`: [] for a file without them.
    """
    writer = gguf.GGUFWriter(path, arch, **options)
    numbers = {
        "context_length": shape.n_ctx,
        "embedding_length": shape.n_embd,
        "feed_forward_length": 4 * shape.n_embd,
        "block_count": shape.n_layer,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": 1,
    }
    for key, value in {**numbers, **(keys or {})}.items():
        writer.add_uint32(f"{arch}.{key}", value)
    writer.add_layer_norm_eps(1e-5)
    tokens = tokens or vocabulary(shape.n_vocab)
    spelt, kinds_of_all = tokens_of(generation, tokens)
    for id, kind in (kinds or {}).items() if kinds_of_all else ():
        kinds_of_all[id] = kind
        if kind == USER_DEFINED:
            spelt[id] = tokens[id]
    writer.add_token_list(spelt)
    if kinds_of_all is not None:
        writer.add_token_types(kinds_of_all)
    pairs = [encoded(left) + b" " + encoded(right) for left, right in
             (merges_of(tokens) if merges is None else merges)]  # fmt: skip
    if pairs:
        writer.add_token_merges(pairs)
    writer.add_eos_token_id(0)
    writer.add_array("unknown.names", ["a", "bc"])
    for name, values in weights.items():
        type = type_of(name)
        if values.ndim == 1 or type == "f32":
            writer.add_tensor(gguf_name(name), values)
        else:
            rows = quantize(values, type)
            raw = gguf.GGMLQuantizationType[type.upper()]
            writer.add_tensor(gguf_name(name), rows, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def values_in(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file as floats, by the gguf package."""
    return {
        str(tensor.name): gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }
