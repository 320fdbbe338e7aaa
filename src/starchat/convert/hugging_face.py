"""A folder of Hugging Face as a Checkpoint: its tensors, in any of three layouts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from ..errors import CorruptFileError, FileAccessError, UnsupportedFormatError
from . import gptq, lora
from .folder import Folder
from .safetensors import read_safetensors
from .tensors import Checkpoint, StoredTensor, gathered, stacked, transposed
from .tokenizer_files import read_tokens
from .torch_file import read_torch

__all__ = ["open_folder"]

_TANH = ("gelu_pytorch_tanh", "gelu_fast", "gelu_new")
_INDEXES = "model.safetensors.index.json", "pytorch_model.bin.index.json"
_NAMES = {
    "ln_1.weight": "ln_1/g",
    "ln_1.bias": "ln_1/b",
    "ln_2.weight": "ln_2/g",
    "ln_2.bias": "ln_2/b",
    **{
        f"{linear}.{part}": f"{linear.replace('.', '/')}/{part[0]}"
        for linear in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        for part in ("weight", "bias")
    },
}
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # buffers of old files, no weights


def open_folder(path: str, files: ExitStack, adapter: str | None = None) -> Checkpoint:
    """Return the model in a folder, with an adapter; `files` closes what it reads from.

    Everything is checked here that can be without reading weights.
    """
    root = Folder(path, files)
    config = root.json("config.json")
    is_old = _check_architecture(root, config)
    n_embd, n_head, n_layer, n_ctx = (
        _number(root, config, name) for name in ("n_embd", "n_head", "n_layer", "n_positions")
    )
    n_inner = 4 * n_embd
    if config.get("n_inner") is not None:
        n_inner = _number(root, config, "n_inner")
    epsilon = config.get("layer_norm_epsilon", 1e-5)
    if n_embd % n_head or not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise CorruptFileError(
            f"{root.path_of('config.json')}: n_embd {n_embd}, n_head {n_head}, layer_norm_epsilon "
            f"{str(epsilon)[:40]}, expected whole heads and a number between 0 and 1"
        )
    stored = {
        name.removeprefix("transformer."): tensor
        for name, tensor in _stored(root).items()
        if not _MASK.fullmatch(name.removeprefix("transformer."))
    }
    quantization = config.get("quantization_config")
    if root.has("quantize_config.json"):
        quantization = root.json("quantize_config.json")
    stored = gptq.unpacked(path, stored, quantization)
    if adapter is not None:
        if is_old:
            raise UnsupportedFormatError(
                f"{adapter}: {path} has transposed matrices: merge by PEFT"
            )
        stored = lora.merged(adapter, stored, files)
    tensors = _canonical(root, stored, is_old, n_layer)
    head_dim = n_embd // n_head
    is_multi_head = not is_old and config.get("multi_query", True) is False
    n_rows = 3 * n_embd if is_multi_head else n_embd + 2 * head_dim
    n_vocab = tensors["model/wte"].shape[0]
    _check_shapes(root, tensors, n_vocab, n_ctx, n_embd, n_inner, n_rows)
    if is_multi_head:
        heads = np.arange(n_rows).reshape(n_head, 3, head_dim)
        index = heads.swapaxes(0, 1).ravel()
        for layer in range(n_layer):
            for part in ("w", "b"):
                name = f"model/h{layer}/attn/c_attn/{part}"
                tensors[name] = gathered(tensors[name], index)
    tokens, kinds, merges = read_tokens(root, n_vocab)
    return Checkpoint(
        n_ctx,
        n_embd,
        n_inner,
        n_head,
        n_layer,
        epsilon,
        tokens,
        kinds,
        merges,
        tensors,
        _about(root),
        [(root.path_of(name), fd) for name, fd in root.opened.items()],
    )


def _number(root: Folder, config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or not 1 <= value < 1 << 24:
        problem = f"{name} is {str(value)[:40]}, expected a whole number from 1"
        raise CorruptFileError(f"{root.path_of('config.json')}: {problem}")
    return value


def _check_architecture(root: Folder, config: Mapping[str, Any]) -> bool:
    """Refuse what the engine does not compute; return whether the layout is SantaCoder's first."""
    names = config.get("architectures") or [config.get("model_type", "none")]
    is_old = str(names[0]).startswith("GPT2")
    problem = ""
    if not is_old and names[0] not in ("GPTBigCodeForCausalLM", "gpt_bigcode"):
        problem = f"holds {str(names[0])[:60]}, expected GPTBigCodeForCausalLM"
    elif (gelu := config.get("activation_function", "gelu_pytorch_tanh")) not in _TANH:
        problem = f"activation_function is {str(gelu)[:40]}, expected one of {', '.join(_TANH)}"
    elif config.get("scale_attn_weights", True) is not True:
        problem = "scale_attn_weights is false, expected true"
    elif config.get("add_cross_attention"):
        problem = "add_cross_attention is true, expected false"
    if problem:
        raise UnsupportedFormatError(f"{root.path_of('config.json')}: {problem}")
    return is_old


