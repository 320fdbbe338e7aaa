"""The reader of ggml files: what `inspect` reports, and how every other file is refused."""

from __future__ import annotations

import os
import re
import struct
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starchat import StarChatError, _core
from starchat.convert.ggml_writer import TYPES
from starchat.convert.tensor_types import quantize
from starchat.errors import CorruptFileError, FileAccessError, UnsupportedFormatError
from support.processes import run_python
from support.tiny_model import CONTROL, ROLES, Shape, vocabulary, write_tiny

SMALL = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=2, n_vocab=3)
HEADER = ["n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "ftype"]


@dataclass
class Tensor:
    name: bytes
    ne: list[int]
    type: int
    data: bytes
    offset: int = 0


@dataclass
class File:
    """A file taken apart by a reader of its own, to be changed and put together again."""

    header: dict[str, int]
    n_vocab: int
    vocabulary: list[bytes]
    tensors: list[Tensor]
    magic: bytes = b"lmgg"
    trailing: bytes = b""
    header_ranges: list[range] = field(default_factory=list)  # where no weights are

    @classmethod
    def parse(cls, data: bytes) -> File:
        at = 0

        def take(n: int) -> bytes:
            nonlocal at
            at += n
            return data[at - n : at]

        def numbers(n: int) -> list[int]:
            return list(struct.unpack(f"<{n}i", take(4 * n)))

        magic = take(4)
        header = dict(zip(HEADER, numbers(6), strict=True))
        [n_vocab] = numbers(1)
        tokens = [take(numbers(1)[0]) for _ in range(n_vocab)]
        file = cls(header, n_vocab, tokens, [], magic)
        start = 0
        forms = {form.ggml_id: form for form in TYPES.values()}
        while at < len(data):
            n_dims, n_name, type = numbers(3)
            ne = numbers(n_dims)
            name = take(n_name)
            file.header_ranges.append(range(start, at))
            offset, n_rows = at, ne[1] if n_dims == 2 else 1
            file.tensors.append(Tensor(name, ne, type, take(n_rows * forms[type].row_bytes(ne[0]))))
            file.tensors[-1].offset = offset
            start = at
        return file

    def encode(self) -> bytes:
        parts = [self.magic, struct.pack("<7i", *self.header.values(), self.n_vocab)]
        parts += [struct.pack("<i", len(token)) + token for token in self.vocabulary]
        for tensor in self.tensors:
            head = (len(tensor.ne), len(tensor.name), tensor.type, *tensor.ne)
            parts += [struct.pack(f"<{len(head)}i", *head), tensor.name, tensor.data]
        return b"".join([*parts, self.trailing])

    def __getitem__(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())


@pytest.fixture
def small(tmp_path: Path) -> File:
    model = write_tiny(tmp_path / "small.bin", "q4_0", SMALL)
    return File.parse(model.path.read_bytes())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def refusal(path: Path, error: type[StarChatError], data: bytes | File) -> str:
    """Return the message with which the file is refused, which names the file."""
    path.write_bytes(data.encode() if isinstance(data, File) else data)
    with pytest.raises(error) as caught:
        _core.inspect(path)
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# ---- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("type", TYPES)
def test_everything_in_the_file_is_reported(tmp_path: Path, type: str) -> None:
    model = write_tiny(tmp_path / "model.bin", type)
    file = File.parse(model.path.read_bytes())
    info = _core.inspect(model.path)
    assert {name: info[name] for name in HEADER} == file.header
    assert info["path"] == str(model.path)
    assert info["size_bytes"] == model.path.stat().st_size
    assert info["weight_type"] == type
    types = {form.ggml_id: name for name, form in TYPES.items()}
    assert info["tensors"] == [
        {
            "name": tensor.name.decode(),
            "type": types[tensor.type],
            "shape": tuple(reversed(tensor.ne)),
            "offset": tensor.offset,
            "size_bytes": len(tensor.data),
            "file": 0,
        }
        for tensor in file.tensors
    ]
    tokens = vocabulary()
    assert info["vocabulary"] == {
        "n_tokens": len(tokens),
        "n_distinct": len(set(tokens)),
        "size_bytes": sum(map(len, tokens)),
        "longest_bytes": max(map(len, tokens)),
        "control_tokens": [*CONTROL, *ROLES],
    }


@pytest.mark.parametrize("lm_head", ["tied", "own", "absent"])
@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("type", ["f32", "q5_1"])
def test_repetitions_are_counted_once(
    tmp_path: Path, type: str, multi_query: bool, lm_head: Any
) -> None:
    model = write_tiny(
        tmp_path / "model.bin", type, multi_query=multi_query, lm_head=lm_head, seed=4
    )
    unique = dict(model.weights)
    if lm_head == "tied":
        del unique["model/lm_head"]
    info = _core.inspect(model.path)
    assert info["multi_query"] is multi_query
    assert info["n_kv_head"] == (1 if multi_query else model.shape.n_head)
    assert info["has_lm_head"] is (lm_head != "absent")
    assert info["lm_head_is_wte"] is (lm_head == "tied")
    assert info["n_params"] == sum(values.size for values in unique.values())
    assert info["weight_bytes"] == sum(
        quantize(values, type if values.ndim == 2 and name != "model/wpe" else "f32").nbytes
        for name, values in unique.items()
    )


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", ["w", "b"])
@pytest.mark.parametrize("position", ["k first", "k last", "v first", "v last"])
def test_one_different_byte_in_a_copy_means_multi_head(
    path: Path, layer: int, kind: str, position: str
) -> None:
    file = File.parse(write_tiny(path, "q4_0").path.read_bytes())
    c_attn = file[f"model/h{layer}/attn/c_attn/{kind}"]
    third = len(c_attn.data) // 3
    at = {"k first": third, "k last": 2 * third - 1, "v first": 2 * third, "v last": -1}[position]
    changed = bytearray(c_attn.data)
    changed[at] ^= 1
    c_attn.data = bytes(changed)
    path.write_bytes(file.encode())
    info = _core.inspect(path)
    assert (info["multi_query"], info["n_kv_head"]) == (False, 4)


def test_queries_that_differ_do_not_keep_copies_of_heads(path: Path) -> None:
    file = File.parse(write_tiny(path, "q4_0").path.read_bytes())
    c_attn = file["model/h0/attn/c_attn/w"]
    c_attn.data = b"\1" * (len(c_attn.data) // 3) + c_attn.data[len(c_attn.data) // 3 :]
    path.write_bytes(file.encode())
    assert _core.inspect(path)["multi_query"] is True


def test_heads_larger_than_the_buffer_are_compared_to_their_end(path: Path) -> None:
    shape = Shape(n_embd=1024, n_head=2, n_layer=1, n_ctx=2, n_vocab=700)  # 2 MiB a head
    model = write_tiny(path, "f32", shape)
    info = _core.inspect(path)
    assert (info["multi_query"], info["lm_head_is_wte"]) == (True, True)
    places = {tensor["name"]: tensor for tensor in info["tensors"]}
    for name, flag in {
        "model/h0/attn/c_attn/w": "multi_query",
        "model/lm_head": "lm_head_is_wte",
    }.items():
        with model.path.open("r+b") as file:
            file.seek(places[name]["offset"] + places[name]["size_bytes"] - 1)
            file.write(b"\x55")
        assert _core.inspect(path)[flag] is False


def bytes_read() -> int:
    """Return the bytes that this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not os.access("/proc/self/io", os.R_OK), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("options", "isa", "message"),
    [
        ({"n_ctx": 3}, "", "n_ctx: expected 2 to 2"),
        ({"n_threads": 257}, "", "n_threads: expected 1 to 256"),
        ({}, "mmx", "STARCHAT_ISA=mmx"),
    ],
    ids=["n_ctx", "n_threads", "isa"],
)
def test_wrong_options_are_refused_before_weights_are_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], isa: str, message: str
) -> None:
    shape = Shape(n_embd=256, n_head=2, n_layer=1, n_ctx=2, n_vocab=700)
    write_tiny(path, "f32", shape)
    monkeypatch.setenv("STARCHAT_ISA", isa)
    n_before = bytes_read()
    with pytest.raises(StarChatError, match=message):
        _core.Engine(str(path), **options)
    assert bytes_read() - n_before < path.stat().st_size // 10


def test_one_head_is_multi_query(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m.bin", shape=Shape(n_head=1), multi_query=False)
    info = _core.inspect(model.path)
    assert (info["multi_query"], info["n_kv_head"]) == (True, 1)


def test_tensors_may_stand_in_any_order(path: Path, small: File) -> None:
    small.tensors.reverse()
    path.write_bytes(small.encode())
    info = _core.inspect(path)
    assert info["tensors"][0]["name"] == "model/lm_head"
    assert (info["multi_query"], info["lm_head_is_wte"]) == (True, True)


@pytest.mark.parametrize("type", ["f32", "f16"])
@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_float_files_of_any_version_are_read(path: Path, type: str, version: int) -> None:
    write_tiny(path, type, SMALL, version=version)
    assert _core.inspect(path)["weight_type"] == type


@pytest.mark.parametrize("n_vocab", [1, 2, 301])
@pytest.mark.parametrize("n_ctx", [1, 7])
def test_any_vocabulary_and_context_size_is_read(path: Path, n_vocab: int, n_ctx: int) -> None:
    write_tiny(path, "q8_0", Shape(n_embd=32, n_layer=1, n_ctx=n_ctx, n_vocab=n_vocab))
    info = _core.inspect(str(path))
    assert (info["n_vocab"], info["n_ctx"]) == (n_vocab, n_ctx)
    assert info["tensors"][1]["shape"] == (n_ctx, 32)


# ---- other formats --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "an empty file; the download went wrong", id="empty"),
        pytest.param(b"tjgg\3\0\0\0", "a llama.cpp 'ggjt' file; .*use llama.cpp", id="ggjt"),
        pytest.param(b"fmgg\1\0\0\0", "a llama.cpp 'ggmf' file; .*use llama.cpp", id="ggmf"),
        pytest.param(b"algg\1\0\0\0", "a llama.cpp 'ggla' adapter; ", id="ggla"),
        pytest.param(b"nsgg\1\0\0\0", "a llama.cpp 'ggsn' session; ", id="ggsn"),
        pytest.param(b"ggml\0\0\xc0\x04", "a big-endian ggml file; convert", id="big endian"),
        pytest.param(
            b"PK\3\4" + b"\0" * 60,
            "a zip archive, perhaps a PyTorch checkpoint; run `starchat convert",
            id="zip",
        ),
        pytest.param(
            b"\x80\x02\x8a\nl\xfc",
            "a Python pickle, perhaps a PyTorch checkpoint; run `starchat",
            id="pickle",
        ),
        pytest.param(
            struct.pack("<Q", 99) + b'{"a":{}}',
            "a safetensors file; run `starchat convert",
            id="safetensors",
        ),
        pytest.param(b"\x1f\x8b\x08\0", "a gzip archive; unpack it", id="gzip"),
        pytest.param(b"BZh91AY", "a bzip2 archive; unpack it", id="bzip2"),
        pytest.param(b"\xfd7zXZ\0", "an xz archive; unpack it", id="xz"),
        pytest.param(b"\x28\xb5\x2f\xfd\0", "a zstd archive; unpack it", id="zstd"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 10750000000\n",
            "a git-lfs pointer, not the file itself; fetch it with `git lfs pull`",
            id="git-lfs",
        ),
        pytest.param(b"\n<!DOCTYPE html><html>", r"a web page \(HTML\); the download", id="html"),
        pytest.param(b"<HTML lang=en>", r"a web page \(HTML\); the download", id="old html"),
        pytest.param(
            b"<!doctype html>\n<head><TITLE>403 Forbidden</title>",
            r"a web page \(HTML\) with the title '403 Forbidden'; the download",
            id="html with a title",
        ),
        pytest.param(
            "# Modèle\nmore".encode(),
            "a text file that begins with '# Modèle'; the download went wrong",
            id="text",
        ),
        pytest.param(
            b"\nEntry not found\r\n",
            "a text file that begins with 'Entry not found'; the download",
            id="hub's answer",
        ),
        pytest.param(
            79 * b"a" + "é".encode() * 9,
            f"a text file that begins with '{'a' * 79}...'; the download",
            id="long text",
        ),
        pytest.param(b" \n", "a text file of white space; the download", id="white space"),
        pytest.param(b"x", "a text file that begins with 'x'; ", id="one letter"),
        pytest.param(
            b"\0\1\xfe\xff\0",
            r"an unknown format that starts with 00 01 fe ff, expected 6c 6d 67 67 \(ggml\) or 47 "
            r"47 55 46 \(GGUF\); get",
            id="unknown",
        ),
    ],
)
def test_other_formats_are_named_with_a_remedy(path: Path, data: bytes, message: str) -> None:
    text = refusal(path, UnsupportedFormatError, data)
    assert re.match(f"not a ggml or GGUF starcoder file but {message}", text)


def test_a_real_pytorch_style_archive_is_named(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}")
    message = refusal(path, UnsupportedFormatError, path.read_bytes())
    assert "a zip archive, perhaps a PyTorch checkpoint" in message


@pytest.mark.parametrize("type", [name for name in TYPES if name.startswith("q")])
@pytest.mark.parametrize("version", [0, 1, 3])
def test_quantized_blocks_of_another_version_are_refused(
    path: Path, small: File, type: str, version: int
) -> None:
    small.header["ftype"] = 1000 * version + TYPES[type].ftype
    assert refusal(path, UnsupportedFormatError, small) == (
        f"its {type} blocks have quantization version {version}, expected 2; "
        "get the 'ggmlv3' file of the model, or quantize its f16 file again"
    )


@pytest.mark.parametrize("ftype", [4, 2014, 128, -1, -2002, 2**31 - 1])
def test_unknown_ftypes_are_refused(path: Path, small: File, ftype: int) -> None:
    small.header["ftype"] = ftype
    message = refusal(path, UnsupportedFormatError, small)
    assert message.startswith(f"header says ftype {ftype}, expected f32, f16, q4_0, q4_1, q5_0")
    assert "ggml file of another architecture" in message


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("layers.0.attention.wq.weight", "LLaMA"),
        ("gpt_neox.embed_in.weight", "GPT-NeoX"),
        ("transformer.blocks.0.norm_1.weight", "MPT"),
        ("transformer.h.0.attn.q_proj.weight", "GPT-J"),
    ],
)
def test_tensors_of_other_architectures_are_named(
    path: Path, small: File, name: str, family: str
) -> None:
    small.tensors[3].name = name.encode()
    assert refusal(path, UnsupportedFormatError, small) == (
        f"tensor '{name}' belongs to a {family} model, expected starcoder; "
        "use a tool for that family"
    )


# ---- damaged and hostile files --------------------------------------------------------------


@pytest.mark.parametrize("value", [-(2**31), -1, 0, 2**31 - 1])
@pytest.mark.parametrize("name", ["n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"])
def test_absurd_header_counts_are_refused(path: Path, small: File, name: str, value: int) -> None:
    small.header[name] = value
    message = refusal(path, CorruptFileError, small)
    assert message.startswith(f"header says {name} = {value:,}, expected 1 to ")
    assert "the file is damaged, or is a ggml file of another architecture" in message


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_embd": 48}, UnsupportedFormatError, "n_embd = 48, expected a multiple of 32"),
        ({"n_head": 3}, CorruptFileError, "n_embd = 32 and n_head = 3, expected n_embd to be a"),
        ({"n_head": 64}, CorruptFileError, "n_embd = 32 and n_head = 64, expected n_embd to be"),
        ({"n_head": 32}, UnsupportedFormatError, "heads of 1 values, expected an even number"),
    ],
    ids=["width", "indivisible", "more heads than values", "odd heads"],
)
def test_shapes_that_cannot_be_served_are_refused(
    path: Path, small: File, change: dict[str, int], error: type[StarChatError], message: str
) -> None:
    small.header |= change
    assert message in refusal(path, error, small)


@pytest.mark.parametrize("type", ["q4_0", "f16"])
def test_every_cut_is_refused(path: Path, type: str) -> None:
    data = write_tiny(path, type, SMALL).path.read_bytes()
    # Without its last tensor the file is whole: models with tied weights have no lm_head.
    without_lm_head = File.parse(data).header_ranges[-1].start
    for size in range(len(data) - 1, 0, -1):
        os.truncate(path, size)
        if size == without_lm_head:
            assert _core.inspect(path)["has_lm_head"] is False
            continue
        with pytest.raises(CorruptFileError) as caught:
            _core.inspect(path)
        assert re.search("cut short; download it again|trailing bytes", str(caught.value)), size


def test_a_cut_says_where_and_how_much_is_missing(path: Path, small: File) -> None:
    c_fc = small["model/h0/mlp/c_fc/w"]
    data = small.encode()[: c_fc.offset + 100]
    assert refusal(path, CorruptFileError, data) == (
        f"ends at byte {len(data):,} inside model/h0/mlp/c_fc/w, which needs 2,304 bytes from "
        f"byte {c_fc.offset:,}; the file is cut short; download it again"
    )


@pytest.mark.parametrize("n", [1, 11, 12, 100])
@pytest.mark.parametrize("byte", [b"\0", b"\xff", b"A"])
@pytest.mark.parametrize("lm_head", ["tied", "absent"])
def test_trailing_bytes_are_refused(path: Path, n: int, byte: bytes, lm_head: Any) -> None:
    data = write_tiny(path, "q4_0", SMALL, lm_head=lm_head).path.read_bytes()
    message = refusal(path, CorruptFileError, data + byte * n)
    assert message == (
        f"has {n} trailing bytes after its last tensor, expected it to end at byte "
        f"{len(data):,}; the file is damaged; download it again"
    )


def test_every_missing_tensor_is_named(path: Path, small: File) -> None:
    for tensor in small.tensors[:-1]:
        left = [other for other in small.tensors if other is not tensor]
        file = File(small.header, small.n_vocab, small.vocabulary, left)
        assert refusal(path, CorruptFileError, file) == (
            f"lacks 1 tensor: {tensor.name.decode()}; the file may be cut short; download it again"
        )
    small.tensors = small.tensors[:2]
    assert refusal(path, CorruptFileError, small).startswith(
        "lacks 14 tensors: model/h0/ln_1/g, model/h0/ln_1/b, model/h0/attn/c_attn/w, "
        "model/h0/attn/c_attn/b and 10 more; "
    )


def test_every_duplicate_tensor_is_named(path: Path, small: File) -> None:
    size = len(small.encode())
    for tensor in small.tensors:
        file = File(small.header, small.n_vocab, small.vocabulary, [*small.tensors, tensor])
        assert refusal(path, CorruptFileError, file) == (
            f"{tensor.name.decode()}: appears twice, the second time at byte {size:,}; "
            "the file is damaged; download it again"
        )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"model/h1/ln_1/g", "'model/h1/ln_1/g'"),  # a layer beyond n_layer
        (b"model/h00/ln_1/g", "'model/h00/ln_1/g'"),
        (b"model/wte\0", r"'model/wte\x00'"),
        ("modèle".encode(), r"'mod\xc3\xa8le'"),
    ],
    ids=["layer", "spelling", "zero byte", "unicode"],
)
def test_unknown_tensors_are_shown(path: Path, small: File, name: bytes, shown: str) -> None:
    small.tensors[2].name = name
    message = refusal(path, CorruptFileError, small)
    assert message.startswith(f"unknown tensor {shown} at byte ")
    assert "in a model of 1 layers; the file is damaged, or " in message


@pytest.mark.parametrize(
    ("name", "ne", "message"),
    [
        ("model/h0/attn/c_attn/w", [32, 64], r"shape \[32, 64\], expected \[32, 96\]"),
        ("model/h0/mlp/c_proj/w", [32, 128], r"shape \[32, 128\], expected \[128, 32\]"),
        ("model/h0/ln_1/g", [32, 1], r"shape \[32, 1\], expected \[32\]"),
        ("model/wpe", [64], r"shape \[64\], expected \[32, 2\]"),
        ("model/wte", [32, -3], r"shape \[32, -3\], expected \[32, 3\]"),
        ("model/wte", [2**31 - 1] * 2, r"shape \[2147483647, 2147483647\], expected \[32, 3\]"),
        ("model/wte", [32, 3, 1, 1], r"shape \[32, 3, 1, 1\], expected \[32, 3\]"),
    ],
)
def test_wrong_shapes_are_refused(
    path: Path, small: File, name: str, ne: list[int], message: str
) -> None:
    small[name].ne = ne
    assert re.match(f"{name}: {message}; ", refusal(path, CorruptFileError, small))


@pytest.mark.parametrize(
    ("name", "type", "message"),
    [
        ("model/wte", 3, "type q4_1, expected q4_0; "),
        ("model/lm_head", 1, "type f16, expected q4_0; "),
        ("model/h0/mlp/c_fc/w", 12, "type q4_k, expected q4_0; "),
        ("model/h0/ln_1/g", 1, "type f16, expected f32; "),
        ("model/wpe", 2, "type q4_0, expected f32; "),
        ("model/wpe", -1, "type -1, expected f32; "),
    ],
)
def test_mixed_types_are_refused(
    path: Path, small: File, name: str, type: int, message: str
) -> None:
    small[name].type = type
    text = refusal(path, UnsupportedFormatError, small)
    assert text.startswith(f"{name}: {message}")
    assert text.endswith(
        "of the one type that the header names (ftype 2002): quantize the model again"
    )


@pytest.mark.parametrize("n_vocab", [-1, 0, 2, 4, 2**31 - 1])
def test_two_different_vocabulary_sizes_are_refused(path: Path, small: File, n_vocab: int) -> None:
    small.n_vocab = n_vocab
    message = refusal(path, CorruptFileError, small)
    assert message.startswith(f"vocabulary has {n_vocab:,} tokens, expected n_vocab = 3; ")


@pytest.mark.parametrize("length", [-1, 65537, 2**31 - 1])
def test_absurd_token_lengths_are_refused(path: Path, small: File, length: int) -> None:
    data = small.encode()
    data = data[:32] + struct.pack("<i", length) + data[36:]
    message = refusal(path, CorruptFileError, data)
    assert message.startswith(f"token 0 has {length:,} bytes, expected 0 to 65,536; ")


@pytest.mark.parametrize(("n_dims", "n_name"), [(0, 9), (5, 9), (-1, 9), (2, 0), (2, 2**31 - 1)])
def test_absurd_tensor_headers_are_refused(
    path: Path, small: File, n_dims: int, n_name: int
) -> None:
    data = small.encode()
    start = small.header_ranges[1].start
    data = data[:start] + struct.pack("<2i", n_dims, n_name) + data[start + 8 :]
    assert refusal(path, CorruptFileError, data) == (
        f"tensor header at byte {start:,} says {n_dims} dimensions and a name of {n_name} bytes, "
        "expected 1 to 4 and 1 to 256; the file is damaged; download it again"
    )


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_header_bytes_load_or_are_refused(path: Path, small: File, data: Any) -> None:
    changed = bytearray(small.encode())
    places = [at for part in small.header_ranges for at in part]
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed[: data.draw(st.sampled_from([len(changed), len(changed) // 2]))])
    try:
        _core.inspect(path)
    except StarChatError as error:
        assert str(error).startswith(f"{path}: ")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tail=st.binary(max_size=200))
def test_random_bytes_after_the_magic_are_refused(path: Path, tail: bytes) -> None:
    path.write_bytes(b"lmgg" + tail)
    with pytest.raises(StarChatError):
        _core.inspect(path)


LIMITED = """
import resource, sys
from starchat import StarChatError, _core
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        _core.inspect(path)
        print("loaded", path)
    except StarChatError as error:
        print(type(error).__name__)
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and macOS ignores RLIMIT_AS")
def test_claims_of_the_header_allocate_nothing(tmp_path: Path, small: File) -> None:
    claims = [
        {"n_vocab": 1 << 24},
        {"n_vocab": 1 << 24, "n_embd": 1 << 20},
        {"n_embd": 1 << 20},
        {"n_ctx": 1 << 24},
        {"n_layer": 1 << 10},
        {"n_head": 1 << 19, "n_embd": 1 << 20},
        {"n_layer": 1 << 10, "n_embd": 1 << 20, "n_ctx": 1 << 24},
    ]
    paths = []
    for i, claim in enumerate(claims):
        header = small.header | claim
        file = File(header, header["n_vocab"], small.vocabulary, small.tensors)
        file.trailing = bytes(1 << 20)
        paths.append(tmp_path / f"claim{i}.bin")
        paths[-1].write_bytes(file.encode())
    long_token = tmp_path / "token.bin"
    data = small.encode()
    long_token.write_bytes(data[:32] + struct.pack("<i", 2**31 - 1) + data[36:])
    result = run_python(LIMITED, *paths, long_token)
    assert result.stdout.split() == ["CorruptFileError"] * (len(claims) + 1)


# ---- the file system ------------------------------------------------------------------------


def access_error(path: object) -> str:
    with pytest.raises(FileAccessError) as caught:
        _core.inspect(path)
    assert isinstance(caught.value, OSError)
    return str(caught.value)


def test_a_missing_file_is_refused(path: Path) -> None:
    assert access_error(path) == (
        f"{path}: cannot be opened: No such file or directory; check the path"
    )


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert access_error(tmp_path) == f"{tmp_path}: is a folder; name the model file in it"


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Root may read everything, so it becomes somebody else for the test."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_a_file_without_permission_is_refused(
    path: Path, small: File, request: pytest.FixtureRequest
) -> None:
    path.write_bytes(small.encode())
    path.chmod(0)
    request.getfixturevalue("ordinary_user")
    assert access_error(path) == (
        f"{path}: cannot be opened: Permission denied; ask its owner for permission to read it"
    )


def test_a_pipe_is_refused_without_waiting_for_its_writer(path: Path) -> None:
    os.mkfifo(path)
    assert access_error(path).startswith(f"{path}: is a pipe or a device; a model is read from")


def test_a_device_is_refused() -> None:
    assert access_error("/dev/zero").startswith("/dev/zero: is a pipe or a device; ")


@pytest.mark.parametrize("name", ["", "model\0.bin"], ids=["empty", "zero byte"])
def test_impossible_paths_are_refused(name: str) -> None:
    assert "is empty or holds a zero byte; check it" in access_error(name)


def test_paths_need_not_be_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"mod\xe8le.bin")
    try:
        path.write_bytes(b"BZh91AY")
    except OSError:
        pytest.skip("this file system holds Unicode names only")
    with pytest.raises(UnsupportedFormatError, match="a bzip2 archive"):
        _core.inspect(path)
    write_tiny(path, "q4_0", SMALL)
    assert _core.inspect(path)["path"] == str(path)


