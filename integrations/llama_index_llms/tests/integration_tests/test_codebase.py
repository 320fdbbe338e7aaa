"""A query engine over this repository and over json: reader, splitter, BM25, StarChat, sources."""

import asyncio
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from llama_index.core import QueryBundle, SimpleDirectoryReader
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.llms.starchat import StarChat

import starchat

for package in ("llama_index.retrievers.bm25", "tree_sitter_python", "tree_sitter_cpp"):
    pytest.importorskip(package, reason="pip install llama-index-retrievers-bm25 tree-sitter-*")

REPOSITORY = Path(__file__).parent.joinpath("../../../..").resolve()
SOURCE = REPOSITORY / "src" / "starchat"
EXAMPLE = REPOSITORY / "examples" / "llama_index_codebase.py"
pytestmark = pytest.mark.skipif(not EXAMPLE.is_file(), reason="needs the repository")
QUESTION = "Which error tells that a model file is cut short?"


@pytest.fixture
def llm(settings: Any, monkeypatch: pytest.MonkeyPatch) -> StarChat:
    monkeypatch.setitem(sys.modules, "tiktoken", None)  # importing it fails: nobody needs GPT-2
    return StarChat(temperature=0, max_tokens=32)


def test_pieces_fit_into_the_context(example: ModuleType, llm: StarChat) -> None:
    reader = SimpleDirectoryReader(REPOSITORY / "cpp", recursive=True, required_exts=[".hpp"])
    sizes = [len(llm.tokenizer(node.text)) for node in example.split(reader.load_data(), llm)]
    assert len(sizes) > 10
    assert max(sizes) <= llm.metadata.context_window // (2 * example.TOP_K)


async def test_four_ways_give_one_answer_and_its_sources(
    example: ModuleType, llm: StarChat
) -> None:
    whole = example.engine_over(SOURCE, llm, streaming=False)
    streaming = example.engine_over(SOURCE, llm, streaming=True)
    first = whole.query(QUESTION)
    second = await whole.aquery(QUESTION)
    third = streaming.query(QUESTION)
    fourth = await streaming.aquery(QUESTION)
    texts = [
        first.response,
        second.response,
        "".join(third.response_gen),
        "".join([text async for text in fourth.async_response_gen()]),
    ]
    assert texts[0]
    assert texts == texts[:1] * 4
    for response in (first, second, third, fourth):
        assert len(response.source_nodes) == example.TOP_K
        names = [node.metadata["file_name"] for node in response.source_nodes]
        assert "errors.py" in names[:2]


async def test_many_questions_at_once(example: ModuleType, llm: StarChat) -> None:
    engine = example.engine_over(SOURCE, llm, streaming=False)
    questions = [f"{QUESTION} Say it in {n} words." for n in range(3, 9)]
    alone = [str(engine.query(question)) for question in questions]
    together = await asyncio.gather(*(engine.aquery(question) for question in questions))
    assert [str(response) for response in together] == alone


async def test_answer_is_a_model_if_wanted(example: ModuleType, llm: StarChat) -> None:
    class Found(BaseModel):
        file: Literal["errors.py"]

    retriever = example.engine_over(SOURCE, llm).retriever
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm.as_structured_llm(Found))
    for response in (engine.query(QUESTION), await engine.aquery(QUESTION)):
        assert response.response == Found(file="errors.py")
        assert len(response.source_nodes) == example.TOP_K


def test_one_call_of_the_model_answers(example: ModuleType, llm: StarChat, settings: Any) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    settings.callback_manager = CallbackManager([debug])  # LlamaIndex hands it to the model
    example.engine_over(SOURCE, llm, streaming=False).query(QUESTION)
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1


def test_closing_the_answer_ends_its_sequence(
    example: ModuleType, llm: StarChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, stream_chat = [], starchat.StarChat.stream_chat

    def spy(*args: Any, **kwargs: Any) -> starchat.Stream:
        streams.append(stream_chat(*args, **kwargs))
        return streams[-1]

    monkeypatch.setattr(starchat.StarChat, "stream_chat", spy)
    llm.max_tokens, llm.ignore_eos = 300, True  # more than a stream holds for its reader
    answer = example.engine_over(SOURCE, llm).query(QUESTION).response_gen
    next(answer)
    answer.close()
    with pytest.raises(starchat.InvalidRequestError, match="closed before its end"):
        streams[-1].result()


def test_sources_are_cited_by_line(example: ModuleType, llm: StarChat) -> None:
    retriever = example.engine_over(SOURCE, llm).retriever
    for source in retriever.retrieve(QueryBundle("CorruptFileError ContextLengthError")):
        path, rest = example.citation(source, SOURCE).split(":", 1)
        lines = (SOURCE / path).read_text(encoding="utf-8").splitlines()
        assert lines[int(rest.split()[0]) - 1].endswith(source.node.get_content().splitlines()[0])


def test_json_is_found_wherever_python_lives(
    example: ModuleType, llm: StarChat, tmp_path: Path
) -> None:
    hidden = tmp_path / ".pyenv" / "json"  # LlamaIndex's reader takes all of it for hidden
    shutil.copytree(example.JSON, hidden)
    (hidden / ".venv").mkdir()
    (hidden / ".venv" / "mine.py").write_text("representation = 'Python JSON document'")
    for folder in (example.JSON, hidden):
        nodes = example.engine_over(folder, llm).retriever.retrieve(QueryBundle(example.QUESTION))
        (node,) = [n for n in nodes[:2] if n.node.get_content().startswith("def raw_decode(")]
        assert example.citation(node, folder).startswith("decoder.py:")
        assert "mine.py" not in {node.metadata["file_name"] for node in nodes}


@pytest.mark.parametrize(
    ("arguments", "source"),
    [([], "decoder.py:"), ([str(SOURCE), QUESTION], "errors.py:")],
    ids=["json", "this repository"],
)
def test_example_answers_and_cites(
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    source: str,
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments, "--max-tokens", "32"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    answer, _, sources = capsys.readouterr().out.partition("\n\nSources:\n")
    assert answer.strip()
    assert source in sources
    assert len(sources.splitlines()) == 4
