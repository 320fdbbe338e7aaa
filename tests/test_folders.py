"""Folders are loaded as they are: their logits are those of the file that convert makes of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat import (
    CorruptFileError,
    FileAccessError,
    StarChat,
    UnsupportedFormatError,
    engine_registry,
)
from starchat.cli.app import app
from starchat.convert.conversion import convert
from starchat.model_source import context_size, read_tokenizer
from support.processes import run_python
from support.tiny_model import Shape
from support.tokenizer_oracle import added_oracle

pytest.importorskip("safetensors.numpy")
from support import dense_forward
from support.folders import (
    SHAPE,
    Arrays,
    checkpoint,
    gptq_tensors,
    old_layout,
    pack,
    unpack,
    write_folder,
)

IDS = [25, 60, 100, 30, 31]
GPTQ = {"bits": 4, "group_size": 32}
LARGE = Shape(n_embd=512, n_head=8)


def logits_of(path: Path) -> np.ndarray:
    with StarChat.load(path, progress=False) as model:
        return model.logits(IDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hf"), checkpoint())


@pytest.fixture(scope="module")
def gptq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors, _ = gptq_tensors(32, True, 1, act_order=False)
    return write_folder(tmp_path_factory.mktemp("gptq"), tensors, quantization_config=GPTQ)


def wide() -> Arrays:
    """Return a checkpoint whose feed-forward network is three times as wide as the rest."""
    tensors = checkpoint()
    for name, values in tensors.items():
        n = 3 * SHAPE.n_embd
        if "mlp.c_fc" in name:
            tensors[name] = values[:n]
        elif "mlp.c_proj.weight" in name:
            tensors[name] = np.ascontiguousarray(values[:, :n])
    return tensors


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (checkpoint(), {}),
        (checkpoint(False), {"multi_query": False}),
        (checkpoint(lm_head="own"), {}),
        (checkpoint(lm_head="tied"), {}),
        (old_layout(), {"architectures": ["GPT2LMHeadCustomModel"]}),
        (wide(), {"n_inner": 3 * SHAPE.n_embd}),
        (checkpoint(), {"layer_norm_epsilon": 1e-3}),
        (gptq_tensors(32, True, 1, False)[0], {"quantization_config": GPTQ}),
        (gptq_tensors(32, False, 1, False)[0], {"quantization_config": GPTQ}),
        (gptq_tensors(-1, True, 1, False)[0], {"quantization_config": {**GPTQ, "group_size": -1}}),
    ],
    ids=[
        *("f16", "multi-head", "own head", "tied head", "SantaCoder", "n_inner", "epsilon"),
        *("GPTQ", "asymmetric GPTQ", "GPTQ of one group"),
    ],
)
def test_a_folder_answers_as_the_file_made_of_it(
    tmp_path: Path, tensors: Arrays, config: dict[str, Any]
) -> None:
    root = write_folder(tmp_path / "hf", tensors, **config)
    convert(str(root), str(tmp_path / "made.gguf"))
    assert np.array_equal(logits_of(root), logits_of(tmp_path / "made.gguf"))


def test_shards_of_pytorch_and_bf16_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    root = write_folder(tmp_path / "hf", None)
    names = sorted(checkpoint())
    where = {}
    for shard, part in enumerate((names[::2], names[1::2])):
        state = {name: torch.from_numpy(checkpoint()[name]).bfloat16() for name in part}
        torch.save(state, root / f"pytorch_model-{shard}.bin")
        where |= dict.fromkeys(part, f"pytorch_model-{shard}.bin")
    (root / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    convert(str(root), str(tmp_path / "made.gguf"))
    with StarChat.load(root) as model:
        assert model.info.quantization == "bf16"
        assert np.array_equal(model.logits(IDS), logits_of(tmp_path / "made.gguf"))


def test_rows_that_are_made_in_several_blocks(tmp_path: Path) -> None:
    shape = Shape(n_embd=1024, n_head=4, n_layer=1)  # 4,096 rows of 576 bytes and more
    tensors = {}
    for name, values in checkpoint(shape=shape).items():
        is_matrix = values.ndim == 2 and ".h." in name
        tensors[name] = np.ascontiguousarray(values.T) if is_matrix else values
    config = {"architectures": ["GPT2LMHeadCustomModel"], "n_inner": 4128}
    fc = np.random.default_rng(0).standard_normal((1024, 4128), np.float32).astype(np.float16)
    tensors["transformer.h.0.mlp.c_fc.weight"] = fc  # two blocks of 8 MiB
    tensors["transformer.h.0.mlp.c_fc.bias"] = np.zeros(4128, np.float16)
    tensors["transformer.h.0.mlp.c_proj.weight"] = np.ascontiguousarray(fc.T)
    root = write_folder(tmp_path / "hf", tensors, shape, **config)
    convert(str(root), str(tmp_path / "made.gguf"))
    assert np.array_equal(logits_of(root), logits_of(tmp_path / "made.gguf"))


@pytest.mark.parametrize(
    ("multi_query", "of_transformers"),
    [  # python -m support.dense_forward; transformers 5.24.0, torch 2.13.0
        (
            True,
            [-1.299836, -2.334203, -0.179073, 0.070069, 1.714389, 3.568463, 0.479492, -0.064678],
        ),
        (
            False,
            [-1.099152, -3.300375, -3.062338, -3.631381, -5.168082, -0.711188, 0.284058, 5.692883],
        ),
    ],
)
def test_logits_differ_from_transformers_by_the_cache_in_f16_alone(
    tmp_path: Path, multi_query: bool, of_transformers: list[float]
) -> None:
    """Converted weights give transformers' logits; the engine differs as an f16 cache does.

    Rounding K and V to f16 moves logits by up to 3e-3 here. What is left is f32 beside f64, and
    values so near to the middle of two halves that they are rounded to different ones: 3e-4.
    """
    gguf = pytest.importorskip("gguf")
    tensors = checkpoint(multi_query, lm_head="own")
    root = write_folder(tmp_path / "hf", tensors, multi_query=multi_query)
    convert(str(root), str(tmp_path / "made.gguf"))
    values = {
        str(each.name): gguf.quants.dequantize(each.data, each.tensor_type)
        for each in gguf.GGUFReader(tmp_path / "made.gguf").tensors
    }
    exact = dense_forward.logits(values, SHAPE.n_head)
    assert np.abs(exact[-1, :8] - of_transformers).max() < 1e-5
    with StarChat.load(root) as model:
        actual = model.logits(dense_forward.IDS)
    rounded = dense_forward.logits(values, SHAPE.n_head, half_cache=True)
    assert np.abs(actual - rounded).max() < 3e-4
    assert np.abs(actual - exact).max() < 1e-2


# ---- GPTQ in the order of activations ----------------------------------------------------------


def interleaved(n_columns: int, group: int) -> np.ndarray:
    """Return the columns of the first group, of the second …, one of each in turn."""
    return np.arange(n_columns).reshape(-1, group).T.ravel()


def test_the_same_columns_in_another_order_give_the_same_bits(tmp_path: Path) -> None:
    tensors, _ = gptq_tensors(32, False, 1, act_order=False)
    plain = write_folder(tmp_path / "plain", tensors, quantization_config=GPTQ)
    order = interleaved(4 * SHAPE.n_embd, 32)
    for layer in range(SHAPE.n_layer):
        up, down = (f"transformer.h.{layer}.mlp.{name}." for name in ("c_fc", "c_proj"))
        tensors[up + "qzeros"] = pack(unpack(tensors[up + "qzeros"], 1)[:, order], 1)
        for part in "qweight", "scales", "bias":
            tensors[up + part] = np.ascontiguousarray(tensors[up + part][..., order])
        tensors[down + "qweight"] = pack(unpack(tensors[down + "qweight"], 0)[order], 0)
        tensors[down + "g_idx"] = tensors[down + "g_idx"][order]
    root = write_folder(tmp_path / "ordered", tensors, quantization_config=GPTQ)
    assert np.array_equal(logits_of(root), logits_of(plain))


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("multi_query", [True, False])
def test_any_order_is_as_near_as_the_dequantized_model(
    tmp_path: Path, group: int, multi_query: bool
) -> None:
    tensors, weights = gptq_tensors(group, True, 1, act_order=True, multi_query=multi_query)
    config = {"multi_query": multi_query, "quantization_config": {**GPTQ, "group_size": group}}
    root = write_folder(tmp_path / "ordered", tensors, **config)
    dense = {name: tensors[name] for name in checkpoint() if name in tensors}
    dense |= {name: np.ascontiguousarray(values, np.float32) for name, values in weights.items()}
    same = write_folder(tmp_path / "dense", dense, multi_query=multi_query)
    with StarChat.load(root) as model:
        actual = log_softmax(model.logits(list(range(19, 90))))
    with StarChat.load(same) as model:
        expected = log_softmax(model.logits(list(range(19, 90))))
    # Activations in 8 bits give 3e-8 here, those of another order 4e-4.
    assert (np.exp(expected) * (expected - actual)).sum(axis=1).mean() < 1e-6


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


# ---- which model it is --------------------------------------------------------------------------


def test_two_loads_of_a_folder_share_its_weights(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with StarChat.load(folder) as one, StarChat.load(link, n_ctx=32) as other:
        assert other._engine.weights is one._engine.weights
        assert (one.info.file, other.info.file) == (str(folder), str(link))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory files")
def test_processes_share_the_weights_of_a_folder(tmp_path: Path) -> None:
    tensors, _ = gptq_tensors(64, True, 1, act_order=False, shape=LARGE)
    tensors["transformer.wpe.weight"] = np.zeros((1 << 14, LARGE.n_embd), np.float16)
    config = {"n_positions": 1 << 14, "quantization_config": {"bits": 4, "group_size": 64}}
    root = write_folder(tmp_path / "hf", tensors, LARGE, **config)
    code = (
        "import sys; from starchat import StarChat\n"
        "from starchat.convert import gptq\n"
        "gptq._Packed.columns = None  # nothing is made again\n"
        "print(StarChat.load(sys.argv[1]).logits([1, 2, 3]).sum())"
    )
    with StarChat.load(root) as model:
        assert model.info.weight_bytes >= 16 << 20, "smaller ones are not shared"
        expected = model.logits([1, 2, 3]).sum()
        assert run_python(code, str(root)).stdout.strip() == str(expected)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("change", ["written", "replaced"])
def test_a_folder_that_changes_while_it_is_read(
    folder: Path, tmp_path: Path, name: str, change: str
) -> None:
    root = write_folder(tmp_path / "hf", checkpoint())
    path = root / name
    before = {*engine_registry._engines}

    def write(done: int, total: int) -> None:
        if change == "replaced":
            (tmp_path / "new").write_bytes(path.read_bytes())
            (tmp_path / "new").replace(path)
        else:
            os.utime(path)

    with pytest.raises(CorruptFileError, match=r"written to while|changed while"):
        StarChat.load(root, progress=write)
    assert np.array_equal(logits_of(root), logits_of(folder))
    assert {*engine_registry._engines} <= before  # none that failed is kept


def test_a_file_that_comes_while_a_folder_is_read(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "hf", checkpoint())

    def add(done: int, total: int) -> None:
        (root / "added_tokens.json").write_text("{}")

    with pytest.raises(CorruptFileError, match="files changed while they were read"):
        StarChat.load(root, progress=add)
    assert np.isfinite(logits_of(root)).all()


def test_another_model_in_the_same_folder_is_read(folder: Path, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "hf", checkpoint())
    with StarChat.load(root) as one:
        write_folder(root, checkpoint(seed=1))
        with StarChat.load(root) as other:
            assert other._engine.weights is not one._engine.weights
            assert not np.array_equal(one.logits(IDS), other.logits(IDS))


# ---- while it is loaded -------------------------------------------------------------------------


def test_progress_counts_every_byte(gptq_folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    StarChat.load(gptq_folder, progress=lambda *numbers: seen.append(numbers)).close()
    done = [numbers[0] for numbers in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1] > 0
    assert len({total for _, total in seen}) == 1


def test_ctrl_c_ends_the_making_of_rows(gptq_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        while True:
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr("starchat.convert.gptq._Packed.columns", endless)
        StarChat.load(gptq_folder, progress=False)
    monkeypatch.undo()
    assert np.isfinite(logits_of(gptq_folder)).all()


def test_an_error_of_the_disk_is_raised_while_rows_are_made(
    gptq_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise CorruptFileError("ends at byte 7")

    monkeypatch.setattr("starchat.convert.gptq._Packed.columns", broken)
    with pytest.raises(CorruptFileError, match="ends at byte 7"):
        StarChat.load(gptq_folder, progress=False)


def test_files_are_closed_after_loading(gptq_folder: Path) -> None:
    logits_of(gptq_folder)
    before = len(os.listdir("/proc/self/fd"))
    logits_of(gptq_folder)
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_load_a_folder_at_once(gptq_folder: Path) -> None:
    expected, found = logits_of(gptq_folder), []
    threads = [
        threading.Thread(target=lambda n=n: found.append(StarChat.load(gptq_folder, n_ctx=n)))
        for n in (32, 64, 96)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model._engine.weights) for model in found}) == 1
    assert all(np.array_equal(model.logits(IDS), expected) for model in found)
    for model in found:
        model.close()


# ---- what is wrong with it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "without config.json; name the model file in it"),
        (["b.gguf", "c.txt"], "name the model file in it: .*b.gguf"),
        (["model.safetensors"], "download config.json and the tokenizer too"),
        (["adapter_config.json"], "is an adapter"),
        (["snapshots"], "give a folder in its snapshots/"),
    ],
)
def test_folders_without_a_model(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(FileAccessError, match=words):
        StarChat.load(tmp_path)


def test_a_folder_of_another_architecture_is_named(folder: Path, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "hf", checkpoint(), architectures=["LlamaForCausalLM"])
    with pytest.raises(UnsupportedFormatError, match="holds LlamaForCausalLM, expected GPTBig"):
        StarChat.load(root)


def test_half_a_download_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "hf", checkpoint())
    weights = root / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CorruptFileError, match=r"model\.safetensors.*download was cut"):
        StarChat.load(root)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with pytest.raises(FileAccessError, match=r"pointer of Git LFS.*git lfs pull"):
        StarChat.load(root)
    weights.unlink()
    with pytest.raises(FileAccessError, match=r"no \*\.safetensors and no pytorch_model\.bin"):
        StarChat.load(root)
    index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileAccessError, match=r"00001-of-00002.*download every shard"):
        StarChat.load(root)


def test_weights_that_are_not_finite_name_the_shard(tmp_path: Path) -> None:
    tensors = checkpoint()
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = np.inf
    root = write_folder(tmp_path / "hf", tensors)
    with pytest.raises(CorruptFileError, match=r"model\.safetensors: model/h1/mlp/c_fc/w: holds"):
        StarChat.load(root)


def test_merges_of_another_order_than_the_ids(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "hf", checkpoint())
    whole = json.loads((root / "tokenizer.json").read_text())
    merges = whole["model"]["merges"]
    merges.append(merges.pop(merges.index(["e", "r"])))  # now " the" and "in" come before it
    (root / "tokenizer.json").write_text(json.dumps(whole))
    expected = read_tokenizer(str(root))
    with StarChat.load(root) as model:
        assert model.tokenize("here") == expected.encode("here")
    convert(str(root), str(tmp_path / "made.gguf"))
    with StarChat.load(tmp_path / "made.gguf") as model:
        assert [model.detokenize([id]) for id in model.tokenize("here")] == ["he", "re"]
        assert model.tokenize("here") == expected.encode("here")
    merges[-1] = ["e", "qq"]
    (root / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(CorruptFileError, match="a merge of the tokenizer has no token"):
        StarChat.load(root)


@pytest.fixture
def added_folder(tmp_path: Path) -> Path:
    """A folder whose tokenizer.json is one of the library's, with tokens that are not special."""
    n_vocab = len(added_oracle().vocabulary)
    shape = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=8, n_vocab=n_vocab)
    root = write_folder(tmp_path / "hf", checkpoint(shape=shape), shape)
    (root / "tokenizer.json").write_text(added_oracle().serialized)
    return root


