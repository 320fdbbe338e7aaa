"""The embedded model's file, and the accuracy of every tensor type on trained weights.

What its replies are worth is graded elsewhere: training/nano/quality.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from starchat import StarChat
from starchat._core import inspect, testing
from starchat.convert.ggml_writer import TYPES, write_ggml
from starchat.convert.tensor_types import dequantize
from support.tiny_model import Shape, TinyModel, tiled

pytestmark = pytest.mark.usefixtures("nano")


def test_file_is_small_and_exercises_the_folds(nano: StarChat) -> None:
    path = Path(nano.info.file)
    content = inspect(str(path))
    assert path.stat().st_size <= 12e6
    assert (nano.info.quantization, content["multi_query"]) == ("q8_0", True)
    assert content["has_lm_head"] and nano.info.n_head > nano.info.n_kv_head == 1
    assert nano.info.weight_bytes < path.stat().st_size


@pytest.fixture(scope="module")
def trained(nano: StarChat) -> TinyModel:
    """The embedded weights as floats, one key and value head."""
    info, content = nano.info, inspect(nano.info.file)
    shape = Shape(info.n_embd, info.n_head, info.n_layer, info.n_ctx, info.n_vocab)
    data = Path(info.file).read_bytes()
    n_q, head_dim = shape.n_embd, shape.head_dim
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for tensor in content["tensors"]:
        raw = np.frombuffer(data, np.uint8, tensor["size_bytes"], tensor["offset"])
        rows = raw.reshape(*tensor["shape"][:-1], -1)
        values = dequantize(rows, tensor["type"])
        if "/c_attn/" in tensor["name"]:
            values = np.concatenate(
                [values[: n_q + head_dim], values[2 * n_q : 2 * n_q + head_dim]]
            )
        weights[tensor["name"]] = values
    return TinyModel(Path(info.file), shape, info.quantization, weights)


@pytest.mark.parametrize("type", TYPES)
def test_accuracy_gates_on_trained_weights(
    nano: StarChat, trained: TinyModel, tmp_path: Path, type: str
) -> None:
    """Mean KL ≤ 1.5e-3 and the same top token ≥ 98 %, against fp32 on the same weights."""
    oracle = pytest.importorskip("support.oracle", reason="torch and transformers are the oracle")
    tokens = [nano._engine.tokenizer.token_bytes(i) for i in range(nano.info.n_vocab)]
    path = tmp_path / "nano.bin"
    shape = trained.shape
    write_ggml(
        path,
        n_ctx=shape.n_ctx,
        n_embd=shape.n_embd,
        n_head=shape.n_head,
        n_layer=shape.n_layer,
        vocab=tokens,
        tensors=tiled(trained.weights, shape),
        type=type,
    )
    tiny = TinyModel(path, shape, type, trained.weights)
    questions = ["How do I sort a list in Python?", "How do I read a file?", "Show me a decorator."]
    ids: list[int] = []
    for question in questions:
        message = {"role": "user", "content": question}
        reply = nano.chat([message], temperature=0, max_tokens=100)
        ids += nano.tokenize(f"<|system|>\n<|end|>\n<|user|>\n{question}<|end|>\n", True)
        ids += nano.tokenize(f"<|assistant|>\n{reply.text}<|end|>\n", True)
    expected = oracle.log_probabilities(oracle.transformers_model(tiny), np.array(ids))
    logits = testing.Forward(str(path)).run(ids[:256]).astype(np.float64)
    expected = expected[:256]
    actual = logits - logits.max(axis=1, keepdims=True)
    actual -= np.log(np.exp(actual).sum(axis=1, keepdims=True))
    assert (np.exp(expected) * (expected - actual)).sum(axis=1).mean() <= 1.5e-3
    assert (expected.argmax(axis=1) == actual.argmax(axis=1)).mean() >= 0.98
