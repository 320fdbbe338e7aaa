"""starchat beside llama.cpp, CTranslate2, ctransformers: random weights, alternating, in one run.

    python benchmarks/peers.py santacoder --types q4_0 q8_0 q4_k --prefill 512 --context 64 4096
    python benchmarks/peers.py FILE.bin --gguf FILE.gguf

Given a shape it writes the weights itself, with as many positions as are measured. The peers live
in an environment of their own, built on first use, or in the one whose interpreter --peers names.
Every engine runs in a fresh process, so that its peak memory is its own; read bandwidth and
multiply-add peak are measured before each round. Ratios and shares are made within a round.
llama.cpp runs twice: with weights repacked where it can, which is its default, and unpacked.
CTranslate2 runs in int8, which is compared with q8_0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from comparison import Figures, table
from environment import BUILDS, PeersUnavailable, default_directory, peers_python
from kernels import giga
from machine import Limits, Result, new_result, write_result
from random_model import (
    GGUF_TYPES,
    SHAPES,
    Shape,
    folded_shapes,
    write_bin,
    write_ctranslate2,
    write_gguf,
)
from rich.console import Console
from rich.progress import Progress
from runner import RUNNERS

from starchat import StarChatError
from starchat._core import inspect
from starchat._core.machine import instruction_sets
from starchat.convert.ggml_writer import TYPES

QUANTIZED = [type for type in TYPES if type.startswith("q")]
ENGINES = tuple(RUNNERS)
#: by the end of its name, what writes a model's random weights, and the package that this needs
WRITERS: dict[str, tuple[Callable[..., None], str]] = {
    ".bin": (write_bin, ""),
    ".gguf": (write_gguf, "gguf"),
    ".int8": (write_ctranslate2, "ctranslate2"),
}


class Refused(Exception):
    """What was asked for cannot be measured: why, and what to do."""


def forms(type: str, skip: Sequence[str] = ()) -> dict[str, str]:
    """Return the engines that run a type, and the form of file that each reads.

    >>> forms("q4_k")
    {'starchat': '.gguf', 'llama.cpp': '.gguf', 'llama.cpp unpacked': '.gguf'}
    """
    read = dict.fromkeys(ENGINES[:3], ".gguf")
    if type in TYPES:
        read |= {"starchat": ".bin", "ctransformers": ".bin"}
    if type == "q8_0":
        read["CTranslate2"] = ".int8"
    return {engine: form for engine, form in read.items() if engine not in skip}


@contextmanager
def weights(arguments: argparse.Namespace, type: str) -> Iterator[dict[str, Path]]:
    """Give each engine's file or folder; write them where a shape was named."""
    read = forms(type, arguments.skip)
    if arguments.model not in SHAPES:
        given = {".bin": Path(arguments.model).expanduser(), ".gguf": arguments.gguf}
        yield {engine: given[form] for engine, form in read.items() if given.get(form)}
        return
    shape = replace(SHAPES[arguments.model], n_ctx=n_positions(arguments))
    stem = f"{arguments.model}-{type}-{shape.n_ctx}"
    with tempfile.TemporaryDirectory(dir=_made(arguments.environment.parent)) as scratch:
        folder = _made(arguments.weights or Path(scratch))
        paths = {form: folder / f"{stem}{form}" for form in dict.fromkeys(read.values())}
        with Progress(console=Console(stderr=True), transient=True) as progress:
            for form, path in paths.items():
                if not path.exists():
                    bar = progress.add_task(f"writing {path.name}", total=len(folded_shapes(shape)))
                    write(form, path, shape, type, partial(progress.advance, bar))
        yield {engine: paths[form] for engine, form in read.items()}


