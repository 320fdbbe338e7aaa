"""The value of a JSON text that was cut, as far as it goes."""

from __future__ import annotations

import json
import re
from typing import Any

_PART = re.compile(
    r'"(?P<string>(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)(?P<rest>"|.*)'  # the rest: an escape
    r"|(?P<sign>[{}\[\],:])|[^\s{}\[\],:\"]+",  # or a number, or a word
    re.DOTALL,
)
_WORDS = ("true", "false", "null")


def json_so_far(text: str) -> Any:
    """Return the value of a JSON text that may be cut anywhere; None where there is none yet.

    The last string goes as far as it was written. A number at the very end is left out, as
    digits may be missing.

    >>> json_so_far('{"name": "tea", "grams": [2, 35')
    {'name': 'tea', 'grams': [2]}
    """
    whole, quote = 0, ""  # the length of what can be closed, and the quote of a cut string
    closers: list[str] = []  # of what is open
    is_key = False
    for part in _PART.finditer(text):
        end, sign = part.end(), part["sign"]
        if sign == "," or sign == ":":
            is_key = sign == "," and closers[-1:] == ["}"]
            continue
        if sign == "{" or sign == "[":
            closers.append("}" if sign == "{" else "]")
            is_key = sign == "{"
        elif sign:
            if closers[-1:] != [sign]:
                break  # no JSON from here on
            closers.pop()
        elif is_key:
            continue
        elif part["string"] is None:
            if end == len(text) and part[0] not in _WORDS:
                continue
        elif part["rest"] != '"':
            end, quote = part.end("string"), '"'
        whole = end
    try:
        return json.loads(text[:whole] + quote + "".join(reversed(closers)))
    except (ValueError, RecursionError):
        return None