def test_added_tokens_of_a_folder_are_cut_out_of_texts(added_folder: Path) -> None:
    text = "xabcab<tool>x<|end|>x def defx\n\n\n\n then théabcbc文"
    made = added_folder.parent / "made.gguf"
    convert(str(added_folder), str(made))
    for path in added_folder, made:
        with StarChat.load(path) as model:
            assert model.tokenize(text) == added_oracle().theirs(text)
        assert read_tokenizer(str(path)).encode(text, True) == added_oracle().theirs(text, True)


def test_added_tokens_that_take_spaces_are_refused(added_folder: Path) -> None:
    whole = json.loads((added_folder / "tokenizer.json").read_text())
    (token,) = [each for each in whole["added_tokens"] if each["content"] == "<tool>"]
    token["lstrip"] = True
    (added_folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(UnsupportedFormatError, match="the added token '<tool>' has lstrip"):
        StarChat.load(added_folder)


@pytest.mark.parametrize("names", ["special_tokens_map.json", "tokenizer_config.json", None])
def test_control_tokens_beside_vocab_json(tmp_path: Path, names: str | None) -> None:
    """added_tokens.json does not tell which of its tokens are special."""
    root = write_folder(tmp_path / "hf", checkpoint())
    model = json.loads((root / "tokenizer.json").read_text())["model"]
    (root / "tokenizer.json").unlink()
    (root / "vocab.json").write_text(json.dumps(model["vocab"]))
    (root / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])))
    n_vocab = SHAPE.n_vocab
    (root / "added_tokens.json").write_text(json.dumps({"[turn]": n_vocab - 2, "T1": n_vocab - 1}))
    files = {
        "special_tokens_map.json": {
            "eos_token": {"content": "<|endoftext|>"},
            "additional_special_tokens": ["[turn]"],
        },
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(n_vocab - 2): {"content": "[turn]", "special": True},
                str(n_vocab - 1): {"content": "T1", "special": False},
            }
        },
    }
    if names is not None:
        (root / names).write_text(json.dumps(files[names]))
    ours = read_tokenizer(str(root))
    assert ours.is_special(n_vocab - 2)
    assert ours.is_added(n_vocab - 1) == (names is not None)
    assert ours.is_special(n_vocab - 1) == (names is None)


