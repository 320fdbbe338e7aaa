"""`starchat devices`: the GPUs of this machine, and which of them can be used."""

from __future__ import annotations

import json as json_text
from typing import Annotated, Any

import typer

from .._core.machine import gpu_devices
from .terminal import printable


def devices(
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the devices that Vulkan finds, their drivers and memory.

    Without Vulkan or a driver, the error says what to install.
    """
    found = gpu_devices()
    if json:
        print(json_text.dumps(found, indent=1))
    else:
        from rich.console import Console

        Console(highlight=False).print(_table(found))


def _table(found: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("device", "name", "driver", "kind", box=None, pad_edge=False, header_style="bold")
    for title in ("memory", "free"):
        table.add_column(title, justify="right")
    table.add_column("use", overflow="fold")
    for index, device in enumerate(found):
        sizes = [f"{device[key] / 1e9:,.2f} GB" for key in ("memory_bytes", "free_bytes")]
        use = f"refused: {device['refusal']}" if device["refusal"] else _use(device)
        cells = f"vulkan:{index}", device["name"], device["driver"], device["kind"], *sizes, use
        table.add_row(*[Text(printable(cell)) for cell in cells])
    return table


def _use(device: dict[str, Any]) -> str:
    named = "only if named: it computes on the CPU" if device["kind"] == "cpu" else "yes"
    return named + (", int8 matrices" if device["matrices"] else "")
