"""Gives every test one of the markers that pyproject.toml explains, and leaves out `clients`."""

from __future__ import annotations

import gc
import os

import pytest

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # no test asks a hub elsewhere; nobody is there

KINDS = ("unit", "integration", "clients", "quality")
FOLDERS = {"unit_tests": "unit", "integration_tests": "integration", "quality": "quality"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "clients" not in config.option.markexpr:
        heavy = [item for item in items if item.get_closest_marker("clients")]
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]
    for item in items:
        if not any(item.get_closest_marker(kind) for kind in KINDS):
            folders = [FOLDERS[name] for name in item.path.parts if name in FOLDERS]
            item.add_marker(folders[-1] if folders else "unit")


def pytest_collection_finish() -> None:
    """Spare gc.collect() what the imports made: with both frameworks, a second each time."""
    gc.collect()
    gc.freeze()
