"""Answers a question about a folder of code, with its sources: LlamaIndex, BM25 and StarChat.

    pip install -U llama-index-core llama-index-retrievers-bm25
    pip install tree-sitter tree-sitter-python tree-sitter-cpp
    python examples/llama_index_codebase.py  # the standard library's json package
    python examples/llama_index_codebase.py src/starchat "Which error tells that a file is cut?"

Nothing leaves the machine. The embedded model understands real code poorly: give --model
starchat-beta.ggmlv3.q4_0.bin for useful answers.
"""

import argparse
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from llama_index.core import Settings, SimpleDirectoryReader
from llama_index.core.node_parser import CodeSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import BaseNode, Document, NodeWithScore
from llama_index.llms.starchat import StarChat
from llama_index.retrievers.bm25 import BM25Retriever
from tree_sitter import Language, Parser

LANGUAGES = {".py": "python", ".cpp": "cpp", ".hpp": "cpp"}  # each from its tree_sitter_* package
TOP_K = 4
JSON = Path(json.__file__).parent
QUESTION = "What does raw_decode do?"


def code_files(folder: Path) -> Iterator[Path]:
    """Yield the files to read. The reader itself would skip a folder below ~/.pyenv as hidden."""
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in LANGUAGES and not is_hidden:
            yield path


def split(documents: list[Document], llm: StarChat) -> Iterator[BaseNode]:
    """Yield pieces of code along its syntax; TOP_K of them take half of the model's context."""
    max_tokens = llm.metadata.context_window // (2 * TOP_K)
    for language in sorted(set(LANGUAGES.values())):
        grammar = Language(import_module(f"tree_sitter_{language}").language())
        splitter = CodeSplitter(
            language,
            count_mode="token",
            max_tokens=max_tokens,
            tokenizer=llm.tokenizer,
            parser=Parser(grammar),
        )
        yield from splitter.get_nodes_from_documents(
            [d for d in documents if LANGUAGES[Path(d.metadata["file_name"]).suffix] == language]
        )


def engine_over(folder: Path, llm: StarChat, streaming: bool = True) -> RetrieverQueryEngine:
    """Return a query engine over the code in `folder`."""
    Settings.tokenizer = llm.tokenizer  # LlamaIndex counts what the model will count
    documents = SimpleDirectoryReader(input_files=list(code_files(folder))).load_data()
    nodes = list(split(documents, llm))
    # Splitting at _ finds parts of names: "cut_short" answers to "cut". Code is no English prose.
    retriever = BM25Retriever(
        nodes, similarity_top_k=TOP_K, token_pattern=r"[^\W_]{2,}", skip_stemming=True
    )
    return RetrieverQueryEngine.from_args(retriever, llm=llm, streaming=streaming)


def citation(source: NodeWithScore, folder: Path) -> str:
    """Return where a piece of code stands: path, line and score."""
    path = Path(source.metadata["file_path"])
    text = path.read_text(encoding="utf-8")
    line = text[: text.find(source.node.get_content())].count("\n") + 1
    return f"{path.relative_to(folder.resolve())}:{line}  (BM25 {source.score:.1f})"


def main() -> None:
    """Print the answer while it is written, then its sources."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=JSON)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--model", type=Path, help="a ggml file; without it the embedded model")
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()

    llm = StarChat(model_path=arguments.model, max_tokens=arguments.max_tokens)
    response = engine_over(arguments.folder, llm).query(arguments.question)
    for text in response.response_gen:
        print(text, end="", flush=True)
    print("\n\nSources:")
    for source in response.source_nodes:
        print(f"  {citation(source, arguments.folder)}")


if __name__ == "__main__":
    main()
