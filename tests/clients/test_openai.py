"""Clients of OpenAI's API in environments of their own, and random requests by schemathesis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from starchat import StarChat
from support.client_environments import environment, node_folder, run
from support.openai_operations import DOCUMENT
from support.server import Served, served, server_model, serving

__all__ = ["served", "server_model"]
pytestmark = pytest.mark.clients

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def filling(tiny_model_path: Path) -> Iterator[Served]:
    """A server of a model that fills gaps."""
    with StarChat.load(tiny_model_path) as model, serving(model) as served:
        yield served


@pytest.mark.parametrize("requirement", ["openai>=2,<3", "openai>=3,<4"])
def test_openais_client_reads_every_answer(
    served: Served, filling: Served, requirement: str
) -> None:
    python = environment(requirement)
    said = run(python, str(HERE / "openai_client.py"), served.url, filling.url)
    assert said.startswith(f"fine {requirement[8]}.")
    served.wait_until_idle()


def test_openais_client_for_node_reads_every_answer(served: Served) -> None:
    folder = node_folder("openai@6")
    program = folder / "openai_node.mjs"
    program.write_bytes((HERE / "openai_node.mjs").read_bytes())
    assert run("node", str(program), served.url) == "fine\n"


def test_litellm_asks_in_four_modes(
    served: Served, filling: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    python = environment("litellm>=1.100,<2")
    assert run(python, str(HERE / "litellm_client.py"), served.url, filling.url).endswith("fine\n")


def schemathesis(folder: Path, document: str, *arguments: str) -> None:
    """Send random requests of a document, right and wrong ones, and check the answers by it.

    folder: where it may leave its files.
    """
    python = environment("schemathesis==4.32.5")
    run(
        str(Path(python).with_name("schemathesis")),
        *("run", document, "--phases", "coverage,fuzzing", "--generation-database", "none"),
        *("--continue-on-failure", "--no-color", "--max-examples", "40"),
        *arguments,
        cwd=folder,
    )


@pytest.fixture(scope="module")
def brief(server_model: StarChat) -> Iterator[Served]:
    """A server whose replies are short where a request does not say."""
    with serving(server_model, default_max_tokens=4, slots=True) as served:
        yield served


@pytest.mark.parametrize(
    ("tag", "unchecked"),
    [
        # A body of the right form may still be refused: a prompt that is too long, a wrong schema.
        ("OpenAI", "positive_data_acceptance"),
        # These clients are met with leniency: 0 is false, "5" is 5.
        ("llama.cpp", "positive_data_acceptance,negative_data_rejection"),
        ("KoboldAI", "positive_data_acceptance,negative_data_rejection,allow_header_conformance"),
    ],
)
def test_answers_are_what_our_own_document_says(
    brief: Served, tmp_path: Path, tag: str, unchecked: str
) -> None:
    schemathesis(
        tmp_path,
        f"{brief.url}/openapi.json",
        *("--include-tag", tag, "--exclude-checks", unchecked),
    )
    brief.wait_until_idle()


def test_answers_are_what_openais_document_says(brief: Served, tmp_path: Path) -> None:
    # We take more than OpenAI does: no model, 0 tokens, null, any model's name.
    file = tmp_path / "openai.json"
    file.write_text(json.dumps(DOCUMENT))
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance"
    schemathesis(tmp_path, str(file), "--url", f"{brief.url}/v1", "--checks", checks)
    brief.wait_until_idle()
