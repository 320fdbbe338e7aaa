"""Asks the embedded model every published question and runs the code of its answers.

    python training/nano/evaluate.py                 # the embedded model, greedy
    python training/nano/evaluate.py --temperature 0.2 --file other.bin

A question is answered right if the topic's check passes after the code of the reply has run.
"""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from topics import FIXTURES, TOPICS, Topic

WORDINGS = ("trained", "trained", "held out")
_BLOCK = re.compile(r"```(?:python)?\n(.*?)\n?```", re.DOTALL)
_HARNESS = """
import contextlib, io, sys
code, check = sys.argv[1:]
stdout = io.StringIO()
scope = {"__name__": "__main__"}
with contextlib.redirect_stdout(stdout):
    exec(compile(code, "answer", "exec"), scope)
scope["out"] = stdout.getvalue()
exec(compile(check, "check", "exec"), scope)
"""


@dataclass(frozen=True)
class Result:
    """One question, the reply, and what was wrong with it (empty: nothing)."""

    topic: Topic
    wording: str
    question: str
    reply: str
    error: str

    @property
    def passed(self) -> bool:
        """Tell whether the check passed."""
        return not self.error


def code_of(reply: str) -> str:
    """Return the first fenced block of a reply, or nothing."""
    match = _BLOCK.search(reply)
    return match[1] if match else ""


@functools.cache
def check(topic: Topic, code: str) -> str:
    """Run an answer's code and the topic's check in a fresh process; return the error, if any."""
    if not code:
        return "no code block"
    with tempfile.TemporaryDirectory() as folder:
        for name, content in FIXTURES.items():
            Path(folder, name).write_text(content, encoding="utf-8")
        command = [sys.executable, "-c", _HARNESS, code, topic.check]
        try:
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)
        except subprocess.TimeoutExpired:
            return "took longer than 20 s"
    return "" if run.returncode == 0 else (run.stderr.strip().splitlines() or ["failed"])[-1]


def evaluate(ask: Callable[[Sequence[str]], Sequence[str]]) -> list[Result]:
    """Return a result for every topic in its three wordings; `ask` answers all questions."""
    cases = [
        (topic, wording, question)
        for topic in TOPICS
        for wording, question in zip(WORDINGS, topic.published, strict=True)
    ]
    replies = ask([question for _, _, question in cases])
    with ThreadPoolExecutor(2) as pool:
        errors = list(pool.map(lambda case, reply: check(case[0], code_of(reply)), cases, replies))
    return [
        Result(topic, wording, question, reply, error)
        for (topic, wording, question), reply, error in zip(cases, replies, errors, strict=True)
    ]


def score(results: Sequence[Result], wording: str | None = None) -> float:
    """Return the share of right answers, of all wordings or of one kind."""
    chosen = [result for result in results if wording in (None, result.wording)]
    return sum(result.passed for result in chosen) / len(chosen)


def report(results: Sequence[Result]) -> str:
    """Return the failures and the scores as text."""
    lines = [
        f"{result.topic.name:18} {result.wording:9} {result.question}\n{'':29}{result.error}"
        for result in results
        if not result.passed
    ]
    incomplete = {result.topic for result in results if not result.passed}
    lines += [
        f"{len(results)} questions about {len(TOPICS)} topics: {score(results):.1%} right",
        f"trained wordings {score(results, 'trained'):.1%}, "
        f"held-out wordings {score(results, 'held out'):.1%}, "
        f"topics right in all three wordings {len(TOPICS) - len(incomplete)}",
    ]
    return "\n".join(lines)


def evaluate_engine(file: str | None = None, temperature: float = 0.0) -> list[Result]:
    """Evaluate a file, or the embedded model, through starchat's public interface."""
    from starchat import StarChat

    model = StarChat.load(file) if file else StarChat.load()

    def ask_one(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        reply = model.chat(messages, max_tokens=256, temperature=temperature, seed=0)
        return str(reply.text)

    def ask(questions: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(ask_one, questions))

    return evaluate(ask)


def main() -> None:
    """Evaluate and print; exit with 1 if fewer than 90 % are right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", help="a starcoder .bin; default: the embedded model")
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    results = evaluate_engine(options.file, options.temperature)
    print(report(results))
    sys.exit(score(results) < 0.9)


if __name__ == "__main__":
    main()
