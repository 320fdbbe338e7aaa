"""LangChain reads annotations at run time: RunnableWithFallbacks forwards a method by its own."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path

import pytest
from langchain_core.runnables.fallbacks import RunnableWithFallbacks

import langchain_starchat
from langchain_starchat import ChatStarChat

OWN = ("langchain_starchat", "starchat")
CLASSES = [
    value
    for name in langchain_starchat.__all__
    if inspect.isclass(value := getattr(langchain_starchat, name))
]


def methods(cls: type) -> dict[str, typing.Any]:
    """The public methods and properties that our own packages define."""
    found = {}
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if not name.startswith("_") and getattr(function, "__module__", "").startswith(OWN):
            found[name] = function
    return found


@pytest.mark.parametrize(
    "method", [method for cls in CLASSES for method in methods(cls).values() if callable(method)]
)
def test_annotations_of_public_methods_can_be_read(method: typing.Any) -> None:
    assert typing.get_type_hints(method) is not None


def test_the_classes_and_their_methods_are_found() -> None:
    assert ChatStarChat in CLASSES
    assert {"bind_tools", "with_structured_output", "batch"} <= methods(ChatStarChat).keys()


@pytest.mark.parametrize("method", ["bind_tools", "with_structured_output"])
def test_a_model_with_fallbacks_forwards_to_all_of_them(method: str, tmp_path: Path) -> None:
    llm = ChatStarChat(model_path=tmp_path / "a").with_fallbacks([ChatStarChat()])
    schema = {"title": "now", "description": "The time.", "type": "object", "properties": {}}
    bound = getattr(llm, method)([schema] if method == "bind_tools" else schema)
    assert isinstance(bound, RunnableWithFallbacks)
    assert len(bound.fallbacks) == 1
