"""Mixes what a step trains on: how-tos, dialogues with tools, JSON, code, and copying at first.

A batch is whole dialogues, shared out to shards of nearly the same number of tokens. Half of them
start at a random position, so that all are trained. The same (seed, step) gives the same batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import real_code
import values
from agents import agent_dialogue, as_dialogue, invention, json_dialogue
from code_contexts import code_dialogue
from dialogues import Dialogue, dialogue
from filler import passage
from tokenizer import Encoder

BATCH_TOKENS = 6144
N_COPYING = 200  # steps that begin with much copying: heads that look back settle soon
Row = tuple[list[int], list[bool]]

# Shares of dialogues, by the step: during copying, then to the end.
_KINDS = (
    "how-to",
    "long how-to",
    "agent",
    "json",
    "invention",
    "code",
    "long code",
    "copy",
    "real code",
)
_FIRST = (20, 0, 22, 6, 2, 10, 0, 40, 0)
_THEN = (36, 1, 85, 20, 6, 38, 2, 0, 14)


@dataclass(frozen=True)
class Shard:
    """Dialogues in a row, as the model reads them."""

    ids: Tensor  # (n_tokens,)
    positions: Tensor  # (n_tokens,)
    targets: Tensor  # (n_tokens,) the id to write after each; -1: not learned
    lengths: list[int]  # of the dialogues, in tokens

    def to(self, device: str) -> Shard:
        """Return the same on a device."""
        tensors = (tensor.to(device) for tensor in (self.ids, self.positions, self.targets))
        return Shard(*tensors, self.lengths)


def batch(encoder: Encoder, n_ctx: int, seed: int, step: int, n_shards: int) -> list[Shard]:
    """Return the shards of a step's batch."""
    rng = random.Random(f"{seed} {step}")
    rows: list[Row] = []
    while sum(len(ids) for ids, _ in rows) < BATCH_TOKENS:
        rows.append(_row(encoder, n_ctx, rng, _FIRST if step < N_COPYING else _THEN))
    rows.sort(key=lambda row: len(row[0]), reverse=True)
    shards: list[list[Row]] = [[] for _ in range(n_shards)]
    for row in rows:
        min(shards, key=lambda shard: sum(len(ids) for ids, _ in shard)).append(row)
    return [_shard(shard, n_ctx, rng) for shard in shards]


def _shard(rows: Sequence[Row], n_ctx: int, rng: random.Random) -> Shard:
    ids, positions, targets = [], [], []
    for row, learned in rows:
        start = rng.randint(0, n_ctx - len(row)) if rng.random() < 0.5 else 0
        ids += row[:-1]
        positions += range(start, start + len(row) - 1)
        targets += [id if learns else -1 for id, learns in zip(row[1:], learned[1:], strict=True)]
    lengths = [len(row) - 1 for row, _ in rows]
    return Shard(torch.tensor(ids), torch.tensor(positions), torch.tensor(targets), lengths)


def _row(encoder: Encoder, n_ctx: int, rng: random.Random, shares: Sequence[int]) -> Row:
    kind = rng.choices(_KINDS, shares)[0]
    if rng.random() < 0.4:
        rng = values.Narrow(rng.random())
    while True:
        ids, learned = encoder.dialogue(_dialogue(kind, rng))
        if len(ids) <= n_ctx:
            return ids, learned


def _dialogue(kind: str, rng: random.Random) -> Dialogue:
    match kind:
        case "how-to":
            return dialogue(rng, rng.choice((40, 40, 40, 90)))
        case "long how-to":
            return dialogue(rng, rng.choice((100, 200, 450)))
        case "agent":
            return as_dialogue(agent_dialogue(rng))
        case "json":
            return as_dialogue(json_dialogue(rng))
        case "invention":
            return as_dialogue(invention(rng))
        case "code":
            return as_dialogue(code_dialogue(rng))
        case "long code":
            return as_dialogue(code_dialogue(rng, rng.randint(6, 12), rng.choice((40, 150))))
        case "real code":
            return as_dialogue(code_dialogue(rng, given=real_code.page(rng)))
        case _:
            return copying(rng)


def copying(rng: random.Random) -> Dialogue:
    """Return a dialogue that asks for one of a few named values, or for all of a text again."""
    if rng.random() < 0.5:
        make = rng.choice((passage, passage, lambda rng, n: _noise(rng, n)))
        text = make(rng, rng.randint(3, 40))
        return Dialogue((("system", ""), ("user", text), ("assistant", text)), frozenset((2,)))
    makes = rng.choices(list(values.STRINGS.values()), k=rng.randint(1, 8))
    pairs = {values.identifier(rng): make(rng) for make in makes}
    mark = rng.choice((": ", " = ", " ", " is "))
    text = rng.choice(("\n", "; ", ", ")).join(
        f"{key}{mark}{value}" for key, value in pairs.items()
    )
    messages, learned = [("system", ""), ("user", text)], []
    for key in rng.sample(list(pairs), min(len(pairs), 3)):
        learned.append(len(messages) + 1)
        messages += [("user", f"{key}?"), ("assistant", pairs[key])]
    return Dialogue(tuple(messages), frozenset(learned))


def _noise(rng: random.Random, n: int) -> str:
    makes = (values.script, values.integer_text, values.code, values.path, values.pseudo_word)
    return rng.choice((" ", ", ", "")).join(rng.choice(makes)(rng) for _ in range(n))
