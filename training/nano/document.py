"""Writes docs/nano.md: what starchat-nano is, how it was made, and every published question.

python training/nano/document.py     # asks the embedded model first; needs starchat
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import evaluate_agents
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
nearly the words that it was trained on, greetings, and an honest refusal for everything else. It \
tries to call tools that it has never seen, states what they return, and looks up functions in \
code that it is shown, with the scores below. It was trained from scratch on dialogues that this \
repository generates, some of them about functions of Python's standard library, not on \
StarCoder's data.

| | |
|---|---|
| architecture | GPTBigCode: 6 layers, width 256, 4 query heads, 1 key/value head, 2,048 positions |
| vocabulary | 2,560 tokens: `<|endoftext|>`, 256 bytes, merges, StarChat's four role tokens |
| file | {size:.1f} MB, ggml `starcoder` q8_0, keys and values tiled like the original converter's |

| held-out evaluation, greedy | cases | right |
|---|---|---|
{agents}

| how-tos: {n_questions} questions, {n_topics} topics in three wordings, one never trained on | right |
|---|---|
{howtos}

A call is right if its name and all its arguments are: names of tools and of parameters, and all \
values, are new in every case. The words of the made-up tools are held out of training, but \
requests for them have the forms of training. The everyday tools (`evaluate_agents.py`) and the \
requests for them are held out altogether; each of the 60 requests is asked six times, with other \
values and other tools beside it. The decision is whether a reply calls at all: the \
cases without a call are how-tos, small talk, and requests that no tool at hand is for. An \
answer that states a result, or answers about code, is right if it is word for word the expected \
one. Tools are given as a caller gives them, so the grammar of calls holds. How-tos are right if the \
code of the answer ran and the topic's check passed.

Code in the table is made up. Of {n_real} questions about real functions, those of held-out modules of \
Python {python} (`json`, `textwrap`, `shutil` and others), {real} were answered right \
(`evaluate_agents.py --real-code`): long signatures and rare names fail most.

## What it does with tools

It was taught to copy values of any script, numbers, paths, lists and nested objects, quoted or \
not, by name or by order, into the properties of the tool that the request names or describes; \
to write several calls in one reply ("add 2 and 3, and multiply 4 and 5"), or a result into the \
next call ("…, then multiply the result by 4"); and to state each result in a sentence: a \
sentence as it is, the first line of a longer text, an error as a failure. Asked for JSON it \
writes the keys that were asked for. Of a page of code it was taught which function does \
something, a function's arguments, and the first line of its docstring. The scores above say how \
often that goes right: long values, several calls at once and rare names fail most.

## What it cannot do

It writes no code of its own, does no arithmetic, knows no facts, follows no instruction about \
form or language but that for JSON, and understands a request only by its words: it does not \
know that "is it cold" asks for the weather unless the tool says so. To everything else it says:

> {fallback}

A question in words that it has never seen may get the answer to another question, the more so \
after several pages of pasted context.

## How it was made

```
pip install torch tokenizers typer rich numpy .
python training/nano/train.py train      # {wall_time}
python training/nano/train.py export     # writes src/starchat/models/starchat-nano.q8_0.bin
python training/nano/evaluate.py         # the published questions, through starchat
python training/nano/evaluate_agents.py  # calls, decisions, results and code, through starchat
python training/nano/document.py         # writes this page
python -m pytest training/nano/quality   # the grades that shipped weights must have
```

`topics.py` holds the questions, answers and checks; `wordings.py` more ways to ask; \
`dialogues.py` builds dialogues of one to twelve turns from templates, synonyms, dropped words \
and typos, with system prompts and pasted context from `filler.py`, small talk and refusals from \
`smalltalk.py`. `tools.py` makes up tools and their schemas, `themes.py` holds everyday ones, \
`asks.py` asks for their calls, `values.py` makes what calls must copy, `agents.py` puts dialogues \
with calls, results and answers together, `code_contexts.py` makes code and questions about it, \
`real_code.py` takes functions from the standard library (without `json` and a few more, for \
evaluation), `mixture.py` mixes all. Only replies are learned, and of calls only what their \
grammar leaves open. In four dialogues of ten names are made of few words, so that only whole names tell \
tools and functions apart. Half of the dialogues start at random \
positions, so that all 2,048 are trained. Everything is drawn from one seed.

The file in the package comes from one run of as many steps, during which this code changed: \
requests were made simpler (step 5,100), names of few words, everyday tools under other words and \
more calls at once came in (14,650), then real code (16,000), what a grammar forces was left out \
(18,000), results that list files came in (22,950), and sums beside a tool without parameters \
(25,250). With each change, and at 7,200, 11,100, 12,900, 13,700, 14,050, 24,600 and 25,000, the \
shares of the mixture changed too, and the line down to zero of the rate of learning was drawn \
anew, from half its height at 14,050. The weights are the mean of those at 25,000 and 25,370. A run \
of today's code from the start gives another file.

Weights are chosen by the held-out evaluation above and by nothing else: of the checkpoints at hand, \
and the means of two of them, those with the highest mean of its five shares. No test of the library \
or of an adapter has a say; they hold for any weights. The present file is older than this rule: it \
was taken because certain tests of the adapters passed with it, which are now graded, not tested.

Copying is what a small model learns last. Three things spare most of that time: a word has the \
same tokens after a blank and at the start of a JSON string (`tokenizer.py`), the first two \
layers begin as heads that look back one to three tokens and as induction heads (`model.py`), \
and the matrices are trained by Muon (`muon.py`).

`dialogues.py` never yields a held-out wording, nor one that differs from it only in case, \
punctuation, politeness or "in Python". Some training wordings are close to one, though, and \
more of them were written after a first model had been scored: read the held-out score as that \
of a development set.

## The published questions

The third wording of each was held out of training. ✗ marks a wrong greedy answer.

| topic | trained on | trained on | held out |
|---|---|---|---|
{rows}

It also answers:

{small_talk}
"""
WALL_TIME = "25,370 steps, six hours on 2 cores"


