"""Run every fuzz target for some seconds: `make fuzz SECONDS=60`, which puts tests/ on the path.

Fails on a crash, a leak, a sanitizer's report or a timeout, and names the input. What a target
finds is kept in BUILD/corpus and is where its next run begins.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from support.gguf_files import write_gguf
from support.tiny_model import CONTROL, MERGED, ROLES, Shape, write_tiny

#: libFuzzer's options for each target. Sizes: the largest seed fits, and nothing that a file of
#: this size justifies comes near the limits of memory.
TARGETS = {
    "model_file": ["-max_len=32768", "-timeout=5", "-malloc_limit_mb=64", "-rss_limit_mb=1024"],
    "tokenizer": ["-max_len=4096", "-timeout=5", "-malloc_limit_mb=64", "-rss_limit_mb=1024"],
    # Slow inputs and large ones are faults that are known (known_faults.md): they are kept, and
    # the run goes on in a new process.
    "grammar": [
        *("-max_len=512", "-timeout=5", "-rss_limit_mb=2048"),
        *("-fork=1", "-ignore_timeouts=1", "-ignore_ooms=1", "-ignore_crashes=0"),
    ],
}

GRAMMARS = [
    *('0{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}',),
    *('0{"type":"array","items":{"enum":["x",1,null]},"minItems":2,"maxItems":3}',),
    *('0{"type":"string","pattern":"^[a-z]+$","maxLength":9}', '0{"type":"number","minimum":-1.5}'),
    *('0{"$defs":{"t":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/t"}]}},"$ref":"#/$defs/t"}',),
    *('0{"type":"string","format":"date-time"}', '0{"allOf":[{"type":"integer"},{"const":3}]}'),
    *("1[a-z]{2,5}(x|y)*", r"1\d+\.\d{1,3}", "1(?i:yes|no)", r"1[^\x00-\x1f]*\w\b"),
    *('2start: "a" b+\nb: /[0-9]/ | "(" b ")"', "2start: W\nW: /[a-z]+/ & ~/end/"),
    *('2start: %json {"type":"boolean"}', '2start: /x/ <|end|>\n%ignore " "'),
    *('2start: a[max_tokens=3] "."\na: /.*/', '2start: x~2..4\nx: "ab"i'),
]


def write_seeds(folder: Path) -> None:
    """Write the inputs that each target begins with."""
    for target in TARGETS:
        (folder / target).mkdir(parents=True, exist_ok=True)
    shape = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=4, n_vocab=24)
    for type in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16"):
        for multi_query in (True, False):
            path = folder / "model_file" / f"{type}-{multi_query}.bin"
            write_tiny(path, type, shape, multi_query=multi_query)
    for lm_head in ("own", "absent"):
        write_tiny(folder / "model_file" / f"{lm_head}.bin", "q4_0", shape, lm_head=lm_head)
    model = write_tiny(folder / "model_file" / "absent.bin", "q4_0", shape, lm_head="absent")
    for type, generation in product(("q4_0", "iq4_nl", "bf16"), ("raw", "encoded")):
        path = folder / "model_file" / f"{type}-{generation}.gguf"
        types = dict.fromkeys(model.weights, type)
        write_gguf(path, model.weights, shape, types.__getitem__, generation=generation)
    pairs = [(b" ", b"a"), (b"b", b"c"), (b" a", b"bc")]
    words = [*map(bytes, zip(b" abcdefghijklmnopqrst")), *(left + right for left, right in pairs)]
    path = folder / "model_file" / "merges.gguf"
    write_gguf(path, model.weights, shape, lambda _: "q4_0", tokens=words, merges=pairs)
    write_gguf(folder / "s.gguf", model.weights, shape, lambda _: "q8_0", split_max_tensors=8)
    first, second = [path.read_bytes() for path in sorted(folder.glob("s-*.gguf"))]
    both = first + bytes(-len(first) % 32) + second
    (folder / "model_file" / "shards.gguf").write_bytes(both)
    # As FuzzedDataProvider reads it: a backslash and another byte end a token. From the end on:
    # whether the vocabulary has all bytes, its size, the number of merges and their ids, and the
    # same of added tokens.
    tokens = [token.encode() for token in CONTROL[:4] + MERGED + ROLES]
    head = b"".join(token + b"\\." for token in tokens)
    texts = "def the(s):  return 'd' <|end|>", "naïve 東京 1234\n\n\t x<fim_pad>"
    for n, text in enumerate(texts):
        merges = [b"er", b"he", b"in", b"  "][: 4 * n]
        numbers = [260, 257, 2] if n else [0]
        numbers += [byte for pair in reversed(merges) for byte in reversed(pair)]
        numbers += [len(merges), len(tokens)]
        tail = b"".join(number.to_bytes(2, "little") for number in numbers) + bytes([1])
        (folder / "tokenizer" / str(n)).write_bytes(head + text.encode() + tail)
    for n, text in enumerate(GRAMMARS):
        (folder / "grammar" / str(n)).write_text(text, encoding="utf-8")


def write_python_symbols(library: str, path: Path) -> None:
    """Write a shared object with every symbol of Python that llguidance's extension names.

    The targets run without Python, and the functions that they call use nothing of it.
    """
    names = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", "--format=just-symbols", library],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    source = "".join(f"char {name}[256];\n" for name in names if name.startswith(("Py", "_Py")))
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)


def run(build: Path, target: str, seconds: int) -> bool:
    """Run one target; return whether it found nothing new."""
    folders = [build / kind / target for kind in ("corpus", "found", "seeds")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    corpus, found, seeds = folders
    before = set(found.iterdir())
    library = str(importlib.import_module("llguidance._lib").__file__)
    python_symbols = build.resolve() / "python_symbols.so"
    write_python_symbols(library, python_symbols)
    variables = {"STARCHAT_LLGUIDANCE": library, "LD_PRELOAD": str(python_symbols)}
    program = build / "cpp" / "fuzz" / f"fuzz_{target}"
    command = [program, *TARGETS[target], f"-max_total_time={seconds}", "-print_final_stats=1"]
    command += [f"-artifact_prefix={found}/", f"-dict={Path(__file__).parent / target}.dict"]
    print(f"== {target}: {seconds} s", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, **variables, "TMPDIR": scratch}
        result = subprocess.run([*command, corpus, seeds], env=environment, check=False)
    if result.returncode != 0:
        setting = " ".join(f"{name}={value}" for name, value in variables.items())
        print(f"fuzz: {target} failed. Repeat it with: {setting} {program} FILE, where FILE is")
        print(*sorted(map(str, set(found.iterdir()) - before)), sep="\n")
    return result.returncode == 0


def main() -> None:
    """Run the targets that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path, help="folder of the CMake build")
    parser.add_argument("seconds", type=int, help="for each target")
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    arguments = parser.parse_args()
    write_seeds(arguments.build / "seeds")
    passed = [run(arguments.build, target, arguments.seconds) for target in arguments.targets]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
