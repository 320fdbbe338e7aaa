"""Validators of the fields of bodies, for the forms of all faces."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BeforeValidator,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError


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


#: For integers, which clients may write as 5.0.
WHOLE = BeforeValidator(_whole)
