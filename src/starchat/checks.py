"""Checks of what callers give: each returns the value in its one form, or says what it expected.

Types are checked here. Ranges of sampling parameters are the core's, which knows the vocabulary.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence, Sized
from hashlib import sha256
from itertools import chain, islice
from numbers import Real
from typing import Any

from .errors import InvalidRequestError, shown, unexpected

_SLICE = 1 << 16  # ids: the core takes 5 ms to read them
MOST_NAMES = 1_024  # of control tokens: a vocabulary has some twenty
_SIZE = ("an integer from 0 to 1,000,000", 0, 1_000_000)
_LIMITS = {"string": _SIZE, "array": _SIZE, "object": _SIZE}
_LIMITS["digits"] = ("an integer from 1 to 9", 1, 9)


def json_size(value: Any, most: int) -> int:
    """Return about how many bytes the JSON of plain data has; the count stops beyond `most`.

    So its time is bounded, however often data is repeated. It also stops where data holds itself.

    >>> json_size({"a": [1, 2]}, 100), json_size([0] * 10_000_000, 100)
    (16, 102)
    """
    n_bytes = 0
    open_ids: set[int] = set()
    waiting: list[tuple[int, Iterator[Any]]] = [(0, iter((value,)))]
    while waiting:
        for item in waiting[-1][1]:
            n_bytes += 3  # a separator, and brackets or a digit
            kind = type(item)
            if kind is bool or item is None:
                pass
            elif kind is float:
                n_bytes += len(repr(item))
            elif isinstance(item, int):
                n_bytes += item.bit_length() // 4
            elif isinstance(item, str):
                n_bytes += len(item)
                if not item.isascii() and n_bytes <= most:
                    n_bytes += len(item.encode("utf-8", "surrogatepass")) - len(item)
            elif kind is dict or isinstance(item, (list, tuple, Mapping)):
                if id(item) in open_ids:
                    return n_bytes
                open_ids.add(id(item))
                is_list = isinstance(item, (list, tuple))
                below = item if is_list else chain.from_iterable(item.items())
                waiting.append((id(item), iter(below)))
                break
            if n_bytes > most:
                return n_bytes
        else:
            open_ids.discard(waiting.pop()[0])
    return n_bytes


def check_integer(
    name: str,
    value: Any,
    expected: str = "an integer",
    least: int = -(2**63),
    most: int = 2**63 - 1,
) -> int:
    """Return an integer, numpy's too, as Python's; raise InvalidRequestError for all else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise unexpected(name, expected, value)
    if not least <= number <= most:
        raise unexpected(name, expected, number, limit=least if number < least else most)
    return number


def check_optional_integer(name: str, value: Any) -> int | None:
    """Return an integer or None; raise InvalidRequestError for all else."""
    return None if value is None else check_integer(name, value)


def check_seed(name: str, value: Any) -> int | None:
    """Return a seed or None; raise InvalidRequestError for all else."""
    expected = "an integer from 0 to 2**64 - 1, or None for a fresh one"
    return None if value is None else check_integer(name, value, expected, 0, 2**64 - 1)


