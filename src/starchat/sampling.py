"""How a reply is chosen: the sampling parameters, and the keywords of every generating method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

from .argument_names import near_name
from .checks import (
    check_bias,
    check_flag,
    check_integer,
    check_limits,
    check_number,
    check_optional_integer,
    check_seed,
    check_stop,
    check_token_ids,
)
from .errors import InvalidRequestError, shown


def _parameter(default: Any, check: Callable[[str, Any], Any], meaning: str) -> Any:
    kind = {"default_factory": default} if callable(default) else {"default": default}
    return field(**kind, metadata={"check": check, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a reply is chosen. The defaults are the model cards' (0.2, 50, 0.95).

    The only declaration of a parameter in Python: `make generate` writes SamplingOptions, and the
    fields of both adapters, from these lines.

    Raises InvalidRequestError for values of a wrong type.

    >>> SamplingParams(stop="###").stop
    ('###',)
    """

    max_tokens: int | None = _parameter(
        None, check_optional_integer, "Most tokens of a reply; by default what the context holds."
    )
    temperature: float = _parameter(0.2, check_number, "Randomness; 0: always the likeliest token.")
    top_k: int = _parameter(50, check_integer, "Choose among the k likeliest tokens; 0: off.")
    top_p: float = _parameter(
        0.95, check_number, "Choose among the likeliest tokens of this probability; 1: off."
    )
    min_p: float = _parameter(
        0.0, check_number, "Drop tokens less likely than this share of the best; 0: off."
    )
    repetition_penalty: float = _parameter(
        1.0, check_number, "Above 1: tokens of prompt and reply become less likely; 1: off."
    )
    frequency_penalty: float = _parameter(
        0.0, check_number, "Subtracted from a logit for each time in the reply; 0: off."
    )
    presence_penalty: float = _parameter(
        0.0, check_number, "Subtracted from the logits of what is in the reply; 0: off."
    )
    repetition_window: int = _parameter(
        0, check_integer, "Penalties see the last so many tokens of prompt and reply; 0: all."
    )
    logit_bias: Mapping[int, float] = _parameter(
        dict, check_bias, "Token id → what is added to its logit; -inf bans it."
    )
    seed: int | None = _parameter(
        None, check_seed, "The same seed gives the same reply; by default a fresh one each time."
    )
    stop: str | Sequence[str] = _parameter(
        (), check_stop, "Strings that end a reply and are not part of it."
    )
    stop_token_ids: Sequence[int] = _parameter((), check_token_ids, "Ids that end a reply.")
    min_tokens: int = _parameter(
        0, check_integer, "No end token before so many tokens; stop strings still count."
    )
    ignore_eos: bool = _parameter(
        False,
        check_flag,
        "End tokens are masked: only stop strings, stop ids and the limit end a reply.",
    )
    logprobs: int | None = _parameter(
        None, check_optional_integer, "n: report log probabilities, and of the n likeliest tokens."
    )
    schema_limits: Mapping[str, int] = _parameter(
        dict, check_limits, "Most characters (string), items (array), keys (object), digits."
    )
    speculation: bool = _parameter(
        True, check_flag, "Guess ahead by prompt look-up; the tokens are the same without."
    )

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
            if name in OF_CHATS:
                problem = "only the chat methods know "
                problem += "tools" if name in TOOLS else "it: the others continue every text"
                raise InvalidRequestError.of(name, problem, code="unknown_parameter")
            if name not in _CHECKS:
                near = near_name(name, (*_CHECKS, *CONSTRAINTS, *OF_REQUESTS, *OF_CHATS))
                hint = f"did you mean {near}?" if near else f"known are {', '.join(_CHECKS)}"
                problem = f"unknown sampling parameter {shown(name)}: {hint}"
                raise InvalidRequestError(problem, param=name[:80], code="unknown_parameter")
        return cls(**{name: value for name, value in options.items() if value is not None})


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    parameter.name: parameter.metadata["check"] for parameter in fields(SamplingParams)
}


class SamplingOptions(TypedDict, total=False):
    """The keywords of every generating method: SamplingParams' fields; None is the default."""

    # Sampling parameters, written by scripts/sampling_parameters.py
    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_window: int | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    min_tokens: int | None
    ignore_eos: bool | None
    logprobs: int | None
    schema_limits: Mapping[str, int] | None
    speculation: bool | None
    # End of sampling parameters


class ConstraintOptions(TypedDict, total=False):
    """What a reply must be; at most one of them."""

    json_schema: Mapping[str, Any] | Literal[True] | None  # True: any JSON object
    regex: str | None
    grammar: str | None  # Lark or GBNF
    choice: Sequence[str] | None


class ReplyOptions(SamplingOptions, ConstraintOptions, total=False):
    """The keywords of every asking method: sampling, a constraint, and how replies are read.

    n: so many replies of one prompt, which is computed once. Reply i has the seed `seed` + i, and
    is what a request of its own gives with that seed. A `Completion` has them as `choices`, and a
    `Chunk` of a stream says by its `index` to which of them it belongs.
    prompt_progress: called with done and total tokens of the prompt as its steps are computed, in
    the reader's thread or event loop; cached tokens count as done.
    cache_salt: any text, such as the name of a guest. Only prompts with the same one find each
    other's pages in the prefix cache, as the time and `cached_tokens` of a reply tell what others
    have asked; prompts without one share theirs.
    """

    n: int | None
    prompt_progress: Callable[[int, int], object] | None  # AsyncStream awaits an awaitable result
    cache_salt: str | None


class ChatOptions(ReplyOptions, total=False):
    """The keywords of the chat methods: those of every method, tools, and how to go on."""

    tools: Sequence[Mapping[str, Any]] | None  # name, description, parameters; or OpenAI's form
    tool_choice: str | None  # "auto", "any" or "required", "none", or the name of a tool
    parallel_tool_calls: bool | None  # False: at most one call
    continue_final_message: bool | None  # True: go on with the assistant's message at the end


CONSTRAINTS = tuple(ConstraintOptions.__annotations__)
OF_REQUESTS = ("n", "prompt_progress", "cache_salt")
TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
OF_CHATS = (*TOOLS, "continue_final_message")
