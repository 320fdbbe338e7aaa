"""Grades: examples/tour.ipynb prints what it shows, the words of the model included."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
TOUR = Path(__file__).resolve().parents[3] / "examples/tour.ipynb"


def printed(notebook: Any) -> list[str]:
    """Return what each cell prints or returns; places in the source change and are left out."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = [
        "".join(
            output.get("text") or output["data"]["text/plain"]
            for output in cell.outputs
            if output.get("name") != "stderr"
        )
        for cell in cells
    ]
    return [re.sub(r"src/.*?\.py:\d+", "src/…", text) for text in texts]


def test_the_tour_prints_what_it_shows() -> None:
    shown = nbformat.read(TOUR, nbformat.NO_CONVERT)
    run = nbformat.read(TOUR, nbformat.NO_CONVERT)
    folder = {"metadata": {"path": str(TOUR.parent)}}
    nbclient.NotebookClient(run, timeout=120, resources=folder).execute()
    version = ".".join(shown.metadata.language_info.version.split(".")[:2])
    # The last cell is about the standard library, which another Python has in other words.
    end = None if sys.version.startswith(f"{version}.") else -1
    assert printed(run)[:end] == printed(shown)[:end]
    assert all(printed(shown))
