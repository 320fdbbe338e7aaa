"""The examples of the repository, run as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.joinpath("../../../../examples").resolve()
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs the repository")


def run(name: str, *arguments: str, typed: str = "") -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [[], ["How do I reverse a string in Python?"]])
def test_chain(arguments: list[str]) -> None:
    assert run("langchain_chain.py", *arguments).strip()


def test_history_grows_with_every_turn() -> None:
    output = run("langchain_history.py", typed="How do I sort a list?\nAnd in reverse?\n\n")
    first, second = (int(n) for n in re.findall(r"'input_tokens': (\d+)", output))
    assert first < second


def test_agent_answers_its_questions() -> None:
    pytest.importorskip("langchain.agents")
    output = run("langchain_agent.py")
    assert len(re.findall(r"^> .+\n+.", output, re.MULTILINE)) == 3


def test_extraction_is_a_person() -> None:
    person = r"Person\(name=.*, city=.*, age=\d+\)"
    assert re.fullmatch(person, run("langchain_extract.py").strip())
