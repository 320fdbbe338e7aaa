"""Data → JSON, in slices: `json.dumps` would hold the GIL for as long as large data takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .checks import json_size

_AT_ONCE = 1 << 16  # bytes, as json_size() counts: 10 ms where they are floats of 17 digits
_MOST_LEAVES = 100  # that are written by one call: 15 ms where they are integers of 4,000 digits
_CONTAINERS = (dict, list, tuple)


def write_json(
    value: object,
    *,
    ensure_ascii: bool = True,
    allow_nan: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """Return what json.dumps(value, ...) returns, or raise what it raises; other threads run.

    >>> write_json({"a": [1, 2]})
    '{"a": [1, 2]}'
    """
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, allow_nan=allow_nan, default=default)
    if json_size(value, _AT_ONCE) <= _AT_ONCE or not isinstance(value, _CONTAINERS):
        return encoder.encode(value)
    return "".join(_pieces(value, encoder))


def _pieces(value: Any, encoder: json.JSONEncoder) -> Iterator[str]:
    """Yield the JSON of a container: runs of leaves by one call, containers by their items."""
    open_ids = {id(value)}
    stack = [(value, _runs(value), False)]
    yield "{" if isinstance(value, dict) else "["
    while stack:
        holder, runs, has_items = stack[-1]
        is_dict = isinstance(holder, dict)
        for run, below in runs:
            if run:
                yield (", " if has_items else "") + encoder.encode(run)[1:-1]
                has_items = True
            if below:
                key, value = below
                if id(value) in open_ids:
                    raise ValueError("Circular reference detected")
                if len(stack) > sys.getrecursionlimit():
                    raise RecursionError("maximum recursion depth exceeded")
                named = encoder.encode({key: None})[1:-5] if is_dict else ""
                yield (", " if has_items else "") + named
                yield "{" if isinstance(value, dict) else "["
                open_ids.add(id(value))
                stack[-1] = holder, runs, True
                stack.append((value, _runs(value), False))
                break
        else:
            stack.pop()
            open_ids.discard(id(holder))
            yield "}" if is_dict else "]"


def _runs(value: Any) -> Iterator[tuple[Any, tuple[Any, Any] | None]]:
    """Yield runs of items that are no containers, and with each what follows it, None at the end.

    An item that json gives to `default` may become a container, which is written by one call.
    """
    is_dict = isinstance(value, dict)
    items: Iterable[tuple[Any, Any]] = value.items() if is_dict else ((None, v) for v in value)
    run: list[tuple[Any, Any]] = []

    def leaves() -> Any:
        return dict(run) if is_dict else [item for _, item in run]

    for key, item in items:
        if isinstance(item, _CONTAINERS):
            yield leaves(), (key, item)
            run = []
        elif len(run) == _MOST_LEAVES:
            yield leaves(), None
            run = [(key, item)]
        else:
            run.append((key, item))
    yield leaves(), None
