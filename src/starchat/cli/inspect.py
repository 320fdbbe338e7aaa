"""`starchat inspect`: what is in a model file, whether it fits, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json as json_text
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Annotated, Any

import typer

from .. import _core
from .._core.machine import free_memory
from ..errors import FileAccessError, InvalidRequestError, ModelFileError
from ..model_path import model_path
from ..model_source import opened
from ..progress import LoadingBar
from .terminal import printable

_HASHED_BYTES = 1 << 23  # at once


def inspect(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", parser=os.path.expanduser, help="A model file, or a folder."
        ),
    ],
    ctx: Annotated[
        int | None, typer.Option(help="Show the memory for a context of so many tokens.")
    ] = None,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Show the checksum, which reads the whole file.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, each tensor by itself.")
    ] = False,
) -> None:
    """Show what is in a file, and what is wrong with it, without loading its weights.

    Of repeated weights only the beginnings are compared.
    """
    path = model_path(file)
    try:
        with ExitStack() as files:
            checkpoint = opened(path, files)
            content = _core.inspect(path, compare=False, n_ctx=ctx or 0, checkpoint=checkpoint)
    except ModelFileError as error:
        sums = _checksums([path]) if sha256 and os.path.isfile(path) else {}
        if json:
            refused = {"path": path, "error": {"code": error.code, "message": str(error)}}
            print(json_text.dumps(refused | {"sha256": sums}, indent=1))
            raise typer.Exit(1) from None
        for name, digest in sums.items():
            print(f"sha256  {digest}  {printable(name)}")
        raise
    if ctx is not None and not 2 <= ctx <= content["n_ctx"]:
        problem = f"expected 2 to {content['n_ctx']:,}, the file's own; got {ctx:,}"
        raise InvalidRequestError.of("--ctx", problem, limit=content["n_ctx"], got=ctx)
    content["types"] = _types(content["tensors"])
    content["memory"] |= {"n_ctx": ctx or content["n_ctx"]} | _free(content["memory"]["total"])
    content["sha256"] = _checksums(content["files"]) if sha256 else {}
    if json:
        print(json_text.dumps(content, indent=1))
    else:
        _show(content)


def _types(tensors: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return tensors, weights and bytes of each type, the largest first."""
    types: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        n_weights = 1
        for n in tensor["shape"]:
            n_weights *= n
        of_type = types.setdefault(
            tensor["type"], dict.fromkeys(("tensors", "weights", "bytes"), 0)
        )
        of_type["tensors"] += 1
        of_type["weights"] += n_weights
        of_type["bytes"] += tensor["size_bytes"]
    return dict(sorted(types.items(), key=lambda item: -item[1]["bytes"]))


def _free(need_bytes: int) -> dict[str, Any]:
    free = free_memory()
    if free is None:
        return {"free": None, "free_by": None, "fits": None}
    return {"free": free[0], "free_by": free[1], "fits": need_bytes <= free[0]}


def _checksums(paths: list[str]) -> dict[str, str]:
    """Return the SHA-256 of files, with a bar for all of them together."""
    sizes = {path: os.path.getsize(path) for path in paths}
    total, before = sum(sizes.values()), 0
    sums = {}
    with closing(LoadingBar(paths[0], "hashing")) as bar:
        for path, size in sizes.items():
            sums[path] = _sha256(path, lambda done, before=before: bar(before + done, total))  # type: ignore[misc]
            before += size
    return sums


def _sha256(path: str, report: Callable[[int], object]) -> str:
    digest, done = hashlib.sha256(), 0
    try:
        with open(path, "rb", buffering=0) as file:
            while data := file.read(_HASHED_BYTES):
                digest.update(data)
                done += len(data)
                report(done)
    except OSError as error:
        raise FileAccessError.of("path", f"{path}: {error.strerror}") from None
    return digest.hexdigest()


# ---- the screen -----------------------------------------------------------------------------


def _show(content: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_overview(content))
    console.print()
    console.print(_type_table(content["types"]))
    console.print()
    console.print(_tensor_table(content["tensors"]))


