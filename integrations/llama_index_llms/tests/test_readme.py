"""The README's code runs; its migrations are three lines before and three after."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.llms.starchat import StarChat

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


MIGRATION = README.split("## Migration\n")[1].split("\n## ")[0]
BLOCKS = blocks_of(MIGRATION)


def test_before_and_after_are_three_lines_each() -> None:
    assert len(BLOCKS) == 6
    for index, block in enumerate(BLOCKS):
        assert len([line for line in block.splitlines() if line]) == 3
        assert ("llama_index.llms.starchat" in block) == (index % 2 == 1)


@pytest.mark.parametrize("block", BLOCKS[1::2], ids=["local", "api", "gguf"])
def test_the_lines_after_answer(block: str) -> None:
    file = StarChat().engine.info.file
    code = re.sub(r"starchat-beta[\w.]+", file, block).replace("8192", "256")
    names: dict[str, Any] = {"ChatMessage": ChatMessage}
    *setup, last = code.splitlines()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a control token that is left as text would warn
        exec("\n".join(setup), names)
        answer = eval(last, names)
        text = getattr(answer, "text", None) or "".join(part.delta for part in answer)
    assert text.strip() and "<|" not in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LlamaIndex's workflows
async def test_the_other_blocks_run_one_after_another(settings: Any) -> None:
    file = StarChat().engine.info.file
    names: dict[str, Any] = {}
    for block in blocks_of(README.replace(MIGRATION, "")):
        code = block.replace("starchat-beta.ggmlv3.q4_0.bin", file)
        code = code.replace("max_tokens=256", "max_tokens=64, temperature=0")  # short, the same
        compiled = compile(code, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if inspect.isawaitable(waiting := eval(compiled, names)):
            await waiting
    assert names["agent"].system_prompt == "Be brief."
    assert [m.role.value for m in names["messages"]] == ["user", "assistant"]
