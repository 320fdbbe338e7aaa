"""How a reply is chosen: the sampling parameters, and the keywords of every generating method."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

from .checks import (
    check_bias,
    check_flag,
    check_integer,
    check_number,
    check_optional_integer,
    check_seed,
    check_stop,
    check_token_ids,
)
from .errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a reply is chosen. The defaults are the model cards' (0.2, 50, 0.95).

    Raises InvalidRequestError for values of a wrong type.

    >>> SamplingParams(stop="###").stop
    ('###',)
    """

    max_tokens: int | None = None  # None: what the context still holds
    temperature: float = 0.2  # 0: greedy
    top_k: int = 50  # 0: off
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: a fresh one for every request
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    min_tokens: int = 0  # no stop id before; stop strings still count
    ignore_eos: bool = False  # only stop and stop_token_ids end the reply
    logprobs: int | None = None  # None: none; n: the chosen token and the n best
    speculation: bool = True  # guess ahead by look-up: the tokens are the same, often sooner

    def __post_init__(self) -> None:
        """Check types, and bring the values into one form."""
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> SamplingParams:
        """Return the parameters for a call's keywords, where None means the default.

        Raises InvalidRequestError for an unknown name, saying which one is near.

        >>> SamplingParams.from_options({"temperature": 0, "top_k": None}).top_k
        50
        """
        for name in options:
            if name in TOOLS:
                problem = "only the chat methods know tools"
                raise InvalidRequestError.of(name, problem, code="unknown_parameter")
            if name not in _CHECKS:
                near = difflib.get_close_matches(name, [*_CHECKS, *CONSTRAINTS, *TOOLS], n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_CHECKS)}"
                raise InvalidRequestError(
                    f"unknown sampling parameter {name!r}: {hint}",
                    param=name,
                    code="unknown_parameter",
                )
        return cls(**{name: value for name, value in options.items() if value is not None})


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    parameter.name: check_number for parameter in fields(SamplingParams)
}
_CHECKS |= {
    "max_tokens": check_optional_integer,
    "top_k": check_integer,
    "logit_bias": check_bias,
    "seed": check_seed,
    "stop": check_stop,
    "stop_token_ids": check_token_ids,
    "min_tokens": check_integer,
    "ignore_eos": check_flag,
    "logprobs": check_optional_integer,
    "speculation": check_flag,
}


class SamplingOptions(TypedDict, total=False):
    """The keywords of every generating method: SamplingParams' fields; None is the default."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    min_tokens: int | None
    ignore_eos: bool | None
    logprobs: int | None
    speculation: bool | None


class ReplyOptions(SamplingOptions, total=False):
    """The keywords of every asking method: sampling, and at most one constraint."""

    json_schema: Mapping[str, Any] | Literal[True] | None  # True: any JSON object
    regex: str | None
    grammar: str | None  # Lark or GBNF
    choice: Sequence[str] | None


class ChatOptions(ReplyOptions, total=False):
    """The keywords of the chat methods: those of every method, and tools."""

    tools: Sequence[Mapping[str, Any]] | None  # name, description, parameters; or OpenAI's form
    tool_choice: str | None  # "auto", "any" or "required", "none", or the name of a tool
    parallel_tool_calls: bool | None  # False: at most one call


CONSTRAINTS = ("json_schema", "regex", "grammar", "choice")
TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
