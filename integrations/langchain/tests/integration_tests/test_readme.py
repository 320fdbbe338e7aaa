"""The README's migrations: three lines before, three after, and those after run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from langchain_core.prompts import ChatPromptTemplate

from starchat import StarChat

README = Path(__file__).resolve().parents[2] / "README.md"
MIGRATION = README.read_text("utf-8").split("## Migration\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```", MIGRATION, re.DOTALL | re.MULTILINE)


def test_before_and_after_are_three_lines_each() -> None:
    assert len(BLOCKS) == 8
    for index, block in enumerate(BLOCKS):
        assert len([line for line in block.splitlines() if line]) == 3
        assert ("from langchain_starchat" in block) == (index % 2 == 1)


@pytest.mark.parametrize(
    "block", BLOCKS[1::2], ids=["endpoint", "pipeline", "ctransformers", "gguf"]
)
def test_the_lines_after_answer(block: str, nano: StarChat) -> None:
    code = re.sub(r"starchat-beta[\w.]+", nano.info.file, block).replace("8192", "256")
    names = {"ChatPromptTemplate": ChatPromptTemplate}
    *setup, last = code.splitlines()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a control token that is left as text would warn
        exec("\n".join(setup), names)
        if last.startswith("chain = "):
            exec(last, names)
            last = "chain.invoke({'q': 'How do I sort a list?'})"
        answer = eval(last, names)
    text = answer if isinstance(answer, str) else answer.text
    assert text.strip() and "<|" not in text
