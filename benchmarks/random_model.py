"""Random weights in the true shapes of the family, in a .bin, in GGUF and for CTranslate2.

    python benchmarks/random_model.py santacoder q4_0 santacoder.bin --gguf santacoder.gguf
    python benchmarks/random_model.py starchat-beta q4_k_m --gguf beta.gguf

Blocks are drawn directly (uniform quants, fixed scales that give weights of about 0.02), so a
10.75 GB file takes as long as the disk takes. Memory: one tensor. The same type is the same weights
in a .bin and in GGUF; presets (q4_k_m) and K-types are in GGUF alone.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from starchat.convert import ggml_writer
from starchat.convert.ggml_writer import tensor_shapes, tile_multi_query, write_ggml
from starchat.convert.presets import PRESETS
from starchat.convert.tensor_types import TYPES, quantize
from starchat.convert.vocabulary import to_letters

Array = npt.NDArray[Any]


#: what a GGUF file's matrices may be: all of one type, or mixed by a preset
GGUF_TYPES = (*TYPES, *(name for name in PRESETS if name not in TYPES))


@dataclass(frozen=True)
class Shape:
    """Hyper-parameters of a published model."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int


SHAPES = {
    "starchat-beta": Shape(49156, 8192, 6144, 48, 40),
    "starcoder-3b": Shape(49152, 8192, 2816, 22, 36),
    "santacoder": Shape(49280, 2048, 2048, 16, 24),
    "tiny": Shape(512, 256, 128, 4, 2),
}


#: type → where its half-precision scales are in a block, how large a weight with random quants is
#: where the scale is 1, and the scale of minimums that centres the weights
_SCALES: dict[str, tuple[tuple[int, ...], float, float]] = {
    "q2_k": ((80, 82), 9, 1.5),
    "q3_k": ((108,), 42, 0),
    "q4_k": ((0, 2), 170, 7.5),
    "q5_k": ((0, 2), 340, 15.5),
    "q6_k": ((208,), 1370, 0),
    "iq4_nl": ((0,), 70, 0),
    "iq4_xs": ((0,), 1290, 0),
}


def vocabulary(n_vocab: int) -> list[bytes]:
    """Control token, single bytes, one merge, fillers, StarChat's roles at the end."""
    roles = [b"<|system|>", b"<|user|>", b"<|assistant|>", b"<|end|>"]
    tokens = [b"<|endoftext|>", *(bytes([value]) for value in range(256)), b"ab"]
    tokens += [b"filler%05d" % i for i in range(n_vocab - len(tokens) - len(roles))]
    return tokens + roles


def random_tensor(name: str, shape: tuple[int, ...], type: str) -> Array:
    """Draw a tensor: floats for vectors and wpe, else rows of blocks as uint8."""
    tied = name.replace("lm_head", "wte")  # the output matrix is the embedding again
    random = np.random.default_rng(zlib.crc32(tied.encode()))
    if len(shape) == 1:
        values = random.standard_normal(shape, np.float32) * np.float32(0.02)
        return values + np.float32(1) if name.endswith("/g") else values
    if name == "model/wpe":  # exact in f16, as StarChat's own are
        return (random.standard_normal(shape, np.float32) * 0.01).astype(np.float16).astype("f4")
    form = TYPES[type]
    rows = np.frombuffer(random.bytes(shape[0] * form.row_bytes(shape[1])), np.uint8).reshape(
        shape[0], -1
    )
    if type in ("f32", "f16", "bf16"):
        weights = random.standard_normal(shape, np.float32) * np.float32(0.02)
        return quantize(weights, type)
    rows = rows.copy()
    if type in _SCALES:
        halves, size, minimum = _SCALES[type]
        scales = [np.float16(0.02 / size), np.float16(0.02 / size * minimum)]
    else:
        halves = form.halves
        d = np.float16(0.02 / (2**form.bits / np.sqrt(12)))
        scales = [d, -d * np.float16((2**form.bits - 1) / 2)]
    for at, scale in zip(halves, scales, strict=False):
        rows.reshape(-1, form.block_bytes)[:, at : at + 2] = scale.reshape(1).view(np.uint8)
    return rows


