"""One error beside starchat's own ones, which pass through unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.exceptions import ContextOverflowError

from starchat import ContextLengthError


class ContextOverflow(ContextLengthError, ContextOverflowError):
    """The prompt does not fit: starchat's error, and LangChain's, which middleware catches."""


@contextmanager
def context_overflow() -> Iterator[None]:
    """Raise `ContextOverflow` where starchat raises `ContextLengthError`."""
    try:
        yield
    except ContextLengthError as exc:
        fields: Any = {"param": exc.param, "limit": exc.limit, "got": exc.got, "code": exc.code}
        raise ContextOverflow(*exc.args, **fields) from exc
