"""Writes GGUF version 3 of architecture `starcoder`: header first, then blocks of rows.

All offsets follow from shapes and types. They are running sums, which llama.cpp demands.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from ..atomic_file import atomic_file
from .presets import file_type
from .tensor_types import TYPES
from .tensors import Checkpoint, Loss
from .vocabulary import to_letters

__all__ = ["ggml_name", "write_gguf"]

_ALIGNMENT = 32
_LAYER_NAMES = {
    "ln_1/g": "attn_norm.weight",
    "ln_1/b": "attn_norm.bias",
    "attn/c_attn/w": "attn_qkv.weight",
    "attn/c_attn/b": "attn_qkv.bias",
    "attn/c_proj/w": "attn_output.weight",
    "attn/c_proj/b": "attn_output.bias",
    "ln_2/g": "ffn_norm.weight",
    "ln_2/b": "ffn_norm.bias",
    "mlp/c_fc/w": "ffn_up.weight",
    "mlp/c_fc/b": "ffn_up.bias",
    "mlp/c_proj/w": "ffn_down.weight",
    "mlp/c_proj/b": "ffn_down.bias",
}
_NAMES = {
    "wte": "token_embd.weight",
    "wpe": "position_embd.weight",
    "ln_f/g": "output_norm.weight",
    "ln_f/b": "output_norm.bias",
    "lm_head": "output.weight",
}
_ROLES = (b"<|system|>", b"<|user|>", b"<|assistant|>", b"<|end|>")
#: StarChat's dialogue (chat/template.py), for programs that render templates
_CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|system|>\\n<|end|>\\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write_gguf(
    path: str,
    checkpoint: Checkpoint,
    types: Mapping[str, str],
    loss: Loss,
    report: Callable[[int, int], None] | None = None,
    mix: str | None = None,
) -> None:
    """Write a file with the tensors of `types`, each in its type; mix: the preset's name."""
    tensors = {name: checkpoint.tensors[name] for name in types}
    header = bytearray()
    offset = 0
    sizes = {}
    for name, tensor in tensors.items():
        type = types[name]
        sizes[name] = tensor.n_rows * TYPES[type].row_bytes(tensor.shape[-1])
        header += _string(_gguf_name(name)) + struct.pack("<I", len(tensor.shape))
        header += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        header += struct.pack("<IQ", TYPES[type].ggml_id, offset)
        offset += sizes[name] + -sizes[name] % _ALIGNMENT
    keys = _keys(checkpoint, types, sizes, mix)
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head = start + b"".join([_string(key) + value for key, value in keys.items()]) + header
    head += bytes(-len(head) % _ALIGNMENT)
    total = len(head) + offset

    def written(n_bytes: int) -> None:
        if report:
            report(n_bytes, total)

    with atomic_file(path, total, written) as output:
        output.write(head)
        for name, tensor in tensors.items():
            for rows in tensor.blocks(types[name], loss):
                output.write(rows)
            output.write(bytes(-sizes[name] % _ALIGNMENT))


def ggml_name(name: str) -> str:
    """Return the name in ggml files of a tensor of GGUF files.

    >>> ggml_name("blk.3.attn_qkv.bias")
    'model/h3/attn/c_attn/b'
    """
    if name.startswith("blk."):
        _, layer, rest = name.split(".", 2)
        (ours,) = [ours for ours, theirs in _LAYER_NAMES.items() if theirs == rest]
        return f"model/h{layer}/{ours}"
    (ours,) = [ours for ours, theirs in _NAMES.items() if theirs == name]
    return f"model/{ours}"


def _gguf_name(name: str) -> str:
    name = name.removeprefix("model/")
    if name in _NAMES:
        return _NAMES[name]
    layer, _, rest = name.partition("/")
    return f"blk.{layer[1:]}.{_LAYER_NAMES[rest]}"


def _keys(
    checkpoint: Checkpoint, types: Mapping[str, str], sizes: Mapping[str, int], mix: str | None
) -> dict[str, bytes]:
    share: dict[str, int] = {}
    for name, type in types.items():
        share[type] = share.get(type, 0) + sizes[name]
    tokens, kinds = checkpoint.tokens, checkpoint.kinds
    kv_heads = 1 if checkpoint.is_multi_query else checkpoint.n_head
    arch = "starcoder."
    keys = {
        "general.architecture": _text("starcoder"),
        "general.name": _text(checkpoint.about["name"]),
        **(
            {"general.license": _text(checkpoint.about["license"])}
            if "license" in checkpoint.about
            else {}
        ),
        "general.file_type": _u32(file_type(mix or max(share, key=lambda type: share[type]))),
        "general.quantization_version": _u32(2),
        f"{arch}context_length": _u32(checkpoint.n_ctx),
        f"{arch}embedding_length": _u32(checkpoint.n_embd),
        f"{arch}feed_forward_length": _u32(checkpoint.n_inner),
        f"{arch}block_count": _u32(checkpoint.n_layer),
        f"{arch}attention.head_count": _u32(checkpoint.n_head),
        f"{arch}attention.head_count_kv": _u32(kv_heads),
        f"{arch}attention.layer_norm_epsilon": struct.pack("<If", 6, checkpoint.epsilon),
        "tokenizer.ggml.model": _text("gpt2"),
        "tokenizer.ggml.pre": _text("refact"),  # llama.cpp's name of StarCoder's tokenizer
        "tokenizer.ggml.tokens": _array(
            8,
            [
                _string(_spelt(id, *token))
                for id, token in enumerate(zip(tokens, kinds, strict=True))
            ],
        ),
        "tokenizer.ggml.token_type": _array(5, [struct.pack("<i", kind) for kind in kinds]),
        "tokenizer.ggml.merges": _array(
            8,
            [
                _string(f"{to_letters(left)} {to_letters(right)}")
                for left, right in checkpoint.merges
            ],
        ),
    }
    end_of_text = tokens.index(b"<|endoftext|>") if b"<|endoftext|>" in tokens else 0
    for role in ("bos", "eos", "unknown"):
        keys[f"tokenizer.ggml.{role}_token_id"] = _u32(end_of_text)
    keys["tokenizer.ggml.add_bos_token"] = struct.pack("<I?", 7, False)
    template = checkpoint.about.get("chat_template")
    if all(role in tokens for role in _ROLES):
        keys["tokenizer.ggml.eot_token_id"] = _u32(tokens.index(b"<|end|>"))
        template = template or _CHAT_TEMPLATE
    if template:
        keys["tokenizer.chat_template"] = _text(template)
    return keys


def _spelt(id: int, token: bytes, kind: int) -> str:
    if kind == 5:
        return f"[PAD{id}]"
    return to_letters(token) if kind == 1 else token.decode("utf-8", "replace")


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _text(text: str) -> bytes:
    return struct.pack("<I", 8) + _string(text)


def _u32(number: int) -> bytes:
    return struct.pack("<2I", 4, number)


def _array(kind: int, values: list[Any]) -> bytes:
    return struct.pack("<2IQ", 9, kind, len(values)) + b"".join(values)