def folded_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the tensors with one key and one value head, lm_head left out."""
    shapes = tensor_shapes(
        n_vocab=shape.n_vocab,
        n_ctx=shape.n_ctx,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        lm_head=False,
    )
    n_rows = shape.n_embd + 2 * (shape.n_embd // shape.n_head)
    return {
        name: (n_rows, *dims[1:]) if "/c_attn/" in name else dims for name, dims in shapes.items()
    }


def write_bin(
    path: Path,
    shape: Shape,
    type: str,
    done: Callable[[], object] = lambda: None,
    draw: Callable[[str, tuple[int, ...], str], Array] = random_tensor,
) -> None:
    """Write the ggml file, tiled and with lm_head, as the original converter did."""

    def source(name: str, dims: tuple[int, ...]) -> Any:
        def rows() -> list[Array]:
            values = draw(name, dims, type)
            if "/c_attn/" in name:
                values = tile_multi_query(values, shape.n_head)
            done()
            return [values]

        return rows

    tensors = {name: source(name, dims) for name, dims in folded_shapes(shape).items()}
    tensors["model/lm_head"] = source("model/lm_head", (shape.n_vocab, shape.n_embd))
    write_ggml(
        path,
        n_ctx=shape.n_ctx,
        n_embd=shape.n_embd,
        n_head=shape.n_head,
        n_layer=shape.n_layer,
        vocab=vocabulary(shape.n_vocab),
        tensors=tensors,
        type=type,
    )


def write_gguf(
    path: Path, shape: Shape, type: str, done: Callable[[], object] = lambda: None
) -> None:
    """Write what llama.cpp reads: architecture `starcoder`, folded, the output matrix tied.

    `type` is one of all matrices, or else a preset that mixes several.
    """
    import gguf

    kinds = gguf.GGMLQuantizationType
    names = {
        "model/wte": "token_embd.weight",
        "model/wpe": "position_embd.weight",
        "model/ln_f/g": "output_norm.weight",
        "model/ln_f/b": "output_norm.bias",
    }
    parts = {
        "ln_1": "attn_norm",
        "ln_2": "ffn_norm",
        "attn/c_attn": "attn_qkv",
        "attn/c_proj": "attn_output",
        "mlp/c_fc": "ffn_up",
        "mlp/c_proj": "ffn_down",
    }
    for i in range(shape.n_layer):
        for part, theirs in parts.items():
            for kind in ("g", "b") if "ln_" in part else ("w", "b"):
                suffix = "bias" if kind == "b" else "weight"
                names[f"model/h{i}/{part}/{kind}"] = f"blk.{i}.{theirs}.{suffix}"

    writer = gguf.GGUFWriter(path, "starcoder")
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(4 * shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("starcoder")
    tokens = [to_letters(token) for token in vocabulary(shape.n_vocab)]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    shapes = folded_shapes(shape)

    def tensor(name: str) -> tuple[Array, Any]:
        mine = type if type in TYPES else PRESETS[type].type_of(name, shape.n_layer, is_tied=True)
        values = random_tensor(name, shapes[name], mine)
        is_raw = values.dtype == np.uint8
        return values, kinds[mine.upper()] if is_raw else kinds.F32

    for name, theirs in names.items():
        values, kind = tensor(name)
        is_raw = values.dtype == np.uint8
        writer.add_tensor_info(
            theirs,
            values.shape,
            values.dtype,
            values.nbytes,
            raw_dtype=kind if is_raw else None,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in names:
        writer.write_tensor_data(tensor(name)[0])
        done()
    writer.close()


def write_ctranslate2(
    path: Path, shape: Shape, type: str = "q8_0", done: Callable[[], object] = lambda: None
) -> None:
    """Write a folder of what CTranslate2 runs in int8: a scale for each row, not for 32 weights."""
    from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

    spec = TransformerDecoderModelSpec.from_config(
        shape.n_layer,
        shape.n_head,
        pre_norm=True,
        activation=common_spec.Activation.GELUTanh,
        multi_query_attention=True,
    )
    random = np.random.default_rng(0)

    def matrix(target: Any, n_rows: int, n_cols: int, *, bias: bool = True) -> None:
        target.weight = random.integers(-127, 128, (n_rows, n_cols), np.int8)
        target.weight_scale = np.full(n_rows, 127 / 0.035, np.float32)  # weights of about 0.02
        if bias:
            target.bias = np.zeros(n_rows, np.float32)
        done()

    def norm(target: Any) -> None:
        target.gamma = np.ones(shape.n_embd, np.float32)
        target.beta = np.zeros(shape.n_embd, np.float32)

    width, decoder = shape.n_embd, spec.decoder
    matrix(decoder.embeddings, shape.n_vocab, width, bias=False)
    decoder.scale_embeddings = False
    positions = random.standard_normal((shape.n_ctx + 1, width), np.float32)  # it looks one ahead
    decoder.position_encodings.encodings = positions * np.float32(0.01)
    for layer in decoder.layer:
        attention, ffn = layer.self_attention, layer.ffn
        norm(attention.layer_norm)
        matrix(attention.linear[0], width + 2 * width // shape.n_head, width)
        matrix(attention.linear[1], width, width)
        norm(ffn.layer_norm)
        matrix(ffn.linear_0, 4 * width, width)
        matrix(ffn.linear_1, width, 4 * width)
    norm(decoder.layer_norm)
    decoder.projection.weight = decoder.embeddings.weight
    decoder.projection.weight_scale = decoder.embeddings.weight_scale
    spec.register_vocabulary([f"t{i}" for i in range(shape.n_vocab)])
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = "t0"
    spec.validate()
    spec.optimize(quantization="int8")
    path.mkdir()
    spec.save(str(path))


def main() -> None:
    """Write the files that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=GGUF_TYPES)
    parser.add_argument("path", type=Path, nargs="?", help="a .bin file")
    parser.add_argument("--gguf", type=Path, help="the same weights in GGUF")
    arguments = parser.parse_args()
    if arguments.path and arguments.type not in ggml_writer.TYPES:
        parser.error(f"a .bin file has no {arguments.type}: give --gguf alone")
    shape = SHAPES[arguments.shape]
    with Progress() as progress:
        for path, write in ((arguments.path, write_bin), (arguments.gguf, write_gguf)):
            if path:
                bar = progress.add_task(path.name, total=len(folded_shapes(shape)))
                write(path, shape, arguments.type, partial(progress.advance, bar))


if __name__ == "__main__":
    main()
