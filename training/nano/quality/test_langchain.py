"""Grades: what the embedded model makes of the LangChain examples, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_starchat import ChatStarChat

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_agent_calls_the_right_tools() -> None:
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


class Total(BaseModel):
    """The result."""

    total: int


def test_an_agent_calls_a_tool_before_it_answers_in_json() -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model = ChatStarChat(temperature=0, max_tokens=60)
    agent = create_agent(model, [add], response_format=ProviderStrategy(Total))
    state = agent.invoke({"messages": ["Add 17 and 25"]})
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["structured_response"] == Total(total=42)