def _stored(root: Folder) -> dict[str, StoredTensor]:
    """Return the tensors of all shards; each named one must be in its shard."""
    for index in _INDEXES:
        if not root.has(index):
            continue
        where = root.json(index).get("weight_map")
        if not isinstance(where, dict) or not where:
            raise CorruptFileError(f"{root.path_of(index)}: no weight_map; download it again")
        shards = {str(name): _shard(root, str(name)) for name in {*where.values()}}
        for name, shard in where.items():
            if name not in shards[str(shard)]:
                problem = f"{name[:100]} is not in {shard}, where {index} has it"
                raise CorruptFileError(f"{root}: {problem}; download both again")
        return {name: shards[str(shard)][name] for name, shard in where.items()}
    for name in "model.safetensors", ".safetensors", "pytorch_model.bin", ".bin":
        found = [each for each in root.names(name) if each != "training_args.bin"]
        if name in found:
            found = [name]
        if len(found) > 1:
            raise UnsupportedFormatError(
                f"{root}: {len(found)} files *{name} and no index; add "
                f"{_INDEXES['.bin' in name]}, or leave one"
            )
        if found:
            return _shard(root, found[0])
    raise FileAccessError(
        f"{root}: no *.safetensors and no pytorch_model.bin; give the folder of a downloaded model"
    )


def _shard(root: Folder, name: str) -> dict[str, StoredTensor]:
    if name != os.path.basename(name) or "\0" in name:
        raise CorruptFileError(f"{root}: the index names {name[:100]!r}, which is no file here")
    fd = root.open(name, "download every shard")
    read = read_safetensors if name.endswith(".safetensors") else read_torch
    return read(fd, root.path_of(name))


def _canonical(
    root: Folder, stored: dict[str, StoredTensor], is_old: bool, n_layer: int
) -> dict[str, StoredTensor]:
    """Return the tensors by ggml's names; a name that has none there is refused."""
    left = dict(stored)

    def take(name: str, is_linear: bool = False) -> StoredTensor:
        if name not in left:
            raise CorruptFileError(f"{root}: the tensor {name} is missing; download it again")
        tensor = left.pop(name)
        if is_old and is_linear and len(tensor.shape) == 2:
            return transposed(tensor)
        return tensor

    tensors = {"model/wte": take("wte.weight"), "model/wpe": take("wpe.weight")}
    for layer in range(n_layer):
        for name, ours in _NAMES.items():
            prefix = f"h.{layer}."
            if is_old and name.startswith("attn.c_attn") and prefix + name not in left:
                part = name.rpartition(".")[2]
                q, kv = (take(f"{prefix}attn.{x}_attn.{part}", True) for x in ("q", "kv"))
                if q.type != kv.type or q.shape[1:] != kv.shape[1:]:
                    raise CorruptFileError(f"{root}: {prefix}attn: q_attn and kv_attn differ")
                tensors[f"model/h{layer}/{ours}"] = stacked(q, kv)
            else:
                tensor = take(prefix + name, is_linear="ln_" not in name)
                tensors[f"model/h{layer}/{ours}"] = tensor
    tensors["model/ln_f/g"], tensors["model/ln_f/b"] = take("ln_f.weight"), take("ln_f.bias")
    if "lm_head.weight" in left:
        tensors["model/lm_head"] = take("lm_head.weight")
    if left:
        raise UnsupportedFormatError(
            f"{root}: {len(left)} unknown tensors, the first {min(left)[:100]}: another layout, "
            "or an adapter that is not merged"
        )
    return tensors


def _check_shapes(
    root: Folder,
    tensors: Mapping[str, StoredTensor],
    n_vocab: int,
    n_ctx: int,
    n_embd: int,
    n_inner: int,
    n_rows: int,
) -> None:
    matrices = {"c_attn": (n_rows, n_embd), "c_fc": (n_inner, n_embd)}
    for name, tensor in tensors.items():
        place = name.removeprefix("model/").partition("/")[2] if "/h" in name else name
        _, _, linear = place.rpartition("/")[0].rpartition("/")
        if name in ("model/wte", "model/lm_head"):
            shape: tuple[int, ...] = (n_vocab, n_embd)
        elif name == "model/wpe":
            shape = (n_ctx, n_embd)
        elif linear in ("c_attn", "c_fc", "c_proj"):
            width = n_inner if "mlp/c_proj" in name else n_embd
            shape = matrices.get(linear, (n_embd, width))
            shape = shape if name.endswith("/w") else shape[:1]
        else:
            shape = (n_embd,)
        if tensor.shape != shape:
            raise CorruptFileError(
                f"{root}: {name} has the shape {list(tensor.shape)}, expected {list(shape)} by "
                "config.json"
            )
        if tensor.type not in ("f32", "f16", "bf16", "q4_0", "q4_1", "q8_0"):
            problem = f"{name} is of type {tensor.type}, expected f32, f16 or bf16"
            raise UnsupportedFormatError(f"{root}: {problem}")


def _about(root: Folder) -> dict[str, str]:
    about = {"name": os.path.basename(os.path.realpath(root.path))}
    with suppress(OSError), open(root.path_of("README.md"), "rb") as file:
        head = file.read(1 << 16).decode("utf-8", "replace")
        front = re.match(r"---\r?\n(.*?)\n---", head, re.DOTALL)
        if front and (found := re.search(r"^license:[ \t]*(\S+)", front[1], re.MULTILINE)):
            about["license"] = found[1].strip("'\"")
    if root.has("tokenizer_config.json"):
        template = root.json("tokenizer_config.json").get("chat_template")
        if isinstance(template, str):
            about["chat_template"] = template
    return about
