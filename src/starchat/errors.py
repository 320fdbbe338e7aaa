"""Every error that starchat raises on purpose.

StarChatError
├── ModelFileError                 the model file cannot be used
│   ├── FileAccessError            (OSError) missing, a folder, no permission: fix the path
│   ├── UnsupportedFormatError     another format or version: convert it, or use another tool
│   ├── CorruptFileError           cut, malformed or hostile: download it again
│   └── DownloadError              (OSError) a hub, or the way to it, fails: try again later
├── InvalidRequestError            (ValueError) a message, token or parameter that cannot be served
│   ├── ContextLengthError         the prompt does not fit into the context
│   └── ConstraintError            a schema, regex or grammar is wrong, unsupported or too complex
├── CutReplyError                  a reply that max_tokens or the context cut, needed whole
├── UnsupportedFeatureError        this machine or this vocabulary cannot do it
├── EngineClosedError              the model was used after close()
├── ForkError                      the model was used in a forked child process
├── OutOfMemoryError               (MemoryError) the machine's memory does not suffice
├── DeviceLostError                a GPU does not answer any more
└── NumericalError                 the weights produced values that are not finite

The C++ core throws classes of the same names with the same fields (cpp/base/errors.hpp).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from types import FunctionType
from typing import Any, Literal, TypeAlias, TypeVar

_Error = TypeVar("_Error", bound="StarChatError")

#: Names of the kinds of errors, for programs: they stay when a sentence changes.
ErrorCode: TypeAlias = Literal[
    "error",
    "model_file_error",
    "file_access_error",
    "unsupported_format",
    "corrupt_file",
    "download_error",
    "invalid_parameter",  # of a wrong type, out of range, or contradicted by another one
    "unknown_parameter",
    "missing_parameter",
    "stream_closed",
    "context_length_exceeded",
    "invalid_constraint",
    "cut_reply",
    "unsupported_feature",
    "engine_closed",
    "forked_process",
    "out_of_memory",
    "device_lost",
    "numerical_error",
]


class StarChatError(Exception):
    """Base of every error that starchat raises on purpose.

    Its text is for people; these fields are for programs, None where they do not apply:
    code: the kind of error, an ErrorCode.
    param: the argument at fault, such as "temperature" or "messages[2].content".
    limit: the bound that `got` is beyond, such as the tokens that the context holds.
    got: what was given: a number, or the beginning of another value's repr.

    >>> import starchat
    >>> try:
    ...     starchat.StarChat.load().complete("Hi", top_p=2)
    ... except starchat.InvalidRequestError as error:
    ...     error.code, error.param, error.limit, error.got
    ('invalid_parameter', 'top_p', 1.0, 2.0)
    """

    code: ErrorCode = "error"

    def __init__(
        self,
        *args: object,
        param: str | None = None,
        limit: float | None = None,
        got: float | str | None = None,
        code: ErrorCode | None = None,
    ) -> None:
        """Take the text, and the fields of the class."""
        super().__init__(*args)
        self.param = param
        self.limit = limit
        self.got = got
        if code:
            self.code = code

    @classmethod
    def of(cls: type[_Error], where: str, problem: str, key: object = "", **fields: Any) -> _Error:
        """Return the error whose text begins with the place at fault; `key` is a key of it.

        Of a place and a key, as of all that a caller gives, an error has the beginning.

        >>> error = InvalidRequestError.of("messages[0]", "the role is missing", "role")
        >>> str(error), error.param
        ('messages[0]: the role is missing', 'messages[0].role')
        """
        name = key[:_SHOWN] if isinstance(key, str) else shown(key)
        return cls(f"{where}: {problem}", param=f"{where}.{name}" if name else where, **fields)


class ModelFileError(StarChatError):
    """The model file cannot be used."""

    code: ErrorCode = "model_file_error"


class FileAccessError(ModelFileError, OSError):
    """The file is missing, a folder, or not readable."""

    code: ErrorCode = "file_access_error"


class UnsupportedFormatError(ModelFileError):
    """The file is of another format or version."""

    code: ErrorCode = "unsupported_format"


class CorruptFileError(ModelFileError):
    """The file is cut short, altered or contradicts itself."""

    code: ErrorCode = "corrupt_file"


class DownloadError(ModelFileError, OSError):
    """A model cannot be fetched now: no connection, a busy server, or a wrong one."""

    code: ErrorCode = "download_error"


class InvalidRequestError(StarChatError, ValueError):
    """A message, token or parameter cannot be served."""

    code: ErrorCode = "invalid_parameter"


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit into the model's context."""

    code: ErrorCode = "context_length_exceeded"


class ConstraintError(InvalidRequestError):
    """A schema, regex or grammar is wrong, unsatisfiable, unsupported or too complex."""

    code: ErrorCode = "invalid_constraint"


