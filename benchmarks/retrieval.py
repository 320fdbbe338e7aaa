"""Retrieval by embeddings beside BM25, on a case that anybody can repeat: this repository.

    pip install rank_bm25
    python benchmarks/retrieval.py [--model FILE.bin] [--folder src/starchat ...]

Every documented function of the folders is a document, without its docstring; the docstring's
first line is the query that should find it. Prints the mean reciprocal rank of the right function
and how often it is among the first 1, 5 and 10, as a table.
"""

from __future__ import annotations

import argparse
import ast
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from starchat import StarChat

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [ROOT / "src", ROOT / "integrations", ROOT / "examples"]
Scores = npt.NDArray[np.float64]  # (n_queries, n_documents)


def functions(folders: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield query and document: a docstring's first line, and the code without the docstring."""
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        source = path.read_text("utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = ast.get_docstring(node)
                if docstring and not node.name.startswith("__"):
                    first = node.body[0]
                    before = lines[node.lineno - 1 : first.lineno - 1]
                    after = lines[first.end_lineno : node.end_lineno]
                    yield docstring.splitlines()[0], "".join(before + after)


def words(text: str) -> list[str]:
    """Return the lower-case words of a text; identifiers are taken apart."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)]


def bm25(queries: list[str], documents: list[str]) -> Scores:
    """Score by the words that query and document share."""
    from rank_bm25 import BM25Okapi

    index = BM25Okapi([words(document) for document in documents])
    return np.array([index.get_scores(words(query)) for query in queries])


def by_embeddings(model: StarChat, centred: bool) -> Callable[[list[str], list[str]], Scores]:
    """Score by the cosine; `centred` subtracts the mean vector of the documents from all."""

    def score(queries: list[str], documents: list[str]) -> Scores:
        of_queries, of_documents = (
            model.embed(texts).astype(np.float64) for texts in (queries, documents)
        )
        if centred:
            mean = of_documents.mean(axis=0)
            of_queries, of_documents = of_queries - mean, of_documents - mean
            of_documents /= np.linalg.norm(of_documents, axis=1, keepdims=True)
        scores: Scores = of_queries @ of_documents.T
        return scores

    return score


def ranks(scores: Scores) -> npt.NDArray[np.float64]:
    """Return the rank of each query's own document, from 1; ties share the middle."""
    own = scores.diagonal()[:, None]
    ranks: npt.NDArray[np.float64] = (scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2
    return ranks


def fused(*all_scores: Scores) -> Scores:
    """Join rankings by reciprocal rank fusion (Cormack et al. 2009)."""
    places = [(-scores).argsort(axis=1).argsort(axis=1) for scores in all_scores]
    result: Scores = sum(1 / (61 + place) for place in places)
    return result


def report(name: str, ranks: npt.NDArray[np.float64], seconds: float = 0) -> None:
    """Print one row of the table."""
    time_s = f"{seconds:.2f}" if seconds else ""
    found = " | ".join(f"{(ranks <= n).mean():.0%}" for n in (1, 5, 10))
    print(f"| {name} | {(1 / ranks).mean():.3f} | {found} | {time_s} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a ggml file; by default the embedded model")
    parser.add_argument("--folder", type=Path, nargs="+", default=FOLDERS)
    arguments = parser.parse_args()
    model = StarChat.load(arguments.model)
    queries, documents = map(list, zip(*functions(arguments.folder), strict=True))
    print(f"{len(documents)} functions; {model.info}\n")
    print("| | reciprocal rank | first | first 5 | first 10 | seconds |\n|---|---|---|---|---|---|")
    report("chance", np.arange(1.0, len(documents) + 1))  # each rank is as likely
    methods = {
        "embeddings": by_embeddings(model, centred=False),
        "embeddings, centred": by_embeddings(model, centred=True),
        "BM25": bm25,
    }
    scores = {}
    for name, method in methods.items():
        start = time.perf_counter()
        scores[name] = method(queries, documents)
        report(name, ranks(scores[name]), time.perf_counter() - start)
    report("BM25 and embeddings, fused", ranks(fused(scores["BM25"], scores["embeddings"])))


if __name__ == "__main__":
    main()