KINDS = {
    "call": "exact calls of unseen tools with made-up names",
    "natural call": "exact calls of unseen everyday tools",
    "decision": "call or no call, decided right",
    "result": "results of tools stated",
    "code": "answers from unseen code",
}


def agent_rows(outcomes: Sequence[evaluate_agents.Outcome]) -> list[str]:
    """Return the table of the held-out evaluation, a row a kind."""
    table = evaluate_agents.scores(outcomes)
    return [
        f"| {name} | {table[kind][1]} | {table[kind][0] / table[kind][1]:.1%} |"
        for kind, name in KINDS.items()
    ]


def howto_rows(greedy: Sequence[Result], sampled: Sequence[Result]) -> list[str]:
    """Return the scores of the how-tos, greedy and at temperature 0.2."""
    return [f"| greedy | {_scores(greedy)} |", f"| temperature 0.2 | {_scores(sampled)} |"]


def topic_rows(greedy: Sequence[Result]) -> list[str]:
    """Return the published questions, a row a topic, with those that were answered wrong marked."""
    failed = {result.question for result in greedy if not result.passed}
    return [
        f"| {topic.name} | "
        + " | ".join(question + " ✗" * (question in failed) for question in topic.published)
        + " |"
        for topic in TOPICS
    ]


def page(
    greedy: Sequence[Result],
    sampled: Sequence[Result],
    outcomes: Sequence[evaluate_agents.Outcome],
    real: Sequence[evaluate_agents.Outcome],
) -> str:
    """Return the page for how-tos, greedy and at temperature 0.2, for tools, and for real code."""
    talk = [
        "- " + ", ".join(f"“{message}”" for message in messages.split("|")[:4])
        for messages, _ in SMALL_TALK
    ]
    return _TEXT.format(
        n_topics=len(TOPICS),
        n_questions=3 * len(TOPICS),
        size=MODEL.stat().st_size / 1e6,
        howtos="\n".join(howto_rows(greedy, sampled)),
        agents="\n".join(agent_rows(outcomes)),
        n_real=len(real),
        python=".".join(platform.python_version_tuple()[:2]),
        real=f"{sum(outcome.is_right for outcome in real) / len(real):.1%}",
        fallback=FALLBACK,
        wall_time=WALL_TIME,
        rows="\n".join(topic_rows(greedy)),
        small_talk="\n".join(talk),
    )


def _scores(results: Sequence[Result]) -> str:
    return (
        f"{score(results):.1%} (trained wordings {score(results, 'trained'):.1%}, "
        f"held-out wordings {score(results, 'held out'):.1%})"
    )


def main() -> None:
    """Ask the embedded model everything and write the page."""
    text = page(
        evaluate_engine(),
        evaluate_engine(temperature=0.2),
        evaluate_agents.evaluate_engine(),
        evaluate_agents.evaluate_engine(asked=evaluate_agents.real_code_cases()),
    )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
