"""What one request may take of an engine that several people share: the bounds and their defaults.

An operator sets them where the model is loaded; a request beyond one is refused with an error that
names it. docs/sharing.md says what each protects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .checks import check_integer, check_number, json_size
from .errors import ConstraintError, InvalidRequestError, shown, unexpected

_Error = TypeVar("_Error", bound=InvalidRequestError)


@dataclass(frozen=True)
class Limits:
    """Bounds on each request, given to StarChat.load and to both adapters' models.

    logprobs: likeliest tokens that are reported for each token of a reply.
    stop_strings: of a request, and as many stop ids.
    stop_bytes: of all stop strings of a request.
    text_characters: of a dialogue, a raw prompt, a text to embed, or that of ids; also where it is
    only counted.
    schema_bytes: of a JSON Schema, regex or grammar, or of all texts of a choice, as it is given.
    tool_bytes: of all tools of a request as the prompt shows them, with references written out.
    compile_seconds: CPU time to compile a JSON Schema, regex, grammar, choice or tools.
    compile_bytes: memory that compiling takes.
    grammar_cache_bytes: of all compiled grammars that an engine keeps.
    grammar_copy_bytes: of the copies of large grammars that all replies have.
    mask_seconds: CPU time for one step of a constraint, mostly the mask of allowed tokens.
    grammar_seconds: time for all steps of a constraint in one reply.
    unread_bytes: of the KV cache, that the replies hold together that nobody reads.

    >>> Limits(grammar_seconds=10).mask_seconds
    0.05
    """

    logprobs: int = 20
    stop_strings: int = 1024
    stop_bytes: int = 1 << 14
    text_characters: int = 1 << 22
    schema_bytes: int = 1 << 20
    tool_bytes: int = 1 << 20
    compile_seconds: float = 5.0
    compile_bytes: int = 256 << 20
    grammar_cache_bytes: int = 256 << 20
    grammar_copy_bytes: int = 256 << 20
    mask_seconds: float = 0.05
    grammar_seconds: float = 5.0
    unread_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        """Check every field; raise InvalidRequestError, whose `param` is "limits.NAME"."""
        for field in fields(self):
            name, value = f"limits.{field.name}", getattr(self, field.name)
            if isinstance(field.default, int):
                checked: float = check_integer(name, value, "an integer of at least 0", 0)
            else:
                checked = check_number(name, value)
                if not 0 <= checked < float("inf"):
                    raise unexpected(name, "a number of at least 0", value)
            object.__setattr__(self, field.name, checked)

    @classmethod
    def check(cls, value: Limits | Mapping[str, Any] | None) -> Limits:
        """Return limits, also given as a dict of some of them; None is the defaults.

        Raises InvalidRequestError for what is none, and for unknown names.
        """
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise unexpected("limits", "starchat.Limits, or a dict of its fields", value)
        known = {field.name for field in fields(cls)}
        if unknown := value.keys() - known:
            name = shown(next(iter(unknown)))
            problem = f"limits has no field {name}: it has {', '.join(sorted(known))}"
            raise InvalidRequestError(problem, param="limits")
        return cls(**value)

    def beyond(
        self,
        field: str,
        where: str,
        got: int | None,
        *,
        unit: str = "",
        remedy: str = "ask for less",
        kind: type[_Error] = InvalidRequestError,  # type: ignore[assignment]
    ) -> _Error:
        """Return the error for what is beyond a bound; `got` is None where the count stopped."""
        most = getattr(self, field)
        given = f"more than {most:,}" if got is None else f"{got:,}"
        problem = f"expected at most {most:,}{unit}, got {given}: {remedy}"
        problem += _WHERE.format(field)
        return kind.of(where, problem, limit=most, got=got)

    def too_large(
        self, where: str, got: int | None = None, *, remedy: str = "simplify it"
    ) -> ConstraintError:
        """Return the error for a constraint beyond `schema_bytes`."""
        kind, unit = ConstraintError, " bytes"
        return self.beyond("schema_bytes", where, got, unit=unit, remedy=remedy, kind=kind)

    def check_schema(self, where: str, schema: object) -> None:
        """Raise ConstraintError for a JSON Schema beyond `schema_bytes`, found by a bounded walk.

        >>> Limits().check_schema("json_schema", {"type": "null"})
        """
        if json_size(schema, self.schema_bytes) > self.schema_bytes:
            raise self.too_large(where, remedy="make the schema smaller")

    def check_lengths(self, options: Mapping[str, Any], n_vocab: int) -> None:
        """Raise InvalidRequestError for keywords that are too long, before any work on them."""
        for name in ("stop", "stop_token_ids"):
            n = _length(options.get(name))
            if n > self.stop_strings:
                raise self.beyond("stop_strings", name, n, remedy="give fewer")
        if (n := _length(options.get("logit_bias"))) > n_vocab:
            problem = f"expected at most {n_vocab:,}, which is every token, got {n:,}"
            raise InvalidRequestError.of("logit_bias", problem, limit=n_vocab, got=n)

    def check_values(self, stop: Sequence[str], logprobs: int | None) -> None:
        """Raise InvalidRequestError for checked keywords that ask for too much."""
        n_bytes = sum(map(len, stop))
        if n_bytes <= self.stop_bytes:
            n_bytes = sum([len(text.encode("utf-8", "surrogatepass")) for text in stop])
        if n_bytes > self.stop_bytes:
            remedy = "give fewer or shorter ones"
            raise self.beyond("stop_bytes", "stop", n_bytes, unit=" bytes", remedy=remedy)
        if logprobs is not None and logprobs > self.logprobs:
            raise self.beyond("logprobs", "logprobs", logprobs)


#: the remedy of who calls StarChat.load
_WHERE = ", or raise Limits.{} where the model is loaded"


def without_loading(text: str) -> str:
    """Return the text of an error for who cannot load the model with other bounds.

    >>> without_loading(str(Limits().beyond("logprobs", "logprobs", 30)))
    'logprobs: expected at most 20, got 30: ask for less'
    """
    return re.sub(_WHERE.format(r"\w+"), "", text)


def _length(value: Any) -> int:
    """Return how many items a keyword has, 0 for what is no collection."""
    return len(value) if isinstance(value, Sized) and not isinstance(value, (str, bytes)) else 0