class CutReplyError(StarChatError):
    """max_tokens or the context cut a reply that was needed whole.

    text: what was written of it, or of the arguments of the tool call that was cut.
    partial: the value of that JSON as far as it goes; None where there is none.

    >>> error = CutReplyError("the reply was cut", text='{"name": "te', partial={"name": "te"})
    >>> error.code, error.text, error.partial
    ('cut_reply', '{"name": "te', {'name': 'te'})
    """

    code: ErrorCode = "cut_reply"

    def __init__(
        self, *args: object, text: str = "", partial: object = None, **fields: Any
    ) -> None:
        """Take the text, what is left of the reply, and the fields of every error."""
        super().__init__(*args, **fields)
        self.text = text
        self.partial = partial


class UnsupportedFeatureError(StarChatError):
    """This machine or this vocabulary cannot do what was asked."""

    code: ErrorCode = "unsupported_feature"


class EngineClosedError(StarChatError):
    """The model was used after it was closed."""

    code: ErrorCode = "engine_closed"


class ForkError(StarChatError):
    """The model was used in a forked child of the process that loaded it."""

    code: ErrorCode = "forked_process"


class OutOfMemoryError(StarChatError, MemoryError):
    """The machine's memory does not suffice."""

    code: ErrorCode = "out_of_memory"


class DeviceLostError(StarChatError):
    """The GPU does not answer any more: the model must be loaded again."""

    code: ErrorCode = "device_lost"


class NumericalError(StarChatError):
    """The model computed values that are not finite."""

    code: ErrorCode = "numerical_error"


class ControlTokenWarning(UserWarning):
    """Control tokens in a raw prompt were left as text, or deviate from the training's form."""


def unexpected(
    param: str, expected: str, got: object, *, limit: float | None = None
) -> InvalidRequestError:
    """Return the error for a value that is not what was expected.

    >>> str(unexpected("seed", "an integer", "x"))
    "seed: expected an integer, got 'x'"
    """
    problem = f"expected {expected}, got {shown(got)}"
    given: float | str = shown(got)
    if isinstance(got, (int, float)) and not isinstance(got, bool):
        given = got if abs(got) <= sys.float_info.max else given  # what JSON holds
    return InvalidRequestError.of(param, problem, limit=limit, got=given)


_SHOWN = 80  # characters
_FIRST = 8  # values


def shown(value: object) -> str:
    """Return what an error message says of a value: the beginning of its repr.

    The rest is never made, however large the value. No code of the value's class is called: it may
    be slow, or raise. Of objects that are no plain data, their class is named.

    >>> shown([0] * 10_000_000)[:12], shown("x"), shown(object())
    ('[0, 0, 0, 0,', "'x'", '<builtins.object object>')
    """
    text = ""
    try:
        for piece in _repr(value):
            text += piece
            if len(text) >= _SHOWN:
                break
    except Exception:  # integers of more than 4,300 digits have no decimal form
        return f"a value of type {type(value).__name__:.80} that has no repr"
    return text[:_SHOWN]


def _repr(value: Any) -> Iterator[str]:
    """Yield the repr of plain data in pieces, by the methods of its plain class."""
    kind = type(value)
    base: Any = next((base for base in _PLAIN if issubclass(kind, base)), None)
    if base is str:
        yield repr(str.__getitem__(value, slice(_SHOWN)))
    elif base is bytes:
        yield repr(bytes.__getitem__(value, slice(_SHOWN)))
    elif base in _BRACKETS and base.__len__(value):
        opening, closing = _BRACKETS[base]
        yield opening
        items = dict.items(value) if base is dict else base.__iter__(value)
        for n, item in enumerate(items):
            yield ", " if n else ""
            if base is dict:
                yield from _repr(item[0])
                yield ": "
                item = item[1]
            yield from _repr(item)
        yield ",)" if base is tuple and tuple.__len__(value) == 1 else closing
    elif base in _BRACKETS:
        yield repr(base())
    elif base:
        yield base.__repr__(value)
    elif kind is FunctionType:
        yield f"<function {value.__module__}.{value.__qualname__}>"
    else:
        yield f"<{kind.__module__}.{kind.__qualname__} object>"


def shown_first(values: Sequence[object], none: str = "none") -> str:
    """Return what an error message says of many values: the first ones, and how many follow.

    >>> shown_first(["a", "b"]), shown_first(range(1000), "none is given")[-13:]
    ("'a', 'b'", ' and 992 more')
    """
    text = ", ".join([shown(value) for value in values[:_FIRST]])
    n_more = len(values) - _FIRST
    return f"{text} and {n_more:,} more" if n_more > 0 else text or none


_BRACKETS: dict[Any, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}
_PLAIN: tuple[Any, ...] = (
    *(*_BRACKETS, str, bytes, bool, int, float, complex, Decimal),
    *(date, time, timedelta, type, type(None)),
)
