"""Editors' programs that a shell can start, as docs/editors.md sets them up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.client_environments import environment, node_folder, run
from support.server import Served, served, server_model

__all__ = ["served", "server_model"]
pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "editors.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"  # in the documentation


def shown(language: str, words: str, url: str) -> str:
    """The block of the page that has some words, with the address of the server."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if words in block]
    assert ADDRESS in block
    return str(block).replace(ADDRESS, url)


def test_continues_command_line_answers(served: Served, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(shown("yaml", "name: Local", served.url))
    program = node_folder("@continuedev/cli@1.5.47") / "node_modules" / ".bin" / "cn"
    question = "How do I sort a list in Python?"
    variables = {"HOME": str(tmp_path), "CONTINUE_TELEMETRY_ENABLED": "0"}
    answer = run(str(program), "--config", str(config), "-p", question, cwd=tmp_path, **variables)
    assert "sort()" in answer


def test_vercels_ai_sdk_streams_text_and_tool_calls(served: Served) -> None:
    folder = node_folder("ai@6", "@ai-sdk/openai-compatible@2")
    program = folder / "ai_sdk.mjs"
    program.write_bytes((HERE / "ai_sdk.mjs").read_bytes())
    assert run("node", str(program), served.url) == "fine\n"


def test_aider_edits_a_file(served: Served, tmp_path: Path) -> None:
    python = Path(environment("aider-chat==0.86.2"))
    (tmp_path / "add.py").write_text("def add(a, b):\n    return a - b\n")
    for command in ("init -q .", "add .", "-c user.email=a@b -c user.name=a commit -qm begin"):
        run("git", *command.split(), cwd=tmp_path)
    *exports, line = shown("bash", "aider --model openai", served.url).splitlines()
    pairs = [pair.split("=", 1) for export in exports for pair in export.split()[1:]]
    options = ["--no-check-update", "--no-analytics", "--yes-always", "--no-gitignore"]
    program = [str(python.parent / "aider"), *line.split()[1:], *options]
    said = run(
        *program, "--message", "Fix add", "add.py", cwd=tmp_path, HOME=str(tmp_path), **dict(pairs)
    )
    assert "Applied edit to add.py" in said
    assert len(run("git", "log", "--oneline", cwd=tmp_path).splitlines()) == 2


def test_the_lines_for_koboldcpps_clients_run(served: Served) -> None:
    code = shown("python", "http://127.0.0.1:8080/api", served.url)
    run(environment("requests"), "-c", code)
