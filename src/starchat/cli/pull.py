"""`starchat pull`: a model by its name, from a hub into the cache that all programs share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..errors import InvalidRequestError
from ..hub.names import FORMS, hub_name, near_short_name
from ..model_path import fetch
from .terminal import note, printable


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{FORMS}.")],
) -> None:
    """Fetch a model, or renew it, and print its path; a second run goes on where one ended.

    Without QUANT, the largest quantization is taken that fits into the memory that is free.
    """
    wanted = hub_name(name)
    if wanted is None:
        if os.path.exists(name):
            remedy = "it is a file here, which other commands take by its path"
        else:
            near = near_short_name(name)
            remedy = f"did you mean {near}?" if near else "check the name"
        raise InvalidRequestError.of("name", f"{name}: expected {FORMS}; {remedy}")
    path = fetch(wanted)
    size = sum(
        os.path.getsize(os.path.join(folder, file))
        for folder, _, files in os.walk(path)
        for file in files
    ) or os.path.getsize(path)
    note(f"{wanted}: {size / 1e9:.2f} GB")
    print(printable(path))
