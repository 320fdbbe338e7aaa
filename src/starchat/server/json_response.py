"""JSON that any text can be in: of a lone surrogate, which has no UTF-8, it has the escape."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse


def json_bytes(value: Any) -> bytes:
    r"""Return compact JSON; ValueError for numbers that JSON does not have.

    >>> json_bytes({"a": "ä\ud800"})
    b'{"a":"\xc3\xa4\\ud800"}'
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


class Json(JSONResponse):
    """What every answer in JSON is made with."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json_bytes(content)
