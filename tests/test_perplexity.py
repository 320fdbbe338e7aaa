"""Perplexity and divergence: the definition, against a plain computation and llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from starchat import InvalidRequestError, StarChat, perplexity
from starchat.perplexity import measure
from support.llama_cpp import RECORD, tiny_path
from support.llama_cpp import TEXT as TEXT_OF_LLAMA
from support.tiny_model import Shape, write_tiny

TEXT = "def add(a, b):\n    return a + b  # the sum of two numbers\n" * 12


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One model in f32 and in q4_0."""
    folder = tmp_path_factory.mktemp("perplexity")
    shape = Shape(n_ctx=256)
    return tuple(write_tiny(folder / type, type, shape).path for type in ("f32", "q4_0"))  # type: ignore[return-value]


def log_p(model: StarChat, window: list[int]) -> npt.NDArray[np.float64]:
    logits = model.logits(window).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("n_ctx", [4, 31, 64, 130, 256])
@pytest.mark.parametrize("row_bytes", [None, 1])
def test_it_is_what_a_plain_computation_gives(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, n_ctx: int, row_bytes: int | None
) -> None:
    """Also where a window's logits are computed in slices."""
    if row_bytes:
        monkeypatch.setattr(perplexity, "_LOGITS_BYTES", row_bytes)
    with StarChat.load(files[1]) as model, StarChat.load(files[0]) as reference:
        ids = model.tokenize(TEXT)
        scored, kl, same = [], [], []
        for start in range(0, len(ids) - n_ctx + 1, n_ctx):
            window = ids[start : start + n_ctx]
            p, q = log_p(model, window), log_p(reference, window)
            for i in range(n_ctx // 2, n_ctx - 1):
                scored.append(-p[i, window[i + 1]])
                kl.append((np.exp(q[i]) * (q[i] - p[i])).sum())
                same.append(p[i].argmax() == q[i].argmax())
        measured = measure(model, TEXT, n_ctx, reference)
        n_columns = model._engine.stats()["columns"]
        measure(model, TEXT, n_ctx, reference)
        assert model._engine.stats()["columns"] - n_columns <= len(ids) // n_ctx * (n_ctx - 1)
    assert (measured.n_ctx, measured.n_windows) == (n_ctx, len(ids) // n_ctx)
    assert measured.n_tokens == len(scored)
    assert measured.perplexity == pytest.approx(np.exp(np.mean(scored)), rel=1e-9)
    against = measured.against
    assert against is not None
    assert against.kl_mean == pytest.approx(np.mean(kl), rel=1e-6)
    assert against.kl_95 == pytest.approx(np.quantile(kl, 0.95), rel=1e-6)
    assert against.kl_max == pytest.approx(np.max(kl), rel=1e-6)
    assert against.same_top == np.mean(same)


@pytest.mark.parametrize("type", ["f32", "q8_0"])
def test_it_agrees_with_llama_cpp(tmp_path: Path, type: str) -> None:
    """With the model as GGUF (`make oracles`), the LICENSE and windows of 128.

    It computes activations of q8_0 in other blocks than starchat: 0.05 % here, 0.5 % are allowed.
    """
    of_llama = json.loads(RECORD.read_text())[f"tiny-{type}"]["perplexity"]
    with StarChat.load(tiny_path(tmp_path, type)) as model:
        measured = measure(model, TEXT_OF_LLAMA.read_text("utf-8"), 128)
    assert (measured.n_windows, measured.n_tokens) == (73, 4599)
    assert measured.perplexity == pytest.approx(of_llama, rel=5e-3)


def test_a_model_has_no_divergence_from_itself(files: tuple[Path, Path]) -> None:
    with StarChat.load(files[1]) as model:
        measured = measure(model, TEXT, 64, model)
    assert measured.against == perplexity.Divergence(measured.perplexity, 0, 0, 0, 1)


def test_what_is_done_is_reported_and_windows_are_limited(files: tuple[Path, Path]) -> None:
    told: list[tuple[int, int, float]] = []
    with StarChat.load(files[1]) as model:
        measured = measure(model, TEXT, 64, n_windows=3, report=lambda *each: told.append(each))
    assert (measured.n_windows, measured.n_tokens) == (3, 3 * 31)
    assert [total for _, total, _ in told] == [3 * 31] * len(told)
    done = [done for done, _, _ in told]
    assert done == sorted(done) and done[-1] == 3 * 31
    assert told[-1][2] == pytest.approx(measured.perplexity)


def test_an_interrupt_ends_it(files: tuple[Path, Path]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with StarChat.load(files[1]) as model, pytest.raises(KeyboardInterrupt):
        measure(model, TEXT, 64, report=stop)


@pytest.mark.parametrize(
    ("n_ctx", "text", "message"),
    [
        (257, TEXT, "n_ctx: expected 4 to 256 tokens, got 257"),
        (3, TEXT, "n_ctx: expected 4 to 256 tokens, got 3"),
        (64, "a" * 60, "text: expected at least one window of 64 tokens, got 60: .* n_ctx=60"),
        (64, "", "text: expected at least one window of 64 tokens, got 0: give a longer text$"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    files: tuple[Path, Path], n_ctx: int, text: str, message: str
) -> None:
    with StarChat.load(files[1]) as model, pytest.raises(InvalidRequestError, match=message):
        measure(model, text, n_ctx)


@pytest.mark.parametrize("n_vocab", [280, 292])
def test_models_of_other_vocabularies_are_not_compared(
    files: tuple[Path, Path], tmp_path: Path, n_vocab: int
) -> None:
    other = write_tiny(tmp_path / "other.bin", shape=Shape(n_vocab=n_vocab)).path
    message = r"against: .* another vocabulary than"
    with (
        StarChat.load(files[1]) as model,
        StarChat.load(other) as reference,
        pytest.raises(InvalidRequestError, match=message),
    ):
        measure(model, TEXT, 64, reference)


def test_equally_many_other_tokens_are_another_vocabulary(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(files[1].read_bytes().replace(b"\x03\0\0\0def", b"\x03\0\0\0dex"))
    with (
        StarChat.load(files[1]) as model,
        StarChat.load(other) as reference,
        pytest.raises(InvalidRequestError, match="another vocabulary"),
    ):
        measure(model, TEXT, 64, reference)


# ---- logits from a position on --------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1, 31, 32, 64, 69, 99])
def test_logits_from_a_position_on_have_the_bits_of_all(
    files: tuple[Path, Path], first: int
) -> None:
    """Whether what is before is in the prefix cache, or not yet."""
    with StarChat.load(files[1]) as model:
        ids = model.tokenize(TEXT)[:100]
        every = model.logits(ids)
        for _ in range(2):
            assert model._engine.logits(ids, first).tobytes() == every[first:].tobytes()


def test_what_is_before_them_is_computed_once(files: tuple[Path, Path]) -> None:
    with StarChat.load(files[1]) as model:
        ids = model.tokenize(TEXT)[:128]
        columns = []
        for end, first in ((96, 64), (128, 96), (128, 96)):
            before = model._engine.stats()["columns"]
            model._engine.logits(ids[:end], first)
            columns.append(model._engine.stats()["columns"] - before)
        model._engine.logits(ids)  # all of them: nothing is taken from the cache
        assert columns == [96, 32, 32]
        assert model._engine.stats()["columns"] == 96 + 32 + 32 + 128


@pytest.mark.parametrize("first", [-1, 5])
def test_a_first_position_that_no_token_has_is_refused(
    files: tuple[Path, Path], first: int
) -> None:
    message = f"first: expected 0 to 4, .* got {first}"
    with StarChat.load(files[1]) as model, pytest.raises(InvalidRequestError, match=message):
        model._engine.logits([1, 2, 3, 4, 5], first)
