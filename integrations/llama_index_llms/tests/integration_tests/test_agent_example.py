"""The example agent: its three tools, and a run through all of them."""

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.joinpath("../../../..").resolve()
EXAMPLE = REPOSITORY / "examples" / "llama_index_agent.py"
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(not EXAMPLE.is_file(), reason="needs the repository"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    (inside / "docs").mkdir(parents=True)
    (tmp_path / "secret.md").write_text("secret")
    (inside / "docs" / "a.md").write_text("".join(f"line {n}\n" for n in range(1, 31)))
    (inside / "b.py").write_text("# Line 7 is near\n")
    return inside


@pytest.mark.parametrize(
    ("expression", "result"),
    [("17 + 25", "42"), ("2 * (3 + 4)", "14"), ("-2 ** 2 / 8 % 3", "2.5"), ("1e3", "1000")],
)
def test_calculator_computes(example: ModuleType, expression: str, result: str) -> None:
    assert example.calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("__import__('os').getcwd()", ValueError),
        ("[1] * 9", ValueError),
        ("9 ** 9 ** 9 ** 9", OverflowError),
        ("1 / 0", ZeroDivisionError),
        ("1 +", SyntaxError),
    ],
)
def test_calculator_does_nothing_else(
    example: ModuleType, expression: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        example.calculate(expression)


def test_reader_stays_in_its_folder(example: ModuleType, folder: Path) -> None:
    tools = example.Folder(folder)
    assert tools.read_file("docs/a.md").splitlines() == [f"line {n}" for n in range(1, 13)]
    assert tools.read_file("docs/a.md", first_line=30) == "line 30"
    (folder / "link.md").symlink_to(folder.parent / "secret.md")
    for path in ("../secret.md", str(folder.parent / "secret.md"), "link.md"):
        with pytest.raises(PermissionError, match="outside"):
            tools.read_file(path)


def test_search_finds_lines(example: ModuleType, folder: Path) -> None:
    search = example.Folder(folder).search
    assert search("line 7") == "b.py:1: # Line 7 is near\ndocs/a.md:7: line 7"
    assert len(search("line").splitlines()) == example.N_LINES
    assert search("nowhere") == "Nothing was found."


def test_example_calls_answers_and_prints(
    settings: Any,
    script: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script(
        '<tool_call>{"name": "calculate", "arguments": {"expression": "17 + 25"}}\n'
        '<tool_call>{"name": "search", "arguments": {"text": "near"}}',
        '<tool_call>{"name": "read_file", "arguments": {"path": "b.py"}}',
        "The result is 42.",
    )
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "17 + 25?", "--folder", str(folder)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    *calls, answer = capsys.readouterr().out.splitlines()
    assert answer == "The result is 42."
    assert "→ 42" in calls
    assert "→ b.py:1: # Line 7 is near" in calls
    assert calls[-2:] == ["read_file {'path': 'b.py'}", "→ # Line 7 is near"]
