"""A JSON Schema → the schema that a grammar enforces: all that it allows, the given one allows.

llguidance knows few formats, no `propertyNames` and no `uniqueItems`: this module writes them by
what llguidance knows. What cannot be held stays, and schema_problems.py says what it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from itertools import combinations, permutations
from math import comb, perm
from typing import Any

from ..checks import json_size
from .formats import NUMBERS, dates_between, patterns_of
from .schemas import DATE_BOUNDS, NUMBER_BOUNDS, Schema, map_schema, target

_MOST_LISTS = 500  # of distinct items, which are written out: 0.2 s to compile
_ABOUT = {"type", "title", "description", "default"}
_OF_AN_ENUM = {"enum", "const", *_ABOUT}
_OF_NAMES = {"pattern", "format", "minLength", "maxLength", "allOf", *_ABOUT}
_OF_ARRAYS = ("type", "items", "minItems", "maxItems")
_LONG_PATTERN = 10_000  # characters
# Each character can be matched in one way only: no text makes it try others.
_LOOK_AHEAD = re.compile(r"\(\?=((?:[^()\[\]\\|]|\\.|\[(?:[^\]\\]|\\.)+\])*)\)")
# What zod 4 writes beside the format "email"; all that the format allows here matches it.
_EMAIL_OF_ZOD = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@"
    r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)


def enforced_schema(schema: Schema, most: int = 1 << 62) -> Schema | None:
    """Return the schema that a grammar enforces; what none can stays, for llguidance to refuse.

    None if it would have more than about `most` bytes: lists of values are written out.

    >>> enforced_schema({"propertyNames": {"const": "a"}, "additionalProperties": {}})
    {'additionalProperties': False, 'properties': {'a': {}}}
    """

    values = _Values(schema)
    n_bytes = 0

    def enforced(node: Schema) -> Schema:
        nonlocal n_bytes
        given = _of_this_draft(_without_look_around(node))
        node = _listed(schema, _distinct(values, given))
        if node is not given:
            n_bytes += json_size(node, most - n_bytes)
        if n_bytes > most:
            raise _TooLargeError
        node = _with_open_ends(_with_pattern(node))
        # llguidance takes formats of numbers, and the one that is called "unknown".
        return node | {"not": True} if isinstance(node.get("format"), str) else node

    try:
        made = map_schema(schema, enforced)
    except _TooLargeError:
        return None
    return made if json_size(made, most) <= most else None


class _TooLargeError(Exception):
    pass


def _of_this_draft(node: Schema) -> Schema:
    """Return a schema with what older drafts, and writers of schemas, say in other words."""
    now = {key: value for key, value in node.items() if key != "$schema"}
    for key in ("additionalProperties", "additionalItems", "items"):
        if now.get(key) == {"not": {}}:
            now[key] = False
    if isinstance(node.get("anyOf"), list):
        now["anyOf"] = [each for each in node["anyOf"] if each != {"not": {}}] or node["anyOf"]
    if isinstance(node.get("items"), list):
        now["prefixItems"] = now.pop("items")
        if "additionalItems" in now:
            now["items"] = now.pop("additionalItems")
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(node.get(exclusive), bool):
            del now[exclusive]
            if node[exclusive] and bound in now:
                now[exclusive] = now.pop(bound)
    return now


def _without_look_around(node: Schema) -> Schema:
    """Return a schema without looks ahead: those that libraries write, and those that mean "and".

    `^(?=.*[0-9])(?=.*[a-z]).{8,}$` is three patterns at once.
    """
    if node.get("pattern") == _EMAIL_OF_ZOD and node.get("format") == "email":
        return {key: node[key] for key in node if key != "pattern"}
    if isinstance(node.get("anyOf"), list):
        kept = [each for each in node["anyOf"] if not _is_text_of_a_number(each)]
        if len(kept) < len(node["anyOf"]) and any(_is_number(each) for each in kept):
            node = node | {"anyOf": kept}
    patterns = [*_anded(node["pattern"])] if isinstance(node.get("pattern"), str) else []
    if len(patterns) > 1:
        node = {key: node[key] for key in node if key != "pattern"}
        node["allOf"] = [*node.get("allOf", ()), *[{"pattern": each} for each in patterns]]
    return node


def _is_number(node: Any) -> bool:
    return isinstance(node, dict) and node.get("type") == "number"


def _is_text_of_a_number(node: Any) -> bool:
    """Return whether this is the string that pydantic allows for a Decimal beside a number."""
    pattern = node.get("pattern") if isinstance(node, dict) else None
    return isinstance(pattern, str) and pattern.startswith("^(?!^[-+.]*$)")


def _anded(pattern: str) -> Iterator[str]:
    """Yield the patterns that one with looks ahead at its start asks for at once.

    A long one stays as it is: to search it would hold the GIL for as long.
    """
    end = 1
    is_short = len(pattern) <= _LONG_PATTERN
    while is_short and pattern[:1] == "^" and (match := _LOOK_AHEAD.match(pattern, end)):
        yield f"^(?:{match[1]})"
        end = match.end()
    yield pattern[:1] + pattern[end:]


def _distinct(known: _Values, node: Schema) -> Schema:
    """Return an array of distinct items as the list of all such arrays, where there are few."""
    if "uniqueItems" not in node:
        return node
    plain = {key: value for key, value in node.items() if key != "uniqueItems"}
    least, most = node.get("minItems", 0), node.get("maxItems", _MOST_LISTS)
    if node["uniqueItems"] is not True or (most == 0 or most == 1):
        return plain
    values = None if "prefixItems" in node else known.of(node.get("items"))
    if values is None or not (isinstance(least, int) and isinstance(most, int)):
        return node
    n_values = len(values)
    most = min(most, n_values)
    lists: list[
        Any
    ] = []  # tuples: of numbers and texts, the garbage collector does not look at them
    if _are_few(n_values, range(least, most + 1), perm):
        lists = [some for n in range(least, most + 1) for some in permutations(values, n)]
    elif _are_few(n_values, range(least, most + 1), comb):
        lists = [some for n in range(least, most + 1) for some in combinations(values, n)]
    types = node.get("type")
    if isinstance(types, list) and "null" in types:
        lists.append(None)
    beside = {key: value for key, value in plain.items() if key not in _OF_ARRAYS}
    return beside | {"enum": lists} if lists else node


def _are_few(n_values: int, lengths: range, count: Callable[[int, int], int]) -> bool:
    """Return whether there are few lists of these lengths; never counts far beyond."""
    n_lists = 0
    for n in lengths:
        # 6! and 12 over 6 are more, and larger numbers would take long.
        short = n if count is perm else min(n, n_values - n)
        n_lists += count(n_values, n) if short < 6 else _MOST_LISTS + 1
        if n_lists > _MOST_LISTS:
            return False
    return True


class _Values:
    """What the schemas within one allow, where they list it; each is looked at once."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._known: dict[int, tuple[Any, list[Any] | None]] = {}  # by id, with what has it

    def of(self, node: Any) -> list[Any] | None:
        """Return the distinct values that a schema allows, None where it does not list them."""
        node = _resolved(self._schema, node)
        if not isinstance(node, dict):
            return None
        if id(node) not in self._known:
            self._known[id(node)] = node, self._listed(node)
        return self._known[id(node)][1]

    def _listed(self, node: Schema) -> list[Any] | None:
        if "const" in node or isinstance(node.get("enum"), list):
            if node.keys() - _OF_AN_ENUM:
                return None
            values = node["enum"] if "enum" in node else [node["const"]]
        elif isinstance(node.get("anyOf"), list):
            parts = [self.of(each) for each in node["anyOf"]]
            values = [value for part in parts if part is not None for value in part]
            if None in parts or node.keys() - {"anyOf", *_OF_AN_ENUM}:
                return None
        else:
            kinds = {"boolean": [True, False], "null": [None]}
            if node.keys() - _OF_AN_ENUM or node.get("type") not in kinds:
                return None
            values = kinds[node["type"]]
        distinct = {json.dumps(value, sort_keys=True): value for value in values}
        return list(distinct.values())


