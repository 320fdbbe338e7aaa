"""What is gained where a reply, or a chat's next turn, holds what was there before.

    python benchmarks/speculation.py [--model santacoder] [--type q4_0] [--json FILE]

Random weights quote nothing, so these recite: behind every id the model writes the next higher
one, at the full cost of a step. What the prompt holds decides whether the reply quotes it. Each
round runs every reply with guesses and without, and both must be the ids that are expected.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import Result, new_result
from random_model import SHAPES, Array, random_tensor, write_bin
from report import run
from rich.console import Console
from rich.progress import Progress

from starchat import StarChat, Stream, Usage
from starchat.convert.ggml_writer import TYPES
from starchat.convert.tensor_types import dequantize, quantize
from starchat.errors import StarChatError

Samples = dict[str, list[float]]

_FIRST_ID = 300  # behind the bytes
_N_CHAT = 32  # tokens of the reply between two turns


# ---- the model that recites ------------------------------------------------------------------


def reciting_tensor(name: str, shape: tuple[int, ...], type: str) -> Array:
    """Draw a random tensor, but so that id + 1 follows id when decoding greedily.

    The embedding outweighs what the blocks add to it by far, and row id + 1 of the output matrix
    has the direction of row id of the embedding.
    """
    values = random_tensor(name, shape, type)
    if name == "model/lm_head":
        return np.roll(values, 1, axis=0)
    if name == "model/wte":
        form = TYPES[type]
        if form.halves:
            blocks = values.reshape(-1, form.block_bytes)
            for at in form.halves:
                scales = blocks[:, at : at + 2].copy().view(np.float16) * np.float16(4096)
                blocks[:, at : at + 2] = scales.view(np.uint8)
        else:
            values = quantize(dequantize(values, type) * np.float32(4096), type)
    return values


# ---- replies ----------------------------------------------------------------------------------


class Task(NamedTuple):
    """A prompt and the ids that follow it."""

    prompt: list[int]
    reply: list[int]


def _noise(draw: random.Random, n: int, among: range) -> list[int]:
    return [draw.choice(among) for _ in range(n)]


def quoting(draw: random.Random, n: int, ids: range, apart: int = 0) -> Task:
    """Let the reply be in the prompt, but for one in `apart` tokens."""
    stretch = list(ids[:n])
    if apart:
        stretch[apart::apart] = _noise(draw, len(stretch[apart::apart]), ids[2 * n :])
    noise = _noise(draw, n // 2, ids[2 * n :])
    return Task([*noise, *stretch, *noise[::-1], ids[0]], list(ids[1 : n + 1]))


def adding(draw: random.Random, n: int, ids: range) -> Task:
    """Let the reply be in the prompt, but for 3 new tokens in 30."""
    prompt, reply = quoting(draw, n, ids)
    added = {*reply[27::30], *reply[28::30], *reply[29::30]}
    return Task([id for id in prompt if id not in added], reply)


def new(draw: random.Random, n: int, ids: range) -> Task:
    """Let nothing of the reply be in the prompt."""
    return Task([*_noise(draw, 2 * n, ids[2 * n :]), ids[0]], list(ids[1 : n + 1]))


def tempting(draw: random.Random, n: int, ids: range) -> Task:
    """Let each three ids of the reply be in the prompt, where something else follows them."""
    prompt = [id for i in range(n) for id in (*ids[i : i + 3], *_noise(draw, 1, ids[2 * n :]))]
    return Task([*prompt, ids[0]], list(ids[1 : n + 1]))


TASKS: dict[str, Callable[[random.Random, int, range], Task]] = {
    "quotes its prompt": quoting,
    "edits it: 1 token in 30": partial(quoting, apart=30),
    "edits it: 1 token in 10": partial(quoting, apart=10),
    "adds to it: 3 tokens in 30": adding,
    "is new": new,
    "is new: each three ids seen before": tempting,
}


def decode(stream: Stream) -> tuple[list[int], float, Usage]:
    """Return the ids of a reply, its tokens per second behind the first chunk, and its usage."""
    ids: list[int] = []
    first, start, usage = 0, 0.0, None
    for chunk in stream:
        ids += chunk.token_ids
        usage = chunk.usage or usage
        if not first and ids:
            first, start = len(ids), time.perf_counter()
    assert usage is not None
    return ids, (len(ids) - first) / (time.perf_counter() - start), usage


def measure_replies(model: StarChat, n_tokens: int, n_rounds: int, done: Any) -> dict[str, Samples]:
    """Run every task with guesses and without, each round in the other order."""
    rows: dict[str, Samples] = {}
    for i in range(n_rounds):
        for name, make in TASKS.items():
            draw = random.Random(f"{name} {i}")
            first = draw.randrange(_FIRST_ID, model.info.n_vocab // 2)
            task = make(draw, n_tokens, range(first, model.info.n_vocab - 4))
            speeds: dict[bool, float] = {}
            for guesses in (True, False) if i % 2 else (False, True):
                ids, speeds[guesses], usage = decode(
                    model.stream_complete(
                        task.prompt,
                        max_tokens=n_tokens,
                        temperature=0,
                        ignore_eos=True,
                        speculation=guesses,
                    )
                )
                if ids != task.reply:
                    raise StarChatError(f"{name}: the model does not recite")
                if guesses:
                    counts = usage
                done()
            for column, sample in {
                "tokens/s without": speeds[False],
                "tokens/s with guesses": speeds[True],
                "ratio": speeds[True] / speeds[False],
                "guessed": counts.guessed_tokens,
                "of them right": counts.accepted_tokens,
            }.items():
                rows.setdefault(name, {}).setdefault(column, []).append(sample)
    return rows


# ---- turns ------------------------------------------------------------------------------------


def first_ms(stream: Stream) -> tuple[float, list[int], str, Usage]:
    """Return the time to the first token, the reply's ids and text, and its usage."""
    start = time.perf_counter()
    ids: list[int] = []
    first, text, usage = 0.0, "", None
    for chunk in stream:
        first = first or (time.perf_counter() - start) * 1e3
        ids += chunk.token_ids
        text += chunk.text
        usage = chunk.usage or usage
    assert usage is not None
    return first, ids, text, usage


