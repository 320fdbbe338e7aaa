"""What one request may take of an engine that several people share: the bounds and their defaults.

An operator sets them where the model is loaded; a request beyond one is refused with an error that
names it. docs/sharing.md says what each protects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .checks import check_integer, check_number
from .errors import InvalidRequestError, shown, unexpected


@dataclass(frozen=True)
class Limits:
    """Bounds on each request, given to StarChat.load and to both adapters' models.

    mask_seconds: CPU time for one step of a constraint, mostly the mask of allowed tokens.
    grammar_seconds: CPU time for all steps of a constraint in one reply.

    >>> Limits(grammar_seconds=10).mask_seconds
    0.05
    """

    mask_seconds: float = 0.05
    grammar_seconds: float = 5.0

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
            name = shown(min(unknown, key=shown))
            problem = f"limits has no field {name}: it has {', '.join(sorted(known))}"
            raise InvalidRequestError(problem, param="limits")
        return cls(**value)
