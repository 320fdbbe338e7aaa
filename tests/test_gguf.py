"""The reader of GGUF files, against files that the `gguf` package writes."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import struct
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat import (
    ConstraintError,
    CorruptFileError,
    InvalidRequestError,
    StarChat,
    StarChatError,
    UnsupportedFormatError,
    _core,
)
from starchat._core import testing
from starchat.cli.inspect import inspect
from starchat.convert.conversion import convert
from starchat.model_settings import ModelSettings
from support.gguf_files import (
    CONTROL_KIND,
    UNUSED,
    USER_DEFINED,
    gguf,
    gguf_name,
    values_in,
    write_gguf,
)
from support.tiny_model import Shape, TinyModel, Weights, random_weights, vocabulary, write_tiny
from support.tokenizer_oracle import (
    NEEDS_DATA,
    REFERENCE,
    added_oracle,
    hugging_face,
    starchat_oracle,
)
from support.vocabularies import Vocabulary, documents, learned

SMALL = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=2, n_vocab=40)
WIDE = Shape(n_embd=256, n_head=4, n_layer=1, n_ctx=16, n_vocab=40)
IDS = [30, 31, 280, 5, 77, 150, 290, 3]
#: Types of blocks of 256 weights, and BF16: the gguf package makes none of their blocks.
WIDE_TYPES = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "bf16"]


def in_type(type: str) -> Any:
    return lambda name: "f32" if name == "model/wpe" else type


def rewritten(model: TinyModel, path: Path, **options: Any) -> Path:
    return write_gguf(path, model.weights, model.shape, in_type(model.type), **options)


def logits(path: Path, ids: list[int] = IDS) -> np.ndarray:
    return testing.Forward(str(path)).run(ids)


def tokenizer(path: Path) -> _core.Tokenizer:
    return _core.read_tokenizer(os.fsencode(path))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "small.bin"
    model = write_tiny(path, "q4_0", SMALL, lm_head="absent")
    return rewritten(model, path.with_suffix(".gguf")).read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def refusal(path: Path, error: type[StarChatError]) -> str:
    with pytest.raises(error) as caught:
        _core.inspect(path)
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# ---- weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("lm_head", ["absent", "own", "tied"])
@pytest.mark.parametrize("type", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "f32"])
def test_logits_have_the_bits_of_the_ggml_file(path: Path, type: str, lm_head: Any) -> None:
    model = write_tiny(path.with_suffix(".bin"), type, lm_head=lm_head)
    rewritten(model, path)
    assert np.array_equal(logits(path).view("u4"), logits(model.path).view("u4"))
    info, of_ggml = _core.inspect(path), _core.inspect(model.path)
    for key in ("n_params", "weight_bytes", "n_kv_head", "weight_type", "lm_head_is_wte"):
        assert info[key] == of_ggml[key]


def floats_of(path: Path, weights: Weights, shape: Shape) -> Path:
    """Write the weights of a file, which gguf reads, as an f32 file, and return its path."""
    values = values_in(path)
    exact = {name: values[gguf_name(name)].reshape(old.shape) for name, old in weights.items()}
    return write_gguf(path.with_name("floats.gguf"), exact, shape, lambda _: "f32")


@pytest.mark.parametrize("type", WIDE_TYPES)
def test_types_that_ggml_files_lack_are_computed(path: Path, type: str) -> None:
    weights = random_weights(WIDE, lm_head="absent")
    write_gguf(path, weights, WIDE, in_type(type))
    ids = [5, 30, 2, 39]
    ours, reference = logits(path, ids), logits(floats_of(path, weights, WIDE), ids)
    error = np.mean((ours - reference) ** 2) / np.mean(reference**2)
    assert error < 1e-3  # activations have 8 bits, as with the old types
    assert _core.inspect(path)["weight_type"] == type


def test_any_mix_of_types_is_read(path: Path) -> None:
    weights = random_weights(WIDE, lm_head="own")
    types = cycle(["q6_k", "q4_0", "q4_k", "q5_1", "q3_k", "f16", "iq4_xs", "q8_0", "bf16"])
    mix = {name: next(types) for name, values in weights.items() if values.ndim == 2}
    write_gguf(path, weights, WIDE, lambda name: mix.get(name, "f32"))
    ids = [5, 30, 2, 39]
    ours, reference = logits(path, ids), logits(floats_of(path, weights, WIDE), ids)
    assert np.mean((ours - reference) ** 2) < 1e-3 * np.mean(reference**2)
    stored = {tensor["name"]: tensor for tensor in _core.inspect(path)["tensors"]}
    for tensor in gguf.GGUFReader(path).tensors:
        ours = stored[str(tensor.name)]
        assert (ours["offset"], ours["size_bytes"]) == (tensor.data_offset, tensor.n_bytes)
        assert ours["type"].upper() == tensor.tensor_type.name


@pytest.mark.parametrize("type", ["f16", "bf16", "q4_0", "q4_k", "q6_k"])
def test_positions_may_have_any_type(path: Path, type: str) -> None:
    weights = random_weights(WIDE, lm_head="absent")
    write_gguf(path, weights, WIDE, lambda name: type if name == "model/wpe" else "f32")
    ids = [5, 30, 2, 39]
    assert np.array_equal(logits(path, ids), logits(floats_of(path, weights, WIDE), ids))


def test_norms_and_biases_may_be_halves(path: Path) -> None:
    weights = random_weights(SMALL, lm_head="absent")
    weights = {name: values.astype(np.float16) for name, values in weights.items()}
    write_gguf(path, weights, SMALL, lambda _: "f32")  # type: ignore[arg-type]
    assert {tensor["type"] for tensor in _core.inspect(path)["tensors"]} == {"f16"}
    assert np.array_equal(logits(path, [5]), logits(floats_of(path, weights, SMALL), [5]))


def test_the_inner_width_is_that_of_the_file(path: Path) -> None:
    """Half of it computes what the whole does where the other half is zero."""
    weights = random_weights(SMALL, lm_head="absent")
    half = dict(weights)
    n = 2 * SMALL.n_embd
    for name, values in weights.items():
        if "/c_fc/" in name:
            half[name] = values[:n]
            values[n:] = 0
        elif "/mlp/c_proj/w" in name:
            half[name] = np.ascontiguousarray(values[:, :n])
    write_gguf(path, half, SMALL, lambda _: "f32", keys={"feed_forward_length": n})
    whole = write_gguf(path.with_name("whole.gguf"), weights, SMALL, lambda _: "f32")
    np.testing.assert_allclose(logits(path, [5, 7]), logits(whole, [5, 7]), rtol=1e-5, atol=1e-5)


def test_the_other_version_is_read(path: Path, small: bytes) -> None:
    path.write_bytes(small[:4] + struct.pack("<I", 2) + small[8:])
    assert _core.inspect(path)["format"] == "gguf"


def test_inspect_shows_layers_together(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shape = Shape(n_embd=32, n_head=2)
    write_gguf(path, random_weights(shape, lm_head="absent"), shape, in_type("q8_0"))
    inspect(str(path), None)
    shown = capsys.readouterr().out
    assert re.search(r"format +gguf, q8_0", shown)
    assert re.search(r"blk\.\*\.attn_qkv\.weight +q8_0 +64 x 32 +2 ", shown)


# ---- shards ---------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    model = write_tiny(tmp_path / "model.bin", "q8_0")
    rewritten(model, tmp_path / "part.gguf", split_max_tensors=9)
    shards = sorted(tmp_path.glob("part-*.gguf"))
    assert len(shards) > 2
    return shards


def test_shards_are_one_model(shards: list[Path]) -> None:
    assert np.array_equal(logits(shards[0]), logits(shards[0].with_name("model.bin")))
    info = _core.inspect(shards[0])
    assert info["files"] == list(map(str, shards))
    assert info["size_bytes"] == sum(shard.stat().st_size for shard in shards)
    assert {tensor["file"] for tensor in info["tensors"]} == {*range(len(shards))}
    assert "is shard 2 of" in refusal(shards[1], UnsupportedFormatError)


def test_damaged_shards_are_refused(shards: list[Path]) -> None:
    data = shards[-1].read_bytes()
    shards[-1].write_bytes(data[:-64])
    with pytest.raises(CorruptFileError, match=rf"{shards[-1].name}: has .* of .* bytes"):
        _core.inspect(shards[0])
    shards[-1].write_bytes(shards[1].read_bytes())
    with pytest.raises(CorruptFileError, match="is shard 2 of"):
        _core.inspect(shards[0])
    shards[-1].unlink()
    with pytest.raises(StarChatError, match=rf"{shards[-1].name}: cannot be opened"):
        _core.inspect(shards[0])
    other = shards[0].rename(shards[0].with_name("other.gguf"))
    assert "expected a name that ends with -00001-of-0000" in refusal(other, UnsupportedFormatError)


def test_weights_are_shared_while_no_shard_changes(shards: list[Path]) -> None:
    with StarChat.load(shards[0]) as one, StarChat.load(shards[0], n_ctx=8) as two:
        assert two._engine.weights is one._engine.weights
        assert len(one._engine.weights.identity) == len(shards)
        os.utime(shards[-1], (1, 1))
        with StarChat.load(shards[0]) as three:
            assert three._engine.weights is not one._engine.weights


def test_processes_share_no_memory_of_other_shards(tmp_path: Path) -> None:
    """The name of the memory, which other processes search: it tells shards apart."""
    shape = Shape(n_embd=960, n_head=4, n_layer=1)  # smaller models have memory of their own
    weights = random_weights(shape, lm_head="absent")
    write_gguf(tmp_path / "a.gguf", weights, shape, in_type("f16"), split_max_tensors=12)
    first, second = sorted(tmp_path.glob("a-*.gguf"))

    def name() -> str:
        engine = _core.Engine(str(first), share_weights=True)
        targets = [
            os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()
        ]
        engine.close()
        (found,) = [target for target in targets if target.startswith("/memfd:starchat-")]
        return found

    before = name()
    assert name() == before
    os.utime(second, (1, 1))
    assert name() != before


def test_a_shard_that_is_written_to_while_it_is_read_is_refused(shards: list[Path]) -> None:
    with pytest.raises(CorruptFileError, match=rf"{shards[-1].name}: was written to while"):
        StarChat.load(shards[0], progress=lambda *_: os.utime(shards[-1]))


def test_shards_behind_links_keep_their_names(shards: list[Path], tmp_path: Path) -> None:
    """As in the cache of huggingface_hub, where the files themselves are named by their hash."""
    links = tmp_path / "snapshot"
    links.mkdir()
    for n, shard in enumerate(shards):
        shard.rename(tmp_path / f"blob{n}")
        (links / shard.name).symlink_to(tmp_path / f"blob{n}")
    settings = ModelSettings(model_path=str(links / shards[0].name))
    assert settings._context_size() == 96
    assert len(settings._reader()) == Shape().n_vocab


def test_one_bar_counts_the_hashed_bytes_of_all_shards(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    class Bar:
        def __init__(self, name: str, action: str) -> None:
            assert (name, action) == (str(shards[0]), "hashing")

        def __call__(self, done: int, total: int) -> None:
            told.append((done, total))

        def close(self) -> None:
            told.append((-1, 0))

    monkeypatch.setattr("starchat.cli.inspect.LoadingBar", Bar)
    inspect(str(shards[0]), sha256=True, json=True)
    sizes = [path.stat().st_size for path in shards]
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    assert told == [*((end, sum(sizes)) for end in ends), (-1, 0)]


# ---- tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("merges", [None, []], ids=["merges", "no merges"])
@pytest.mark.parametrize("generation", ["raw", "raw without kinds", "encoded"])
def test_tokens_of_every_generation_are_bytes(path: Path, generation: str, merges: Any) -> None:
    model = write_tiny(path.with_suffix(".bin"), "f32")
    rewritten(model, path, generation=generation, merges=merges)
    ours, of_ggml = tokenizer(path), tokenizer(model.path)
    assert [ours.token_bytes(id) for id in range(len(ours))] == vocabulary()
    assert ours.special_tokens() == of_ggml.special_tokens()
    text = "def the(é):\n    return <|end|> in 東京"
    assert ours.encode(text) == of_ggml.encode(text)
    assert ours.encode(text, True) == of_ggml.encode(text, True)


@NEEDS_DATA
@pytest.mark.parametrize("generation", ["raw", "raw without kinds", "encoded", "no merges"])
def test_ids_equal_the_reference(path: Path, generation: str) -> None:
    tokens = starchat_oracle().vocabulary
    merges = [] if generation == "no merges" else starchat_oracle().merges
    shape = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=2, n_vocab=len(tokens))
    model = write_tiny(path.with_suffix(".bin"), "q4_0", shape, lm_head="absent")
    spelling = "encoded" if generation == "no merges" else generation
    rewritten(model, path, generation=spelling, tokens=tokens, merges=merges)
    ours = tokenizer(path)
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    for case in map(json.loads, lines):
        assert ours.encode(case["text"]) == case["ids"]


@pytest.mark.parametrize("shuffled", ["merges", "ids"])
def test_the_ranks_of_merges_are_those_of_the_file(path: Path, shuffled: str) -> None:
    """Where they do not follow from the order of ids, Hugging Face's tokenizer is the oracle."""
    known = learned(600)
    tokens, merges = list(known.tokens), list(known.merges)
    if shuffled == "merges":
        random.Random(1).shuffle(merges)
    else:
        middle = tokens[260:-4]
        random.Random(1).shuffle(middle)
        tokens[260:-4] = middle
    theirs = hugging_face(Vocabulary(tuple(tokens), tuple(merges)))
    theirs.encode_special_tokens = True
    shape = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=2, n_vocab=len(tokens))
    weights = random_weights(shape, lm_head="absent")
    write_gguf(path, weights, shape, in_type("q4_0"), tokens=tokens, merges=merges)
    ours = tokenizer(path)
    for text in documents(5, "ranks"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("pair", [(b"xq", b"z"), (b"d", b"q"), (b"", b"d")])
def test_merges_of_tokens_that_are_not_there_are_refused(
    path: Path, pair: tuple[bytes, bytes]
) -> None:
    weights = random_weights(Shape(), lm_head="absent")
    write_gguf(path, weights, Shape(), in_type("q4_0"), merges=[(b"e", b"r"), pair])
    text = f"tokenizer.ggml.merges[1] is '{(b' '.join(pair)).decode()}', expected two tokens"
    assert text in refusal(path, CorruptFileError)


def test_control_tokens_are_those_that_the_file_names(path: Path) -> None:
    tokens = vocabulary()
    word, turn = tokens.index(b"def"), 40
    tokens[turn] = b"[turn]"  # in the place of a byte
    weights = random_weights(Shape(), lm_head="absent")
    kinds = {word: CONTROL_KIND, turn: CONTROL_KIND}
    write_gguf(path, weights, Shape(), in_type("q4_0"), tokens=tokens, kinds=kinds)
    ours = tokenizer(path)
    text = "def [turn] <|end|>"
    assert {"def": word, "[turn]": turn}.items() <= ours.special_tokens().items()
    assert not {word, turn} & {*ours.encode(text)}
    assert [id for id in ours.encode(text, True) if ours.is_special(id)] == [
        word, turn, tokens.index(b"<|end|>"),
    ]  # fmt: skip
    assert ours.decode(ours.encode(text)) == text.encode()


@pytest.mark.parametrize("more", [(), (" ",)], ids=["words", "and a space"])
@pytest.mark.parametrize("has_merges", [True, False], ids=["merges", "no merges"])
def test_user_defined_tokens_are_cut_out_of_texts(
    path: Path, has_merges: bool, more: tuple[str, ...]
) -> None:
    theirs = added_oracle(*more)
    tokens, added = theirs.vocabulary, theirs.added_ids
    shape = Shape(n_embd=32, n_head=2, n_layer=1, n_ctx=2, n_vocab=len(tokens))
    weights = random_weights(shape, lm_head="absent")
    kinds = dict.fromkeys(added, USER_DEFINED)
    merges = theirs.merges if has_merges else []
    write_gguf(path, weights, shape, in_type("q4_0"), tokens=tokens, kinds=kinds, merges=merges)
    text = "xabcab<tool>x<|end|>x def defx\n\n\n\n then théabcbc文"
    again = path.with_name("again.gguf")
    convert(str(path), str(again))
    for file in path, again:
        ours = tokenizer(file)
        assert [id for id in range(len(tokens)) if ours.is_added(id)] == added
        for allow_special in False, True:
            assert ours.encode(text, allow_special) == theirs.theirs(text, allow_special)
    with pytest.raises(InvalidRequestError, match="an added token, which"):
        convert(str(path), str(path.with_suffix(".bin")))


def test_grammars_know_control_tokens_that_only_the_file_names(path: Path) -> None:
    """Also in the process that compiles them first, which is told what a control token is."""
    tokens = vocabulary()
    tokens[40] = b"<turn>"
    weights = random_weights(Shape(), lm_head="absent")
    write_gguf(path, weights, Shape(), in_type("f32"), tokens=tokens, kinds={40: CONTROL_KIND})
    with StarChat.load(path) as chat:
        reply = chat.complete("x", max_tokens=4, grammar='start: "a" | "b" <turn>')
        assert reply.text in ("a", "b")
        with pytest.raises(ConstraintError, match="<other>"):
            chat.complete("x", grammar='start: "a" <other>')


@pytest.mark.parametrize("padded", ["by the reader", "[PADi]"])
def test_rows_without_a_token_are_never_in_a_reply(path: Path, padded: str) -> None:
    tokens = vocabulary()
    n_tokens = len(tokens)
    shape = Shape(n_vocab=n_tokens + 60)
    weights = random_weights(shape, lm_head="own")
    weights["model/lm_head"][n_tokens:] *= 30  # by far the largest logits
    kinds = {}
    if padded == "[PADi]":
        tokens += [f"[PAD{id}]".encode() for id in range(n_tokens, shape.n_vocab)]
        kinds = dict.fromkeys(range(n_tokens, shape.n_vocab), UNUSED)
    write_gguf(path, weights, shape, in_type("f32"), tokens=tokens, kinds=kinds)
    assert [*tokenizer(path).special_tokens()] == [*tokenizer_of_ggml(path).special_tokens()]
    with StarChat.load(path, n_threads=1) as chat:
        assert max(int(column.argmax()) for column in logits(path)) >= n_tokens
        plain = chat.complete("def", max_tokens=8, temperature=0, ignore_eos=True)
        constrained = chat.complete("def", max_tokens=8, temperature=0, regex="[a-z]+")
    assert plain.usage.completion_tokens == constrained.usage.completion_tokens == 8
    assert constrained.text.isalpha()


def tokenizer_of_ggml(path: Path) -> _core.Tokenizer:
    return tokenizer(write_tiny(path.with_suffix(".bin")).path)


def test_more_tokens_than_rows_are_refused(path: Path) -> None:
    model = write_tiny(path.with_suffix(".bin"), "q4_0", SMALL, lm_head="absent")
    rewritten(model, path, tokens=vocabulary(41))
    assert "has 41 tokens, expected 1 to the 40 rows" in refusal(path, CorruptFileError)


def test_a_turn_ends_at_its_token_although_eos_is_another(path: Path) -> None:
    """The eos token of every file of StarChat is 0, `<|endoftext|>`."""
    weights = random_weights(Shape(), lm_head="own")
    end = vocabulary().index(b"<|end|>")
    write_gguf(path, weights, Shape(), in_type("f32"))
    assert gguf.GGUFReader(path).fields["tokenizer.ggml.eos_token_id"].contents() == 0
    messages = [{"role": "user", "content": "hi"}]
    with StarChat.load(path) as chat:
        assert chat.chat(messages, max_tokens=4, temperature=0).finish_reason == "length"
        reply = chat.chat(messages, max_tokens=4, temperature=0, logit_bias={end: 100})
    assert (reply.finish_reason, reply.text) == ("stop", "")


# ---- refusals -------------------------------------------------------------------------------


def test_other_architectures_are_named(path: Path) -> None:
    weights = random_weights(SMALL, lm_head="absent")
    write_gguf(path, weights, SMALL, in_type("q4_0"), arch="starcoder2")
    data = path.read_bytes()
    at = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16
    expected = (
        "a GGUF file of the architecture 'starcoder2', expected 'starcoder'; run it with llama.cpp"
    )
    assert refusal(path, UnsupportedFormatError) == expected
    path.write_bytes(data[:at] + struct.pack("<i", 16) + data[at + 4 :])
    assert refusal(path, UnsupportedFormatError) == expected, "whatever types it has"


@pytest.mark.parametrize("kind", ["adapter", "imatrix", "mmproj"])
def test_files_that_are_no_models_are_named(path: Path, kind: str) -> None:
    writer = gguf.GGUFWriter(path, "starcoder")
    writer.add_string("general.type", kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    message = f"a GGUF file of the kind '{kind}', expected a model"
    assert message in refusal(path, UnsupportedFormatError)


def test_a_vocabulary_without_weights_is_named(path: Path) -> None:
    write_gguf(path, {}, SMALL, in_type("f32"))
    assert "a vocabulary and no weights" in refusal(path, UnsupportedFormatError)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (b"\0\0\0\3", "a big-endian GGUF file.*gguf-convert-endian"),
        (b"\1\0\0\0", "GGUF version 1, expected 2 or 3; .*`starchat convert`"),
        (b"\4\0\0\0", "GGUF version 4, expected 2 or 3"),
    ],
    ids=["big-endian", "1", "4"],
)
def test_other_versions_are_refused(path: Path, small: bytes, version: bytes, message: str) -> None:
    path.write_bytes(small[:4] + version + small[8:])
    with pytest.raises(UnsupportedFormatError, match=message):
        _core.inspect(path)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        *((id, "which llama.cpp has removed; take the Q4_0 file") for id in (31, 32, 33)),
        *((id, "(IQ1, IQ2 or IQ3), expected") for id in (16, 17, 18, 19, 21, 22, 29)),
        (15, "which is not known here"),
        (39, "which is not known here"),
    ],
)
def test_types_that_cannot_be_served_are_refused(
    path: Path, small: bytes, id: int, message: str
) -> None:
    at = small.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16
    path.write_bytes(small[:at] + struct.pack("<i", id) + small[at + 4 :])
    text = refusal(path, UnsupportedFormatError)
    assert text.startswith(f"'token_embd.weight': type {id}")
    assert message in text


