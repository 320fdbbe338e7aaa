"""The command of the helper process in which grammars are compiled first (cpp/grammar).

It is a Python without site-packages that loads the native module alone: 20 ms.
"""

from __future__ import annotations

import functools
import os
import sys

from .. import _core

_PROGRAM = """\
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
loader = ExtensionFileLoader("_core", sys.argv[1])
core = module_from_spec(spec_from_loader("_core", loader))
loader.exec_module(core)
core.serve_grammar_trials(0)
"""


@functools.cache
def helper_command() -> list[str]:
    """Return the helper's command; nothing where this process has no Python to start.

    A program that embeds Python may call itself sys.executable: the name tells.
    """
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folders = [os.path.join(prefix, "bin") for prefix in (sys.exec_prefix, sys.base_exec_prefix)]
    for path in [sys.executable, *(os.path.join(folder, name) for folder in folders)]:
        is_python = os.path.basename(path or "").startswith("python")
        if is_python and os.access(path, os.X_OK) and not getattr(sys, "frozen", False):
            return [path, "-I", "-S", "-c", _PROGRAM, _core.__file__]
    return []
