"""A virtual environment of its own for the peers: llama.cpp from source, the others' wheels.

Built once and kept; a build that was cut short, or of another version, is built again, and wheels
that are new here are added. What pip and the compiler say goes to a file beside it, their progress
to a bar.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

LLAMA_CPP = "llama-cpp-python==0.3.36"
SERVER = LLAMA_CPP.replace("==", "[server]==")  # what its server needs beside it
WHEELS = ("ctransformers==0.2.27", "ctranslate2==4.8.5", SERVER)

#: instruction set → CMake's options for llama.cpp
BUILDS = {
    "native": "",  # whatever this machine has
    "avx2": "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON "
    "-DGGML_BMI2=ON -DGGML_AVX512=OFF",
}
_NO_NETWORK = re.compile(
    r"NewConnectionError|name resolution|ConnectTimeout|ProxyError|No matching distribution"
)
_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\] ")  # ninja's


class PeersUnavailable(Exception):
    """The peers cannot be built: what is missing, and what to do."""


def default_directory(isa: str) -> Path:
    """Return where the environment for an instruction set is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "starchat-bench" / isa


def peers_python(directory: Path, isa: str) -> Path:
    """Return the environment's interpreter; build the environment where it is not there yet.

    Raises PeersUnavailable.
    """
    python = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = {"packages": [LLAMA_CPP, *WHEELS], "cmake": BUILDS[isa]}
    record = directory / "built.json"
    built = json.loads(record.read_text()) if python.exists() and record.exists() else {}
    if built == wanted:
        return python
    log = directory / "build.log"
    there = built.get("packages", ()) if built.get("cmake") == wanted["cmake"] else ()
    if LLAMA_CPP not in there:
        there = ()
        _build(directory, python, log, isa)
    with _bar() as step:
        for wheel in WHEELS:  # which few machines have, and are no must
            if wheel in there:
                continue
            step(f"installing {wheel}")
            try:
                _pip(python, [wheel], log, dict(os.environ))
            except PeersUnavailable as error:
                print(f"{wheel} is left out: {error}", file=sys.stderr)
    record.write_text(json.dumps(wanted))
    return python


@contextmanager
def _bar() -> Iterator[Callable[..., object]]:
    """Show a bar; what is given tells it what is done, and how much of it."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)

        def step(what: str, done: int = 0, total: int | None = None) -> None:
            progress.update(bar, description=what, completed=done, total=total)

        yield step


def _build(directory: Path, python: Path, log: Path, isa: str) -> None:
    """Make the environment, with llama.cpp in it."""
    if not any(
        shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name
    ):
        raise PeersUnavailable(
            "llama.cpp is built from source and there is no C++ compiler: install g++ or clang++, "
            "set CXX, or name an interpreter that has the peers by --peers"
        )
    shutil.rmtree(directory, ignore_errors=True)
    try:
        venv.create(directory, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeersUnavailable(f"{directory}: no virtual environment: {error}") from error
    with _bar() as step:
        what = "building llama.cpp (some minutes)"
        step(what)
        options = os.environ | {"CMAKE_ARGS": BUILDS[isa]}
        source = ["-v", "--no-cache-dir", "--no-binary", "llama-cpp-python", LLAMA_CPP]
        _pip(python, source, log, options, partial(step, what))


def _pip(
    python: Path,
    arguments: list[str],
    log: Path,
    variables: dict[str, str],
    step: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Install; tell each step of a build that the output shows."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    with (
        log.open("a") as file,
        subprocess.Popen(
            command,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if match := _STEP.match(line):
                step(int(match[1]), int(match[2]))
    if process.returncode:
        raise PeersUnavailable(_reason(log.read_text(errors="replace"), log))


def _reason(output: str, log: Path) -> str:
    """Return one sentence for what pip said.

    >>> _reason("ERROR: No matching distribution found for x", Path("build.log"))
    'pip reaches no package index: check the network, or name an interpreter by --peers (build.log)'
    """
    if _NO_NETWORK.search(output):
        what = "pip reaches no package index: check the network, or name an interpreter by --peers"
    else:
        errors = [line.strip() for line in output.splitlines() if "error" in line.lower()]
        what = f"the build failed: {errors[-1] if errors else 'no reason given'}"
    return f"{what} ({log})"
