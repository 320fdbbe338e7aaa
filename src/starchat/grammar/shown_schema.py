"""The JSON Schema of a tool's arguments as the prompt shows it: one piece, without titles."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from .schemas import Schema, map_below, untitled_schema

_DEFINITIONS = {"$defs", "definitions"}
_MOST_RESOLVED = 500  # references; more than that would multiply the prompt


def shown_parameters(schema: Schema) -> Schema:
    """Return a schema for people and models: references resolved, titles dropped.

    One that refers to itself, or to what is not in it, keeps its references and definitions.

    >>> shown_parameters({"title": "T", "properties": {"title": {"title": "Title"}}})
    {'properties': {'title': {}}}
    """
    n_resolved = 0

    def resolved(node: Any, within: frozenset[str]) -> Any:
        nonlocal n_resolved
        if not isinstance(node, dict):
            return node
        node = {key: value for key, value in node.items() if key not in _DEFINITIONS}
        if "$ref" not in node:
            return map_below(node, lambda below: resolved(below, within))
        reference = node.pop("$ref")
        n_resolved += 1
        target = _target(schema, reference)
        if reference in within or n_resolved > _MOST_RESOLVED:
            raise LookupError
        return resolved({**target, **node}, within | {reference})

    try:
        return untitled_schema(resolved(schema, frozenset(["#"])))
    except LookupError:
        return untitled_schema(schema)


def _target(schema: Schema, reference: Any) -> Schema:
    """Return the schema that a reference within its own document points to.

    Raises LookupError where there is none.
    """
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise LookupError
    node: Any = schema
    for part in unquote(reference).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list):
            node = node[int(key)] if key.isdecimal() and len(key) < 10 else None
        else:
            node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise LookupError
    return node
