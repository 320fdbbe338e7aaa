"""Frameworks read annotations at run time, and forward methods by them."""

from __future__ import annotations

import inspect
import typing

import llama_index.llms.starchat as package
import pytest
from llama_index.llms.starchat import StarChat


def methods(cls: type) -> dict[str, typing.Any]:
    """The public methods and properties that our own packages define."""
    found = {}
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        module = getattr(function, "__module__", "")
        if not name.startswith("_") and module.startswith(
            ("llama_index.llms.starchat", "starchat")
        ):
            found[name] = function
    return found


CLASSES = [value for name in package.__all__ if inspect.isclass(value := getattr(package, name))]


@pytest.mark.parametrize(
    "method", [method for cls in CLASSES for method in methods(cls).values() if callable(method)]
)
def test_annotations_of_public_methods_can_be_read(method: typing.Any) -> None:
    assert typing.get_type_hints(method) is not None


def test_the_class_and_its_methods_are_found() -> None:
    assert StarChat in CLASSES
    assert {"chat", "structured_predict", "metadata"} <= methods(StarChat).keys()
