"""JSON Schemas as data: where in one the others are, and what a grammar cannot follow exactly.

llguidance refuses most of what it does not enforce. What is refused here it would take, and then
allow a text that the schema does not: it computes with floats, and does not remember keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from .errors import ConstraintError
from .types import shown

Schema = dict[str, Any]

_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_SCHEMAS = {
    *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"),
    *("additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "contentSchema"),
}
_NUMBERS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


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


def check_exact(schema: Mapping[str, Any], where: str) -> None:
    """Raise ConstraintError for what would be followed, and not exactly.

    >>> check_exact({"const": 2**53 - 1}, "json_schema")
    """
    for node in _all_schemas(schema):
        for key in _NUMBERS:
            for value in _numbers(node.get(key)):
                if not _is_exact(value):
                    raise ConstraintError(
                        f"{where}: {key} has the number {shown(value)}, expected one of at most 15 "
                        "digits, or 22 behind the point: others cannot be enforced exactly"
                    )
        least, required = node.get("minProperties"), node.get("required")
        n_required = len(required) if isinstance(required, list) else 0
        if isinstance(least, (int, float)) and least > n_required + 1:
            raise ConstraintError(
                f"{where}: minProperties is {shown(least)} where {n_required} are required, "
                "expected at most one more: keys without a name are not told apart"
            )


def _is_exact(value: float) -> bool:
    """Return whether a plain reader of decimals and sums of floats get this number right."""
    if abs(value) >= 2**53:
        return False
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    return int("".join(map(str, digits))) < 2**53 and isinstance(exponent, int) and exponent >= -22


def _all_schemas(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and all in it that are enforced, however deep."""
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            yield node
            enforced = {key: value for key, value in node.items() if key != "contentSchema"}
            map_below(enforced, waiting.append)


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
