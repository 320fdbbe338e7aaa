"""The JSON Schema of a tool's arguments: as the prompt shows it, and as the grammar enforces it.

Both are copies. The prompt's has references resolved and titles dropped; the grammar's refuses
arguments that a tool did not list, where its schema says nothing of them.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from .schemas import Schema, map_below

_COMBINING = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"}
_OF_PROPERTIES = {"properties", "patternProperties", "additionalProperties", "required"}
_DEFINITIONS = {"$defs", "definitions"}
_MOST_RESOLVED = 500  # references; more than that would multiply the prompt


def shown_parameters(schema: Schema) -> Schema:
    """Return a schema for people and models: references resolved, titles dropped.

    One that refers to itself, or to what is not in it, keeps its references and definitions.

    >>> shown_parameters({"title": "T", "properties": {"title": {"title": "Title"}}})
    {'properties': {'title': {}}}
    """
    n_resolved = 0

    def untitled(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return map_below({k: v for k, v in node.items() if k != "title"}, untitled)

    def resolved(node: Any, within: frozenset[str]) -> Any:
        nonlocal n_resolved
        if not isinstance(node, dict):
            return node
        node = {key: value for key, value in node.items() if key not in _DEFINITIONS}
        if "$ref" not in node:
            return map_below(node, lambda below: resolved(below, within))
        reference = node.pop("$ref")
        n_resolved += 1
        if reference in within or n_resolved > _MOST_RESOLVED:
            raise LookupError
        return resolved({**_target(schema, reference), **node}, within | {reference})

    try:
        shown: Schema = untitled(resolved(schema, frozenset(["#"])))
    except LookupError:
        shown = untitled(schema)
    return shown


def enforced_parameters(schema: Schema) -> Schema:
    """Return a schema of an object that holds what is listed and no more, unless it says more.

    Schemas that are combined are left as they are: what one of them lists, another may not.

    >>> enforced_parameters({"properties": {"a": {}}})["additionalProperties"]
    False
    """
    root = {**schema, "type": "object"}
    combined = False

    def look(node: Any) -> Any:
        nonlocal combined
        if isinstance(node, dict):
            used = _COMBINING & node.keys()
            combined |= len(used) > 1 or bool(used and _OF_PROPERTIES & node.keys())
            combined |= isinstance(node.get("allOf"), list) and len(node["allOf"]) > 1
            map_below(node, look)
        return node

    def close(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        silent = {"patternProperties", "additionalProperties", "unevaluatedProperties"}
        closed = {} if silent & node.keys() else {"additionalProperties": False}
        return map_below(node, close) | (closed if "properties" in node else {})

    look(root)
    result: Schema = root if combined else close(root)
    return result


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
            node = node[int(key)] if key.isdecimal() else None
        else:
            node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise LookupError
    return node
