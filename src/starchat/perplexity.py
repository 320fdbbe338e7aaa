"""How well a model predicts a text, and how far its predictions are from those of another model.

The definition is that of llama.cpp's `perplexity`: the text's tokens are cut into windows of n_ctx
tokens, one after the other; what is left at the end is not used. Each window is computed by itself,
and only the tokens behind its middle are scored, as they have enough before them. Nothing is put in
front of a window: the StarCoder family has no token that begins a text. Control tokens that the
text spells out are plain text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from .errors import InvalidRequestError
from .model import StarChat

Floats = npt.NDArray[np.float64]

_PAGE = 32  # positions that the prefix cache keeps or drops together
_LOGITS_BYTES = 1 << 25  # of one model, at once
_ROWS = 16  # of logits that are computed with in float64 at once


@dataclass(frozen=True)
class Divergence:
    """How far predictions are from a reference: of each scored token, over the whole vocabulary.

    kl_*: the Kullback-Leibler divergence of the reference's distribution from the model's, in nats.
    same_top: the share of tokens for which both have the same likeliest one.
    """

    perplexity: float  # of the reference
    kl_mean: float
    kl_95: float  # 95 % are below it
    kl_max: float
    same_top: float


@dataclass(frozen=True)
class Perplexity:
    """What was measured; `perplexity` is exp of the mean of -log p, `error` its standard error."""

    n_ctx: int
    n_windows: int
    n_tokens: int  # scored
    perplexity: float
    error: float
    against: Divergence | None = None

    def to_json(self) -> str:
        """Return everything, for programs."""
        return json.dumps(asdict(self), indent=1)


def measure(
    model: StarChat,
    text: str,
    n_ctx: int = 512,
    against: StarChat | None = None,
    *,
    n_windows: int | None = None,
    report: Callable[[int, int, float], object] = lambda done, total, perplexity: None,
) -> Perplexity:
    """Return the perplexity of a text, and with `against` the divergence from that model.

    n_windows: at most so many, from the text's beginning. report: called now and then with the
    number of scored tokens, how many they will be, and the perplexity so far.

    Raises InvalidRequestError for a text of less than one window, a window that a model cannot
    hold, and models of different vocabularies.

    >>> with StarChat.load() as model:
    ...     measured = measure(model, "def add(a, b):\\n    return a + b\\n" * 20, n_ctx=64)
    >>> measured.n_windows, measured.n_tokens, 1 < measured.perplexity < 100
    (4, 124, True)
    """
    windows = _windows(model, against, text, n_ctx)[:n_windows]
    total = len(windows) * (n_ctx - 1 - n_ctx // 2)
    surprises: list[Floats] = []  # -log p of each token
    of_reference: list[Floats] = []
    divergences: list[Floats] = []
    done, sum_so_far, n_same = 0, 0.0, 0
    for ids, logits, reference in _slices(model, against, windows):
        log_p = _log_softmax(logits)
        each = np.arange(len(ids))
        surprises.append(-log_p[each, ids])
        if reference is not None:
            log_q = _log_softmax(reference)
            of_reference.append(-log_q[each, ids])
            divergences.append((np.exp(log_q) * (log_q - log_p)).sum(axis=1))
            n_same += int((reference.argmax(axis=1) == logits.argmax(axis=1)).sum())
        done += len(ids)
        sum_so_far += float(surprises[-1].sum())
        report(done, total, _exp(sum_so_far / done))
    all_surprises = np.concatenate(surprises)
    perplexity = _exp(all_surprises.mean())
    divergence = None
    if against:
        kl = np.maximum(np.concatenate(divergences), 0)  # rounding may lead below
        divergence = Divergence(
            perplexity=_exp(np.concatenate(of_reference).mean()),
            kl_mean=float(kl.mean()),
            kl_95=float(np.quantile(kl, 0.95)),
            kl_max=float(kl.max()),
            same_top=n_same / len(kl),
        )
    error = perplexity * float(all_surprises.std()) / math.sqrt(max(1, len(all_surprises) - 1))
    return Perplexity(n_ctx, len(windows), len(all_surprises), perplexity, error, divergence)


def _windows(
    model: StarChat, against: StarChat | None, text: str, n_ctx: int
) -> Sequence[list[int]]:
    most = min(each.info.n_ctx for each in (model, against) if each)
    if not 4 <= n_ctx <= most:
        problem = f"expected 4 to {most:,} tokens, got {n_ctx:,}"
        raise InvalidRequestError.of("n_ctx", problem, limit=most, got=n_ctx)
    ids = model.tokenize(text)
    if against and (against.info.n_vocab != model.info.n_vocab or against.tokenize(text) != ids):
        problem = f"{against.info.file} has another vocabulary than {model.info.file}: their "
        problem += "predictions cannot be compared"
        raise InvalidRequestError.of("against", problem)
    if len(ids) < n_ctx:
        problem = f"expected at least one window of {n_ctx:,} tokens, got {len(ids):,}: give a "
        problem += f"longer text, or n_ctx={len(ids)}" if len(ids) >= 4 else "longer text"
        raise InvalidRequestError.of("text", problem, limit=n_ctx, got=len(ids))
    return [ids[i : i + n_ctx] for i in range(0, len(ids) - n_ctx + 1, n_ctx)]


_Slice = tuple[list[int], npt.NDArray[np.float32], "npt.NDArray[np.float32] | None"]


def _slices(
    model: StarChat, against: StarChat | None, windows: Sequence[list[int]]
) -> Iterator[_Slice]:
    """Yield the scored ids of each window, some at a time, and the logits that predict them.

    The engine takes what is before a slice from its prefix cache, so nothing is computed twice.
    """
    n_rows = _LOGITS_BYTES // (4 * model.info.n_vocab) // _PAGE * _PAGE
    n_rows = min(max(n_rows, _PAGE), 256)
    for window in windows:
        begin, last = len(window) // 2, len(window) - 1
        while begin < last:
            end = min((begin + n_rows) // _PAGE * _PAGE, last)
            logits = [_logits(each, window[:end], begin) for each in (model, against) if each]
            for i in range(0, end - begin, _ROWS):
                ids = window[begin + i + 1 : min(begin + i + _ROWS, end) + 1]
                rows = [each[i : i + _ROWS] for each in logits]
                yield ids, rows[0], rows[1] if against else None
            begin = end


def _logits(model: StarChat, ids: list[int], first: int) -> npt.NDArray[np.float32]:
    engine: _core.Engine = model._engine
    return engine.logits(ids, first)


def _log_softmax(logits: npt.NDArray[Any]) -> Floats:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf
