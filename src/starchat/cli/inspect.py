"""`starchat inspect`: what is in a model file."""

from __future__ import annotations

import os
import re
from contextlib import closing
from typing import Annotated, Any

import typer

from .. import _core
from .._core.machine import free_memory
from ..errors import InvalidRequestError
from ..model_path import model_path
from ..progress import LoadingBar
from .terminal import printable


def inspect(
    file: Annotated[
        str, typer.Argument(metavar="FILE", parser=os.path.expanduser, help="A model file.")
    ],
    ctx: Annotated[
        int | None, typer.Option(help="Show the memory for a context of so many tokens.")
    ] = None,
) -> None:
    """Show what is in a file, and what is wrong with it, without loading its weights."""
    from rich.console import Console

    with closing(LoadingBar(file, "reading")) as bar:
        content = _core.inspect(model_path(file), bar, n_ctx=ctx or 0)
    n_ctx = content["n_ctx"]
    if ctx is not None and not 2 <= ctx <= n_ctx:
        problem = f"expected 2 to {n_ctx:,}, the file's own; got {ctx:,}"
        raise InvalidRequestError.of("--ctx", problem, limit=n_ctx, got=ctx)
    console = Console(highlight=False)
    console.print(_overview(content, n_ctx if ctx is None else ctx))
    console.print()
    console.print(_tensor_table(content["tensors"]))


def _overview(content: dict[str, Any], n_ctx: int) -> Any:
    from rich.table import Table

    head_dim = content["n_embd"] // content["n_head"]
    need, free = content["memory"], free_memory()
    vocabulary = content["vocabulary"]
    kv_heads = "one head" if content["multi_query"] else "as many"
    is_tied = not content["has_lm_head"] or content["lm_head_is_wte"]
    rows = {
        "file": content["path"],
        "format": f"{content['format']}, {content['weight_type']} (ftype {content['ftype']})",
        "size": _size(content["size_bytes"]),
        "parameters": f"{content['n_params']:,}",
        "layers": f"{content['n_layer']} of width {content['n_embd']:,}",
        "attention": f"{content['n_head']} heads of width {head_dim}, "
        f"{kv_heads} of keys and values",
        "output matrix": "the input matrix" if is_tied else "its own",
        "context": f"{content['n_ctx']:,} tokens",
        "vocabulary": f"{vocabulary['n_tokens']:,} tokens, {vocabulary['n_distinct']:,} distinct",
        "weights": f"{_size(content['weight_bytes'])} without repetitions",
        "memory": f"needs {_size(need['total'])} with {n_ctx:,} tokens of context",
        "of it": f"weights {_size(need['weights'])}, context and prefix cache "
        f"{_size(need['context'] + need['prefix_cache'])}, rest {_size(need['work'])}",
    }
    if free:
        answer = "yes" if need["total"] <= free[0] else "no"
        rows["fits here"] = f"{answer}: {_size(free[0])} are free ({free[1]})"
    if names := vocabulary.get("control_tokens"):
        rows["control tokens"] = " ".join(names)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, _plain(value))
    return table


def _tensor_table(tensors: list[dict[str, Any]]) -> Any:
    """Return one row for each kind of tensor, layers together."""
    from rich.table import Table

    kinds: dict[tuple[str, str, str], list[int]] = {}
    for tensor in tensors:
        name = re.sub(r"/h\d+/", "/h*/", tensor["name"])
        shape = " x ".join(f"{n:,}" for n in tensor["shape"])
        kinds.setdefault((name, tensor["type"], shape), []).append(tensor["size_bytes"])
    table = Table("tensor", "type", "shape", box=None, pad_edge=False, header_style="bold")
    table.add_column("count", justify="right")
    table.add_column("size", justify="right")
    for (name, type, shape), sizes in kinds.items():
        table.add_row(_plain(name), type, shape, str(len(sizes)), _size(sum(sizes)))
    return table


def _size(n_bytes: int) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= power:
            return f"{n_bytes / power:,.2f} {unit}"
    return f"{n_bytes / 1e3:,.2f} KB"


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(printable(text))  # what a file says is no markup
