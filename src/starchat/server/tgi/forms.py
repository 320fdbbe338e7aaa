"""Bodies of requests → the options of a reply.

Clients send values that the API does not have: top_p 1, temperature 0, more tokens than there is
room. They are clamped, not refused.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from ...errors import unexpected
from ..fields import FIRST_ERROR, WHOLE
from ..settings import MOST_LOGPROBS, MOST_REPLIES

_MOST_TOKENS = 1 << 31  # of a reply; the context ends it long before
_LARGEST = 1e6  # of a temperature or penalty: beyond it nothing changes
_FAR = 1 << 64
_SEEDS = 1 << 53  # JavaScript reads integers below it exactly


def _known(given: dict[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _near(value: Any) -> Any:
    """Return the nearest number that a float holds; None for NaN."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return min(max(value, -_FAR), _FAR) if value == value else None
    return value


_TEXTS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]
}
Number = Annotated[float | None, BeforeValidator(_near)]
Integer = Annotated[int | None, WHOLE]
Stop = Annotated[list[str], FIRST_ERROR, WithJsonSchema(_TEXTS)]


class Form(BaseModel):
    """What all bodies have: a null is as good as a key that is left out; unknown keys are too."""

    model_config = ConfigDict(extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return _known(given) if isinstance(given, dict) else given


class Grammar(Form):
    """What a reply must be."""

    type: str = Field(description='"json", "json_object", "json_schema" or "regex"')
    value: Any = Field(None, description="A regex, or a JSON Schema, also as its text.")

    def option(self) -> dict[str, Any]:
        """Return the constraint as an option of the model."""
        if self.type == "regex" and isinstance(self.value, str):
            return {"regex": self.value}
        if self.type not in ("json", "json_object", "json_schema", "regex"):
            expected = "json, json_object, json_schema or regex"
            raise unexpected("grammar.type", expected, self.type)
        schema = self.value
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError):
                schema = None
        if self.type == "json_schema" and isinstance(schema, dict):
            schema = schema.get("schema", schema)  # beside a name
        if not isinstance(schema, dict) or self.type == "regex":
            expected = "a string" if self.type == "regex" else "a JSON Schema, or its text"
            raise unexpected("grammar.value", expected, self.value)
        return {"json_schema": schema}


class Parameters(Form):
    """How a reply is chosen, and what is told of it."""

    do_sample: bool | None = None
    temperature: Number = Field(None, description="0 is greedy; the default is 0.2.")
    top_k: Integer = Field(None, description="0 is off; the default is 50.")
    top_p: Number = Field(None, description="1 is off; the default is 0.95.")
    typical_p: Number = Field(None, description="Below 1, samples; else of no effect.")
    repetition_penalty: Number = None
    frequency_penalty: Number = Field(None, description="-2 to 2.")
    max_new_tokens: Integer = Field(None, description="The server has a default.")
    seed: Integer = Field(None, description="A negative one is a fresh one.")
    stop: Stop = Field(default_factory=list, description="stop_sequences is the same.")
    truncate: Integer = Field(None, description="Keep so many tokens of the prompt's end.")
    best_of: Integer = None
    return_full_text: bool | None = Field(None, description="Put the prompt before the reply.")
    details: bool | None = None
    decoder_input_details: bool | None = Field(None, description="With details; not in a stream.")
    top_n_tokens: Integer = Field(None, description="With details, or in a stream.")
    grammar: Grammar | None = None
    watermark: bool | None = Field(None, description="Of no effect.")
    adapter_id: str | None = Field(None, description="Of no effect.")
    allow_special: bool | Annotated[list[str], FIRST_ERROR] | None = Field(
        None,
        validation_alias=AliasChoices("allow_special", "parse_special"),
        description="Which control tokens of the prompt count; by default its frame decides.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_clients_write(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = _known(given)
        if isinstance(nested := given.pop("parameters", None), dict):
            given = {**_known(nested), **given}  # llm-ls nests them, where its user has given none
        stops: list[Any] = []
        for name in ("stop", "stop_sequences"):
            value = given.pop(name, [])
            stops += value if isinstance(value, list) else [value]
        is_text = all(isinstance(stop, str) for stop in stops)
        given["stop"] = [stop for stop in dict.fromkeys(stops) if stop] if is_text else stops
        return given


class GenerateForm(Form):
    """The body of /generate and /generate_stream."""

    inputs: str = Field(description="A raw prompt.", json_schema_extra={"minLength": 1})
    parameters: Parameters | None = Field(None, description="Without any, replies are sampled.")


class CompatibleForm(GenerateForm):
    """The body of / and /models/{owner}/{name}."""

    stream: bool | None = None


@dataclass(frozen=True)
class Asked:
    """What a body asks for."""

    options: dict[str, Any]  # of the model
    seed: int | None  # None: greedy
    best_of: int
    n_best: int  # tokens that are told beside each token
    parameters: Parameters

    @classmethod
    def of(cls, given: Parameters | None, *, is_stream: bool) -> Asked:
        """Return what parameters ask for, each clamped to what there is.

        >>> given = Parameters.model_validate({"max_new_tokens": 0, "top_p": 2})
        >>> Asked.of(given, is_stream=True).options["max_tokens"]
        1
        """
        form = given or Parameters.model_validate({})
        temperature = _clamped(form.temperature, 0.0, _LARGEST)
        top_p = _clamped(form.top_p, 0.0, 1.0)
        top_k = _clamped(form.top_k, 0, _MOST_TOKENS)
        wants_sampling = (
            given is None
            or form.do_sample
            or temperature not in (None, 1.0)
            or top_p not in (None, 1.0)
            or top_k not in (None, 0)
            or (_clamped(form.typical_p, 0.0, 1.0) or 1.0) < 1.0
        )
        is_sampled = wants_sampling and temperature != 0.0 and top_p != 0.0
        seed = None
        if is_sampled:
            has_seed = form.seed is not None and form.seed >= 0
            seed = (form.seed or 0) % (1 << 64) if has_seed else secrets.randbelow(_SEEDS)
        best_of = 1
        if is_sampled and not is_stream:
            best_of = _clamped(form.best_of or 1, 1, MOST_REPLIES)
        n_best = _clamped(form.top_n_tokens or 0, 0, MOST_LOGPROBS)
        penalty = _clamped(form.repetition_penalty, 0.0, _LARGEST) or 1.0
        options = {
            "max_tokens": _clamped(form.max_new_tokens, 1, _MOST_TOKENS),
            "temperature": temperature if is_sampled else 0.0,
            "top_k": top_k if is_sampled else None,
            "top_p": top_p if is_sampled else None,
            "repetition_penalty": max(penalty, 1 / _LARGEST),
            "frequency_penalty": _clamped(form.frequency_penalty, -2.0, 2.0),
            "seed": seed,
            "n": best_of,
            "stop": form.stop,
            "logprobs": n_best if is_stream or form.details or best_of > 1 else None,
            **(form.grammar.option() if form.grammar else {}),
        }
        return cls(options, seed, best_of, n_best, form)


def _clamped(value: float | None, least: float, most: float) -> Any:
    """Return the nearest value between two bounds; None for none."""
    return None if value is None else min(max(value, least), most)
