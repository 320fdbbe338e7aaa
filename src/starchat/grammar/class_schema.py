"""The schema of a class, for callers that have pydantic: starchat itself does without it."""

from __future__ import annotations

from typing import Any

from .schemas import Schema


def class_schema(cls: Any) -> Schema:
    """Return the schema of a pydantic class, or of any type that pydantic validates.

    It is as narrow as pydantic is, in words that a grammar holds. Raises ConstraintError, with the
    place in the schema, for what none can hold. Needs pydantic 2.

    >>> from decimal import Decimal
    >>> class_schema(Decimal)["format"]
    'decimal'
    """
    from .pydantic_schema import schema_of

    return schema_of(cls)
