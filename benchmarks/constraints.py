"""What constraints cost at StarChat's vocabulary: masks, whole steps, and the steps they spare.

    python benchmarks/constraints.py tokenizer.json

Takes StarChat's tokenizer in the Hugging Face format. The model is one tiny layer with random
weights over the true vocabulary, so that what remains of a step is sampling.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from starchat import StarChat, _core
from starchat.convert.ggml_writer import tensor_shapes, write_ggml
from starchat.convert.vocabulary import from_letters
from starchat.grammar.constraint import Constraint, library

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 60},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email", "maxLength": 60},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 60}, "maxItems": 9},
        "score": {"type": "number", "minimum": 0, "maximum": 100},
        "kind": {"enum": ["mathematician", "engineer", "author of children's books"]},
    },
    "required": ["name", "age", "email", "tags", "score", "kind"],
    "additionalProperties": False,
}
ADA = {
    "name": "Ada Lovelace, née Byron",
    "age": 36,
    "email": "ada@example.org",
    "tags": ["mathematics", "notes on the analytical engine", 'a "program"'],
    "score": 12.75,
    "kind": "mathematician",
}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "schema": ({"json_schema": PERSON}, json.dumps(ADA, ensure_ascii=False)),
    "any JSON": ({"json_schema": True}, json.dumps(ADA, ensure_ascii=False)),
    "regex": ({"regex": "[a-z ,.]*"}, "the quick brown fox jumps over the lazy dog. " * 4),
}


def vocabulary(path: Path) -> list[bytes]:
    """Return the tokens of a byte-level tokenizer by id."""
    file = json.loads(path.read_text())
    names = file["model"]["vocab"] | {t["content"]: t["id"] for t in file["added_tokens"]}
    return [from_letters(name) for name, _ in sorted(names.items(), key=lambda i: i[1])]


def mask_times(tokens: list[bytes], options: dict[str, Any], text: str) -> list[float]:
    """Return the µs of every mask on the way through a text, forced tokens left out."""
    checked = Constraint.from_options(options)
    assert checked is not None
    tokenizer = _core.Tokenizer(tokens)
    compiler = _core.testing.GrammarCompiler(library(), tokenizer)
    constraint = _core.testing.Constraint(tokenizer, compiler.compile(checked.kind, checked.text))
    times: list[float] = []
    rest = text.encode()
    while rest:
        next_ids = constraint.forced()
        if not next_ids:
            start = time.perf_counter()
            constraint.fill_mask()
            times.append((time.perf_counter() - start) * 1e6)
            fits = [id for id, token in enumerate(tokens) if token and rest.startswith(token)]
            allowed = [id for id in fits if constraint.allows(id)]
            next_ids = [max(allowed, key=lambda id: len(tokens[id]))]
        for id in next_ids:
            constraint.accept(id)
            rest = rest[len(tokens[id]) :]
    return times


def write_model(path: Path, tokens: list[bytes]) -> None:
    """Write one layer of random weights over this vocabulary."""
    shape = {"n_ctx": 512, "n_embd": 64, "n_layer": 1}
    random = np.random.default_rng(0)
    tensors = {
        name: random.standard_normal(size, np.float32) * np.float32(0.1)
        for name, size in tensor_shapes(n_vocab=len(tokens), **shape).items()
    }
    write_ggml(path, vocab=tokens, tensors=tensors, type="q8_0", n_head=4, **shape)


def step_ms(model: StarChat, options: dict[str, Any], n_tokens: int = 200) -> float:
    """Return the time of one token that is sampled by itself, the median of five replies."""
    times = []
    for seed in range(5):
        start = time.perf_counter()
        reply = model.complete(
            "x", max_tokens=n_tokens, ignore_eos=True, seed=seed, speculation=False, **options
        )
        n_sampled = reply.usage.completion_tokens - reply.usage.forced_tokens
        times.append((time.perf_counter() - start) * 1e3 / n_sampled)
    return statistics.median(times)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    tokens = vocabulary(parser.parse_args().tokenizer)
    print(f"{len(tokens):,} tokens")
    for name, (options, text) in CASES.items():
        times = sorted(mask_times(tokens, options, text))
        print(
            f"  mask, {name}: median {statistics.median(times):.0f} µs, "
            f"mean {statistics.mean(times):.0f}, most {times[-1]:.0f} ({len(times)} masks)"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.bin"
        write_model(file, tokens)
        with StarChat.load(file, progress=False) as model:
            free = step_ms(model, {})
            for name, options in {
                "a regex": {"regex": "(?s:.*)"},
                **{name: options for name, (options, _) in CASES.items()},
            }.items():
                cost = (step_ms(model, options) - free) * 1e3
                print(f"  step, {name}: {cost:+.0f} µs over {free * 1e3:.0f} µs without")
    with StarChat.load() as nano:
        before = nano.stats()["steps"]
        reply = nano.complete("x", json_schema=PERSON, seed=1)
        n_steps = nano.stats()["steps"] - before
        usage = reply.usage
        print(
            f"  {usage.completion_tokens} tokens took {n_steps} steps: {usage.forced_tokens} forced"
        )


if __name__ == "__main__":
    main()
