"""The examples run as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


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


def test_agent_calls_its_tools() -> None:
    pytest.importorskip("langchain.agents")
    questions = ["What is 12 * 34?", "Read the file LICENSE", "Search for 'class ToolCall'"]
    output = run("langchain_agent.py", *questions)
    for question in questions:
        assert f"> {question}" in output
    assert "\ncalculate " in output and "= 408\n" in output
    assert "\nread_file " in output and "Apache License" in output
    assert "\nsearch " in output and "src/starchat/types.py" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Person(name='Alan Turing', city='London', age=41)"),
        (
            ["name: Grace Hopper, city: New York, age: 85"],
            "Person(name='Grace Hopper', city='New York', age=85)",
        ),
    ],
)
def test_extraction(arguments: list[str], expected: str) -> None:
    assert run("langchain_extract.py", *arguments).strip() == expected