def check_number(name: str, value: Any) -> float:
    """Return a float; raise InvalidRequestError for what is no number, or too large for one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise unexpected(name, "a number", value)
    try:
        return float(value)
    except OverflowError:
        raise unexpected(name, "a number that a float can hold", value) from None


def check_flag(name: str, value: Any) -> bool:
    """Return True or False; raise InvalidRequestError for all else."""
    if not isinstance(value, bool):
        raise unexpected(name, "True or False", value)
    return value


def check_salt(name: str, value: Any) -> bytes:
    """Return the digest of a text, b"" for None; raise InvalidRequestError for all else.

    A digest of 32 bytes, as the engine keeps it with every sequence.
    """
    if value is None:
        return b""
    if not isinstance(value, str) or not value:
        raise unexpected(name, "a text that is not empty, or None", value)
    return sha256(value.encode("utf-8", "surrogatepass")).digest()


def check_stop(name: str, value: Any) -> tuple[str, ...]:
    """Return stop strings as a tuple; raise InvalidRequestError for an empty one."""
    stops = _strings(name, [value] if isinstance(value, str) else value, "a string or a list")
    if "" in stops:
        where = f"{name}[{stops.index('')}]"
        raise InvalidRequestError.of(where, "an empty string would stop everything")
    return stops


def _strings(name: str, value: Any, expected: str) -> tuple[str, ...]:
    strings = _items(name, value, f"{expected} of strings")
    for index, string in enumerate(strings):
        if not isinstance(string, str):
            raise unexpected(f"{name}[{index}]", "a string", string)
    return strings


def _items(name: str, value: Any, expected: str) -> tuple[Any, ...]:
    try:
        if not isinstance(value, (str, bytes, Mapping)):
            return tuple(value)
    except TypeError:  # what numpy says of an array without dimensions, which has __iter__
        pass
    raise unexpected(name, expected, value)


def check_list(name: str, value: Any, expected: str = "a list") -> Sequence[Any]:
    """Return a sequence as it is; raise InvalidRequestError for texts, mappings and all else."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise unexpected(name, expected, value)
    return value


def check_bias(name: str, value: Any) -> dict[int, float]:
    """Return a dict of token id to number; raise InvalidRequestError for all else."""
    if not isinstance(value, Mapping):
        raise unexpected(name, "a mapping of token ids to numbers", value)
    checked = {}
    for key, bias in value.items():
        id = _token_id(name, key, key, "an integer as the key")
        checked[id] = bias if type(bias) is float else check_number(f"{name}[{id}]", bias)
    return checked


def check_limits(name: str, value: Any) -> dict[str, int]:
    """Return the limits of a schema's open parts."""
    if not isinstance(value, Mapping):
        raise unexpected(name, f"a dict of {', '.join(_LIMITS)} to integers", value)
    for key in value:
        if key not in _LIMITS:
            problem = f"unknown key {shown(key)}, expected {', '.join(_LIMITS)}"
            raise InvalidRequestError.of(name, problem, key, got=shown(key))
    return {
        key: check_integer(f"{name}.{key}", limit, _LIMITS[key][0], *_LIMITS[key][1:])
        for key, limit in value.items()
    }


def check_token_ids(
    name: str, value: Any, expected: str = "a list of token ids"
) -> tuple[int, ...]:
    """Return token ids as a tuple; raise InvalidRequestError where they are no integers."""
    ids = _items(name, value, expected)
    return tuple([_token_id(name, index, id) for index, id in enumerate(ids)])


def token_id_slices(name: str, value: Any) -> Iterator[tuple[int, ...]]:
    """Yield checked token ids, so few at a time that no step holds the GIL for long.

    >>> [*token_id_slices("token_ids", [7, 8])]
    [(7, 8)]
    """
    try:
        ids = None if isinstance(value, (str, bytes, Mapping)) else iter(value)
    except TypeError:
        ids = None
    if ids is None:
        raise unexpected(name, "a list of token ids", value)
    start = 0
    while some := tuple(islice(ids, _SLICE)):
        yield tuple([_token_id(name, start + index, id) for index, id in enumerate(some)])
        start += len(some)


def _token_id(name: str, place: object, id: Any, expected: str = "an integer") -> int:
    if type(id) is int and -1 < id < 2**31:  # at once: there may be thousands
        return id
    return check_integer(f"{name}[{shown(place)}]", id, expected)


def check_allow_special(value: Any) -> bool | tuple[str, ...]:
    """Return a flag or the names of control tokens; raise InvalidRequestError for all else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Sized) and (got := len(value)) > MOST_NAMES and type(value) is not str:
        problem = f"expected at most {MOST_NAMES:,} names, got {got:,}"
        raise InvalidRequestError.of("allow_special", problem, limit=MOST_NAMES, got=got)
    return _strings("allow_special", value, "True, False or a list")