def _listed(schema: Schema, node: Schema) -> Schema:
    """Return an object without `propertyNames`: its keys are listed, or match a pattern."""
    if "propertyNames" not in node or "patternProperties" in node:
        return node
    names = _resolved(schema, node["propertyNames"])
    kept = {key: node[key] for key in node if key != "propertyNames"}
    own, others = node.get("properties", {}), node.get("additionalProperties", True)
    if names is True or names == {}:
        return kept
    if not isinstance(names, dict) or names.get("type", "string") != "string":
        return node
    if ("enum" in names or "const" in names) and not names.keys() - _OF_AN_ENUM:
        keys = names["enum"] if "enum" in names else [names["const"]]
        known = {key: own.get(key, others) for key in keys if isinstance(key, str)}
        if others is False:
            known = {key: own[key] for key in known if key in own}
        return kept | {"additionalProperties": False, "properties": known}
    patterns = [*_patterns_of_names(names)]
    if names.keys() - _OF_NAMES or len(patterns) > 1 or None in patterns or (own and patterns):
        return node
    if not patterns:  # any name
        return kept
    return kept | {"additionalProperties": False, "patternProperties": {patterns[0]: others}}


def _patterns_of_names(names: Schema) -> Iterator[Any]:
    """Yield the patterns that names match, all at once; None where one is not known."""
    names = _with_pattern(names)
    if "format" in names:
        yield None
    for part in (names, *names.get("allOf", ())):
        if "pattern" in part:
            yield part["pattern"]
        elif part is not names:
            yield None
    if "minLength" in names or "maxLength" in names:
        yield f"^(?s:.{{{names.get('minLength', 0)},{names.get('maxLength', '')}}})$"


