"""Grades: what docs/nano.md publishes is what the shipped weights score, to the last digit."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence

import document
from evaluate import Result
from evaluate_agents import Outcome, evaluate_engine, real_code_cases, report

RENEW = "run `python training/nano/document.py`"


def test_scores_of_tools_and_code_are_those_published(outcomes: Sequence[Outcome]) -> None:
    page = document.PAGE.read_text("utf-8")
    for row in document.agent_rows(outcomes):
        assert f"{row}\n" in page, f"{RENEW}: expected {row}\n{report(outcomes)}"


def test_scores_of_howtos_and_every_question_are_those_published(
    greedy: list[Result], sampled: list[Result]
) -> None:
    page = document.PAGE.read_text("utf-8")
    for row in (*document.howto_rows(greedy, sampled), *document.topic_rows(greedy)):
        assert f"{row}\n" in page, f"{RENEW}: expected {row}"


def test_the_score_on_real_code_is_that_published() -> None:
    """The functions are those of the Python that asks; another has others."""
    published = re.search(r"modules of Python (\S+) .*, ([\d.]+)% were", document.PAGE.read_text())
    assert published, RENEW
    outcomes = evaluate_engine(asked=real_code_cases())
    share = 100 * sum(outcome.is_right for outcome in outcomes) / len(outcomes)
    if published[1] == ".".join(platform.python_version_tuple()[:2]):
        assert f"{share:.1f}" == published[2], RENEW
    assert share > 50, report(outcomes)
