"""What of a JSON Schema no grammar can hold: at which place, and what to write instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..errors import ConstraintError
from .schemas import DATE_BOUNDS, DEFINITIONS, Place, Schema, places_below, pointer, target

_REMEDIES = {
    "uniqueItems": "its items have too many values to write out all lists of distinct ones: leave "
    "it out, and drop repeated items yourself (or ask for at most one item)",
    "propertyNames": "only an enum, or one pattern, format or length of names can be held",
    **dict.fromkeys(("not", "if", "then", "else"), "say what is allowed, with anyOf"),
    **dict.fromkeys(("contains", "minContains", "maxContains"), "use prefixItems, or leave it out"),
    **dict.fromkeys(
        ("dependentRequired", "dependentSchemas", "dependencies"),
        "use anyOf of objects with and without the property",
    ),
    **dict.fromkeys(
        ("unevaluatedProperties", "unevaluatedItems"), "use additionalProperties or items"
    ),
    **dict.fromkeys(("$dynamicRef", "$recursiveRef"), "use $ref"),
}
REFUSED = "x-refused"
"""A keyword of schemas made of classes: what of the class cannot be held, and a remedy."""


def problem_in(schema: Schema, error: str = "") -> str | None:
    """Return what of an enforced schema cannot be held, where, and what to do; None if all can.

    error: what llguidance says, which may quote a pattern.

    >>> problem_in({"items": {"not": {}}})
    'Unimplemented keys: ["not"] at #/items: say what is allowed, with anyOf'
    """
    for place, node in reachable(schema):
        for problem, remedy in _problems(node):
            return f"{problem} at {pointer(place)}: {remedy}"
    for place, node in reachable(schema):
        if isinstance(pattern := node.get("pattern"), str) and f"{pattern}\n" in error:
            remedy = "write it without looks around and without references to groups"
            return f"{error} (the pattern at {pointer(place)}: {remedy})"
    return None


def check_class(schema: Schema, name: str) -> None:
    """Raise ConstraintError for what of a class no schema can say.

    >>> check_class({"type": "string"}, "Answer")
    """
    for place, node in reachable(schema):
        if REFUSED in node:
            raise ConstraintError.of(name, f"at {pointer(place)}: {node[REFUSED]}")


def reachable(schema: Schema) -> Iterator[tuple[Place, Schema]]:
    """Yield the schemas that apply to values, each with its place; definitions only if used.

    >>> [place for place, _ in reachable({"$defs": {"a": {}, "b": {}}, "$ref": "#/$defs/a"})]
    ['#', '#/$defs/a']
    """
    waiting: list[tuple[Place, Any]] = [("#", schema)]
    seen = set()
    while waiting:
        place, node = waiting.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        yield place, node
        if isinstance(reference := node.get("$ref"), str):
            with suppress(LookupError):  # llguidance says what is wrong
                waiting.append((reference, target(schema, reference)))
        plain = {key: value for key, value in node.items() if key not in DEFINITIONS}
        waiting += places_below(place, plain)


def _problems(node: Schema) -> Iterator[tuple[str, str]]:
    """Yield what of a schema cannot be held, and what to do instead."""
    if isinstance(node.get("format"), str):
        if any(key in node for key in DATE_BOUNDS):
            yield "a bound of a format", 'only dates ("format": "date") can have one'
        known = "docs/constraints.md lists the known ones; give a pattern instead, or leave it out"
        yield f"Unknown format: {node['format']:.80}", known
    for keyword in sorted(_REMEDIES.keys() & node.keys()):
        yield f"Unimplemented keys: {json.dumps([keyword])}", _REMEDIES[keyword]