def _with_pattern(node: Schema) -> Schema:
    """Return a schema that says in patterns and bounds what its `format` says."""
    name = node.get("format")
    if not isinstance(name, str):
        return node
    kept = {key: value for key, value in node.items() if key not in ("format", *DATE_BOUNDS)}
    types = node.get("type", ["string", "number"])
    types = [types] if isinstance(types, str) else types
    of_strings, of_numbers = "string" in types, "number" in types or "integer" in types
    patterns, bounds = patterns_of(name), NUMBERS.get(name)
    if "enum" in node or "const" in node or not (of_strings or of_numbers):
        return kept
    if not ((of_strings and patterns is not None) or (of_numbers and bounds is not None)):
        return node
    if any(key in node for key in DATE_BOUNDS):
        try:
            patterns = [*(patterns or []), *_bounded(node)]
        except (TypeError, ValueError):
            return node
    if of_strings and patterns:
        kept["allOf"] = [
            *node.get("allOf", ()),
            *[{"pattern": f"^(?:{pattern})$"} for pattern in patterns],
        ]
    if of_numbers and bounds is not None:
        for key, value in bounds.items():
            tighter = {"minimum": max, "maximum": min}.get(key)
            kept[key] = tighter(value, node.get(key, value)) if tighter else node.get(key, value)
    return kept


def _with_open_ends(node: Schema) -> Schema:
    """Return a schema whose open range within two whole numbers is a little smaller.

    llguidance 1.9 takes the excluded 0 of the numbers above 0 and below 0.5.
    """
    if any(not isinstance(node.get(key, 0), (int, float)) for key in NUMBER_BOUNDS):
        return node  # llguidance says what is wrong
    least = max(node.get(key, -math.inf) for key in ("minimum", "exclusiveMinimum"))
    most = min(node.get(key, math.inf) for key in ("maximum", "exclusiveMaximum"))
    if node.get("type") == "integer" or not 0 < most - least < 1:
        return node
    low, high = Decimal(repr(least)), Decimal(repr(most))
    step = Decimal(1).scaleb((high - low).adjusted() - 3)
    smaller = dict(node)
    if least == node.get("exclusiveMinimum") and low == int(low):
        del smaller["exclusiveMinimum"]
        smaller["minimum"] = float(low + step)
    if most == node.get("exclusiveMaximum") and high == int(high):
        del smaller["exclusiveMaximum"]
        smaller["maximum"] = float(high - step)
    return smaller


def _bounded(node: Schema) -> list[str]:
    """Return the patterns of a date's bounds; raise ValueError for those of other formats."""
    if node["format"] != "date":
        raise ValueError
    days = {key: date.fromisoformat(node[key]) for key in DATE_BOUNDS if key in node}
    least, most = days.get("formatMinimum"), days.get("formatMaximum")
    if after := days.get("formatExclusiveMinimum"):
        least = max(after + timedelta(1), least or date.min)
    if before := days.get("formatExclusiveMaximum"):
        most = min(before - timedelta(1), most or date.max)
    return dates_between(least, most)


def _resolved(schema: Schema, node: Any) -> Any:
    """Return what a schema that is a reference alone refers to."""
    for _ in range(8):  # a reference may lead to the next
        if not isinstance(node, dict) or "$ref" not in node or node.keys() - _OF_AN_ENUM - {"$ref"}:
            break
        try:
            node = target(schema, node["$ref"])
        except LookupError:
            break
    return node
