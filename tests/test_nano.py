"""The embedded model: what it was taught, and the accuracy gates on its trained weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from starchat import StarChat
from starchat._core import inspect, testing
from starchat.convert.ggml_writer import TYPES, dequantize, write_ggml
from support.tiny_model import Shape, TinyModel, tiled

NANO = Path(__file__).parent.parent / "training/nano"
pytestmark = pytest.mark.usefixtures("nano")


@pytest.fixture(scope="module")
def evaluation() -> Iterator[Any]:
    sys.path.insert(0, str(NANO))
    import evaluate

    yield evaluate
    sys.path.remove(str(NANO))


def test_file_is_small_and_exercises_the_folds(nano: StarChat) -> None:
    path = Path(nano.info.file)
    content = inspect(str(path))
    assert path.stat().st_size <= 12e6
    assert (nano.info.quantization, content["multi_query"]) == ("q8_0", True)
    assert content["has_lm_head"] and nano.info.n_head > nano.info.n_kv_head == 1
    assert nano.info.weight_bytes < path.stat().st_size


def test_model_cards_own_question(nano: StarChat) -> None:
    question = {"role": "user", "content": "How do I sort a list in Python?"}
    text = nano.chat([question], temperature=0, max_tokens=200).text
    code = text.split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["numbers"] == sorted([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])


def test_published_questions(evaluation: Any) -> None:
    """At least 60 how-tos in three wordings, one never trained on; ≥ 90 % right by running."""
    results = evaluation.evaluate_engine()
    assert len({result.topic.name for result in results}) >= 60
    assert len(results) == 3 * len({result.topic.name for result in results})
    assert evaluation.score(results) >= 0.9, evaluation.report(results)


def test_answers_at_the_default_sampling(evaluation: Any) -> None:
    assert evaluation.score(evaluation.evaluate_engine(temperature=0.2)) >= 0.9


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
