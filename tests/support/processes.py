"""Python code in a process of its own, for what ends, forks, limits or leaves out a part of one."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run_python(
    code: str, *arguments: object, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run code, which may be indented; `arguments` are its sys.argv[1:]."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
