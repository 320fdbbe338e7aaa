"""What the documentation shows is what happens: docstrings, README.md and docs."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import starchat.model
from starchat import StarChat
from support.doctests import MODULES, failures

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/constraints.md",
    "docs/embeddings.md",
    "docs/migration.md",
    "docs/prompts.md",
    "docs/tools.md",
)
TEXTS = [(ROOT / name).read_text("utf-8") for name in PAGES]
WHOLE = TEXTS[PAGES.index("docs/migration.md")]  # its programs with adapters run as they are
BLOCKS = re.findall(r"^```python\n(.*?)^```", "\n".join(TEXTS), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_show_what_happens(name: str, nano: StarChat) -> None:
    assert failures(name, exact_words=False) == []


def test_every_way_of_asking_has_an_example_that_runs() -> None:
    found = doctest.DocTestFinder().find(starchat.model)
    shown = {test.name.rpartition(".")[2] for test in found if test.examples}
    public = {name for name in vars(StarChat) if not name.startswith("_")}
    assert len(public) > 15
    assert public <= shown


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.splitlines()[0])
def test_the_documentations_python_runs(code: str, nano: StarChat) -> None:
    own = r"starchat\b" + (
        r"|langchain_starchat\b|llama_index.llms.starchat\b" if code in WHOLE else ""
    )
    if re.search(rf"^(from|import) (?!{own})", code, re.MULTILINE):
        pytest.skip("a fragment of a program with an adapter, which has tests of its own")
    exec(re.sub(r"starchat-beta[\w.]+", nano.info.file, code), {})  # stands for any file
