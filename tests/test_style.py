"""What a linter, two formatters and a type checker say of this repository: nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TYPED = [
    ["src/starchat"],
    ["integrations/langchain/langchain_starchat"],
    ["--namespace-packages", "--explicit-package-bases", "-p", "llama_index.llms.starchat"],
    ["--namespace-packages", "--explicit-package-bases", "-p", "llama_index.embeddings.starchat"],
]


def run(tool: str, *arguments: str) -> None:
    program = Path(sys.executable).with_name(tool)
    if not program.exists():
        pytest.skip(f"pip install {tool}")
    result = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--no-cache", ".")


def test_ruff_would_format_nothing() -> None:
    run("ruff", "format", "--no-cache", "--check", ".")


def test_clang_format_would_change_nothing() -> None:
    files = [str(path) for path in (ROOT / "cpp").rglob("*.[ch]pp")]
    files += [str(path) for path in (ROOT / "tests").rglob("*.cpp")]
    run("clang-format", "--dry-run", "--Werror", *files)


@pytest.mark.parametrize(
    "arguments", TYPED, ids=["starchat", "langchain", "llama_index", "llama_index embeddings"]
)
def test_types_are_strict(arguments: list[str], tmp_path: Path) -> None:
    run("mypy", "--strict", f"--cache-dir={tmp_path}", *arguments)
