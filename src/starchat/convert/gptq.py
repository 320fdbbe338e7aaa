"""GPTQ: codes of AutoGPTQ as q4_0, q4_1 or q8_0 blocks, which hold the same weights.

X.qweight i32 [in/n, out], X.qzeros i32 [groups, out/n] with n = 32 / bits codes in a word, X.scales
f16 [groups, out], X.g_idx i32 [in]; a weight is scales[g_idx[i], j]·(code - zero). Files of the
first version store zero - 1.
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
_BLOCKS = {
    "q4_0": np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    "q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]),
    "q8_0": np.dtype([("d", "<f2"), ("qs", "i1", 32)]),
}
_OTHERS = {
    "awq": "AWQ scales the activations of this architecture; take the GPTQ or a GGUF file",
    "bitsandbytes": "bitsandbytes is a scheme of loading; take the fp16 checkpoint, the GPTQ or a "
    "GGUF file",
    "exl2": "exl2 has no blocks of one size; take the GPTQ or a GGUF file",
    "marlin": "Marlin permutes for one kind of GPU; take the plain GPTQ file",
}
#: end of a tensor's name → the scheme that has such tensors
_MARKS = {".SCB": "bitsandbytes", ".absmax": "bitsandbytes", ".q_weight": "exl2"}


def unpacked(
    path: str, stored: dict[str, StoredTensor], config: Mapping[str, Any] | None
) -> dict[str, StoredTensor]:
    """Return the tensors with each quantized linear as one `weight`; others as they are."""
    prefixes = [name[:-8] for name in stored if name.endswith(".qweight")]
    for name in stored:
        if scheme := _MARKS.get(f".{name.rpartition('.')[2]}"):
            raise UnsupportedFormatError(f"{path}: quantized by {scheme}: {_OTHERS[scheme]}")
    if config is None and not prefixes:
        return stored
    if not config:
        raise UnsupportedFormatError(
            f"{path}: has quantized weights and no quantize_config.json: download it too"
        )
    config = config if isinstance(config, Mapping) else {}
    method = str(config.get("quant_method") or "gptq").lower()
    form = str(config.get("checkpoint_format") or "gptq").lower()
    if config.get("is_marlin_format"):
        form = "marlin"
    for name in (method, form):
        if name not in ("gptq", "gptq_v2"):
            advice = _OTHERS.get(name, "take the GPTQ or a GGUF file, or the fp16 checkpoint")
            raise UnsupportedFormatError(f"{path}: quantized by {name[:40]}: {advice}")
    bits = config.get("bits")
    if type(bits) is not int or bits not in (4, 8):
        raise UnsupportedFormatError(
            f"{path}: GPTQ of {str(bits)[:20]} bits, expected 4 or 8: take a 4-bit branch"
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
        tensors[f"{prefix}.weight"] = _linear(f"{path}: {prefix}", parts, bits, group, shift)
    return tensors


class _Packed:
    """The parts of a linear, in memory while its rows are read: 90 MB for StarChat's largest."""

    def __init__(self, parts: Mapping[str, StoredTensor | None], bits: int, shift: int) -> None:
        """Read nothing yet."""
        qweight, qzeros, scales = (parts[name] for name in ("qweight", "qzeros", "scales"))
        if qweight is None or qzeros is None or scales is None:
            raise CorruptFileError("qweight, qzeros or scales is missing")
        types = qweight.type, qzeros.type, scales.type
        if len(qweight.shape) != 2 or types != ("i32", "i32", "f16"):
            raise CorruptFileError("expected qweight and qzeros in i32, scales in f16")
        self._parts = qweight, qzeros, scales
        self._bits, self._shift = bits, shift
        self.n_in, self.n_out = 32 // bits * qweight.shape[0], qweight.shape[1]
        self._kept: list[Array] = []

    def check_groups(self, n_groups: int) -> None:
        """Raise CorruptFileError for zeros and scales of other shapes."""
        _, qzeros, scales = self._parts
        shapes = qzeros.shape, scales.shape
        expected = (n_groups, self.n_out * self._bits // 32), (n_groups, self.n_out)
        if shapes != expected or self.n_in % 32:
            raise CorruptFileError(f"qzeros and scales are {shapes}, expected {expected}")

    def is_symmetric(self) -> bool:
        """Return whether all zeros are in the middle."""
        middle = (1 << self._bits - 1) - self._shift
        repeated = sum(middle << at for at in range(0, 32, self._bits))
        return bool((_words(self._parts[1]) == np.uint32(repeated)).all())

    def columns(self, start: int, stop: int) -> tuple[Array, Array, Array]:
        """Return rows [start, stop) of the matrix: codes, and by groups steps and zeros."""
        qweight, qzeros, scales = self._parts
        if not self._kept:
            zeros = self._codes(_words(qzeros)[:, :, None], 0).reshape(scales.shape)
            steps = scales.read(0, scales.n_rows).view("<f2").reshape(scales.shape)
            self._kept = [_words(qweight), steps, zeros + np.uint16(self._shift)]
        words, steps, zeros = (values[:, start:stop] for values in self._kept)
        if stop == self.n_out:
            self._kept = []
        return self._codes(words[:, None], 1).reshape(self.n_in, -1).T, steps.T, zeros.T

    def _codes(self, words: Array, n_axes: int) -> Array:
        """Return the codes of words in a new last axis, or before the last `n_axes`."""
        shifts = np.arange(0, 32, self._bits, dtype=np.uint32).reshape(-1, *[1] * n_axes)
        return (words >> shifts & (1 << self._bits) - 1).astype(np.uint8)


def _linear(
    place: str, parts: Mapping[str, StoredTensor | None], bits: int, group: int, shift: int
) -> StoredTensor:
    try:
        packed = _Packed(parts, bits, shift)
        n_in, n_out = packed.n_in, packed.n_out
        order = plain = np.arange(n_in) // (n_in if group == -1 else group)
        n_groups = int(plain[-1]) + 1 if n_in else 0
        packed.check_groups(n_groups)
        if g_idx := parts["g_idx"]:
            if g_idx.shape != (n_in,) or g_idx.type != "i32":
                problem = f"g_idx has the shape {list(g_idx.shape)}, expected [{n_in}] in i32"
                raise CorruptFileError(problem)
            order = g_idx.read(0, 1).view("<i4").ravel().astype(np.intp)
        if n_in == 0 or order.min() < 0 or order.max() >= n_groups:
            raise CorruptFileError(f"g_idx is out of range, expected 0 to {n_groups - 1}")
    except CorruptFileError as error:
        raise CorruptFileError(f"{place}: {error}; download it again") from None

    is_plain, is_symmetric = np.array_equal(order, plain), packed.is_symmetric()
    sorting = np.argsort(order, kind="stable")
    groups = plain[::32]  # one for each block
    type = ("q4_0" if is_symmetric else "q4_1") if bits == 4 else "q8_0"

    def blocks(start: int, stop: int) -> Bytes:
        codes, steps, zeros = packed.columns(start, stop)
        codes = (codes if is_plain else codes[:, sorting]).reshape(stop - start, -1, 32)
        out = np.empty(codes.shape[:2], _BLOCKS[type])
        out["d"] = steps[:, groups]
        if bits == 8:
            out["qs"] = (codes ^ 128).view(np.int8)  # code - 128
            return out.view(np.uint8).reshape(stop - start, -1)
        if type == "q4_1":
            out["m"] = -(out["d"].astype(np.float32) * zeros[:, groups])
        out["qs"] = codes[..., :16] | codes[..., 16:] << 4
        return out.view(np.uint8).reshape(stop - start, -1)

    def floats(start: int, stop: int) -> Bytes:
        codes, steps, zeros = packed.columns(start, stop)
        weights = codes.astype(np.float32) - zeros[:, order].astype(np.float32)
        weights *= steps[:, order].astype(np.float32)
        return np.ascontiguousarray(weights, "<f4").view(np.uint8)

    has_type = bits == 4 or is_symmetric
    if is_plain and has_type:
        return StoredTensor(type, (n_out, n_in), blocks)
    whole = StoredTensor(type, (n_out, n_in), blocks), sorting
    has_whole_groups = np.array_equal(order[sorting], plain)
    return StoredTensor(
        "f32",
        (n_out, n_in),
        floats,
        is_requantized=True,
        reordered=whole if has_type and has_whole_groups else None,
    )


def _words(tensor: StoredTensor) -> Array:
    return tensor.read(0, tensor.n_rows).view("<u4").reshape(tensor.shape)
