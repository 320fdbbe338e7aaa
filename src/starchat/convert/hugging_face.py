"""A folder of Hugging Face as a Checkpoint: tensors, in any of three layouts, and tokens."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptFileError, FileAccessError, UnsupportedFormatError
from . import gptq
from .safetensors import read_safetensors
from .tensors import Checkpoint, StoredTensor, gathered, stacked, transposed
from .torch_file import read_torch
from .vocabulary import from_letters

__all__ = ["open_folder"]

_TANH = ("gelu_pytorch_tanh", "gelu_fast", "gelu_new")
_MAX_JSON = 256 << 20  # bytes
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


def open_folder(folder: str, files: ExitStack) -> Checkpoint:
    """Return the model in a folder; `files` closes what it reads from.

    Everything is checked here that can be without reading weights.
    """
    root = Path(folder)
    config = _json(root / "config.json")
    n_embd, n_head, n_layer, n_ctx = (
        _number(root, config, name) for name in ("n_embd", "n_head", "n_layer", "n_positions")
    )
    is_old = _check(root, config, n_embd, n_head)
    stored = {
        name.removeprefix("transformer."): tensor
        for name, tensor in _stored(root, files).items()
        if not _MASK.fullmatch(name.removeprefix("transformer."))
    }
    quantization = config.get("quantization_config")
    if (root / "quantize_config.json").exists():
        quantization = _json(root / "quantize_config.json")
    stored = gptq.unpacked(str(root), stored, quantization)
    tensors = _canonical(root, stored, is_old, n_layer)
    head_dim = n_embd // n_head
    if not is_old and config.get("multi_query", True) is False:
        heads = np.arange(3 * n_embd).reshape(n_head, 3, head_dim)
        index = heads.swapaxes(0, 1).ravel()
        for layer in range(n_layer):
            for part in ("w", "b"):
                name = f"model/h{layer}/attn/c_attn/{part}"
                tensors[name] = gathered(tensors[name], index)
        n_rows = 3 * n_embd
    else:
        n_rows = n_embd + 2 * head_dim
    n_vocab = tensors["model/wte"].shape[0]
    _check_shapes(root, tensors, n_vocab, n_ctx, n_embd, n_rows)
    tokens, kinds, merges = _tokens(root, n_vocab)
    return Checkpoint(
        n_ctx,
        n_embd,
        n_head,
        n_layer,
        float(config.get("layer_norm_epsilon", 1e-5)),
        tokens,
        kinds,
        merges,
        tensors,
        _about(root),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CorruptFileError(f"{path}: larger than {_MAX_JSON >> 20} MB")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path}: expected JSON: {error}; download it again") from None
    if not isinstance(value, dict):
        raise CorruptFileError(f"{path}: expected a JSON object; download it again")
    return value


def _number(root: Path, config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or not 1 <= value < 1 << 24:
        problem = f"{name} is {str(value)[:40]}, expected a whole number from 1"
        raise CorruptFileError(f"{root / 'config.json'}: {problem}")
    return value


def _check(root: Path, config: Mapping[str, Any], n_embd: int, n_head: int) -> bool:
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
    elif (inner := config.get("n_inner")) not in (None, 4 * n_embd):
        problem = f"n_inner is {str(inner)[:40]}, expected 4·n_embd = {4 * n_embd}"
    elif config.get("layer_norm_epsilon", 1e-5) != 1e-5:
        problem = f"layer_norm_epsilon is {config['layer_norm_epsilon']}, expected 1e-05"
    elif n_embd % n_head:
        problem = f"n_embd {n_embd} is no multiple of n_head {n_head}"
    if problem:
        raise UnsupportedFormatError(f"{root / 'config.json'}: {problem}")
    return is_old


def _stored(root: Path, files: ExitStack) -> dict[str, StoredTensor]:
    """Return the tensors of all shards; each named one must be in its shard."""
    for index in _INDEXES:
        if not (root / index).exists():
            continue
        where = _json(root / index).get("weight_map")
        if not isinstance(where, dict) or not where:
            raise CorruptFileError(f"{root / index}: no weight_map; download it again")
        shards = {
            str(name): _shard(root, str(name), files) for name in dict.fromkeys(where.values())
        }
        for name, shard in where.items():
            if name not in shards[str(shard)]:
                problem = f"{name[:100]} is not in {shard}, where {index} has it"
                raise CorruptFileError(f"{root}: {problem}; download both again")
        return {name: shards[str(shard)][name] for name, shard in where.items()}
    for pattern in ("model.safetensors", "*.safetensors", "pytorch_model.bin", "*.bin"):
        found = sorted(path.name for path in root.glob(pattern) if path.name != "training_args.bin")
        if len(found) > 1:
            raise UnsupportedFormatError(
                f"{root}: {len(found)} files {pattern} and no index; add "
                f"{_INDEXES['.bin' in pattern]}, or leave one"
            )
        if found:
            return _shard(root, found[0], files)
    raise FileAccessError(
        f"{root}: no *.safetensors and no pytorch_model.bin; give the folder of a downloaded model"
    )


def _shard(root: Path, name: str, files: ExitStack) -> dict[str, StoredTensor]:
    if name != os.path.basename(name) or "\0" in name:
        raise CorruptFileError(f"{root}: the index names {name[:100]!r}, which is no file here")
    path = str(root / name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        problem = f"{path}: cannot be opened: {error.strerror}; download every shard"
        raise FileAccessError(problem) from None
    files.callback(os.close, fd)
    return (read_safetensors if name.endswith(".safetensors") else read_torch)(fd, path)


def _canonical(
    root: Path, stored: dict[str, StoredTensor], is_old: bool, n_layer: int
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
    root: Path,
    tensors: Mapping[str, StoredTensor],
    n_vocab: int,
    n_ctx: int,
    n_embd: int,
    n_rows: int,
) -> None:
    matrices = {"c_attn": (n_rows, n_embd), "c_fc": (4 * n_embd, n_embd)}
    for name, tensor in tensors.items():
        place = name.removeprefix("model/").partition("/")[2] if "/h" in name else name
        _, _, linear = place.rpartition("/")[0].rpartition("/")
        if name in ("model/wte", "model/lm_head"):
            shape: tuple[int, ...] = (n_vocab, n_embd)
        elif name == "model/wpe":
            shape = (n_ctx, n_embd)
        elif linear in ("c_attn", "c_fc", "c_proj"):
            width = 4 * n_embd if "mlp/c_proj" in name else n_embd
            shape = matrices.get(linear, (n_embd, width))
            shape = shape if name.endswith("/w") else shape[:1]
        else:
            shape = (n_embd,)
        if tensor.shape != shape:
            raise CorruptFileError(
                f"{root}: {name} has the shape {list(tensor.shape)}, expected {list(shape)} by "
                "config.json"
            )
        if tensor.type not in ("f32", "f16", "bf16", "q4_0", "q4_1"):
            problem = f"{name} is of type {tensor.type}, expected f32, f16 or bf16"
            raise UnsupportedFormatError(f"{root}: {problem}")


def _tokens(root: Path, n_vocab: int) -> tuple[list[bytes], list[int], list[tuple[bytes, bytes]]]:
    """Return token, kind of each id, and merges; ids without a token are unused."""
    added: dict[int, tuple[str, bool]] = {}
    try:
        if (root / "tokenizer.json").exists():
            whole = _json(root / "tokenizer.json")
            vocab, merges = whole["model"]["vocab"], whole["model"]["merges"]
            for each in whole["added_tokens"]:
                added[each["id"]] = each["content"], bool(each["special"])
        else:
            vocab = _json(root / "vocab.json")
            lines = (root / "merges.txt").read_text("utf-8").splitlines()
            merges = [line for line in lines if line and not line.startswith("#version")]
        if (root / "added_tokens.json").exists():
            for text, id in _json(root / "added_tokens.json").items():
                added.setdefault(id, (text, True))
        tokens, kinds = [b""] * n_vocab, [5] * n_vocab
        for text, id in vocab.items():
            if id in added:
                continue
            _check_id(root, id, n_vocab)
            tokens[id], kinds[id] = from_letters(text), 1
        for id, (text, is_special) in added.items():
            _check_id(root, id, n_vocab)
            tokens[id], kinds[id] = text.encode(), 3 if is_special else 4
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        return tokens, kinds, [(from_letters(left), from_letters(right)) for left, right in pairs]
    except OSError as error:
        problem = f"{root}: no tokenizer.json, and no vocab.json with merges.txt"
        raise FileAccessError(f"{problem} ({error.strerror}); download them too") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{root}: the tokenizer is malformed ({type(error).__name__}: {error})"
        raise CorruptFileError(f"{problem}; download it again") from None


def _check_id(root: Path, id: Any, n_vocab: int) -> None:
    if type(id) is not int or not 0 <= id < n_vocab:
        raise CorruptFileError(
            f"{root}: the tokenizer has the id {str(id)[:20]}, but the model has {n_vocab:,} rows"
        )


def _about(root: Path) -> dict[str, str]:
    about = {"name": root.resolve().name}
    try:
        with open(root / "README.md", encoding="utf-8", errors="replace") as file:
            head = file.read(1 << 16)
        front = re.match(r"---\r?\n(.*?)\n---", head, re.DOTALL)
        if front and (found := re.search(r"^license:[ \t]*(\S+)", front[1], re.MULTILINE)):
            about["license"] = found[1].strip("'\"")
    except OSError:
        pass
    if (root / "tokenizer_config.json").exists():
        template = _json(root / "tokenizer_config.json").get("chat_template")
        if isinstance(template, str):
            about["chat_template"] = template
    return about
