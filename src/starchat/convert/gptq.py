"""GPTQ: 4-bit codes of AutoGPTQ as q4_0 or q4_1 blocks, which hold the same weights.

X.qweight i32 [in/8, out], X.qzeros i32 [groups, out/8], X.scales f16 [groups, out], X.g_idx i32
[in]; a weight is scales[g_idx[i], j]·(code - zero). Files of the first version store zero - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CorruptFileError, UnsupportedFormatError
from .tensors import Bytes, StoredTensor

__all__ = ["unpacked"]

Array = npt.NDArray[Any]
_SHIFTS = np.arange(0, 32, 4, dtype=np.uint32)
_BLOCKS = {
    "q4_0": np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    "q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]),
}
_OTHERS = {
    "awq": "AWQ scales the activations of this architecture; take the GPTQ or a GGUF file",
    "bitsandbytes": "bitsandbytes is a scheme of loading; save the model without it",
    "exl2": "exl2 has no blocks of one size; take the GPTQ or a GGUF file",
    "marlin": "Marlin permutes for one kind of GPU; take the plain GPTQ file",
}


def unpacked(
    path: str, stored: dict[str, StoredTensor], config: Mapping[str, Any] | None
) -> dict[str, StoredTensor]:
    """Return the tensors with each quantized linear as one `weight`; others as they are."""
    prefixes = [name[:-8] for name in stored if name.endswith(".qweight")]
    if config is None and not prefixes:
        if any("quant_state.bitsandbytes" in name or name.endswith(".SCB") for name in stored):
            raise UnsupportedFormatError(f"{path}: {_OTHERS['bitsandbytes']}")
        return stored
    config = config if isinstance(config, Mapping) else {}
    method = str(config.get("quant_method") or "gptq").lower()
    form = str(config.get("checkpoint_format") or "gptq").lower()
    if config.get("is_marlin_format"):
        form = "marlin"
    for name in (method, form):
        if name not in ("gptq", "gptq_v2"):
            advice = _OTHERS.get(name, "take the GPTQ or a GGUF file, or the fp16 checkpoint")
            raise UnsupportedFormatError(f"{path}: quantized by {name[:40]}: {advice}")
    if config.get("bits") != 4:
        raise UnsupportedFormatError(
            f"{path}: GPTQ of {str(config.get('bits'))[:20]} bits, expected 4: take a 4-bit branch"
        )
    shift = 0 if form == "gptq_v2" else 1
    group = config.get("group_size", 128)
    if type(group) is not int or (group != -1 and (group < 32 or group % 32)):
        problem = f"group_size {str(group)[:20]}, expected -1 or a multiple of 32"
        raise UnsupportedFormatError(f"{path}: {problem}")
    tensors = dict(stored)
    for prefix in prefixes:
        parts = {
            part: tensors.pop(f"{prefix}.{part}", None)
            for part in ("qweight", "qzeros", "scales", "g_idx")
        }
        tensors[f"{prefix}.weight"] = _linear(f"{path}: {prefix}", parts, group, shift)
    return tensors


def _linear(
    place: str, parts: Mapping[str, StoredTensor | None], group: int, shift: int
) -> StoredTensor:
    qweight, qzeros, scales, g_idx = (
        parts[name] for name in ("qweight", "qzeros", "scales", "g_idx")
    )
    if qweight is None or qzeros is None or scales is None:
        raise CorruptFileError(f"{place}: qweight, qzeros or scales is missing")
    if len(qweight.shape) != 2 or (qweight.type, qzeros.type, scales.type) != ("i32", "i32", "f16"):
        raise CorruptFileError(f"{place}: expected qweight and qzeros in i32, scales in f16")
    n_in, n_out = 8 * qweight.shape[0], qweight.shape[1]
    group = n_in if group == -1 else group
    n_groups = -(-n_in // group)
    shapes = qzeros.shape, scales.shape, g_idx and g_idx.shape
    if (
        shapes
        not in (
            ((n_groups, n_out // 8), (n_groups, n_out), (n_in,)),
            ((n_groups, n_out // 8), (n_groups, n_out), None),
        )
        or n_in % 32
    ):
        problem = f"qzeros, scales and g_idx have the shapes {shapes}"
        raise CorruptFileError(
            f"{place}: {problem}, expected {n_groups} groups of {n_in} x {n_out} weights"
        )
    packed = _words(qzeros)
    zeros = (packed[:, :, None] >> _SHIFTS & 15).reshape(n_groups, n_out) + shift
    steps = scales.read(0, n_groups).view("<f2").reshape(n_groups, n_out)
    plain = np.arange(n_in) // group
    order = plain if g_idx is None else g_idx.read(0, 1).view("<i4").ravel().astype(np.intp)
    if order.min() < 0 or order.max() >= n_groups:
        raise CorruptFileError(f"{place}: g_idx is out of range, expected 0 to {n_groups - 1}")
    kept: list[Array] = []

    def codes(start: int, stop: int) -> Array:
        if not kept:  # 75 MB for the largest matrix of StarChat
            kept.append(_words(qweight))
        words = kept[0][:, start:stop]
        if stop == n_out:
            kept.clear()
        rows = (words[:, None] >> _SHIFTS[:, None] & 15).astype(np.uint8)
        return rows.reshape(n_in, -1).T

    if not np.array_equal(order, plain):

        def floats(start: int, stop: int) -> Bytes:
            code = codes(start, stop).astype(np.float32)
            step, zero = (values[order, start:stop].T for values in (steps, zeros))
            weights = step.astype(np.float32) * (code - zero.astype(np.float32))
            return np.ascontiguousarray(weights, "<f4").view(np.uint8)

        return StoredTensor("f32", (n_out, n_in), floats, is_requantized=True)

    type = "q4_0" if bool((zeros == 8).all()) else "q4_1"
    layout = _BLOCKS[type]
    groups = plain[::32]  # one for each block

    def blocks(start: int, stop: int) -> Bytes:
        code = codes(start, stop).reshape(stop - start, -1, 32)
        out = np.empty(code.shape[:2], layout)
        out["d"] = steps[groups, start:stop].T
        if type == "q4_1":
            out["m"] = -(out["d"].astype(np.float32) * zeros[groups, start:stop].T)
        out["qs"] = code[..., :16] | code[..., 16:] << 4
        return out.view(np.uint8).reshape(stop - start, -1)

    return StoredTensor(type, (n_out, n_in), blocks)


def _words(tensor: StoredTensor) -> Array:
    return tensor.read(0, tensor.n_rows).view("<u4").reshape(tensor.shape)
