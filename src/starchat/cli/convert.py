"""`starchat convert`: a model file from a checkpoint, or from a file of another format."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import Annotated

import typer

from ..convert.conversion import convert as convert_model
from ..convert.tensor_types import TYPES
from ..model_path import local_path, model_path
from ..progress import LoadingBar


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            parser=os.path.expanduser,
            help="A Hugging Face or GPTQ folder, a GGUF or ggml file, or a hub's name.",
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", parser=os.path.expanduser, help="The file to write: .gguf or .bin."
        ),
    ],
    type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Of the matrices, or a preset such as q4_k_m; by default as the source has them.",
        ),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            parser=os.path.expanduser,
            help="An adapter (PEFT) to merge into the checkpoint first.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that exists.")
    ] = False,
) -> None:
    """Write a model file from a checkpoint or another file, without loss where no type is given."""
    source = local_path(source)
    source = source if os.path.isdir(source) else model_path(source)
    with closing(LoadingBar(target, "writing")) as bar:
        counts, loss = convert_model(
            source, target, type, lora=lora, overwrite=overwrite, report=bar
        )
    mix = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    print(f"{target}: {os.path.getsize(target):,} bytes, tensors: {mix}")
    for (wanted, given, n_cols), n in loss.replaced.items():
        print(
            f"{n} matrices are {given}, not {wanted}: rows of {n_cols} are no multiple of "
            f"{TYPES[wanted].block_weights}",
            file=sys.stderr,
        )
    if loss.changed:
        print(f"{loss.changed:,} of {loss.total:,} floats changed", file=sys.stderr)
    if loss.nmse is not None:
        print(
            f"act-order groups were quantized again: they added {loss.nmse:.2g} of the weights' "
            "squares as error (NMSE)",
            file=sys.stderr,
        )
