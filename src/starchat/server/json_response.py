"""JSON that any text can be in: of a lone surrogate, which has no UTF-8, it has the escape."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import JSONResponse


def json_bytes(value: Any) -> bytes:
    r"""Return compact JSON; ValueError for numbers that JSON does not have.

    >>> json_bytes({"a": "ä\ud800"})
    b'{"a":"\xc3\xa4\\ud800"}'
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def finite(logprob: float) -> float:
    """Return a log probability that JSON has; for what it has not, -9999, as vLLM writes it.

    >>> finite(float("-inf"))
    -9999.0
    """
    return max(logprob, _LEAST_LOGPROB) if math.isfinite(logprob) else _LEAST_LOGPROB


_LEAST_LOGPROB = -9999.0


class Json(JSONResponse):
    """What every answer in JSON is made with."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json_bytes(content)
