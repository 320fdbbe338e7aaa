"""What the documentation shows is what happens: docstrings, README.md and docs."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from starchat import StarChat

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    "starchat",
    *sorted(
        ".".join(("starchat", *path.relative_to(ROOT / "src/starchat").with_suffix("").parts))
        for path in (ROOT / "src/starchat").rglob("*.py")
        if ">>> " in path.read_text("utf-8") and path.name != "__init__.py"
    ),
]
PAGES = ("README.md", "docs/constraints.md", "docs/embeddings.md", "docs/tools.md")
TEXTS = [(ROOT / name).read_text("utf-8") for name in PAGES]
BLOCKS = re.findall(r"^```python\n(.*?)^```", "\n".join(TEXTS), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", MODULES, ids=str)
def test_docstrings_show_what_happens(name: str, nano: StarChat) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_every_way_of_asking_has_an_example() -> None:
    public = [name for name in vars(StarChat) if not name.startswith("_")]
    assert len(public) > 15
    for name in public:
        assert ">>> " in (getattr(StarChat, name).__doc__ or ""), name


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.splitlines()[0])
def test_the_documentations_python_runs(code: str, nano: StarChat) -> None:
    if re.search(r"^(from|import) (?!starchat\b)", code, re.MULTILINE):
        pytest.skip("a fragment of a program with an adapter, which has tests of its own")
    exec(code.replace("starchat-beta.ggmlv3.q4_0.bin", nano.info.file), {})  # stands for any file