def write(form: str, path: Path, shape: Shape, type: str, done: Callable[[], object]) -> None:
    """Write random weights; they get their name when they are whole."""
    writer, package = WRITERS[form]
    part = path.with_suffix(".part")
    try:
        writer(part, shape, type, done)
        part.rename(path)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}: choose --weights elsewhere") from error
    except ImportError as error:
        remedy = f"`pip install {package}`, or --skip the engines that need it"
        raise Refused(f"{path.name}: {error}: {remedy}") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)


def n_positions(arguments: argparse.Namespace) -> int:
    """Return the context that every engine loads with: --ctx, or what the longest one fills."""
    longest: int = max(arguments.prefill + [n + arguments.steps for n in arguments.context])
    return int(max(longest, arguments.ctx))


def work(path: Path) -> dict[str, Any]:
    """Return multiply-adds of a prompt's token, and the file's positions, from its header."""
    content: dict[str, Any] = inspect(str(path))
    width, n_head = content["n_embd"], content["n_head"]
    kv_width = content["n_kv_head"] * (width // n_head)
    per_layer = width * (width + 2 * kv_width) + width * width + 8 * width * width
    return {"macs_per_token": content["n_layer"] * per_layer, "n_ctx": content["n_ctx"]}


def run_engine(
    engine: str, path: Path, arguments: argparse.Namespace, done: Callable[[int], object]
) -> Figures | str:
    """Measure in a fresh process; the last line of its complaint where it fails."""
    python = sys.executable if engine == "starchat" else str(arguments.peers)
    command = [python, str(Path(__file__).with_name("runner.py")), engine, str(path)]
    command += ["--threads", str(arguments.threads), "--steps", str(arguments.steps)]
    command += ["--ctx", str(n_positions(arguments))]
    command += ["--prefill", *map(str, arguments.prefill)]
    command += ["--context", *map(str, arguments.context)]
    variables = dict(os.environ)
    if arguments.isa != "native":
        variables["STARCHAT_ISA"] = arguments.isa
    figures: Figures = {}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as complaints,
        subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=complaints, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    figures = json.loads(line)
                    done(figures.get("done", 0))
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        complaints.seek(0)
        lines = complaints.read().strip().splitlines()
    if "load_s" not in figures:  # whole figures count, however the process ends afterwards
        died = f"died with signal {-code}" if code < 0 else f"ended with code {code}"
        return lines[-1][:200] if lines and code >= 0 else died
    return figures


def measure_type(
    type: str, arguments: argparse.Namespace, files: dict[str, Path], progress: Progress
) -> Figures:
    """Run every engine in turn, some rounds, each round beginning with another one."""
    ours = "avx2" if arguments.isa == "avx2" else instruction_sets()[-1]
    limits = Limits([1, arguments.threads], [ours])
    rounds: dict[str, list[Figures]] = {engine: [] for engine in files}
    failures: dict[str, str] = {}
    lengths = {*arguments.prefill, *arguments.context}
    n_tokens = sum(lengths) + len(arguments.context) * arguments.steps
    bar = progress.add_task(type, total=arguments.rounds * len(files) * n_tokens)
    for i in range(arguments.rounds):
        limits.sample()
        order = [*files][i % len(files) :] + [*files][: i % len(files)]
        for engine in order:
            if engine in failures:
                continue
            progress.update(bar, description=f"{type}: {engine}, round {i + 1}")
            figures = run_engine(engine, files[engine], arguments, partial(progress.advance, bar))
            if isinstance(figures, str):
                failures[engine] = figures
                progress.console.print(f"{engine} is left out of {type}: {figures}", markup=False)
            else:
                rounds[engine].append(figures)
    progress.remove_task(bar)
    return {
        "type": type,
        "isa": ours,
        "limits": limits.samples,
        "failures": failures,
        "engines": {
            engine: gather(found) for engine, found in rounds.items() if engine not in failures
        },
    } | work(files["starchat"])


def gather(rounds: list[Figures]) -> Figures:
    """Turn a list of figures into figures that are lists.

    >>> gather([{"load_s": 1.0, "decode": {"64": 9.0}}, {"load_s": 1.5, "decode": {"64": 8.0}}])
    {'load_s': [1.0, 1.5], 'decode': {'64': [9.0, 8.0]}}
    """
    return {
        key: gather([found[key] for found in rounds])
        if isinstance(value, dict)
        else [found[key] for found in rounds]
        for key, value in rounds[0].items()
    }


def measure(arguments: argparse.Namespace) -> Result:
    """Measure every type."""
    result = new_result("peers")
    result |= {"threads": arguments.threads, "model": Path(arguments.model).name}
    result |= {"build": arguments.isa, "types": []}
    with busy_processes(arguments.busy):
        for type in arguments.types:
            with weights(arguments, type) as files:
                found = inspect(files["starchat"])
                if found["n_ctx"] < n_positions(arguments):
                    raise Refused(
                        f"{files['starchat']}: has {found['n_ctx']:,} positions, "
                        f"{n_positions(arguments):,} are wanted: lower --prefill, --context, "
                        "--steps or --ctx"
                    )
                name = type if arguments.model in SHAPES else found["weight_type"]
                with Progress(console=Console(stderr=True), transient=True) as progress:
                    result["types"].append(measure_type(name, arguments, files, progress))
    return result


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Run n processes that always compute, in their caches, as other programs do."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# ---- the command line -----------------------------------------------------------------------


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=f"a .bin file, or one of {', '.join(SHAPES)}")
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp, with a .bin")
    parser.add_argument(
        "--types",
        nargs="+",
        default=["q4_0"],
        metavar="TYPE",
        help="for a shape: of all matrices, or a preset (q4_k_m); `all`: those of .bin files",
    )
    parser.add_argument("--isa", choices=BUILDS, default="native", help="for ours and llama.cpp")
    parser.add_argument("--prefill", nargs="*", type=positive, default=[256, 512])
    parser.add_argument("--context", nargs="*", type=positive, default=[64])
    parser.add_argument("--steps", type=positive, default=32, help="tokens decoded at each context")
    parser.add_argument(
        "--ctx", type=positive, default=1, help="load with so many positions, where more than used"
    )
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="beside N busy processes")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip", nargs="*", choices=ENGINES[1:], default=[], help="leave out")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="interpreter that has them")
    parser.add_argument("--environment", type=Path, metavar="DIR", help="where to build the peers")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="keep a shape's files there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    arguments = parser.parse_args(argv)
    arguments.environment = arguments.environment or default_directory(arguments.isa)
    if arguments.model in SHAPES:
        arguments.types = QUANTIZED if arguments.types == ["all"] else arguments.types
        if unknown := {*arguments.types} - {*GGUF_TYPES}:
            parser.error(f"--types: {unknown.pop()}: expected {', '.join(GGUF_TYPES)} or all")
        if arguments.gguf:
            parser.error("--gguf goes with a .bin file: a shape's files are written here")
    else:
        arguments.types = arguments.types[:1]
    if not arguments.prefill + arguments.context:
        parser.error("nothing to measure: both --prefill and --context are empty")
    return arguments


def positive(text: str) -> int:
    """Return a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def main() -> None:
    """Prepare, measure, print the tables, write the file."""
    arguments = parse()
    try:
        if {*ENGINES[1:]} - {*arguments.skip} and not arguments.peers:
            arguments.peers = peers_python(arguments.environment, arguments.isa)
        result = measure(arguments)
    except (Refused, PeersUnavailable, StarChatError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    write_result(result, arguments.json)
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    for found in result["types"]:
        if "starchat" not in found["engines"]:
            fail(f"starchat cannot run {found['type']}: {found['failures']['starchat']}")
        samples = found["limits"]["read_bandwidth"][str(arguments.threads)]
        console.print(f"\nread bandwidth, {arguments.threads} threads: {giga(samples)} GB/s")
        console.print(table(found, arguments.threads))


def fail(error: str) -> NoReturn:
    """Say what went wrong in one line."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