def test_a_key_head_for_every_query_head_is_refused(path: Path) -> None:
    model = write_tiny(path.with_suffix(".bin"), "q4_0", SMALL, multi_query=False)
    rewritten(model, path)
    assert "multi_query=false" in refusal(path, UnsupportedFormatError)


# ---- damaged and hostile files --------------------------------------------------------------


def test_cut_files_are_refused(path: Path, small: bytes) -> None:
    """Cuts at every byte: tests/nightly."""
    n_header = small.index(b"output_norm.bias") + 64
    for size in [*range(4, n_header, 97), n_header, len(small) - 1]:
        path.write_bytes(small[:size])
        assert "cut" in refusal(path, CorruptFileError)
    assert f"has {len(small) - 1:,} of {len(small):,} bytes: the download was cut" in refusal(
        path, CorruptFileError
    )


@pytest.mark.parametrize(
    "name", ["model.gguf-split-a", "model.gguf.part1of2", "m.gguf.001", "m.gguf-part-b", "m.bin.02"]
)
def test_pieces_are_to_be_joined(path: Path, small: bytes, name: str) -> None:
    half = len(small) - 1000
    first, second = path.with_name(name), path.with_name(name + "2")
    first.write_bytes(small[:half])
    text = refusal(first, CorruptFileError)
    assert f"has {half:,} of {len(small):,} bytes: a piece of a file; join all" in text
    second.write_bytes(small[half:])
    text = refusal(second, UnsupportedFormatError)
    assert text == "a piece of a file; join all its pieces: `cat PIECE1 PIECE2 > model.gguf`"


