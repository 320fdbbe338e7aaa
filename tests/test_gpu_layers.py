"""Layers on a device: the bits of the CPU, for every number of layers and every way to batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from starchat import InvalidRequestError, StarChat, UnsupportedFeatureError
from starchat._core import testing
from starchat.cli.options import ModelOptions
from starchat.convert.ggml_writer import TYPES
from starchat.lazy_model import Loader
from starchat.model_settings import ModelSettings
from support.gpu import gpu_for_tests
from support.tiny_model import Shape, write_tiny

QUESTIONS = ["How do I sort a list in Python?", "How do I read a file?", "Show me a decorator."]


@pytest.fixture(scope="module")
def gpu() -> str:
    return gpu_for_tests()


@pytest.fixture(scope="module")
def on_gpu(gpu: str, nano: StarChat) -> Iterator[StarChat]:
    """The embedded model, every layer on the device."""
    with StarChat.load(nano.info.file, gpu_layers=-1, device=gpu, check_memory=False) as model:
        yield model


def same_bits(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    return bool(np.array_equal(a.view(np.uint32), b.view(np.uint32)))


def logits(path: Path, slices: list[int], gpu_layers: int = 0, device: str = "") -> list[bytes]:
    """Return the logits of random ids, in slices of so many."""
    model = testing.Forward(str(path), gpu_layers=gpu_layers, device=device)
    ids = np.random.default_rng(0).integers(0, 200, sum(slices)).tolist()
    found = []
    for n in slices:
        found.append(model.run(ids[:n]).tobytes())
        del ids[:n]
    return found


@pytest.mark.parametrize("type", TYPES)
def test_a_model_of_each_type_has_the_bits_of_the_cpu(gpu: str, tmp_path: Path, type: str) -> None:
    """A prompt in slices of odd sizes, then single tokens."""
    path = write_tiny(tmp_path / "tiny.bin", type, Shape(n_embd=96, n_head=3, n_layer=3)).path
    slices = [33, 1, 7, 1, 1]
    assert logits(path, slices, 2, gpu) == logits(path, slices)


def test_every_number_of_layers_has_the_bits_of_the_cpu(gpu: str, nano: StarChat) -> None:
    path = Path(nano.info.file)
    expected = logits(path, [33, 1, 1])
    for gpu_layers in (*range(1, nano.info.n_layer + 1), 99):
        assert logits(path, [33, 1, 1], gpu_layers, gpu) == expected


@pytest.mark.parametrize(
    "shape",
    [
        Shape(n_embd=96, n_head=48, n_layer=1, n_vocab=307),  # head_dim 2
        Shape(n_embd=32, n_head=1, n_layer=1, n_ctx=64),
        Shape(n_embd=64, n_head=2, n_layer=1, n_ctx=1100),  # more than two spans of attention
    ],
    ids=["small heads", "one head", "long"],
)
def test_odd_shapes_have_the_bits_of_the_cpu(gpu: str, tmp_path: Path, shape: Shape) -> None:
    path = write_tiny(tmp_path / "tiny.bin", "q4_0", shape).path
    slices = [min(shape.n_ctx // 5, 250)] * 4 + [1]
    assert logits(path, slices, 1, gpu) == logits(path, slices)


def test_keys_and_values_of_every_head(gpu: str, tmp_path: Path) -> None:
    """Not multi-query: each head has its own."""
    path = write_tiny(tmp_path / "tiny.bin", "q5_1", multi_query=False).path
    assert logits(path, [40, 1], 2, gpu) == logits(path, [40, 1])


def test_200_greedy_tokens_are_those_of_the_cpu(nano: StarChat, on_gpu: StarChat) -> None:
    prompt = [{"role": "user", "content": QUESTIONS[0]}]
    ids = [
        model.chat(prompt, temperature=0, max_tokens=200, ignore_eos=True).token_ids
        for model in (nano, on_gpu)
    ]
    assert len(ids[0]) == 200 and ids[0] == ids[1]


def test_a_batch_has_the_tokens_of_each_alone(nano: StarChat, on_gpu: StarChat) -> None:
    """Streams of different lengths at once, with prefixes of each other."""
    prompts = [QUESTIONS[i % 3] * (1 + i // 3) for i in range(8)]
    streams = [
        on_gpu.stream_complete(p, temperature=0, max_tokens=24 + i) for i, p in enumerate(prompts)
    ]
    for i, (prompt, stream) in enumerate(zip(prompts, streams, strict=True)):
        expected = nano.complete(prompt, temperature=0, max_tokens=24 + i)
        assert stream.result().token_ids == expected.token_ids


def test_logits_states_and_replies_of_one_prompt(nano: StarChat, on_gpu: StarChat) -> None:
    """Logits of more columns than one list has, embeddings, and pages that are copied."""
    ids = nano.tokenize("".join(QUESTIONS) * 2)
    assert len(ids) > 40
    assert same_bits(on_gpu.logits(ids), nano.logits(ids))
    assert np.array_equal(on_gpu.embed(QUESTIONS[0]), nano.embed(QUESTIONS[0]))
    replies = [
        model.complete(QUESTIONS[1] * 3, n=3, seed=7, max_tokens=12).choices
        for model in (nano, on_gpu)
    ]
    texts = [[reply.text for reply in each] for each in replies]
    assert texts[0] == texts[1]


def test_info_says_what_is_where(on_gpu: StarChat, nano: StarChat, gpu: str) -> None:
    assert (nano.info.gpu_layers, nano.info.device) == (0, "cpu")
    assert on_gpu.info.gpu_layers == nano.info.n_layer
    assert gpu in on_gpu.info.device.lower()
    assert str(on_gpu.info).endswith(f"{nano.info.n_layer} layers on {on_gpu.info.device}")


def test_auto_is_as_many_as_fit(gpu: str, tiny_model_path: Path) -> None:
    with StarChat.load(tiny_model_path, gpu_layers="auto", device=gpu) as model:
        assert model.info.gpu_layers == model.info.n_layer


def test_auto_is_the_cpu_where_there_is_no_gpu(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver that computes on the CPU is none."""
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere")
    load = ModelOptions(str(tiny_model_path), gpu_layers="auto").load
    with load() as model:
        assert (model.info.gpu_layers, model.info.device) == (0, "cpu")
    assert "no layer is on a GPU" in capsys.readouterr().err
    with pytest.raises(UnsupportedFeatureError):
        StarChat.load(tiny_model_path, gpu_layers=1)
    with pytest.raises(UnsupportedFeatureError):
        StarChat.load(tiny_model_path, gpu_layers="auto", device="vulkan:9")


