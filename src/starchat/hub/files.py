"""Which files of a repository are a model: by quantization or memory, all shards, or a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import FileAccessError, UnsupportedFormatError
from .names import HubName

ROOM_BYTES = 512 << 20  # beside the weights: context, prefix cache, buffers

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
_QUANT = re.compile(
    r"(?:^|(?<=[-._/]))(i?q\d+(?:_[a-z0-9]+)*|tq\d_\d|mxfp4|bf16|fp?16|fp?32)(?=[-./])",
    re.IGNORECASE,
)
_READABLE = re.compile(r"Q[2-8]_K(_[A-Z]+)?|Q[45]_[01]|Q8_0|IQ4_(NL|XS)|B?F16|F32")
_FLOATS = "F16", "BF16", "F32"
_NO_MODEL = re.compile(r"mmproj|imatrix|\.dat\b|ggml-vocab", re.IGNORECASE)
_CHECKPOINT = "model*.safetensors", "*.safetensors", "pytorch_model*.bin"
_BESIDE = re.compile(r"[^/]+\.(json|model)|merges\.txt|vocab\.txt|README\.md")
_MOST_SHOWN = 40


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository; etag: the name of its blob. Either may be known later, or never."""

    path: str
    size: int | None = None
    etag: str = ""
    sha256: str = ""
    git_oid: str = ""


@dataclass(frozen=True)
class Model:
    """Files that are one model; `path` is what is loaded: the first shard, or "" for a folder."""

    path: str
    files: tuple[RepoFile, ...]
    quant: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size or 0 for file in self.files)

    def __str__(self) -> str:
        """Return a line of a list."""
        return f"{self.quant or self.path} ({self.size / 1e9:.2f} GB)"


@dataclass(frozen=True)
class Choice:
    """A model, and why it was chosen; "" where the name left no choice."""

    model: Model
    reason: str = ""


def quant_of(path: str) -> str:
    """Return the quantization that a file's name has, in capitals; "" for none.

    >>> quant_of("starchat-beta.ggmlv3.q4_0.bin"), quant_of("a.i1-IQ4_XS.gguf"), quant_of("a.gguf")
    ('Q4_0', 'IQ4_XS', '')
    """
    found = [match[1].upper() for match in _QUANT.finditer(path)]
    return found[-1].replace("FP", "F") if found else ""


def model_files(files: Sequence[RepoFile]) -> list[Model]:
    """Return the GGUF and ggml models among files, as far as all their shards are there."""
    single, sharded = [], dict[tuple[str, str], list[RepoFile]]()
    for file in files:
        lower = file.path.lower()
        if _NO_MODEL.search(lower):
            continue
        quant = quant_of(file.path)
        if lower.endswith(".gguf") and (match := _SHARD.fullmatch(file.path)):
            sharded.setdefault((match[1], match[3]), []).append(file)
        elif lower.endswith(".gguf") or (lower.endswith(".bin") and (quant or "ggml" in lower)):
            single.append(Model(file.path, (file,), quant))
    for (prefix, count), shards in sharded.items():
        shards = sorted(shards, key=lambda file: file.path)
        numbers = [int(match[2]) for s in shards if (match := _SHARD.fullmatch(s.path))]
        if numbers == [*range(1, int(count) + 1)]:
            single.append(Model(shards[0].path, tuple(shards), quant_of(f"{prefix}.")))
    return sorted(single, key=lambda model: (model.size, model.path))


def checkpoint(files: Sequence[RepoFile]) -> Model | None:
    """Return the Hugging Face folder that files are, if its weights are all there."""
    from fnmatch import fnmatchcase

    top = [file for file in files if "/" not in file.path]
    if not any(file.path == "config.json" for file in top):
        return None
    for pattern in _CHECKPOINT:
        weights = [f for f in top if fnmatchcase(f.path, pattern)]
        sharded = [match for f in weights if (match := _SHARD.fullmatch(f.path))]
        if sharded and len(weights) != len(sharded):
            weights = [f for f in weights if not _SHARD.fullmatch(f.path)]  # one file beside them
        elif sharded and len(weights) != int(sharded[0][3]):
            continue
        if weights:
            beside = [f for f in top if _BESIDE.fullmatch(f.path)]
            small_first = sorted({*beside, *weights}, key=lambda f: (f.size or 0, f.path))
            return Model("", tuple(small_first))
    return None