@pytest.mark.parametrize(
    ("name", "n_dims", "offset", "message"),
    [
        (b"output_norm.bias", 1, 0, "overlap at byte"),
        (b"output_norm.bias", 1, 8, "'output_norm.bias': begins at 8 of the data, expected a mult"),
        (b"blk.0.attn_qkv.weight", 2, 1 << 40, "bytes: the download was cut"),
        (b"blk.0.attn_qkv.weight", 2, (1 << 64) - 32, "expected a multiple"),
    ],
)
def test_tensors_lie_beside_each_other_in_the_file(
    path: Path, small: bytes, name: bytes, n_dims: int, offset: int, message: str
) -> None:
    at = small.index(name) + len(name) + 4 + 8 * n_dims + 4
    path.write_bytes(small[:at] + struct.pack("<Q", offset) + small[at + 8 :])
    assert message in refusal(path, CorruptFileError)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"blk.0.ffn_norm.bias", b"blk.0.attn_norm.bia", "lacks the tensor 'blk.0.ffn_norm.bias'"),
        (b"blk.0.ffn_up.weight", b"blk.0.attn_qkv.bias", "'blk.0.attn_qkv.bias': appears twice"),
        (b"starcoder.block_count", b"starcoder.black_count", "lacks the key starcoder.block_count"),
        (b"starcoder.block_count", b"tokenizer.ggml.tokens", "key 'tokenizer.ggml.tokens' appears"),
    ],
)
def test_names_are_those_of_a_model_once(
    path: Path, small: bytes, old: bytes, new: bytes, message: str
) -> None:
    path.write_bytes(small.replace(old, new, 1))
    assert message in refusal(path, CorruptFileError)


