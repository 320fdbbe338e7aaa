"""The core can be imported whatever other libraries have used before."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.processes import run_python

pytestmark = pytest.mark.integration

COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
SOURCE = """
#include <mutex>
extern "C" void use() { std::once_flag once; std::call_once(once, [] {}); }
"""
CODE = """
    import ctypes, sys
    ctypes.CDLL(sys.argv[1]).use()
    import starchat
    print(starchat.__name__)
"""


@pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")
def test_another_library_may_have_used_thread_locals_of_libstdcxx(tmp_path: Path) -> None:
    # These are then allocated dynamically, as in Ray's workers, and cannot become static any more.
    source, library = tmp_path / "used.cpp", tmp_path / "used.so"
    source.write_text(SOURCE)
    command = [str(COMPILER), "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=60)
    assert run_python(CODE, str(library)).stdout.strip() == "starchat"
