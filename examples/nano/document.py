"""Writes docs/nano.md: what starchat-nano is, how it was made, and every published question.

python examples/nano/document.py     # asks the embedded model first; needs starchat
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluate import Result, evaluate_engine, score
from smalltalk import FALLBACK, SMALL_TALK
from topics import TOPICS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/nano.md"
MODEL = ROOT / "src/starchat/models/starchat-nano.q8_0.bin"
_TEXT = """\
# starchat-nano: the embedded demonstration model

`starchat-nano` comes with the package so that the first command answers without a download. It \
is a demonstration model that knows little: {n_topics} everyday Python how-tos, which it tells in \
nearly the words that it was trained on, greetings, and an honest refusal for everything else. \
It was trained from scratch on dialogues that this repository generates, not on StarCoder's data.

| | |
|---|---|
| architecture | GPTBigCode: 4 layers, width 256, 4 query heads, 1 key/value head, 2,048 positions |
| vocabulary | 2,048 tokens: `<|endoftext|>`, 256 bytes, merges, StarChat's four role tokens |
| file | {size:.1f} MB, ggml `starcoder` q8_0, keys and values tiled like the original converter's |
| published questions | {n_questions}: {n_topics} topics in three wordings, one of them never trained on |
| right, greedy | {greedy} |
| right, temperature 0.2 | {sampled} |

"Right" means that the code of the answer ran and the topic's check passed.

## What it cannot do

It writes no code of its own, keeps no facts from the dialogue, does no arithmetic, follows no \
instruction about form or language, and reads no context: after a page of retrieved source it \
answers the question if it is one of its how-tos, and otherwise says:

> {fallback}

A question in words that it has never seen may get the answer to another question, the more so \
after several pages of pasted context.

## How it was made

```
pip install torch tokenizers typer rich numpy .
python examples/nano/train.py train      # {wall_time}
python examples/nano/train.py score      # the published questions, in PyTorch
python examples/nano/train.py export     # writes src/starchat/models/starchat-nano.q8_0.bin
python examples/nano/evaluate.py         # the published questions, through starchat
python examples/nano/document.py         # writes this page
```

`topics.py` holds the questions, answers and checks; `wordings.py` more ways to ask; \
`dialogues.py` builds dialogues of one to twelve turns from templates, synonyms, dropped words \
and typos, with system prompts and pasted context from `filler.py`, small talk and refusals from \
`smalltalk.py`. Only replies are learned. Half of the rows start at random positions, so that all \
2,048 are trained. Everything is drawn from one seed. `dialogues.py` never yields a held-out \
wording, nor one that differs from it only in case, punctuation, politeness or "in Python". Some \
training wordings are close to one, though, and more of them were written after a first model had \
been scored: read the held-out score as that of a development set.

## The published questions

The third wording of each was held out of training. ✗ marks a wrong greedy answer.

| topic | trained on | trained on | held out |
|---|---|---|---|
{rows}

It also answers:

{small_talk}
"""
WALL_TIME = "33 minutes on two busy cores"


def page(greedy: Sequence[Result], sampled: Sequence[Result]) -> str:
    """Return the page for the results of a greedy evaluation and of one at temperature 0.2."""
    failed = {result.question for result in greedy if not result.passed}
    rows = [
        f"| {topic.name} | "
        + " | ".join(question + " ✗" * (question in failed) for question in topic.published)
        + " |"
        for topic in TOPICS
    ]
    talk = [
        "- " + ", ".join(f"“{message}”" for message in messages.split("|")[:4])
        for messages, _ in SMALL_TALK
    ]
    return _TEXT.format(
        n_topics=len(TOPICS),
        n_questions=3 * len(TOPICS),
        size=MODEL.stat().st_size / 1e6,
        greedy=_scores(greedy),
        sampled=_scores(sampled),
        fallback=FALLBACK,
        wall_time=WALL_TIME,
        rows="\n".join(rows),
        small_talk="\n".join(talk),
    )


def _scores(results: Sequence[Result]) -> str:
    return (
        f"{score(results):.1%} (trained wordings {score(results, 'trained'):.1%}, "
        f"held-out wordings {score(results, 'held out'):.1%})"
    )


def main() -> None:
    """Ask the embedded model everything and write the page."""
    text = page(evaluate_engine(), evaluate_engine(temperature=0.2))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
