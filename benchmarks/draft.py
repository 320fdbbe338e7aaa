"""What draft models cost, and what they bring.

    python benchmarks/draft.py cost [--target starchat-beta] [--draft starcoder-164m starcoder-1b]
    python benchmarks/draft.py nano --draft nano-1.q8_0.bin
    python benchmarks/draft.py expect

`cost`: random weights of true shapes, which show no acceptance. Steps of 1, 3, 5 and 9 columns of
the target and of 1 of the draft give steps per second at 2, 4 and 8 guesses, and the acceptance at
which they are as fast as none. Then whole streams of models that recite: a draft that is always
right, and one that never is. `nano`: the demonstration model with a draft of one layer that was
trained on the same mixture (training/nano/README.md), on questions in wordings that neither saw.
`expect` calculates the gain on StarChat from published acceptance rates and measured costs.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import Result, new_result
from random_model import SHAPES, Shape, random_tensor, write_bin
from report import run
from speculation import new, reciting_tensor

from starchat import StarChat
from starchat.convert.ggml_writer import TYPES
from starchat.errors import StarChatError

Samples = dict[str, list[float]]

GUESSES = (2, 4, 8)
DRAFTS = {
    "starcoder-164m": Shape(49152, 8192, 768, 12, 20),  # bigcode/tiny_starcoder_py
    "starcoder-1b": Shape(49152, 8192, 2048, 16, 24),  # bigcode/starcoderbase-1b
    "tiny": SHAPES["tiny"],
}
#: acceptance of greedy guesses that others have published: Leviathan, Kalman and Matias 2023
#: (arXiv:2211.17192, tables 2 and 3), by what guesses for what
PUBLISHED = {
    "GPT-like, 6M for 97M": 0.88,
    "LaMDA, 100M for 137B": 0.61,
    "LaMDA, 2B for 137B": 0.71,
    "T5, 77M for 11B, summaries": 0.65,
    "T5, 77M for 11B, translations": 0.75,
}


# ---- what follows from measured times -----------------------------------------------------------


def tokens(acceptance: float, n_guesses: int) -> float:
    """Return the tokens of a step: its own, and guesses up to the first wrong one.

    >>> tokens(0.5, 2)
    1.75
    """
    return sum(acceptance**i for i in range(n_guesses + 1))


def gain(acceptance: float, n_guesses: int, cost: float) -> float:
    """Return the speed with guesses, where such a step takes `cost` times as long as one without.

    >>> gain(1.0, 3, 2.0)
    2.0
    """
    return tokens(acceptance, n_guesses) / cost


def break_even(n_guesses: int, cost: float) -> float:
    """Return the acceptance at which guesses gain nothing; above 1: they never gain.

    >>> round(break_even(1, 1.5), 3)
    0.5
    """
    if tokens(1, n_guesses) < cost:
        return float("inf")
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if tokens(middle, n_guesses) < cost else (low, middle)
    return high


# ---- costs -------------------------------------------------------------------------------------


def step_ms(model: StarChat, n_columns: int, n_steps: int) -> float:
    """Return the time of a step, of so many sequences with a column each."""
    reply = model.complete(
        [1], n=n_columns, max_tokens=1 + n_steps, temperature=0, ignore_eos=True, speculation=False
    )
    return reply.usage.decode_seconds * 1e3 / n_steps


def measure_costs(
    target: Path, draft: Path, threads: int, n_steps: int, n_rounds: int
) -> dict[str, Samples]:
    """Return a row for each number of guesses."""
    rows: dict[str, Samples] = {}
    with (
        StarChat.load(target, n_threads=threads) as model,
        StarChat.load(draft, n_threads=threads) as small,
    ):
        step_ms(model, 1, 1), step_ms(small, 1, 1)  # what is made on first use
        for _ in range(n_rounds):
            plain_ms, draft_ms = step_ms(model, 1, n_steps), step_ms(small, 1, n_steps)
            for n_guesses in GUESSES:
                checked_ms = step_ms(model, 1 + n_guesses, n_steps)
                cost = (checked_ms + n_guesses * draft_ms) / plain_ms
                for column, sample in {
                    "step ms": plain_ms,
                    "draft's step ms": draft_ms,
                    "step with guesses ms": checked_ms + n_guesses * draft_ms,
                    "steps/s": 1e3 / (checked_ms + n_guesses * draft_ms),
                    "break-even acceptance": break_even(n_guesses, cost),
                    "gain at 0.61": gain(0.61, n_guesses, cost),
                    "gain at 0.75": gain(0.75, n_guesses, cost),
                }.items():
                    row = rows.setdefault(f"{n_guesses} guesses", {})
                    row.setdefault(column, []).append(sample)
    return rows


def measure_streams(
    target: Path, drafts: dict[str, Path], threads: int, n_tokens: int, n_rounds: int
) -> dict[str, Samples]:
    """Return a row for each draft: a reply of new text with it, and without guesses."""
    rows: dict[str, Samples] = {}
    for name, draft in drafts.items():
        with StarChat.load(target, draft=draft, n_threads=threads) as model:
            for i in range(-1, n_rounds):  # the first one is what the engine learns from
                draw = random.Random(f"{name} {i}")
                first = draw.randrange(model.info.n_vocab // 8, model.info.n_vocab // 4)
                task = new(draw, n_tokens, range(first, model.info.n_vocab - 4))
                speeds: dict[bool, float] = {}
                for guesses in (True, False) if i % 2 else (False, True):
                    reply = model.complete(
                        task.prompt,
                        max_tokens=n_tokens,
                        temperature=0,
                        ignore_eos=True,
                        speculation=guesses,
                    )
                    speeds[guesses] = (n_tokens - 1) / reply.usage.decode_seconds
                    if [*reply.token_ids] != task.reply:
                        raise StarChatError(f"{name}: the model does not recite")
                if i < 0:
                    continue
                for column, sample in {
                    "tokens/s without": speeds[False],
                    "tokens/s with the draft": speeds[True],
                    "ratio": speeds[True] / speeds[False],
                }.items():
                    rows.setdefault(name, {}).setdefault(column, []).append(sample)
    return rows


def cost(arguments: argparse.Namespace, folder: Path) -> Result:
    """Write the models where they are not there yet, and measure."""
    result = new_result("draft")
    result["tables"] = []
    shape = SHAPES[arguments.target]

    def written(name: str, shape: Shape, draw: Callable[..., Any]) -> Path:
        path = folder / f"{name}-{arguments.type}.bin"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_bin(path, shape, arguments.type, draw=draw)
        return path

    target = written(f"reciting-{arguments.target}", shape, reciting_tensor)
    for name in arguments.draft:
        small = replace(DRAFTS[name], n_vocab=shape.n_vocab)
        right = written(f"reciting-draft-{name}", small, reciting_tensor)
        wrong = written(f"random-draft-{name}", small, random_tensor)
        pair = f"{arguments.target} and {name}, {arguments.type}, {arguments.threads} threads"
        how = arguments.threads, arguments.steps, arguments.rounds
        result["tables"].append(
            {"caption": f"{pair}, by its parts:", "rows": measure_costs(target, right, *how)}
        )
        drafts = {"a draft that is right": right, "one that never is": wrong}
        result["tables"].append(
            {
                "caption": f"{pair}, a reply of {4 * arguments.steps} new tokens with:",
                "rows": measure_streams(
                    target, drafts, arguments.threads, 4 * arguments.steps, arguments.rounds
                ),
            }
        )
    return result


# ---- acceptance --------------------------------------------------------------------------------


def agreement(model: StarChat, draft: StarChat, question: str) -> tuple[int, int]:
    """Return how many greedy tokens of a reply the draft would choose, and how many there are."""
    prompt = f"<|system|>\n<|end|>\n<|user|>\n{question}<|end|>\n<|assistant|>"
    reply = model.complete(prompt, max_tokens=256, temperature=0)
    ids = [*model.tokenize_prompt(prompt), *reply.token_ids]
    scores = draft.score(ids, logprobs=1)[-len(reply.token_ids) :]
    n_same = sum(score.top[0][0] == score.token_id for score in scores)
    return n_same, len(reply.token_ids)


def nano(arguments: argparse.Namespace, folder: Path) -> Result:
    """Ask the questions in held-out wordings, with the draft and without."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "training" / "nano"))
    from evaluate import WORDINGS
    from topics import TOPICS

    result = new_result("draft")
    at = WORDINGS.index("held out")
    questions = [topic.published[at] for topic in TOPICS][: arguments.questions]
    rows: dict[str, Samples] = {}
    with StarChat.load(draft=arguments.draft_file, n_threads=arguments.threads) as model:
        for temperature in (0.0, 0.2, 1.0):
            for i in range(arguments.rounds):
                taken, n_tokens, n_guessed, n_right = {True: 0.0, False: 0.0}, 0, 0, 0
                for number, question in enumerate(questions):
                    texts = set()
                    for guesses in (True, False) if (i + number) % 2 else (False, True):
                        before = model.stats()
                        reply = model.chat(
                            [{"role": "user", "content": question}],
                            max_tokens=256,
                            temperature=temperature,
                            seed=i,
                            speculation=guesses,
                        )
                        taken[guesses] += reply.usage.decode_seconds
                        texts.add(reply.text)
                        after = model.stats()
                        n_guessed += after["drafted_tokens"] - before["drafted_tokens"]
                        n_right += after["accepted_drafts"] - before["accepted_drafts"]
                    n_tokens += reply.usage.completion_tokens
                    if len(texts) != 1:
                        raise StarChatError(f"{question}: another reply with guesses")
                for column, sample in {
                    "tokens/s without": n_tokens / taken[False],
                    "tokens/s with guesses": n_tokens / taken[True],
                    "ratio": taken[False] / taken[True],
                    "of the tokens drafted": n_guessed / n_tokens,
                    "of the drafted right": n_right / max(1, n_guessed),
                }.items():
                    rows.setdefault(f"temperature {temperature:g}", {}).setdefault(
                        column, []
                    ).append(sample)
    with StarChat.load() as model, StarChat.load(arguments.draft_file) as draft:
        counts = [agreement(model, draft, question) for question in questions]
    n_same, n_all = map(sum, zip(*counts, strict=True))
    rows["temperature 0"]["greedy tokens that the draft has"] = [n_same / n_all]
    result["tables"] = [
        {
            "caption": f"starchat-nano and a draft of one layer, {arguments.threads} threads, "
            f"{len(questions)} questions in held-out wordings:",
            "rows": rows,
        }
    ]
    return result


