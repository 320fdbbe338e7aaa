"""The quality suite of starchat-nano: it grades the weights, so no other test run collects it.

Run it by `python -m pytest training/nano/quality`. A red test here says that the weights changed,
not that the code is wrong. Weights that are shipped pass, with docs/nano.md written anew.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

NANO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(NANO))  # the modules of training/nano import each other by bare names

from evaluate import Result, evaluate_engine  # noqa: E402
from evaluate_agents import Outcome  # noqa: E402
from evaluate_agents import evaluate_engine as evaluate_agents_engine  # noqa: E402


@pytest.fixture(scope="session")
def greedy() -> list[Result]:
    """Every published how-to question, asked greedily."""
    return evaluate_engine()


@pytest.fixture(scope="session")
def sampled() -> list[Result]:
    """The same at the default sampling."""
    return evaluate_engine(temperature=0.2)


@pytest.fixture(scope="session")
def outcomes() -> Sequence[Outcome]:
    """Every held-out case of tools, results and code."""
    return evaluate_agents_engine()
