"""The NEON kernels under an emulator, where a cross compiler and qemu are at hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")


@pytest.mark.integration
@pytest.mark.skipif(
    not (COMPILER and EMULATOR), reason="needs aarch64-linux-gnu-g++ and qemu-aarch64"
)
def test_neon_has_the_scalar_bits(tmp_path: Path) -> None:
    assert COMPILER and EMULATOR
    program = tmp_path / "kernels_equal"
    sources = ["kernels/dispatch.cpp", "kernels/scalar.cpp", "kernels/neon.cpp", "quant/types.cpp"]
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-static"]
    arch = "-march=armv8.2-a+dotprod+fp16"
    subprocess.run(
        [COMPILER, *flags, arch, f"-I{ROOT / 'cpp'}", "-o", program]
        + [str(ROOT / "cpp" / source) for source in sources]
        + [str(ROOT / "cpp/tests/kernels_equal.cpp")],
        check=True,
    )
    result = subprocess.run([EMULATOR, program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "neon equals scalar\n"), result
