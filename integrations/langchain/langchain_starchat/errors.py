"""Classes that are both starchat's errors and LangChain's, which tell retries what is permanent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core import exceptions

import starchat


class ContextOverflow(starchat.ContextLengthError, exceptions.ContextOverflowError):
    """The prompt does not fit: starchat's error, and LangChain's, which middleware catches."""


_ModelError: type[Exception] = getattr(exceptions, "ModelError", exceptions.LangChainException)


class CutReplyError(starchat.CutReplyError, exceptions.OutputParserException, _ModelError):  # type: ignore[misc, valid-type]
    """Structured output was cut: `text` has what was written, `partial` its value so far."""

    def __init__(self, *args: object, **fields: Any) -> None:
        """Take what starchat's error takes; `llm_output` is the text, as LangChain calls it."""
        super().__init__(*args, **fields)
        self.args = args  # LangChain adds a link, and adds it again to each copy
        self.llm_output = self.text


_KINDS: dict[type[starchat.StarChatError], type[starchat.StarChatError]] = {
    starchat.ContextLengthError: ContextOverflow,
    starchat.CutReplyError: CutReplyError,
}


def _also(kind: type[starchat.StarChatError], framework: str) -> None:
    """Define the class of this name that is starchat's and LangChain's, where it has one."""
    base = getattr(exceptions, framework, exceptions.LangChainException)
    name = kind.__name__
    globals()[name] = _KINDS[kind] = type(name, (kind, base), {"__module__": __name__})


_also(starchat.FileAccessError, "ModelNotFoundError")
_also(starchat.InvalidRequestError, "ModelInvalidRequestError")
_also(starchat.ConstraintError, "ModelInvalidRequestError")
# Those to try again: others may free memory, and a hub may come back.
_also(starchat.OutOfMemoryError, "ModelAPIError")
_also(starchat.DownloadError, "ModelAPIError")
for _kind in (
    starchat.StarChatError,
    starchat.ModelFileError,
    starchat.UnsupportedFormatError,
    starchat.CorruptFileError,
    starchat.UnsupportedFeatureError,
    starchat.EngineClosedError,
    starchat.ForkError,
    starchat.DeviceLostError,
    starchat.NumericalError,
):
    _also(_kind, "ModelError")


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise starchat's errors as the classes that are LangChain's too, with the same fields."""
    try:
        yield
    except starchat.StarChatError as exc:
        kind = _KINDS.get(type(exc))
        if kind is None:
            raise
        error = kind(*exc.args)
        error.__dict__.update(exc.__dict__)
        raise error.with_traceback(exc.__traceback__) from exc.__cause__
