"""JSON Schemas as data: how to change all schemas in one, and what cannot be enforced exactly.

llguidance refuses most keywords that it does not enforce. check_exact refuses what llguidance
would accept and enforce inexactly: it computes with floats, and does not remember keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeAlias
from urllib.parse import unquote

from ..checks import json_size
from ..errors import ConstraintError, shown

Schema = dict[str, Any]
#: Where a schema stands: the place of the one above, and the way from there. Joined only in errors,
#: as the pointers of many deep schemas would take the product of both.
Place: TypeAlias = "str | tuple[Place, str]"

DEFINITIONS = {"$defs", "definitions"}
_MAX_RESOLVED = 500  # references; more than that would multiply the prompt
_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_SCHEMAS = {
    *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"),
    *("additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "contentSchema"),
}
_COMBINING = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf"}
# Closing a schema in one of these may allow more, or nothing.
_TESTING = {"not", "if", "contains", "dependentSchemas"}
_OF_PROPERTIES = {"properties", "patternProperties", "additionalProperties", "required"}
_OF_OTHERS = {"patternProperties", "additionalProperties", "unevaluatedProperties"}
NUMBER_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
DATE_BOUNDS = ("formatMinimum", "formatExclusiveMinimum", "formatMaximum", "formatExclusiveMaximum")
_NUMBERS = ("const", "enum", *NUMBER_BOUNDS)


def map_below(schema: Schema, visit: Callable[[Any], Any]) -> Schema:
    """Return a schema with `visit` applied to the schemas directly in it, and to no data.

    >>> map_below({"items": {"type": "null"}, "default": {"type": 1}}, lambda schema: True)
    {'items': True, 'default': {'type': 1}}
    """
    below = dict(schema)
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            below[key] = {name: visit(each) for name, each in value.items()}
        elif key in _SCHEMAS:
            many = isinstance(value, list)
            below[key] = [visit(each) for each in value] if many else visit(value)
    return below


def map_schema(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """Return a schema with `change` applied to all schemas in it, then to itself; to no data.

    >>> map_schema({"items": {"type": "null"}}, lambda schema: schema | {"title": "T"})
    {'items': {'type': 'null', 'title': 'T'}, 'title': 'T'}
    """

    made: dict[int, Schema] = {}  # by id: what a schema holds several times is changed once

    def visit(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if id(node) not in made:
            made[id(node)] = change(map_below(node, visit))
        return made[id(node)]

    return change(map_below(schema, visit))


def untitled_schema(schema: Schema) -> Schema:
    """Return a schema without titles, which mostly repeat names.

    >>> untitled_schema({"title": "T", "properties": {"title": {"title": "Title"}}})
    {'properties': {'title': {}}}
    """
    return map_schema(schema, lambda node: {k: v for k, v in node.items() if k != "title"})


def prompt_schema(schema: Schema, most: int = 1 << 62) -> Schema | None:
    """Return a schema as a prompt shows it: references resolved, titles dropped.

    One that refers to itself, or to what is not in it, keeps its references and definitions. None
    if these would become more than about `most` bytes: the count stops there, and so does the
    writing.

    >>> prompt_schema({"title": "T", "properties": {"title": {"title": "Title"}}})
    {'properties': {'title': {}}}
    """
    n_resolved = n_bytes = 0

    def resolved(node: Any, within: frozenset[str]) -> Any:
        nonlocal n_resolved, n_bytes
        if isinstance(node, dict):
            node = {key: value for key, value in node.items() if key not in DEFINITIONS}
        if len(within) > 1:  # what is referred to, and so may be written out again and again
            n_bytes += json_size(_data_of(node), most - n_bytes)
            if n_bytes > most:
                raise _TooLargeError
        if not isinstance(node, dict):
            return node
        if "$ref" not in node:
            return map_below(node, lambda below: resolved(below, within))
        reference = node.pop("$ref")
        n_resolved += 1
        found = target(schema, reference)
        if reference in within or n_resolved > _MAX_RESOLVED:
            raise LookupError
        return resolved({**found, **node}, within | {reference})

    try:
        return untitled_schema(resolved(schema, frozenset(["#"])))
    except _TooLargeError:
        return None
    except LookupError:
        return untitled_schema(schema)


class _TooLargeError(Exception):
    pass


def _data_of(node: Any) -> Any:
    """Return what of a schema is in no schema below it."""
    if not isinstance(node, dict):
        return node
    return {
        key: [*value]
        if key in _MAPS and isinstance(value, dict)
        else None
        if key in _SCHEMAS
        else value
        for key, value in node.items()
    }


def closed_schema(schema: Schema) -> Schema:
    """Return a schema whose objects have the listed properties only, unless it allows others.

    One that combines schemas is left as it is: a property may be listed in one of them alone.

    >>> closed_schema({"properties": {"a": {}}})
    {'properties': {'a': {}}, 'additionalProperties': False}
    """

    def closed(node: Schema) -> Schema:
        is_silent = "properties" in node and not _OF_OTHERS & node.keys()
        return node | {"additionalProperties": False} if is_silent else node

    return (
        schema
        if any(_combines(node) for _, node in _all_schemas(schema))
        else map_schema(schema, closed)
    )


def check_exact(schema: Mapping[str, Any], where: str) -> None:
    """Raise ConstraintError for what llguidance would enforce inexactly.

    >>> check_exact({"const": 2**53 - 1}, "json_schema")
    """
    for place, node in _all_schemas(schema):
        for key in _NUMBERS:
            for value in _numbers(node.get(key)):
                if not _is_exact(value):
                    raise ConstraintError.of(
                        where,
                        f"{key} has the number {shown(value)}, expected at most 15 digits and 22 "
                        "decimal places: other numbers cannot be enforced exactly "
                        f"(at {pointer(place)})",
                        got=shown(value),
                    )
        least, required = node.get("minProperties"), node.get("required")
        n_required = len(required) if isinstance(required, list) else 0
        if isinstance(least, (int, float)) and least > n_required + 1:
            raise ConstraintError.of(
                where,
                f"minProperties is {shown(least)} where {n_required} are required, expected at "
                f"most one more: keys that have no name in it may repeat (at {pointer(place)})",
                limit=n_required + 1,
                got=shown(least),
            )


def _combines(node: Mapping[str, Any]) -> bool:
    """Return whether more than one schema applies to the same value."""
    keys, all_of = node.keys(), node.get("allOf")
    return (
        len(_COMBINING & keys) > 1
        or bool(_TESTING & keys or (_COMBINING & keys and _OF_PROPERTIES & keys))
        or (isinstance(all_of, list) and len(all_of) > 1)
    )


def _is_exact(value: float) -> bool:
    """Return whether llguidance, which computes with floats, gets this number exactly right."""
    if abs(value) >= 2**53:
        return False
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    return int("".join(map(str, digits))) < 2**53 and isinstance(exponent, int) and exponent >= -22


def pointer(place: Place) -> str:
    """Return a place as a JSON pointer, without the middle of a long one.

    >>> pointer((("#", "properties/a"), "items"))
    '#/properties/a/items'
    """
    parts: list[str] = []
    while isinstance(place, tuple):
        place, part = place
        parts.append(part)
    text = "/".join([place, *reversed(parts)])
    return text if len(text) <= 200 else f"{text[:100]}…{text[-100:]}"


def places_below(place: Place, node: Any) -> Iterator[tuple[Place, Any]]:
    """Yield the schemas directly in one that apply to values, or are definitions; with places.

    >>> below = places_below("#", {"properties": {"a/b": True}, "anyOf": [{}], "enum": [{}]})
    >>> [(pointer(place), node) for place, node in below]
    [('#/properties/a~1b', True), ('#/anyOf/0', {})]
    """
    for key, value in node.items():
        below: list[Any] = []
        if key != "contentSchema":
            map_below({key: value}, below.append)
        if key in _SCHEMAS and below and not isinstance(value, list):
            yield (place, str(key)), value
            continue
        names = value if isinstance(value, dict) else range(len(below))
        for name, schema in zip(names, below, strict=False):
            part = str(name).replace("~", "~0").replace("/", "~1")
            yield (place, f"{key}/{part}"), schema


def _all_schemas(schema: Mapping[str, Any]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield a schema and all in it that are enforced, however deep, once, with their places."""
    waiting: list[tuple[Place, Any]] = [("#", schema)]
    seen = set()
    while waiting:
        place, node = waiting.pop()
        if isinstance(node, Mapping) and id(node) not in seen:
            seen.add(id(node))
            yield place, node
            waiting += places_below(place, node)


def _numbers(data: Any) -> Iterator[float]:
    """Yield the numbers in data, however deep."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield value


def target(schema: Schema, reference: Any) -> Schema:
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
