"""The values that go in and out of a StarChat: plain, typed, immutable.

Names and types of sampling parameters are checked here; their ranges by the core (NaN too),
which knows the vocabulary.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Literal, TypeAlias, TypedDict

from .errors import InvalidRequestError, unexpected

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; `id` is unique, and the tool's result refers to it."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCallChunk:
    """A piece of a streamed call: first id and name, then pieces of the arguments' JSON."""

    index: int  # of the call in its reply
    id: str | None
    name: str | None
    arguments: str


class _RequiredKeys(TypedDict):
    role: Role
    content: str


class Message(_RequiredKeys, total=False):
    """One turn of a dialogue; an assistant's may carry the ids that were generated for it.

    The result of a tool has the role "tool" and the id of its call.
    """

    token_ids: Sequence[int]
    tool_calls: Sequence[ToolCall | Mapping[str, object]]  # an assistant's: id, name, arguments
    tool_call_id: str
    name: str  # of the tool


#: What chat methods accept: Messages, or any mappings with the same keys.
Messages: TypeAlias = Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probability (natural) of one token, and of the best ones beside it."""

    token_id: int
    token: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of token ids."""

    prompt_tokens: int
    completion_tokens: int
    # Work that was skipped: it depends on earlier requests, the reply does not.
    cached_tokens: int = field(default=0, compare=False)  # of the prompt, found in the prefix cache
    guessed_tokens: int = field(default=0, compare=False)  # proposed by prompt look-up
    accepted_tokens: int = field(default=0, compare=False)  # of the guessed ones
    forced_tokens: int = field(default=0, compare=False)  # the only ones that a constraint allowed

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        """Return what two requests took together.

        >>> (Usage(7, 2) + Usage(9, 1)).total_tokens
        19
        """
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed reply; the last one has finish_reason, usage and finished_calls."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    tool_calls: tuple[ToolCallChunk, ...] = ()  # pieces
    finished_calls: tuple[ToolCall, ...] = ()  # the reply's whole calls, without one that was cut


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply."""

    text: str  # without the calls
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is, and how it runs here."""

    file: str
    quantization: str
    n_layer: int
    n_embd: int
    n_head: int
    n_kv_head: int
    n_ctx: int
    n_vocab: int
    n_params: int
    weight_bytes: int  # in memory, duplicate tensors once
    isa: str
    n_threads: int

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"{self.file}: {self.n_params / 1e6:,.1f} M parameters in {self.quantization} "
            f"({self.weight_bytes / 1e6:,.1f} MB), {self.n_layer} layers of {self.n_embd}, "
            f"{self.n_head} heads on {self.n_kv_head} of keys and values, {self.n_vocab:,} tokens, "
            f"context {self.n_ctx:,}; {self.isa}, {self.n_threads} threads"
        )


# ---- sampling -------------------------------------------------------------------------------


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


def check_integer(
    name: str,
    value: Any,
    expected: str = "an integer",
    least: int = -(2**63),
    most: int = 2**63 - 1,
) -> int:
    """Return an integer, numpy's too, as Python's; raise InvalidRequestError for all else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise unexpected(name, expected, value)
    if not least <= number <= most:
        raise unexpected(name, expected, value, limit=least if number < least else most)
    return number


def _optional_integer(name: str, value: Any) -> int | None:
    return None if value is None else check_integer(name, value)


def _seed(name: str, value: Any) -> int | None:
    expected = "an integer from 0 to 2**64 - 1, or None for a fresh one"
    return None if value is None else check_integer(name, value, expected, 0, 2**64 - 1)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise unexpected(name, "a number", value)
    try:
        return float(value)
    except OverflowError:
        raise unexpected(name, "a number that a float can hold", value) from None


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise unexpected(name, "True or False", value)
    return value


def _stop(name: str, value: Any) -> tuple[str, ...]:
    stops = _strings(name, [value] if isinstance(value, str) else value, "a string or a list")
    if "" in stops:
        where = f"{name}[{stops.index('')}]"
        raise InvalidRequestError.of(where, "an empty string would stop everything")
    return stops


def _strings(name: str, value: Any, expected: str) -> tuple[str, ...]:
    strings = _items(name, value, f"{expected} of strings")
    for index, string in enumerate(strings):
        if not isinstance(string, str):
            raise unexpected(f"{name}[{index}]", "a string", string)
    return strings


def _items(name: str, value: Any, expected: str) -> tuple[Any, ...]:
    try:
        if not isinstance(value, (str, bytes, Mapping)):
            return tuple(value)
    except TypeError:  # what numpy says of an array without dimensions, which has __iter__
        pass
    raise unexpected(name, expected, value)


def _bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise unexpected(name, "a mapping of token ids to numbers", value)
    return {
        check_integer(f"{name} key", token_id): _number(f"{name}[{token_id}]", bias)
        for token_id, bias in value.items()
    }


def check_token_ids(
    name: str, value: Any, expected: str = "a list of token ids"
) -> tuple[int, ...]:
    """Return token ids as a tuple; raise InvalidRequestError where they are no integers."""
    ids = _items(name, value, expected)
    return tuple([check_integer(f"{name}[{index}]", id) for index, id in enumerate(ids)])


def check_allow_special(value: Any) -> bool | tuple[str, ...]:
    """Return a flag or the names of control tokens; raise InvalidRequestError for all else."""
    if isinstance(value, bool):
        return value
    return _strings("allow_special", value, "True, False or a list")


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
    parameter.name: _number for parameter in fields(SamplingParams)
}
_CHECKS |= {
    "max_tokens": _optional_integer,
    "top_k": check_integer,
    "logit_bias": _bias,
    "seed": _seed,
    "stop": _stop,
    "stop_token_ids": check_token_ids,
    "min_tokens": check_integer,
    "ignore_eos": _flag,
    "logprobs": _optional_integer,
    "speculation": _flag,
}