def test_the_environment_chooses_where_nobody_else_does(
    gpu: str, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARCHAT_GPU_LAYERS", "1")
    monkeypatch.setenv("STARCHAT_DEVICE", gpu)
    with (
        StarChat.load(tiny_model_path) as model,
        StarChat.load(tiny_model_path, gpu_layers=0) as own,
    ):
        assert (model.info.gpu_layers, own.info.gpu_layers) == (1, 0)


def test_layers_that_do_not_fit(gpu: str) -> None:
    """The number that would, of a device that pretends to be smaller."""
    shape = {"n_embd": 6144, "n_layer": 40, "n_ctx": 8192}
    fits = [testing.fitting_layers(memory_bytes=n << 30, **shape) for n in (1, 8, 24)]
    assert fits[0] < fits[1] < 40 == fits[2]


def test_adapters_have_an_alias(gpu: str, tiny_model_path: Path) -> None:
    settings = ModelSettings(model_path=tiny_model_path, n_gpu_layers=1, device=gpu)  # type: ignore[call-arg, arg-type]
    assert settings.gpu_layers == 1 and settings.engine.info.gpu_layers == 1
    with pytest.raises(ValueError, match="n_gpu_layers and gpu_layers are one argument"):
        ModelSettings(n_gpu_layers=1, gpu_layers=2)  # type: ignore[call-arg]


def test_devices_that_are_not_there() -> None:
    with pytest.raises(UnsupportedFeatureError):
        Loader().load(gpu_layers=1, device="no such device")


@pytest.mark.parametrize("wrong", [-2, 1.5, True, "many", "--1", 2**31])
def test_layers_that_are_no_number(wrong: object) -> None:
    with pytest.raises(InvalidRequestError, match=r'gpu_layers: expected an integer .* "auto"'):
        StarChat.load(gpu_layers=wrong)  # type: ignore[arg-type]


def test_a_device_without_layers_is_a_mistake() -> None:
    with pytest.raises(InvalidRequestError, match="give gpu_layers, too"):
        StarChat.load(device="vulkan:0")
    with StarChat.load(device="cpu") as model:
        assert model.info.device == "cpu"
