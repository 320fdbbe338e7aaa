"""Presets of `starchat convert`: the types of matrices as llama.cpp mixes them, and whole files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from starchat import InvalidRequestError, StarChat
from starchat.cli.app import app
from starchat.convert.conversion import convert
from starchat.convert.presets import PRESETS, file_type, fitting, named
from starchat.convert.tensor_types import TYPES, quantize
from starchat.model import EMBEDDED
from support.quantizer_errors import embedded_matrix
from support.tiny_model import Shape, write_tiny

gguf = pytest.importorskip("gguf")

MATRICES = "attn/c_attn/w", "attn/c_proj/w", "mlp/c_fc/w", "mlp/c_proj/w"


@pytest.mark.parametrize("name", [*PRESETS, *TYPES])
def test_the_number_of_the_file_is_that_of_gguf(name: str) -> None:
    prefix = "ALL" if name == "f32" else "MOSTLY"
    assert file_type(name) == gguf.LlamaFileType[f"{prefix}_{named(name).upper()}"]


def types_in(path: Path) -> dict[str, str]:
    """Return the types of matrices in a GGUF file, by the gguf package."""
    tensors = gguf.GGUFReader(path).tensors
    return {each.name: each.tensor_type.name.lower() for each in tensors if len(each.shape) > 1}


#: Of 16 layers: attn_qkv, attn_output, ffn_up, ffn_down, a digit for the bits of each layer; made
#: by llama_model_quantize of llama-cpp-python 0.3.36 without an importance matrix.
LLAMA = {
    "q2_k": ("4" * 16, "3" * 16, "2" * 16, "3" * 16),
    "q3_k_s": ("3" * 16, "3" * 16, "3" * 16, "3" * 16),
    "q3_k_m": ("55" + "4" * 14, "4" * 16, "3" * 16, "5" + "4" * 15),
    "q3_k_l": ("5" * 16, "5" * 16, "3" * 16, "5" * 16),
    "q4_k_s": ("5555" + "4" * 12, "4" * 16, "4" * 16, "55" + "4" * 14),
    "q4_k_m": ("6644644644644666", "4" * 16, "4" * 16, "6644644644644666"),
    "q5_k_s": ("5" * 16, "5" * 16, "5" * 16, "5" * 16),
    "q5_k_m": ("6655655655655666", "5" * 16, "5" * 16, "6655655655655666"),
    "q6_k": ("6" * 16, "6" * 16, "6" * 16, "6" * 16),
    "iq4_nl": ("5" * 16, "n" * 16, "n" * 16, "55" + "n" * 14),
    "iq4_xs": ("5" * 16, "x" * 16, "x" * 16, "55" + "x" * 14),
}
LETTERS = {f"q{bits}_k": str(bits) for bits in range(2, 7)} | {"iq4_nl": "n", "iq4_xs": "x"}


@pytest.mark.parametrize("name", PRESETS)
def test_matrices_have_the_types_that_llama_cpp_gives_them(name: str) -> None:
    preset = PRESETS[name]
    found = tuple(
        "".join(LETTERS[preset.type_of(f"model/h{i}/{matrix}", 16, True)] for i in range(16))
        for matrix in MATRICES
    )
    assert found == LLAMA[name]
    assert preset.type_of("model/wte", 16, True) == "q6_k"
    assert preset.type_of("model/lm_head", 16, False) == "q6_k"
    assert preset.type_of("model/wte", 16, False) == preset.base


@pytest.mark.parametrize("name", PRESETS)
def test_the_embedded_model_in_every_preset(name: str, tmp_path: Path) -> None:
    target = tmp_path / "nano.gguf"
    counts, loss = convert(EMBEDDED, str(target), name.upper())
    assert not loss.replaced
    found = types_in(target)
    del found["position_embd.weight"]
    assert Counter(found.values()) == {k: n for k, n in counts.items() if k != "f32"}
    assert found["token_embd.weight"] == "q6_k"
    assert found["blk.5.ffn_up.weight"] == PRESETS[name].base
    reader = gguf.GGUFReader(target)
    assert reader.fields["general.file_type"].contents() == PRESETS[name].file_type
    [up] = (each for each in reader.tensors if each.name == "blk.5.ffn_up.weight")
    expected = quantize(embedded_matrix("model/h5/mlp/c_fc/w"), PRESETS[name].base)
    assert np.array_equal(up.data, expected)
    before, after = (log_probabilities(path) for path in (EMBEDDED, str(target)))
    assert (np.exp(before) * (before - after)).sum() < 2  # nats; of unlike distributions, 8


def log_probabilities(path: str) -> np.ndarray:
    """Return those of the first token of a reply."""
    with StarChat.load(path, progress=False) as model:
        messages = [{"role": "user", "content": "How do I sort a list in Python?"}]
        logits = model.logits(model.tokenize(model.render(messages), allow_special=True))[-1]
    return logits - np.logaddexp.reduce(logits)


def test_rows_that_blocks_of_256_do_not_divide_get_others_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_tiny(tmp_path / "tiny.bin", "f32", Shape(n_embd=64, n_head=2)).path
    target = tmp_path / "tiny.gguf"
    app(["convert", str(source), str(target), "--type", "Q4_K_M"], standalone_mode=False)
    assert set(types_in(target).values()) == {"f32", "q5_0", "q8_0", "q4_k", "q6_k"}
    said = capsys.readouterr().err
    assert "matrices are q5_0, not q4_k: rows of 64 are no multiple of 256" in said
    assert "matrices are q8_0, not q6_k: rows of 64 are no multiple of 256" in said
    assert "rows of 256" not in said  # of mlp/c_proj: 4 · 64


@pytest.mark.parametrize("wanted", ["q2_k", "q3_k_s", "q4_k_s", "q5_k_s", "q6_k", "iq4_xs"])
def test_every_type_of_blocks_of_256_has_one_in_its_place(wanted: str) -> None:
    given = fitting(PRESETS[wanted].base, 96)
    assert TYPES[given].block_weights == 32
    assert TYPES[given].bits >= TYPES[PRESETS[wanted].base].bits
    assert fitting(PRESETS[wanted].base, 768) == PRESETS[wanted].base


def test_presets_are_for_gguf_files(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"expected one of f32, f16, q4_0.* for .bin files"
    ):
        convert(EMBEDDED, str(tmp_path / "model.bin"), "q4_k_m")
    with pytest.raises(InvalidRequestError, match=r"expected one of .*q4_k_m.* got q4_k_x"):
        convert(EMBEDDED, str(tmp_path / "model.gguf"), "q4_k_x")
    assert list(tmp_path.iterdir()) == []
