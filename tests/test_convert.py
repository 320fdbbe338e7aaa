"""`starchat convert`: files from checkpoints that transformers and safetensors have written."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat import (
    CorruptFileError,
    FileAccessError,
    InvalidRequestError,
    StarChat,
    UnsupportedFormatError,
)
from starchat.cli.app import app
from starchat.convert.conversion import convert
from starchat.convert.hugging_face import open_folder
from starchat.convert.tensor_types import dequantize, quantize
from starchat.convert.tensors import Loss
from support.folders import (
    SHAPE,
    Arrays,
    checkpoint,
    gptq_tensors,
    hf_name,
    old_layout,
    write_folder,
)
from support.tiny_model import Shape, TinyModel, random_weights, write_tiny

gguf = pytest.importorskip("gguf")
numpy_files = pytest.importorskip("safetensors.numpy")


def fields_of(path: Path) -> Any:
    return gguf.GGUFReader(path)


def values_in(path: Path) -> Arrays:
    """Return the tensors of a GGUF file as floats, by the gguf package."""
    return {
        str(tensor.name): gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in fields_of(path).tensors
    }


def logits_of(path: Path) -> np.ndarray:
    with StarChat.load(path, progress=False) as model:
        return model.logits([25, 60, 100, 30, 31])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hf"), checkpoint())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return write_tiny(tmp_path_factory.mktemp("bin") / "tiny.bin")


def test_a_folder_becomes_a_file_with_the_same_weights(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    counts, loss = convert(str(folder), str(target))
    assert (counts["f16"], loss.changed) == (1 + 4 * SHAPE.n_layer, 0)
    found, expected = values_in(target), checkpoint()
    assert len(found) == len(expected)
    qkv = expected["transformer.h.1.attn.c_attn.weight"].astype(np.float32)
    assert np.array_equal(found["blk.1.attn_qkv.weight"], qkv)
    assert np.array_equal(
        found["position_embd.weight"], expected["transformer.wpe.weight"].astype(np.float32)
    )
    reader = fields_of(target)

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    assert value("general.license") == "bigcode-openrail-m"
    assert value("tokenizer.ggml.pre") == "refact"
    assert value("tokenizer.ggml.tokens")[value("tokenizer.ggml.eot_token_id")] == "<|end|>"
    assert value("tokenizer.ggml.token_type")[:20] == [3] * 19 + [1]
    assert value("tokenizer.ggml.merges")[:2] == ["Ġ Ġ", "ĠĠ ĠĠ"]
    assert value("starcoder.attention.head_count_kv") == 1


def test_the_chat_template_renders_our_dialogue(folder: Path, tmp_path: Path) -> None:
    jinja2 = pytest.importorskip("jinja2")
    convert(str(folder), str(tmp_path / "model.gguf"))
    source = fields_of(tmp_path / "model.gguf").fields["tokenizer.chat_template"].contents()
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    with StarChat.load() as model:
        for first in [], [{"role": "system", "content": "Be brief."}]:
            messages = [
                *first,
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "Bye"},
            ]
            ours = model.render(messages).replace("«", "").replace("»", "")
            assert template.render(messages=messages, add_generation_prompt=True) == ours


@pytest.mark.parametrize("multi_query", [True, False])
def test_a_bin_file_equals_the_one_written_directly(tmp_path: Path, multi_query: bool) -> None:
    weights = random_weights(SHAPE, multi_query=multi_query, lm_head="absent")
    tensors = {hf_name(name): values for name, values in weights.items()}
    if not multi_query:  # transformers keeps q, k and v of a head together
        for name, values in tensors.items():
            if ".c_attn." in name:
                heads = values.reshape(3, SHAPE.n_head, SHAPE.head_dim, *values.shape[1:])
                tensors[name] = np.ascontiguousarray(heads.swapaxes(0, 1).reshape(values.shape))
    root = write_folder(tmp_path / "hf", tensors, multi_query=multi_query)
    for type in "f32", "q5_0":
        convert(str(root), str(tmp_path / f"{type}.bin"), type)
        write_tiny(tmp_path / "direct.bin", type, multi_query=multi_query)
        assert (tmp_path / f"{type}.bin").read_bytes() == (tmp_path / "direct.bin").read_bytes()


def test_santacoders_first_layout(folder: Path, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "old", old_layout(), architectures=["GPT2LMHeadCustomModel"])
    convert(str(root), str(tmp_path / "old.gguf"))
    convert(str(folder), str(tmp_path / "new.gguf"))
    old, new = values_in(tmp_path / "old.gguf"), values_in(tmp_path / "new.gguf")
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[name], new[name]) for name in new)


def test_a_bin_file_keeps_its_blocks_and_loses_only_repetitions(
    tiny: TinyModel, tmp_path: Path
) -> None:
    convert(str(tiny.path), str(tmp_path / "made.gguf"))
    tensors = {str(each.name): each for each in fields_of(tmp_path / "made.gguf").tensors}
    assert "output.weight" not in tensors
    expected = quantize(tiny.weights["model/h1/attn/c_attn/w"], "q4_0")
    assert np.array_equal(tensors["blk.1.attn_qkv.weight"].data, expected)
    convert(str(tiny.path), str(tmp_path / "again.bin"))
    assert (tmp_path / "again.bin").read_bytes() == tiny.path.read_bytes()


def test_a_gguf_file_becomes_a_bin_file_and_gguf_again(tiny: TinyModel, tmp_path: Path) -> None:
    convert(str(tiny.path), str(tmp_path / "made.gguf"))
    convert(str(tmp_path / "made.gguf"), str(tmp_path / "again.bin"))
    assert (tmp_path / "again.bin").read_bytes() == tiny.path.read_bytes()
    convert(str(tmp_path / "made.gguf"), str(tmp_path / "again.gguf"))
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "made.gguf").read_bytes()


@pytest.mark.parametrize("type", ["bf16", "q4_k_m", "iq4_nl"])
def test_gguf_files_keep_their_blocks(tmp_path: Path, type: str) -> None:
    shape = Shape(n_embd=256)
    root = write_folder(tmp_path / "hf", checkpoint(shape=shape), shape, layer_norm_epsilon=1e-6)
    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    convert(str(root), str(one), type)
    convert(str(one), str(other))
    for left, right in zip(fields_of(one).tensors, fields_of(other).tensors, strict=True):
        assert (left.name, left.tensor_type) == (right.name, right.tensor_type)
        assert left.data.tobytes() == right.data.tobytes()
    key = "starcoder.attention.layer_norm_epsilon"
    assert fields_of(other).fields[key].contents() == fields_of(one).fields[key].contents()
    with pytest.raises(InvalidRequestError, match=r"write a \.gguf file"):
        convert(str(one), str(tmp_path / "made.bin"))


@pytest.mark.parametrize("type", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16"])
def test_weights_are_quantized_as_by_gguf(folder: Path, tmp_path: Path, type: str) -> None:
    convert(str(folder), str(tmp_path / "made.gguf"), type)
    (tensor,) = (
        each
        for each in fields_of(tmp_path / "made.gguf").tensors
        if each.name == "blk.0.ffn_down.weight"
    )
    weights = checkpoint()["transformer.h.0.mlp.c_proj.weight"].astype(np.float32)
    reference = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[type.upper()])
    assert tensor.data.tobytes() == reference.tobytes()


def test_bf16_is_kept_and_what_f16_lacks_is_counted(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch_files = pytest.importorskip("safetensors.torch")
    root = write_folder(tmp_path / "hf", None)
    tensors = {name: torch.from_numpy(t).bfloat16() for name, t in checkpoint().items()}
    tensors["transformer.wte.weight"][3, :5] = 1e-9
    torch_files.save_file(tensors, root / "model.safetensors")
    convert(str(root), str(tmp_path / "made.gguf"))
    name = "transformer.h.0.mlp.c_fc.weight"
    assert np.array_equal(
        values_in(tmp_path / "made.gguf")["blk.0.ffn_up.weight"], tensors[name].float().numpy()
    )
    _, loss = convert(str(root), str(tmp_path / "half.gguf"), "f16")
    values = [t.float().numpy() for n, t in tensors.items() if t.ndim == 2 and "wpe" not in n]
    changed = sum(int((v.astype(np.float16).astype(np.float32) != v).sum()) for v in values)
    assert loss.changed == changed >= 5


def test_the_command_says_what_it_wrote(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["convert", str(folder), str(tmp_path / "made.bin")], standalone_mode=False)
    size = (tmp_path / "made.bin").stat().st_size
    assert f"made.bin: {size:,} bytes, tensors: 10 f16, 19 f32" in capsys.readouterr().out


# ---- shards, PyTorch files ----------------------------------------------------------------------


def test_shards_of_pytorch_files_equal_safetensors(folder: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    root = write_folder(tmp_path / "hf", None)
    names = sorted(checkpoint())
    where = {}
    for shard, part in enumerate((names[::2], names[1::2])):
        file = f"pytorch_model-{shard}.bin"
        state = {name: torch.from_numpy(checkpoint()[name]) for name in part}
        torch.save(state, root / file)
        where |= dict.fromkeys(part, file)
    index = root / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    convert(str(root), str(tmp_path / "torch.gguf"))
    convert(str(folder), str(tmp_path / "safe.gguf"))
    made, safe = values_in(tmp_path / "torch.gguf"), values_in(tmp_path / "safe.gguf")
    assert all(np.array_equal(made[name], safe[name]) for name in safe)

    (root / "pytorch_model-1.bin").unlink()
    with pytest.raises(FileAccessError, match=r"download every shard"):
        convert(str(root), str(tmp_path / "other.gguf"))
    index.write_text(json.dumps({"weight_map": {names[0]: "../x.bin"}}))
    with pytest.raises(CorruptFileError, match="no file here"):
        convert(str(root), str(tmp_path / "other.gguf"))
    assert not list(tmp_path.glob("other*"))


def torch_zip(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", data)


class Command:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_pickle_executes_nothing(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "hf", None)
    trap = tmp_path / "trap"
    for state in {"a": Command(str(trap))}, Command(str(trap)):
        torch_zip(root / "pytorch_model.bin", pickle.dumps(state, protocol=2))
        with pytest.raises(UnsupportedFormatError, match=r"posix\.mkdir.*nothing was executed"):
            convert(str(root), str(tmp_path / "made.gguf"))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.", UnsupportedFormatError, "is no tensor"),
        (b"\x80\x02}", CorruptFileError, "malformed or cut"),
        (b"\x80\x02.", CorruptFileError, "malformed or cut"),
        (b"\x80\x02u.", CorruptFileError, "malformed or cut"),
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.", UnsupportedFormatError, "FRAME"),
        (b"\x80\x02cos\nsystem\n.", UnsupportedFormatError, "os.system"),
        (b"\x80\x02K\x01K\x02b.", UnsupportedFormatError, "state"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01R.", UnsupportedFormatError, "no part"),
    ],
)
def test_pickles_that_are_no_tensors(
    tmp_path: Path, data: bytes, error: type[Exception], words: str
) -> None:
    root = write_folder(tmp_path / "hf", None)
    torch_zip(root / "pytorch_model.bin", data)
    with pytest.raises(error, match=words):
        convert(str(root), str(tmp_path / "made.gguf"))


def test_old_and_compressed_pytorch_files_have_a_remedy(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "hf", None)
    file = root / "pytorch_model.bin"
    file.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    with pytest.raises(UnsupportedFormatError, match="save it again"):
        convert(str(root), str(tmp_path / "made.gguf"))
    torch_zip(file, bytes(1000), zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedFormatError, match="compressed"):
        convert(str(root), str(tmp_path / "made.gguf"))


# ---- hostile safetensors ------------------------------------------------------------------------


def header(entries: Any, data: int = 8, length: int | None = None) -> bytes:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def entry(begin: Any, end: Any, shape: Any = (2,), dtype: Any = "F16") -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        header({}, length=2**63),
        header({}, length=99_999_999),
        header(b"[" * 100_000),
        header(b"\xff\xfe"),
        header([1]),
        header({"a": 1}),
        header({"a": {}}),
        header({"a": entry(0, 4), "b": entry(2, 6)}, 6),  # overlap
        header({"a": entry(0, 4), "b": entry(6, 10)}, 10),  # gap
        header({"a": entry(0, 4)}, 3),  # cut
        header({"a": entry(0, 4)}, 5),  # more
        header({"a": entry(0, 2**70, [2**69])}),
        header({"a": entry(-4, 0)}),
        header({"a": entry(0, 4, [-2, -1])}),
        header({"a": entry(0, 4, [1.0, 2])}),
        header({"a": entry(0, 4, "x")}),
        header({"a": entry(0, 4, 7)}),
        header({"a": entry(0, 4, dtype=[])}, 4),
        header({"a": entry(True, 4)}, 4),
        header({"a": entry(4, 0)}, 0),
    ],
)
def test_hostile_safetensors(tmp_path: Path, data: bytes) -> None:
    root = write_folder(tmp_path / "hf", None)
    (root / "model.safetensors").write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
        convert(str(root), str(tmp_path / "made.gguf"))


@pytest.mark.parametrize("length", [100, 99_999_999, 2**63])
def test_a_header_is_compared_with_the_file_before_memory_is_asked_for(
    tmp_path: Path, length: int
) -> None:
    root = write_folder(tmp_path / "hf", None)
    (root / "model.safetensors").write_bytes(header({}, 8, length))
    with pytest.raises(CorruptFileError, match=f"header has {length:,} bytes, expected at most 10"):
        convert(str(root), str(tmp_path / "made.gguf"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"activation_function": "gelu"}, "gelu_pytorch_tanh"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"n_inner": 8}, "c_fc/w has the shape"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": "x"}, "layer_norm_epsilon"),
        ({"n_embd": 0}, "n_embd"),
        ({"n_embd": "x"}, "n_embd"),
        ({"n_layer": 3}, "h.2.ln_1.weight is missing"),
        ({"n_layer": 1}, "unknown tensors"),
        ({"n_positions": 5}, "wpe has the shape"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ scales"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "take the fp16 checkpoint"),
        ({"quantization_config": {"quant_method": "exl2"}}, "exl2"),
        ({"quantization_config": {"bits": 4, "checkpoint_format": "marlin"}}, "Marlin"),
        ({"quantization_config": {"bits": 3, "quant_method": "gptq"}}, "3 bits"),
        ({"quantization_config": {"bits": 4, "group_size": 48}}, "group_size 48"),
    ],
)
def test_what_the_engine_does_not_compute_is_refused(
    folder: Path, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    root = write_folder(tmp_path / "hf", None, **config)
    (root / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises((UnsupportedFormatError, CorruptFileError), match=words):
        convert(str(root), str(tmp_path / "made.gguf"))


# ---- GPTQ ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [32, 64, 128, -1])
@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("is_symmetric", [True, False])
def test_gptq_becomes_the_same_weights(
    tmp_path: Path, group: int, form: str, is_symmetric: bool
) -> None:
    shift = 1 if form == "gptq" else 0
    tensors, weights = gptq_tensors(group, is_symmetric, shift, act_order=False)
    root = write_folder(tmp_path / "hf", tensors)
    settings = {"bits": 4, "group_size": group, "checkpoint_format": form}
    (root / "quantize_config.json").write_text(json.dumps(settings))
    counts, loss = convert(str(root), str(tmp_path / "made.gguf"))
    assert counts["q4_0" if is_symmetric else "q4_1"] == 4 * SHAPE.n_layer
    assert loss.nmse is None
    found = values_in(tmp_path / "made.gguf")
    for ours, name in ("attn_qkv", "attn.c_attn"), ("ffn_down", "mlp.c_proj"):
        expected = weights[f"transformer.h.1.{name}.weight"]
        values = found[f"blk.1.{ours}.weight"]
        if is_symmetric:
            assert np.array_equal(values, expected)
        else:
            assert np.square(values - expected).sum() / np.square(expected).sum() < 1e-6


@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
def test_gptq_of_8_bits_becomes_the_same_weights(tmp_path: Path, form: str) -> None:
    shift = 1 if form == "gptq" else 0
    tensors, weights = gptq_tensors(32, True, shift, act_order=False, bits=8)
    settings = {"bits": 8, "group_size": 32, "checkpoint_format": form}
    root = write_folder(tmp_path / "hf", tensors, quantization_config=settings)
    counts, loss = convert(str(root), str(tmp_path / "made.gguf"))
    assert (counts["q8_0"], loss.nmse) == (4 * SHAPE.n_layer, None)
    expected = weights["transformer.h.1.mlp.c_fc.weight"]
    assert np.array_equal(values_in(tmp_path / "made.gguf")["blk.1.ffn_up.weight"], expected)
    assert np.isfinite(logits_of(root)).all()


@pytest.mark.parametrize(
    ("is_symmetric", "act_order", "bits"),
    [pytest.param(False, False, 8, id="asymmetric"), pytest.param(True, True, 4, id="act-order")],
)
def test_gptq_that_no_type_has_is_quantized_again_and_says_so(
    tmp_path: Path, is_symmetric: bool, act_order: bool, bits: int
) -> None:
    tensors, weights = gptq_tensors(32, is_symmetric, 1, act_order=act_order, bits=bits)
    settings = {"bits": bits, "group_size": 32}
    root = write_folder(tmp_path / "hf", tensors, quantization_config=settings)
    counts, loss = convert(str(root), str(tmp_path / "made.gguf"))
    assert counts["q8_0"] == 4 * SHAPE.n_layer
    assert loss.nmse is not None and 0 < loss.nmse < 1e-3
    expected = weights["transformer.h.0.mlp.c_fc.weight"].astype(np.float32)
    found = values_in(tmp_path / "made.gguf")["blk.0.ffn_up.weight"]
    assert np.array_equal(found, dequantize(quantize(expected, "q8_0"), "q8_0"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("transformer.h.0.mlp.c_fc.weight.absmax", "bitsandbytes"),
        ("transformer.h.0.mlp.c_fc.SCB", "bitsandbytes"),
        ("transformer.h.0.mlp.c_fc.q_weight", "exl2"),
        ("transformer.h.0.mlp.c_fc.qweight", "no quantize_config.json"),
    ],
)
def test_quantized_tensors_without_a_config_are_named(
    tmp_path: Path, name: str, words: str
) -> None:
    root = write_folder(tmp_path / "hf", {**checkpoint(), name: np.zeros(4, np.float16)})
    with pytest.raises(UnsupportedFormatError, match=words):
        convert(str(root), str(tmp_path / "made.gguf"))


def test_gptq_files_answer(tmp_path: Path) -> None:
    tensors, _ = gptq_tensors(32, True, 1, act_order=False)
    root = write_folder(tmp_path / "hf", tensors, quantization_config={"bits": 4, "group_size": 32})
    with pytest.raises(InvalidRequestError, match=r"one type, and these are.*f16.*q4_0"):
        convert(str(root), str(tmp_path / "made.bin"))
    convert(str(root), str(tmp_path / "made.bin"), "q4_0")
    assert np.isfinite(logits_of(tmp_path / "made.bin")).all()


# ---- adapters -----------------------------------------------------------------------------------


def write_adapter(root: Path, parts: Arrays, **config: Any) -> Path:
    root.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "bias": "none", **config}
    (root / "adapter_config.json").write_text(json.dumps(settings))
    numpy_files.save_file(parts, root / "adapter_model.safetensors")
    return root


def adapter_parts(n_out: int, n_in: int) -> tuple[Arrays, np.ndarray]:
    """Return A and B of one matrix, and their product."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((4, n_in), (n_out, 4)))
    name = "base_model.model.transformer.h.1.attn.c_attn.lora_"
    return {f"{name}A.weight": a / 32, f"{name}B.weight": b / 32}, b / 32 @ (a / 32)