def expect(arguments: argparse.Namespace, folder: Path) -> Result:
    """Calculate gains; nothing is measured."""
    result = new_result("draft")
    rows: dict[str, Samples] = {}
    for source, acceptance in PUBLISHED.items():
        row = rows.setdefault(f"{source}: {acceptance}", {})
        for n_guesses, cost in zip(GUESSES, arguments.costs, strict=True):
            row[f"{n_guesses} guesses"] = [gain(acceptance, n_guesses, cost)]
    result["tables"] = [{"caption": "A calculation, not a measurement:", "rows": rows}]
    return result


# ---- the command line ----------------------------------------------------------------------------


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", type=Path, metavar="DIR", help="keep files there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    commands = parser.add_subparsers(required=True)
    costs = commands.add_parser("cost")
    costs.set_defaults(run=cost)
    costs.add_argument("--target", choices=SHAPES, default="starchat-beta")
    costs.add_argument("--draft", choices=DRAFTS, nargs="+", default=[*DRAFTS][:2])
    costs.add_argument("--type", choices=TYPES, default="q4_0")
    costs.add_argument("--steps", type=int, default=32, help="of each measurement")
    held_out = commands.add_parser("nano")
    held_out.set_defaults(run=nano)
    held_out.add_argument("--draft", dest="draft_file", required=True, metavar="FILE")
    held_out.add_argument("--questions", type=int, default=60)
    expected = commands.add_parser("expect")
    expected.set_defaults(run=expect)
    expected.add_argument(
        "--costs",
        type=float,
        nargs=len(GUESSES),
        required=True,
        help="of steps with 2, 4 and 8 guesses, in steps without, as `cost` measures them",
    )
    return parser.parse_args(argv)


def main() -> None:
    """Measure or calculate, print the tables, write the file."""
    arguments = parse()
    run(lambda folder: arguments.run(arguments, folder), arguments.weights, arguments.json)


if __name__ == "__main__":
    main()
