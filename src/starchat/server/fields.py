"""Validators of the fields of bodies, for the forms of all faces."""

from __future__ import annotations

from typing import Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from .json_response import json_bytes


def _whole(value: Any) -> Any:
    """Return 5 for 5.0, which is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def either(expected: str) -> WrapValidator:
    """Return a validator whose error is one sentence, where a union has one for each of its forms.

    >>> from typing import Annotated; from pydantic import TypeAdapter
    >>> TypeAdapter(Annotated[int | str, either("a name or a number")]).validate_python(None)
    Traceback (most recent call last):
    ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error ...
      expected a name or a number ...
    """

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("form", "expected {form}", {"form": expected}) from None

    return WrapValidator(check)


def at_most(most: int) -> BeforeValidator:
    """Return a validator of how many items an object has, before any of them is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            got = {"most": most, "got": len(value)}
            raise PydanticCustomError("many", "expected at most {most}, got {got}", got)
        return value

    return BeforeValidator(check)


def _writable(value: Any) -> Any:
    try:
        json_bytes(value)
    except (ValueError, RecursionError):
        problem = "expected finite numbers, and less nesting: the answer repeats it"
        raise PydanticCustomError("json", problem) from None
    return value


#: For integers, which clients may write as 5.0.
WHOLE = BeforeValidator(_whole)
#: For lists: the first wrong item is told. An error for each of 30,000 takes a second.
FIRST_ERROR = Field(fail_fast=True)
#: For what an answer repeats: Python reads NaN and 1e999, which JSON does not have.
ECHOED = AfterValidator(_writable)
