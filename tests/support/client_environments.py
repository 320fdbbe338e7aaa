"""Environments of their own for clients whose versions cannot be installed together."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "build" / "clients"


@cache
def environment(*requirements: str) -> str:
    """Return the Python of an environment with some packages; it is made once, and kept in build/.

    Skips the test where there is no uv, or no index of packages.
    """
    name = sha256(" ".join((sys.version, *requirements)).encode()).hexdigest()[:16]
    python = FOLDER / name / "bin" / "python"
    is_whole = FOLDER / f"{name}.txt"
    if not is_whole.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        run("uv", "venv", "-q", "--clear", "--python", sys.executable, str(FOLDER / name))
        run("uv", "pip", "install", "-q", "--python", str(python), *requirements)
        is_whole.write_text("\n".join(requirements))
    return str(python)


@cache
def node_folder(*packages: str) -> Path:
    """Return a folder where programs of Node find some packages; it is made once, as above."""
    name = sha256(" ".join(packages).encode()).hexdigest()[:16]
    folder = FOLDER / f"node-{name}"
    is_whole = folder / "packages.txt"
    if not is_whole.exists():
        folder.mkdir(parents=True, exist_ok=True)
        run("npm", "install", "--silent", "--no-audit", "--prefix", str(folder), *packages)
        is_whole.write_text("\n".join(packages))
    return folder


def run(*command: str, cwd: Path | None = None, **variables: str) -> str:
    """Return what a command prints; fail with it. variables: of its environment, beside ours."""
    env = {**_offline(), **variables}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            cwd=cwd,
            env=env,
        )
    except FileNotFoundError as error:
        pytest.skip(f"no {error.filename}")
    if done.returncode and command[0] in ("uv", "npm"):
        pytest.skip(done.stderr[-500:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def _offline() -> dict[str, str]:
    """Return the environment's variables: no client finds a token, or a hub to ask."""
    hidden = ("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(FOLDER / "hf")}
