"""GGUF files that we write, in llama.cpp, whose answers are recorded: `make oracles`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from starchat import StarChat
from starchat.convert.conversion import convert
from starchat.model import EMBEDDED
from starchat.perplexity import measure
from support.llama_cpp import N_CTX, PROMPT, RECORD, TEXT, TEXTS, TYPES

RECORDED: dict[str, Any] = json.loads(RECORD.read_text())
_CLOSE = 0.05  # logits: llama.cpp rounds activations otherwise


@pytest.fixture(params=TYPES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[StarChat, dict[str, Any]]]:
    path = tmp_path_factory.mktemp("oracles") / "nano.gguf"
    convert(EMBEDDED, str(path), request.param)
    with StarChat.load(path) as model:
        yield model, RECORDED[request.param]


def test_llama_cpp_answers_alike(model: tuple[StarChat, dict[str, Any]]) -> None:
    """The ids of texts, 64 greedy tokens as far as they are no close choices, the perplexity."""
    ours, theirs = model
    assert [ours.tokenize(text) for text in TEXTS] == theirs["ids"]
    ids = ours.tokenize(PROMPT)
    chosen = [id for id, _ in theirs["greedy"]]
    best = ours.logits(ids + chosen)[len(ids) - 1 : -1].argmax(axis=1).tolist()
    clear = [n for n, (_, margin) in enumerate(theirs["greedy"]) if margin > _CLOSE]
    assert len(clear) > 40
    assert [best[n] for n in clear] == [chosen[n] for n in clear]
    measured = measure(ours, TEXT.read_text("utf-8"), N_CTX)
    assert measured.perplexity == pytest.approx(theirs["perplexity"], rel=5e-3)
