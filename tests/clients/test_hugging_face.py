"""Clients of text-generation-inference, each in its own environment, against a real server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.client_environments import environment, node_folder, run
from support.server import Served, served, server_model

__all__ = ["served", "server_model"]
pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
MIGRATION = (HERE.parents[1] / "docs" / "migration.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"  # in the documentation
#: what the documentation's programs import → what they need
ENVIRONMENTS = {
    "text_generation": ("text-generation==0.7.0",),
    "huggingface_hub": ("huggingface_hub>=2", "aiohttp"),
    "langchain_huggingface": ("langchain-huggingface==1.2.3",),
    "llama_index.llms.huggingface_api": ("llama-index-llms-huggingface-api==0.8.0",),
}
BLOCKS = [
    (name, block)
    for block in re.findall(r"^```python\n(.*?)^```", MIGRATION, re.DOTALL | re.MULTILINE)
    for name in ENVIRONMENTS
    if ADDRESS in block and re.search(rf"^from {re.escape(name)}\b", block, re.MULTILINE)
]


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("text_generation_client.py", "text_generation"),
        ("inference_client.py", "huggingface_hub"),
        ("langchain_endpoint.py", "langchain_huggingface"),
        ("llama_index_api.py", "llama_index.llms.huggingface_api"),
    ],
)
def test_a_client_reads_what_it_asked_for(served: Served, program: str, name: str) -> None:
    python = environment(*ENVIRONMENTS[name])
    assert run(python, str(HERE / program), served.url).startswith("fine")


def test_an_old_inference_client_answers(served: Served) -> None:
    python = environment("huggingface_hub==0.17.3", "requests", "aiohttp", "pydantic>=2")
    code = """
import sys
from huggingface_hub import InferenceClient
client = InferenceClient(sys.argv[1])
prompt = "<|system|>\\n<|end|>\\n<|user|>\\nHello<|end|>\\n<|assistant|>"
text = client.text_generation(prompt, return_full_text=False, max_new_tokens=20)
assert "".join(client.text_generation(prompt, stream=True, max_new_tokens=20)) == text
details = client.text_generation(prompt, details=True, max_new_tokens=20).details
assert details.generated_tokens == len(details.tokens)
"""
    run(python, "-c", code, served.url)


@pytest.mark.parametrize("version", ["2.3.0", "2.8.1"])
def test_the_library_of_the_old_chat_ui_streams(served: Served, version: str) -> None:
    folder = node_folder(f"@huggingface/inference@{version}")
    program = folder / "inference.mjs"
    program.write_bytes((HERE / "inference.mjs").read_bytes())
    assert run("node", str(program), served.url) == "fine\n"


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_the_lines_to_migrate_with_run(served: Served, name: str, block: str) -> None:
    question = "How do I sort a list in Python?"
    prompt = f"<|system|>\\n<|end|>\\n<|user|>\\n{question}<|end|>\\n<|assistant|>"
    code = f'question, prompt = "{question}", "{prompt}"\n' + block.replace(ADDRESS, served.url)
    run(environment(*ENVIRONMENTS[name]), "-c", code)