def choose(
    files: Sequence[RepoFile],
    name: HubName,
    free_bytes: int | None,
    is_here: Callable[[Model], bool] = lambda model: False,
) -> Choice:
    """Return the model that a name means among the files of its repository.

    Raises FileAccessError for what is not there, with a list of what is, and for models that all
    need more memory than is free; UnsupportedFormatError for a type that starchat does not read.
    """
    if name.path:
        return Choice(_at_path(files, name))
    models = model_files(files)
    if name.quant:
        return Choice(_of_quant(models, name))
    if not models:
        if folder := checkpoint(files):
            return Choice(folder, "the checkpoint, as the repository has no GGUF or ggml file")
        raise FileAccessError(
            f"{name}: has no GGUF file, no ggml .bin file and no checkpoint; there is: "
            + _list([file.path for file in files]),
            param="path",
        )
    readable = [model for model in models if not model.quant or _READABLE.fullmatch(model.quant)]
    if not readable:
        raise UnsupportedFormatError(
            f"{name}: starchat reads none of its types: {_list(models)}", param="path"
        )
    if len(readable) == 1:
        return Choice(readable[0], "the only one that starchat reads")
    if here := [model for model in readable if is_here(model)]:
        return Choice(_best(here, free_bytes) or here[0], "it is here already")
    whole = [model for model in readable if model.quant not in _FLOATS] or readable
    if free_bytes is None:
        best = next((m for m in whole if m.quant == "Q4_K_M"), whole[0])
        return Choice(best, "how much memory is free is not known here")
    fitting = _best(whole, free_bytes)
    free = f"{free_bytes / 1e9:.1f} GB of memory that is free"
    if fitting is None:
        raise FileAccessError(
            f"{name}: no quantization fits into the {free}: {_list(whole)}. Free memory, or name "
            f"one for another machine: {name}:{whole[0].quant or 'QUANT'}",
            param="path",
            limit=free_bytes,
            got=whole[0].size + ROOM_BYTES,
        )
    reason = f"the largest of {len(whole)} that fits into the {free}"
    if fitting is not whole[0]:
        smaller = [model for model in whole if model.size < fitting.size][-1]
        reason += f"; smaller ones are faster, such as {smaller}"
    return Choice(fitting, reason)


def _best(models: Sequence[Model], free_bytes: int | None) -> Model | None:
    fitting = [m for m in models if free_bytes is None or m.size + ROOM_BYTES <= free_bytes]
    return fitting[-1] if fitting else None


def _at_path(files: Sequence[RepoFile], name: HubName) -> Model:
    paths = [file.path for file in files]
    if name.path in paths:
        if (match := _SHARD.fullmatch(name.path)) and match[4].lower() == ".gguf":
            for model in model_files(files):
                if name.path in [file.path for file in model.files]:
                    return model
            problem = f"{name}: the repository lacks other shards of it"
            raise FileAccessError(problem, param="path")
        return Model(name.path, (files[paths.index(name.path)],), quant_of(name.path))
    near = get_close_matches(name.path, paths, n=3, cutoff=0.5) or paths
    raise FileAccessError(f"{name}: there is no such file; there is: {_list(near)}", param="path")


def _of_quant(models: Sequence[Model], name: HubName) -> Model:
    wanted = name.quant.upper().replace("FP", "F")
    found = [model for model in models if model.quant == wanted]
    if not found:
        there = (
            _list(models)
            or "none; without it, the checkpoint is taken, and starchat convert quantizes it"
        )
        problem = f"{name}: has no such quantization; there is: {there}"
        raise FileAccessError(problem, param="path", got=name.quant)
    if not _READABLE.fullmatch(wanted):
        readable = [model for model in models if _READABLE.fullmatch(model.quant)]
        remedy = f"take one of: {_list(readable)}" if readable else "take another repository"
        problem = f"{name}: starchat does not read {wanted}; {remedy}"
        raise UnsupportedFormatError(problem, param="path", got=name.quant)
    return min(found, key=lambda model: (not model.path.lower().endswith(".gguf"), model.path))


def _list(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:_MOST_SHOWN]))
    more = len(names) - _MOST_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown
