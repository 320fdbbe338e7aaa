"""A PEFT adapter, merged into its model: W + alpha / r · B·A, rounded to the type of W."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from math import sqrt
from typing import Any

import numpy as np

from ..errors import CorruptFileError, FileAccessError, UnsupportedFormatError
from .folder import Folder
from .safetensors import read_safetensors
from .tensor_types import quantize
from .tensors import Bytes, StoredTensor
from .torch_file import read_torch

__all__ = ["merged"]

_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_REMEDY = "merge it by PEFT's merge_and_unload(), save the model, and convert that"
#: what an adapter may ask for that is more than W + alpha / r · B·A
_OTHERS = "use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern"


def merged(
    path: str, stored: Mapping[str, StoredTensor], files: ExitStack
) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint with the adapter in a folder; `files` closes its files.

    Raises UnsupportedFormatError for adapters of other kinds and for quantized models.
    """
    folder = Folder(path, files)
    config = folder.json("adapter_config.json")
    scale = _scale(folder, config)
    name = next((name for name in _WEIGHTS if folder.has(name)), None)
    if name is None:
        raise FileAccessError(f"{path}: has no {' and no '.join(_WEIGHTS)}; download it too")
    fd = folder.open(name, "download it too")
    read = read_safetensors if name.endswith(".safetensors") else read_torch
    parts = read(fd, folder.path_of(name))
    tensors = dict(stored)
    for part in [part for part in parts if part.endswith(".lora_A.weight")]:
        linear = part.removesuffix(".lora_A.weight")
        a, b = parts.pop(part), parts.pop(f"{linear}.lora_B.weight", None)
        target = linear.removeprefix(_PREFIX).removeprefix("transformer.") + ".weight"
        if b is None or target not in tensors:
            raise CorruptFileError(f"{path}: {linear[:100]} is no matrix of this model")
        tensors[target] = _merged(f"{path}: {target}", tensors[target], a, b, scale)
    if parts:
        raise UnsupportedFormatError(f"{path}: holds {min(parts)[:100]}, no LoRA: {_REMEDY}")
    return tensors


def _scale(folder: Folder, config: Mapping[str, Any]) -> float:
    place = folder.path_of("adapter_config.json")
    kind, bias = str(config.get("peft_type")), config.get("bias", "none")
    asked = [name for name in _OTHERS if config.get(name)]
    if kind.upper() != "LORA" or asked or bias != "none":
        what = f"peft_type {kind[:40]}, bias {str(bias)[:40]} {' '.join(asked)}".rstrip()
        raise UnsupportedFormatError(f"{place}: {what}, expected plain LORA: {_REMEDY}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, (int, float)):
        raise CorruptFileError(f"{place}: r {str(rank)[:20]}, lora_alpha {str(alpha)[:20]}")
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def _merged(
    place: str, weight: StoredTensor, a: StoredTensor, b: StoredTensor, scale: float
) -> StoredTensor:
    if weight.type not in ("f32", "f16", "bf16"):
        problem = f"is of type {weight.type}; merge the adapter into the f16 checkpoint"
        raise UnsupportedFormatError(f"{place}: {problem}")
    shapes = b.shape[:1] + a.shape[1:], a.shape[:1], b.shape[1:]
    if shapes != (weight.shape, b.shape[1:], a.shape[:1]):
        problem = f"A {list(a.shape)} and B {list(b.shape)} do not fit {list(weight.shape)}"
        raise CorruptFileError(f"{place}: {problem}: an adapter of another model")
    kept: list[Any] = []  # A, some MB

    def read(start: int, stop: int) -> Bytes:
        if not kept:
            kept.append(a.floats(0, a.n_rows))
        rows = weight.floats(start, stop) + np.float32(scale) * (b.floats(start, stop) @ kept[0])
        return quantize(rows, weight.type)

    return StoredTensor(weight.type, weight.shape, read)
