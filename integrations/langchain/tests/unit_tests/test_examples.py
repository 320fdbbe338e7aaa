"""The examples of the repository, run on scripted replies: what they print of them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from scripted_model import reply

EXAMPLES = Path(__file__).parent.joinpath("../../../../examples").resolve()
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs the repository")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_chain_prints_the_text(script: Any, run: Any) -> None:
    script(reply("Use sorted()."))
    assert run("langchain_chain.py") == "Use sorted().\n"


def test_the_agent_prints_questions_calls_results_and_answers(script: Any, run: Any) -> None:
    pytest.importorskip("langchain.agents")
    script(
        reply("", [("calculate", {"expression": "12 * 34"})]),
        reply("It is 408."),
        reply("", [("read_file", {"path": "LICENSE"})]),
        reply("A licence."),
        reply("", [("search", {"text": "class ToolCall"})]),
        reply("In types.py."),
    )
    output = run("langchain_agent.py", "What is 12 * 34?", "Read the LICENSE", "Where is it?")
    for expected in ("> What is 12 * 34?", "\ncalculate ", "= 408\n", "It is 408.", "\nread_file "):
        assert expected in output
    for expected in ("Apache License", "\nsearch ", "src/starchat/types.py", "In types.py."):
        assert expected in output


def test_the_extraction_prints_a_person(script: Any, run: Any) -> None:
    model = script(reply('{"name": "Ada Lovelace", "city": "London", "age": 36}'))
    output = run("langchain_extract.py", "Ada Lovelace, 36, of London")
    assert output == "Person(name='Ada Lovelace', city='London', age=36)\n"
    assert model.asked[0][0][-1]["content"].startswith("Ada Lovelace, 36, of London\n\n")
