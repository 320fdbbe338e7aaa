"""One error more than starchat's own, which all pass through as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.exceptions import ContextOverflowError

from starchat import ContextLengthError


class ContextOverflow(ContextLengthError, ContextOverflowError):
    """The prompt does not fit: starchat's error and the one LangChain's middleware catches."""


@contextmanager
def context_overflow() -> Iterator[None]:
    """Raise `ContextOverflow` where starchat raises `ContextLengthError`."""
    try:
        yield
    except ContextLengthError as exc:
        raise ContextOverflow(*exc.args) from exc