def test_a_file_shorter_than_the_system_says_is_refused() -> None:
    """Files under /sys claim 4096 bytes and end earlier, like one cut after it was opened."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.is_file() or path.stat().st_size < 64:
        pytest.skip("this system has no such file")
    with pytest.raises(
        CorruptFileError, match=r"ends at byte \d+, had 4096 bytes when it was open"
    ):
        _core.inspect(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused_or_read(path: Path) -> None:
    """Until it was read whole once, and refused once because it shrank after it was opened."""
    data = write_tiny(path, "f32").path.read_bytes()
    stop = threading.Event()

    def shrink_and_restore() -> None:
        with path.open("r+b") as file:
            while not stop.is_set():
                os.truncate(file.fileno(), len(data) // 3)
                file.seek(0)
                file.write(data)
                file.flush()

    thread = threading.Thread(target=shrink_and_restore)
    thread.start()
    n_read = n_shrunk = 0
    deadline = time.monotonic() + 60
    try:
        while not (n_read and n_shrunk) and time.monotonic() < deadline:
            try:
                assert _core.inspect(path)["n_vocab"] == len(vocabulary())
                n_read += 1
            except CorruptFileError as error:
                n_shrunk += "when it was open" in str(error)
    finally:
        stop.set()
        thread.join()
    assert n_read and n_shrunk


def test_inspecting_closes_the_file(path: Path, small: File) -> None:
    fds = Path("/dev/fd")
    path.write_bytes(small.encode())
    bad = path.with_name("bad.bin")
    bad.write_bytes(small.encode()[:-1])
    n_open = len(list(fds.iterdir()))
    for _ in range(20):
        _core.inspect(path)
        with pytest.raises(CorruptFileError):
            _core.inspect(bad)
    assert len(list(fds.iterdir())) == n_open


def test_many_threads_inspect_one_file(path: Path) -> None:
    write_tiny(path, "q4_1")
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(_core.inspect(path))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(result == results[0] for result in results)


@pytest.mark.integration
def test_too_many_open_files_have_their_own_remedy(tiny_model_path: Path) -> None:
    code = """
        import os, resource, sys
        from starchat import FileAccessError, StarChat
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True:
                os.open(os.devnull, os.O_RDONLY)
        except OSError:
            pass
        try:
            StarChat.load(sys.argv[1])
        except FileAccessError as error:
            print(error)
    """
    result = run_python(code, tiny_model_path)
    assert "Too many open files; close files or sockets of this process" in result.stdout
    assert "check the path" not in result.stdout