def measure_turns(model: StarChat, n_tokens: int, n_rounds: int, done: Any) -> dict[str, Samples]:
    """Ask twice, then ask the same with another prefix, which is not cached."""
    rows: dict[str, Samples] = {}
    for i in range(n_rounds):
        draw = random.Random(f"turns {i}")

        def digits(n: int, draw: random.Random = draw) -> str:
            return "".join(draw.choices("0123456789", k=n))

        def ask(name: str, messages: list[Any]) -> dict[str, Any]:
            ms, ids, text, usage = first_ms(
                model.stream_chat(messages, max_tokens=_N_CHAT, temperature=0, ignore_eos=True)
            )
            for column, sample in {
                "prompt tokens": usage.prompt_tokens,
                "of them cached": usage.cached_tokens,
                "first token ms": ms,
            }.items():
                rows.setdefault(name, {}).setdefault(column, []).append(sample)
            done()
            return {"role": "assistant", "content": text, "token_ids": ids}

        chat: list[Any] = [{"role": "system", "content": digits(n_tokens // 2)}]
        chat.append({"role": "user", "content": digits(n_tokens)})
        chat.append(ask("first turn", chat))
        chat.append({"role": "user", "content": digits(40)})
        ask("second turn", chat)
        chat[0] = {"role": "system", "content": digits(n_tokens // 2)}
        ask("second turn, nothing kept", chat)
    return rows


# ---- the command line -------------------------------------------------------------------------


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[*SHAPES][:-1], default="santacoder", help="its shape")
    parser.add_argument("--type", choices=TYPES, default="q4_0")
    parser.add_argument("--tokens", type=int, default=128, help="of each reply")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--weights", type=Path, metavar="DIR", help="keep the file there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    arguments = parser.parse_args(argv)
    if arguments.tokens < 32 or arguments.rounds < 1:
        parser.error("--tokens from 32 and --rounds from 1: less measures nothing")
    return arguments


def measure(arguments: argparse.Namespace, folder: Path) -> Result:
    """Write the model where it is not there yet, and measure."""
    result = new_result("speculation")
    path = folder / f"reciting-{arguments.model}-{arguments.type}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_bin(path, SHAPES[arguments.model], arguments.type, draw=reciting_tensor)
    n_tokens, n_rounds = arguments.tokens, arguments.rounds
    with (
        StarChat.load(path, n_threads=arguments.threads) as model,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        model.complete([1], max_tokens=8)  # what is made on first use
        bar = progress.add_task("", total=n_rounds * (2 * len(TASKS) + 3))
        done = partial(progress.advance, bar)
        shape = f"{arguments.model}, {arguments.type}, {arguments.threads} threads"
        result["tables"] = [
            {
                "caption": f"{shape}, a reply of {n_tokens} tokens that:",
                "rows": measure_replies(model, n_tokens, n_rounds, done),
            },
            {
                "caption": f"{shape}, the turns of a chat:",
                "rows": measure_turns(model, n_tokens, n_rounds, done),
            },
        ]
    return result


def main() -> None:
    """Measure, print the tables, write the file."""
    arguments = parse()
    run(lambda folder: measure(arguments, folder), arguments.weights, arguments.json)


if __name__ == "__main__":
    main()
