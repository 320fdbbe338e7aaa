"""What llama.cpp says of GGUF files that we write: `make oracles` asks it again and compares.

    python -m support.llama_cpp [--record] [PYTHON]

PYTHON has llama-cpp-python 0.3.36 and numpy; without one, that of benchmarks/peers.py is built and
used. --record writes llama_cpp.json, which test_oracles.py and test_perplexity.py read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / "LICENSE"
TYPES = "f16", "q8_0", "q4_0", "q6_k", "q4_k_m", "q3_k_m", "q2_k", "iq4_xs"
N_CTX = 512  # of windows of perplexity
PROMPT = "def add(a, b):\n    return"
TEXTS = [
    *(PROMPT, "for i in range(10):\n\tprint(i**2)  # 12345\n\n\n", "naïve 東京 😀 <|end|> don't"),
    *("<fim_prefix>x<fim_suffix>\r\n", " \u00a0  \u3000x\u200d'S", "Ⅷ½٣ 1234567 a1b2"),
]

ASKED = """
import json, math, sys
import numpy as np
from llama_cpp import Llama

def perplexity(llama, ids, n_ctx):
    surprises = []
    for start in range(0, len(ids) - n_ctx + 1, n_ctx):
        window = ids[start : start + n_ctx]
        llama.reset()
        llama.eval(window)
        logits = np.array(llama.scores[:n_ctx], np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        surprises += [-log_p[i, window[i + 1]] for i in range(n_ctx // 2, n_ctx - 1)]
    return math.exp(np.mean(surprises))

def greedy(llama, prompt, n):
    llama.reset()
    llama.eval(llama.tokenize(prompt.encode(), add_bos=False, special=False))
    steps = []
    for _ in range(n):
        logits = np.array(llama.scores[llama.n_tokens - 1], np.float64)
        second, first = np.argsort(logits)[-2:]
        steps.append([int(first), round(float(logits[first] - logits[second]), 4)])
        llama.eval([int(first)])
    return steps

task, answers = json.load(sys.stdin), {}
for name, path in task["files"].items():
    n_ctx = task["n_ctx"][name]
    llama = Llama(path, n_ctx=512, n_batch=512, n_ubatch=512, logits_all=True, verbose=False)
    ids = {text: llama.tokenize(text.encode(), add_bos=False, special=False)
           for text in task["texts"]}
    text = open(task["text"], "rb").read()
    of_text = llama.tokenize(text, add_bos=False, special=False)
    answers[name] = {
        "perplexity": round(perplexity(llama, of_text, n_ctx), 6),
        "greedy": greedy(llama, task["prompt"], 64) if task["is_greedy"][name] else [],
        "ids": list(ids.values()),
    }
print(json.dumps(answers))
"""


def tiny_path(folder: Path, type: str) -> Path:
    """Write the tiny model of test_perplexity.py."""
    from support.tiny_model import Shape, write_tiny

    return write_tiny(folder / f"tiny-{type}.bin", type, Shape(n_ctx=256), seed=3).path


def asked(python: str) -> dict[str, Any]:
    """Return llama.cpp's answers, by the name of a model."""
    from starchat.convert.conversion import convert
    from starchat.model import EMBEDDED

    with tempfile.TemporaryDirectory() as scratch:
        files, windows = {}, {}
        for type in TYPES:
            files[type] = str(Path(scratch) / f"{type}.gguf")
            convert(EMBEDDED, files[type], type)
            windows[type] = N_CTX
        for type in "f32", "q8_0":
            name = f"tiny-{type}"
            files[name] = str(Path(scratch) / f"{name}.gguf")
            convert(str(tiny_path(Path(scratch), type)), files[name])
            windows[name] = 128
        task = {
            "files": files,
            "n_ctx": windows,
            "is_greedy": {name: name in TYPES for name in files},
            "texts": TEXTS,
            "text": str(TEXT),
            "prompt": PROMPT,
        }
        command = [python, "-c", ASKED]
        result = subprocess.run(
            command, input=json.dumps(task), capture_output=True, text=True, check=False
        )
        if result.returncode:
            sys.exit(f"{python}: {result.stderr[-2000:]}")
        answers: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return answers


def differences(recorded: Any, now: Any, where: str = "") -> list[str]:
    """Say where answers differ; numbers may by 0.1 %, as kernels of other machines do."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        names = {**recorded, **now}
        return [
            line
            for name in names
            for line in differences(recorded.get(name), now.get(name), f"{where}/{name}")
        ]
    if isinstance(recorded, float) and isinstance(now, float):
        return (
            [] if abs(recorded - now) <= 1e-3 * abs(recorded) else [f"{where}: {recorded}, {now}"]
        )
    if where.endswith("/greedy"):  # until a choice is close, from which on both may go on apart
        for (before, margin), (after, _) in zip(recorded, now, strict=True):
            if before != after:
                return [f"{where}: {before}, {after}"] if margin > 0.05 else []
        return []
    return [] if recorded == now else [f"{where}: {recorded}, {now}"]


def main() -> None:
    """Ask llama.cpp, and compare or record."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--record"]
    if arguments:
        python = arguments[0]
    else:
        sys.path.insert(0, str(ROOT / "benchmarks"))
        environment = __import__("environment")
        python = str(environment.peers_python(environment.default_directory("native"), "native"))
    answers = asked(python)
    if "--record" in sys.argv:
        RECORD.write_text(json.dumps(answers, indent=None, separators=(",", ":")) + "\n")
        return
    found = differences(json.loads(RECORD.read_text()), answers)
    print("\n".join(found) or f"{len(answers)} files: llama.cpp answers as recorded")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