@pytest.mark.parametrize(("config", "scale"), [({}, 4), ({"use_rslora": True}, 8)])
def test_an_adapter_is_merged_before_anything_is_quantized(
    folder: Path, tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    name = "transformer.h.1.attn.c_attn.weight"
    weight = checkpoint()[name].astype(np.float32)
    parts, product = adapter_parts(*weight.shape)
    adapter = write_adapter(tmp_path / "adapter", parts, **config)
    expected = (weight + scale * product).astype(np.float16)
    for type in "f16", "q8_0":
        convert(str(folder), str(tmp_path / f"{type}.gguf"), type, lora=str(adapter))
        found = values_in(tmp_path / f"{type}.gguf")["blk.1.attn_qkv.weight"]
        stored = dequantize(quantize(expected.astype(np.float32), type), type)
        assert np.abs(found - stored).max() <= np.abs(stored).max() * (2**-11 + 2 / 127)
        assert np.abs(found - weight).max() > 0.01
    found = values_in(tmp_path / "f16.gguf")["blk.1.attn_qkv.weight"]
    assert np.abs(found - expected).max() <= np.abs(expected).max() * 2**-10  # sums in f32


@pytest.mark.parametrize(
    ("parts", "config", "words"),
    [
        (adapter_parts(96, 64)[0], {"use_dora": True}, "use_dora, expected plain LORA"),
        (adapter_parts(96, 64)[0], {"peft_type": "IA3"}, "IA3"),
        (adapter_parts(96, 64)[0], {"bias": "all"}, "bias all"),
        (adapter_parts(96, 64)[0], {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (adapter_parts(96, 64)[0], {"r": 0}, "r 0"),
        (adapter_parts(96, 32)[0], {}, "do not fit"),
        ({"x.lora_embedding_A": np.zeros(4, np.float32)}, {}, "no LoRA: merge it by PEFT"),
        ({"x.lora_A.weight": np.zeros((4, 4), np.float32)}, {}, "no matrix of this model"),
    ],
)
def test_other_adapters_are_refused(
    folder: Path, tmp_path: Path, parts: Arrays, config: dict[str, Any], words: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", parts, **config)
    with pytest.raises((UnsupportedFormatError, CorruptFileError), match=words):
        convert(str(folder), str(tmp_path / "made.gguf"), lora=str(adapter))
    assert not (tmp_path / "made.gguf").exists()


def test_an_adapter_needs_a_checkpoint_of_floats(tiny: TinyModel, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", adapter_parts(96, 64)[0])
    with pytest.raises(InvalidRequestError, match="is no folder"):
        convert(str(tiny.path), str(tmp_path / "made.gguf"), lora=str(adapter))
    tensors, _ = gptq_tensors(32, True, 1, act_order=False)
    root = write_folder(tmp_path / "hf", tensors, quantization_config={"bits": 4, "group_size": 32})
    with pytest.raises(UnsupportedFormatError, match="f16 checkpoint"):
        convert(str(root), str(tmp_path / "made.gguf"), lora=str(adapter))


# ---- files that are not finished ----------------------------------------------------------------


def test_no_room_is_said_before_the_first_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(FileAccessError, match=r"the disk has 1,000 free"):
        convert(str(folder), str(tmp_path / "made.gguf"))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        for name in "made.gguf", "made.bin":
            with pytest.raises(FileAccessError, match="File too large"):
                convert(str(folder), str(tmp_path / name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["made.gguf", "made.bin"])
def test_a_killed_run_leaves_nothing_under_the_name(
    folder: Path, tmp_path: Path, name: str
) -> None:
    code = (
        "import os, sys\n"
        "from starchat.convert.conversion import convert\n"
        "stop = lambda done, total: done > total // 2 and os.kill(os.getpid(), 9)\n"
        "convert(*sys.argv[1:], report=stop)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / name)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    convert(str(folder), str(tmp_path / name))
    assert (tmp_path / name).exists()


def test_what_a_killed_run_has_left_is_removed_by_the_next_one(
    folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "made.gguf"
    left, fresh, locked, other = (
        tmp_path / name
        for name in ("made.gguf.part-1", "made.gguf.part-2", "made.gguf.part-3", "b.gguf.part-1")
    )
    for file in left, fresh, locked, other:
        file.write_bytes(bytes(100))
        if file != fresh:
            os.utime(file, (0, 0))
    with open(locked) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        convert(str(folder), str(target))
    assert {*tmp_path.iterdir()} == {target, fresh, locked, other}


def test_a_file_that_is_being_written_is_locked(folder: Path, tmp_path: Path) -> None:
    def look(done: int, total: int) -> None:
        (partial,) = tmp_path.iterdir()
        os.utime(partial, (0, 0))
        with open(partial) as file, pytest.raises(OSError, match="unavailable"):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    convert(str(folder), str(tmp_path / "made.gguf"), report=look)


def test_ctrl_c_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(str(folder), str(tmp_path / "made.gguf"), report=stop)
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_on_demand(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.gguf"
    target.write_bytes(b"precious")
    with pytest.raises(FileAccessError, match="--overwrite"):
        convert(str(folder), str(target))
    assert target.read_bytes() == b"precious"
    convert(str(folder), str(target), overwrite=True)
    assert target.read_bytes()[:4] == b"GGUF"


def test_blocks_of_rows_do_not_change_a_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(str(folder), str(tmp_path / "whole.gguf"), "q5_1")
    monkeypatch.setattr("starchat.convert.tensors.BLOCK_BYTES", 7 * 4 * SHAPE.n_embd)
    convert(str(folder), str(tmp_path / "parts.gguf"), "q5_1")
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "parts.gguf").read_bytes()


def test_reading_a_folder_reads_no_weights(folder: Path) -> None:
    with ExitStack() as files:
        model = open_folder(str(folder), files)
        wte = model.tensors["model/wte"]
        (block,) = wte.blocks("f16", Loss())
        assert block.tobytes() == checkpoint()["transformer.wte.weight"].tobytes()
    with pytest.raises(OSError):
        wte.read(0, 1)
