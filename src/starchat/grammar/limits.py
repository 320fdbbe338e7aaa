"""Bounds for what a JSON Schema leaves open: the parameter `schema_limits`.

A model may fill an open string or list up to max_tokens. The schema's own bounds count where they
are narrower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .schemas import Schema, map_below

_ANY = "any limited value"  # its name in $defs
_ANY_VALUE = {"$ref": f"#/$defs/{_ANY}".replace(" ", "%20")}
_TYPES = ("string", "number", "array", "object")
# Other keywords say what is allowed.
_ELSEWHERE = {"$ref", "$dynamicRef", "enum", "const", "allOf", "anyOf", "oneOf", "not", "if"}
_LISTS = {"enum", "const", "$ref"}
# To limit what stands in these could allow more, or nothing.
_NOT_LIMITED = ("not", "if", "contains", "propertyNames", "dependentSchemas", "allOf")


def limited_schema(schema: Schema, limits: Mapping[str, int]) -> Schema:
    """Return a schema that allows no string, list, object or number beyond the limits.

    >>> limited_schema({"type": "array", "items": {"type": "string"}}, {"string": 9})["items"]
    {'type': 'string', 'maxLength': 9}
    """

    def limited(node: Any) -> Any:
        if not isinstance(node, dict):
            return _ANY_VALUE if node is True else node
        below = map_below(node, limited)
        below |= {key: node[key] for key in _NOT_LIMITED if key in node}
        if _ELSEWHERE & node.keys():
            return below
        types = node.get("type", _TYPES)
        for name in [types] if isinstance(types, str) else types:
            if name in _LIMITED:
                below |= _LIMITED[name](below, limits)
        return below

    if not limits:
        return schema
    result: Schema = limited(schema)
    return result | {"$defs": {**result.get("$defs", {}), _ANY: limited({})}}


def _string(node: Schema, limits: Mapping[str, int]) -> Schema:
    if "string" not in limits or node.keys() & {"pattern", "format"}:
        return {}  # its form bounds it, or could not be met within the limit
    return {"maxLength": _most(node, "maxLength", limits["string"], node.get("minLength", 0))}


def _array(node: Schema, limits: Mapping[str, int]) -> Schema:
    first = node.get("prefixItems", [])
    items = {} if "items" in node else {"items": _ANY_VALUE}
    if "array" not in limits:
        return items
    least = max(node.get("minItems", 0), len(first))
    return items | {"maxItems": _most(node, "maxItems", limits["array"], least)}


def _object(node: Schema, limits: Mapping[str, int]) -> Schema:
    others = node.get("additionalProperties", _ANY_VALUE)
    listed = node.get("properties", {})
    if others is False or "unevaluatedProperties" in node:
        return {}
    made: Schema = {}
    names = node.get("propertyNames")
    are_listed = isinstance(names, dict) and not names.keys().isdisjoint(_LISTS)
    if "object" in limits and not are_listed:
        if not listed.keys() <= {*node.get("required", ())}:
            return {"additionalProperties": False}  # no grammar counts beside optional keys
        least = max(node.get("minProperties", 0), len(node.get("required", [])))
        most = limits["object"] + len(listed)
        made["maxProperties"] = _most(node, "maxProperties", most, least)
    if listed or node.keys() & {"patternProperties", "propertyNames"} or "string" not in limits:
        return made | {"additionalProperties": others}
    # Keys are strings too.
    names = {"patternProperties": {f"^.{{0,{limits['string']}}}$": others}}
    return made | names | {"additionalProperties": False}


def _number(node: Schema, limits: Mapping[str, int]) -> Schema:
    if "digits" not in limits:
        return {}
    most = 10 ** limits["digits"] - 1
    lower = [node[key] for key in ("minimum", "exclusiveMinimum") if _is_number(node.get(key))]
    upper = [node[key] for key in ("maximum", "exclusiveMaximum") if _is_number(node.get(key))]
    while any(value >= most for value in lower) or any(value <= -most for value in upper):
        most = 10 * most + 9  # the schema's own numbers have more digits
    made: Schema = {}
    if not any(value >= -most for value in lower):
        made["minimum"] = -most
    if not any(value <= most for value in upper):
        made["maximum"] = most
    if lower and upper and min(upper) - max(lower) < 1:
        return made  # no such number may have so few decimal places
    return made if "multipleOf" in node else made | {"multipleOf": 10.0 ** -limits["digits"]}


def _integer(node: Schema, limits: Mapping[str, int]) -> Schema:
    return {k: v for k, v in _number(node, limits).items() if k != "multipleOf"}


def _most(node: Schema, key: str, limit: int, least: int) -> int:
    """Return the node's own bound if it is narrower than the limit; never less than `least`."""
    most = max(limit, least)
    return min(int(node[key]), most) if _is_number(node.get(key)) else most


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_LIMITED = {
    "string": _string,
    "array": _array,
    "object": _object,
    "number": _number,
    "integer": _integer,
}