def test_more_layers_than_the_header_says_are_refused(path: Path) -> None:
    shape = Shape(n_embd=32, n_head=2)
    weights = random_weights(shape, lm_head="absent")
    write_gguf(path, weights, shape, in_type("q4_0"), keys={"block_count": 1})
    message = "unknown tensor 'blk.1.attn_norm.weight' in a model of 1 layers"
    assert message in refusal(path, CorruptFileError)


KEY = struct.pack("<Q", 21) + b"tokenizer.ggml.tokens"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(struct.pack("<2IQ", 9, 9, 1), "an array of arrays", id="nested"),
        pytest.param(struct.pack("<2IQ", 9, 8, 2**60), "ends at byte", id="many strings"),
        pytest.param(struct.pack("<2IQ", 9, 8, 2**63), "ends at byte", id="product wraps"),
        pytest.param(struct.pack("<2IQ", 9, 4, 2**62), "ends at byte", id="many numbers"),
        pytest.param(struct.pack("<IQ", 8, 2**63), "ends at byte", id="long string"),
        pytest.param(struct.pack("<I", 13), "value of type 13, expected 0 to 12", id="no type"),
        pytest.param(
            struct.pack("<2I2Q", 9, 8, 1, 2**17), "has 131,072 bytes, expected", id="long token"
        ),
    ],
)
def test_hostile_values_are_refused(path: Path, value: bytes, message: str) -> None:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + KEY + value + bytes(64))
    assert message in refusal(path, CorruptFileError)


def test_absurd_counts_are_refused(path: Path) -> None:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**62, 1) + bytes(64))
    assert "tensors, expected at most 65,536" in refusal(path, CorruptFileError)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.tokens", struct.pack("<2IQ", 9, 8, 1 << 30)),
        ("tokenizer.ggml.merges", struct.pack("<2IQ", 9, 8, 1 << 30)),
        ("tokenizer.ggml.token_type", struct.pack("<2IQ", 9, 5, 1 << 30)),
        ("general.name", struct.pack("<IQ", 8, 1 << 33)),
        ("a.list", struct.pack("<2IQ", 9, 5, 1 << 30)),
    ],
    ids=["tokens", "merges", "types", "text", "numbers"],
)
def test_what_a_header_claims_is_not_allocated(path: Path, key: str, value: bytes) -> None:
    """Of a sparse file of 16 GiB, whose size would justify it."""
    name = struct.pack("<Q", len(key)) + key.encode()
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + name + value)
    os.truncate(path, 1 << 34)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(path, CorruptFileError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB
