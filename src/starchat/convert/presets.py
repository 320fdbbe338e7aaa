"""Presets: the type of each matrix in a GGUF file, mixed as the files that people share are.

The matrices that a model is most sensitive to have more bits. Types are those that llama.cpp's
`llama-quantize` gives a multi-query model without an importance matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .tensor_types import TYPES

__all__ = ["PRESETS", "Preset", "file_type", "fitting", "named"]

#: By layer and number of layers: a type.
Choice = Callable[[int, int], str]


@dataclass(frozen=True)
class Preset:
    """The types of a model's matrices."""

    file_type: int  # in a GGUF file
    base: str  # of mlp/c_fc, and of wte where the output matrix is another one
    c_attn: Choice
    c_proj: Choice
    mlp_c_proj: Choice
    output: str = "q6_k"  # of lm_head, and of wte where it is the output matrix

    def type_of(self, name: str, n_layer: int, is_tied: bool) -> str:
        """Return the type of a matrix by its name in a ggml file."""
        if name == "model/lm_head" or (name == "model/wte" and is_tied):
            return self.output
        if name == "model/wte":
            return self.base
        layer, _, matrix = name.removeprefix("model/h").partition("/")
        choices = {
            "attn/c_attn/w": self.c_attn,
            "attn/c_proj/w": self.c_proj,
            "mlp/c_proj/w": self.mlp_c_proj,
        }
        return choices[matrix](int(layer), n_layer) if matrix in choices else self.base


def _all(type: str) -> Choice:
    return lambda layer, n_layer: type


def _first(count: Callable[[int], int], type: str, rest: str) -> Choice:
    return lambda layer, n_layer: type if layer < count(n_layer) else rest


def _more(type: str, rest: str) -> Choice:
    """Return `type` for the first and last eighth, and every third layer between."""

    def choice(layer: int, n_layer: int) -> str:
        first, last = n_layer // 8, 7 * n_layer // 8
        return type if not first <= layer < last or (layer - first) % 3 == 2 else rest

    return choice


def _same(file_type: int, base: str) -> Preset:
    return Preset(file_type, base, _all(base), _all(base), _all(base))


def _iq4(file_type: int, base: str) -> Preset:
    down = _first(lambda n: n // 8, "q5_k", base)
    return Preset(file_type, base, _all("q5_k"), _all(base), down)


PRESETS: Mapping[str, Preset] = {
    "q2_k": Preset(10, "q2_k", _all("q4_k"), _all("q3_k"), _all("q3_k")),
    "q3_k_s": _same(11, "q3_k"),
    "q3_k_m": Preset(
        12,
        "q3_k",
        _first(lambda n: 2, "q5_k", "q4_k"),
        _all("q4_k"),
        _first(lambda n: n // 16, "q5_k", "q4_k"),
    ),
    "q3_k_l": Preset(13, "q3_k", _all("q5_k"), _all("q5_k"), _all("q5_k")),
    "q4_k_s": Preset(
        14,
        "q4_k",
        _first(lambda n: 4, "q5_k", "q4_k"),
        _all("q4_k"),
        _first(lambda n: n // 8, "q5_k", "q4_k"),
    ),
    "q4_k_m": Preset(15, "q4_k", _more("q6_k", "q4_k"), _all("q4_k"), _more("q6_k", "q4_k")),
    "q5_k_s": _same(16, "q5_k"),
    "q5_k_m": Preset(17, "q5_k", _more("q6_k", "q5_k"), _all("q5_k"), _more("q6_k", "q5_k")),
    "q6_k": _same(18, "q6_k"),
    "iq4_nl": _iq4(25, "iq4_nl"),
    "iq4_xs": _iq4(30, "iq4_xs"),
}

_USUAL = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}


def named(name: str) -> str:
    """Return the name of a type or preset, in any case; of q4_k, as in llama.cpp, q4_k_m."""
    name = name.lower()
    return _USUAL.get(name, name)


def file_type(name: str) -> int:
    """Return what says a type or a preset in a GGUF file's header."""
    preset = PRESETS.get(named(name))
    if preset:
        return preset.file_type
    return 32 if name == "bf16" else TYPES[name].ftype


#: For rows that are no multiple of 256: a type of blocks of 32 with as many bits or more.
_SMALLER_BLOCKS = {
    "q2_k": "q4_0",
    "q3_k": "q4_0",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
    "iq4_xs": "iq4_nl",
}


def fitting(type: str, n_cols: int) -> str:
    """Return `type`, or the one in its place for rows that its blocks do not divide."""
    if n_cols % TYPES[type].block_weights and type in _SMALLER_BLOCKS:
        return _SMALLER_BLOCKS[type]
    return type