# ---- in the adapters ----------------------------------------------------------------------------


def test_adapters_take_a_folder(folder: Path) -> None:
    langchain = pytest.importorskip("langchain_starchat")
    llama_index = pytest.importorskip("llama_index.llms.starchat")
    chat = langchain.ChatStarChat(model_path=folder, max_tokens=4)
    assert chat.profile["max_input_tokens"] <= SHAPE.n_ctx
    n_tokens = chat.get_num_tokens("def on")
    assert chat.engine.info.file == str(folder)
    assert chat.get_num_tokens("def on") == n_tokens
    assert chat.invoke("Hi").response_metadata
    llm = llama_index.StarChat(model=str(folder), max_tokens=4)
    assert llm.metadata.context_window == SHAPE.n_ctx
    assert llm.engine._engine.weights is chat.engine._engine.weights


# ---- without loading it -------------------------------------------------------------------------


def test_context_and_tokens_are_known_without_the_weights(folder: Path) -> None:
    assert context_size(str(folder)) == SHAPE.n_ctx
    with StarChat.load(folder) as model:
        assert read_tokenizer(str(folder)).encode("def on") == model.tokenize("def on")


def test_the_command_inspects_a_folder(
    gptq_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["inspect", str(gptq_folder)], standalone_mode=False)
    text = capsys.readouterr().out
    assert str(gptq_folder) in text and "q4_0" in text and "293 tokens" in text
    assert re.search(r"^format +Hugging Face, q4_0\s*$", text, re.M), "it has no ftype"


def test_the_command_tells_the_checksums_of_a_folder(
    gptq_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"config.json", "tokenizer.json", "model.safetensors"}
    expected = {
        str(gptq_folder / name): hashlib.sha256((gptq_folder / name).read_bytes()).hexdigest()
        for name in files
    }
    app(["inspect", "--sha256", "--json", str(gptq_folder)], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["sha256"].items() >= expected.items()
    app(["inspect", "--sha256", str(gptq_folder)], standalone_mode=False)
    shown = capsys.readouterr().out
    for path, digest in expected.items():
        assert f"{digest} {os.path.basename(path)}" in re.sub(r"\s+", " ", shown)


def test_the_command_measures_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("def add(a, b):\n    return a + b\n" * 40)
    app(["perplexity", str(folder), str(tmp_path / "text")], standalone_mode=False)
    assert f"windows of {SHAPE.n_ctx}" in capsys.readouterr().out


def test_the_command_completes_with_a_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starchat.cli.complete.read_beside", lambda: "")
    arguments = ["complete", "--model", str(folder), "--max-tokens", "4", "--ignore-eos", "def"]
    app(arguments, standalone_mode=False)
    assert capsys.readouterr().out
