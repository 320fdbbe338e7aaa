"""Shaders have the bits of the scalar kernels, on the software driver: every type, odd shapes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from starchat import UnsupportedFeatureError
from starchat._core import testing
from support.gpu import gpu_for_tests

GPU_FOLDER = Path(__file__).parents[1] / "cpp/gpu"
FLOATS = ["f32", "f16", "bf16"]
BLOCKS_OF_32 = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"]
BLOCKS_OF_256 = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"]


@pytest.fixture(scope="module")
def device() -> str:
    return gpu_for_tests()


@pytest.fixture(scope="module")
def shaders(device: str) -> testing.ShaderTest:
    return testing.ShaderTest(device)


def test_arithmetic(shaders: testing.ShaderTest) -> None:
    """An fma, a division and a square root round once, whatever the driver gives."""
    shaders.arithmetic()


@pytest.mark.parametrize("type", FLOATS + BLOCKS_OF_32 + BLOCKS_OF_256)
def test_product(shaders: testing.ShaderTest, type: str) -> None:
    """Three strips are not a whole panel; groups are not whole; 3 columns take the place of 4."""
    for n_blocks in (8, 136) if type in BLOCKS_OF_256 else (1, 19, 131):
        shaders.product(type, 3, n_blocks, 1)
        shaders.product(type, 3, n_blocks, 3)
    shaders.product(type, 2, 24, 3, accumulates=False)


@pytest.mark.parametrize("type", ["q4_0", "q5_1", "q2_k", "q6_k"])
def test_product_of_many_columns(shaders: testing.ShaderTest, type: str) -> None:
    """Narrow up to 16 columns, then tiles of 64, of which the last is not whole."""
    for n_columns in (16, 17, 70):
        shaders.product(type, 5, 24, n_columns)


def test_product_of_many_columns_of_floats(shaders: testing.ShaderTest) -> None:
    shaders.product("f16", 3, 19, 37)


@pytest.mark.parametrize("reorders", [False, True], ids=["in_order", "reordered"])
@pytest.mark.parametrize("quantizes", [False, True], ids=["floats", "quantized"])
@pytest.mark.parametrize("source", ["plain", "norm", "gelu"])
def test_activations(
    shaders: testing.ShaderTest, source: str, quantizes: bool, reorders: bool
) -> None:
    """With values that are not finite, zero or tiny; a norm's lanes and groups are not whole."""
    for n in (32, 544, 6144):
        shaders.activations(source, quantizes, n, 4, reorders)


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(1, 1), (11, 1), (6, 3)])
@pytest.mark.parametrize("head_dim", [16, 48])
def test_attention(
    shaders: testing.ShaderTest, n_heads: int, n_kv_heads: int, head_dim: int
) -> None:
    """One position, a page that is not whole, two spans; columns that begin at odd positions."""
    for n_positions, n_columns in ((1, 1), (34, 5), (700, 4)):
        shaders.attention(n_heads, n_kv_heads, head_dim, n_positions, n_columns)


def test_driver_is_tested_at_load(device: str) -> None:
    assert isinstance(testing.test_shaders(device, ["q4_0"]), bool)


@pytest.mark.parametrize(
    ("constant", "operation"),
    [
        (0x0FFF, "rounding to a half"),  # rounds halves
        (0x3E2AAAAB, "activations after gelu"),  # 1 / 6, of exp
        (0x01010101, "a product with q4_0 weights"),  # unpacks codes
    ],
    ids=["halves", "exp", "codes"],
)
def test_driver_with_other_bits_is_refused(device: str, constant: int, operation: str) -> None:
    """One constant of the shaders is wrong in its last bit."""
    with pytest.raises(UnsupportedFeatureError, match=rf"wrong result of .*{operation}.*: value"):
        testing.test_shaders(device, ["q4_0"], constant)


def modules() -> dict[str, list[int]]:
    """Return the words of every shader in shaders.inc."""
    text = (GPU_FOLDER / "shaders.inc").read_text()
    return {
        name: [int(word) for word in words.split(",")]
        for name, words in re.findall(r"SHADER\((\w+),\n([\d,\n]+)\)", text)
    }


def test_every_float_operation_forbids_contraction() -> None:
    """Else drivers may fuse or split it. Numbers are those of SPIR-V."""
    shaders = modules()
    assert shaders.keys() == {path.stem for path in GPU_FOLDER.glob("shaders/*.comp")}
    for name, words in shaders.items():
        decorated, operations, at = set(), set(), 5
        while at < len(words):
            length, opcode = words[at] >> 16, words[at] & 0xFFFF
            if opcode == 71 and words[at + 2] == 42:  # OpDecorate NoContraction
                decorated.add(words[at + 1])
            if opcode in (129, 131, 133, 136) or (opcode == 12 and words[at + 4] == 50):
                operations.add(words[at + 2])  # OpFAdd, FSub, FMul, FDiv; Fma
            at += length
        assert operations == decorated, name
        assert operations, name


def test_shaders_need_only_what_a_device_is_asked_for() -> None:
    """A capability is a feature that Device::open enables, or the driver may do anything."""
    enabled = {1, 5347, 6018, 6019}  # Shader, PhysicalStorageBufferAddresses, DotProduct (packed)
    for name, words in modules().items():
        needed, at = set(), 5
        while words[at] & 0xFFFF == 17:  # OpCapability, before all else
            needed.add(words[at + 1])
            at += words[at] >> 16
        assert needed <= enabled, name


def test_shaders_are_those_of_their_sources() -> None:
    if shutil.which("glslangValidator") is None:
        pytest.skip("glslangValidator: not installed")
    script = GPU_FOLDER / "make_shaders.py"
    subprocess.run([sys.executable, script, "--check"], check=True)