def _overview(content: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(content):
        table.add_row(name, _plain(value))
    return table


def _rows(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    head_dim = content["n_embd"] // content["n_head"]
    vocabulary, need = content["vocabulary"], content["memory"]
    kv_heads = "one head" if content["multi_query"] else "as many"
    is_tied = not content["has_lm_head"] or content["lm_head_is_wte"]
    paths = content["files"]
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    yield "file", content["path"] + more
    ftype = "" if content["ftype"] is None else f" (ftype {content['ftype']})"
    yield "format", f"{content['format']}, {content['weight_type']}{ftype}"
    for key in ("name", "license"):
        if text := content["metadata"].get(f"general.{key}"):
            yield key, " ".join(text.split())[:200]
    yield "size", _size(content["size_bytes"])
    for path, digest in content["sha256"].items():
        yield "sha256", digest + (f" {os.path.basename(path)}" if more else "")
    yield "parameters", f"{content['n_params']:,}"
    yield "layers", f"{content['n_layer']} of width {content['n_embd']:,}"
    yield (
        "attention",
        f"{content['n_head']} heads of width {head_dim}, {kv_heads} of keys and values",
    )
    yield "output matrix", "the input matrix" if is_tied else "its own"
    yield "context", f"{content['n_ctx']:,} tokens"
    yield (
        "vocabulary",
        f"{vocabulary['n_tokens']:,} tokens, {vocabulary['n_distinct']:,} distinct",
    )
    yield "memory", f"needs {_size(need['total'])} with {need['n_ctx']:,} tokens of context"
    yield (
        "of it",
        f"weights {_size(need['weights'])}, KV and prefix cache "
        f"{_size(need['context'] + need['prefix_cache'])}, rest {_size(need['work'])}",
    )
    if need["free"] is not None:
        answer = "yes" if need["fits"] else "no"
        yield "fits here", f"{answer}: {_size(need['free'])} are free ({need['free_by']})"
    if names := vocabulary.get("control_tokens"):
        yield "control tokens", " ".join(names)


def _type_table(types: dict[str, dict[str, int]]) -> Any:
    from rich.table import Table

    table = Table("type", box=None, pad_edge=False, header_style="bold")
    for title in ("tensors", "weights", "bits a weight", "size", "share"):
        table.add_column(title, justify="right")
    total = sum(of_type["bytes"] for of_type in types.values())
    for name, of_type in types.items():
        bits = 8 * of_type["bytes"] / max(1, of_type["weights"])
        counts = f"{of_type['tensors']:,}", f"{of_type['weights']:,}", f"{bits:.2f}"
        table.add_row(name, *counts, _size(of_type["bytes"]), f"{of_type['bytes'] / total:.1%}")
    return table


def _tensor_table(tensors: list[dict[str, Any]]) -> Any:
    """Return one row for each kind of matrix, layers together, and one for all vectors."""
    from rich.table import Table

    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for tensor in tensors:
        name = re.sub(r"(/h|\bblk\.)\d+\b", r"\1*", tensor["name"])
        shape = " x ".join(f"{n:,}" for n in tensor["shape"])
        key = (name, shape) if len(tensor["shape"]) > 1 else ("norms and biases", "")
        kinds.setdefault(key, []).append(tensor)
    table = Table("tensor", "type", "shape", box=None, pad_edge=False, header_style="bold")
    table.add_column("count", justify="right")
    table.add_column("size", justify="right")
    for (name, shape), alike in sorted(kinds.items(), key=lambda item: item[0][1] == ""):
        types = Counter(tensor["type"] for tensor in alike).most_common()
        mix = ", ".join(f"{n} {type}" if len(types) > 1 else type for type, n in types)
        size = _size(sum(tensor["size_bytes"] for tensor in alike))
        table.add_row(_plain(name), mix, shape, str(len(alike)), size)
    return table


def _size(n_bytes: int) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= power:
            return f"{n_bytes / power:,.2f} {unit}"
    return f"{n_bytes / 1e3:,.2f} KB"


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(printable(text))  # what a file says is no markup
