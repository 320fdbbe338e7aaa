"""From any source to a model file: which types its tensors get, and the writer for its name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import numpy as np

from ..errors import FileAccessError, InvalidRequestError
from .file_reader import open_file
from .ggml_writer import TYPES as BIN_TYPES
from .ggml_writer import write_ggml
from .gguf_writer import write_gguf
from .hugging_face import open_folder
from .presets import PRESETS, fitting, named
from .tensor_types import TYPES
from .tensors import REQUANTIZED, Checkpoint, Loss, StoredTensor, gathered

__all__ = ["convert"]


def convert(
    source: str,
    target: str,
    type: str | None = None,
    *,
    lora: str | None = None,
    overwrite: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, int], Loss]:
    """Write the model in a folder or a file to `target`, a .gguf or .bin file.

    type: of the matrices, or a preset; by default each keeps its own, or the nearest without loss.
    Norms, biases and positions are f32. lora: a folder with an adapter (PEFT), which is merged into
    the matrices of a folder before they get another type. report: is told bytes that are written,
    and all there are.
    Returns how many tensors of each type there are, and what was lost.
    """
    form = os.path.splitext(target)[1].lower()
    if form not in (".gguf", ".bin"):
        raise InvalidRequestError.of("target", f"{target}: expected a name with .gguf or .bin")
    choices = (*BIN_TYPES, "bf16", *PRESETS) if form == ".gguf" else tuple(BIN_TYPES)
    if type is not None:
        if named(type) not in choices:
            problem = f"expected one of {', '.join(choices)} for {form} files, got {type[:40]}"
            raise InvalidRequestError.of("type", problem)
        type = named(type)
    if os.path.exists(target):
        if os.path.exists(source) and os.path.samefile(source, target):
            raise InvalidRequestError.of("target", f"{target}: is the source")
        if os.path.isdir(target) or not overwrite:
            raise FileAccessError.of("target", f"{target}: exists; remove it, or use --overwrite")
    if not os.path.isdir(os.path.dirname(target) or "."):
        raise FileAccessError.of("target", f"{target}: there is no such folder")
    loss = Loss()
    with ExitStack() as files:
        if os.path.isdir(source):
            model = open_folder(source, files, lora)
        elif lora is None:
            model = open_file(source, files)
        else:
            problem = f"{source}: is no folder; adapters are merged into checkpoints"
            raise InvalidRequestError.of("lora", problem)
        is_tied = form == ".gguf" and _is_tied(model, report)
        types = _types(model, type, form, is_tied, loss)
        if form == ".gguf":
            write_gguf(target, model, types, loss, report, mix=type)
        else:
            _write_bin(target, model, types, loss, report)
    return dict(Counter(types.values())), loss


def _types(
    model: Checkpoint, type: str | None, form: str, is_tied: bool, loss: Loss
) -> dict[str, str]:
    types = {}
    for name, tensor in model.tensors.items():
        if name == "model/lm_head" and is_tied:
            continue
        if len(tensor.shape) == 1 or name == "model/wpe":
            types[name] = "f32"
        elif type:
            preset = PRESETS.get(type)
            wanted = preset.type_of(name, model.n_layer, is_tied) if preset else type
            types[name] = fitting(wanted, tensor.shape[-1])
            if types[name] != wanted:
                loss.replaced[wanted, types[name], tensor.shape[-1]] += 1
        elif tensor.is_requantized:
            types[name] = REQUANTIZED
        else:
            types[name] = "f32" if (tensor.type, form) == ("bf16", ".bin") else tensor.type
        if len(tensor.shape) > 1 and types[name] in TYPES:
            TYPES[types[name]].row_bytes(tensor.shape[-1])
    return types


def _is_tied(model: Checkpoint, report: Callable[[int, int], None] | None) -> bool:
    head, wte = model.tensors.get("model/lm_head"), model.tensors["model/wte"]
    if head is None:
        return True
    if (head.type, head.shape) != (wte.type, wte.shape):
        return False
    if head.places and head.places == wte.places:
        return True
    blocks = zip(head.blocks(head.type, Loss()), wte.blocks(wte.type, Loss()), strict=True)
    for left, right in blocks:  # 600 MB of each, in f16 of StarChat
        if not np.array_equal(left, right):
            return False
        if report:
            report(0, left.nbytes)  # nothing is written yet
    return True


def _write_bin(
    target: str,
    model: Checkpoint,
    types: dict[str, str],
    loss: Loss,
    report: Callable[[int, int], None] | None,
) -> None:
    shapes = {name: tensor.shape for name, tensor in model.tensors.items() if name != "model/wpe"}
    mix = {types[name] for name, shape in shapes.items() if len(shape) > 1}
    if len(mix) > 1:
        raise InvalidRequestError.of(
            "target",
            f"{target}: matrices in a .bin file have one type, and these are {sorted(mix)}: write "
            "a .gguf file, or choose one by --type",
        )
    problem = ""
    if not mix <= BIN_TYPES.keys():
        problem = f"matrices are {mix.pop()}, which .bin files lack; choose a --type, or else"
    elif 4 in model.kinds:
        added = model.tokens[model.kinds.index(4)].decode("utf-8", "replace")
        problem = f"{added[:40]!r} is an added token, which .bin files cannot mark"
    elif not model.has_rebuilt_merges():
        problem = "ids do not follow the order of merges, which .bin files lack"
    elif model.n_inner != 4 * model.n_embd:
        problem = f"n_inner is {model.n_inner}, which .bin files cannot say"
    elif model.epsilon != 1e-5:
        problem = f"layer_norm_epsilon is {model.epsilon}, which .bin files cannot say"
    if problem:
        raise InvalidRequestError.of("target", f"{target}: {problem}: write a .gguf file")
    tensors: dict[str, StoredTensor] = dict(model.tensors)
    tensors.setdefault("model/lm_head", tensors["model/wte"])
    types.setdefault("model/lm_head", types["model/wte"])
    if model.is_multi_query:
        n, head_dim = model.n_embd, model.n_embd // model.n_head
        key = np.tile(n + np.arange(head_dim), model.n_head)
        index = np.concatenate([np.arange(n), key, key + head_dim])
        for name, tensor in tensors.items():
            if "/attn/c_attn/" in name:
                tensors[name] = gathered(tensor, index)
    tokens = list(model.tokens)
    for id, token in enumerate(tokens):  # .bin files pad by repeating
        tokens[id] = token or tokens[id - 1]
    write_ggml(
        target,
        n_ctx=model.n_ctx,
        n_embd=model.n_embd,
        n_head=model.n_head,
        n_layer=model.n_layer,
        vocab=tokens,
        tensors={n: partial(t.blocks, types[n], loss) for n, t in tensors.items()},
        type=types["model/wte"],
        report=report,
    )
