"""Mixes what a step trains on: how-tos, dialogues with tools, JSON, code, and copying at first.

A shard is a few batches of whole dialogues of similar lengths. Half of them start at a random
position, so that all are trained. The same (seed, step, shard) gives the same batches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

import values
from agents import agent_dialogue, as_dialogue, invention, json_dialogue
from code_contexts import code_dialogue
from dialogues import Dialogue, dialogue
from filler import passage
from tokenizer import Encoder

SHARD_TOKENS = 3072
BATCH_TOKENS = 2048
N_COPYING = 200  # steps that begin with much copying: heads that look back settle soon
Row = tuple[list[int], list[bool]]

# Shares of dialogues, by the step: during copying, then to the end.
_KINDS = ("how-to", "long how-to", "agent", "json", "invention", "code", "long code", "copy")
_FIRST = (20, 0, 22, 6, 2, 10, 0, 40)
_THEN = (70, 3, 30, 5, 3, 14, 2, 20)


def batches(
    encoder: Encoder, n_ctx: int, seed: int, step: int, shard: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return (ids, positions, learned targets), each (n_rows, n_tokens), of one shard."""
    rng = random.Random(f"{seed} {step} {shard}")
    rows: list[Row] = []
    while sum(len(ids) for ids, _ in rows) < SHARD_TOKENS:
        rows.append(_row(encoder, n_ctx, rng, _FIRST if step < N_COPYING else _THEN))
    rows.sort(key=lambda row: len(row[0]))
    groups: list[list[Row]] = [[]]
    for row in rows:
        group, n = groups[-1], len(row[0])
        if group and (n * (len(group) + 1) > BATCH_TOKENS or len(group[0][0]) < 0.7 * n):
            groups.append(group := [])
        group.append(row)
    return [_batch(group, n_ctx, rng) for group in groups]


def _batch(rows: Sequence[Row], n_ctx: int, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in rows])
    learned = torch.tensor([mask + [False] * (length - len(mask)) for _, mask in rows])
    starts = [rng.randint(0, n_ctx - length) if rng.random() < 0.5 else 0 for _ in rows]
    positions = torch.tensor(starts).unsqueeze(1) + torch.arange(length - 1)
    return ids, positions, learned[:, 1:]


def _row(encoder: Encoder, n_ctx: int, rng: random.Random, shares: Sequence[int]) -> Row:
    kind = rng.choices(_KINDS, shares)[0]
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
