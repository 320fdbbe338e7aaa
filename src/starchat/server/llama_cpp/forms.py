"""Bodies of requests as llama.cpp's clients write them, and the options that they stand for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, Field, WithJsonSchema

from ...errors import InvalidRequestError, unexpected
from ...sampling import SamplingParams
from ..raw_request import Asked, Bias, RawRequest, Stop, Texts, read_bias
from ..service import Service
from ..settings import MOST_REPLIES

_RANDOM_SEED = 0xFFFFFFFF  # what llama.cpp reports for "a fresh one", and its clients send back
_LETTERS = {"e": "penalties", "k": "top_k", "p": "top_p", "m": "min_p"}  # of `samplers`


_PROMPT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": ["integer", "string"]}},
        {"type": "object", "properties": {"prompt_string": {"type": "string"}}},
    ]
}
_PROMPTS = {"anyOf": [*_PROMPT["anyOf"], {"type": "array", "items": _PROMPT}]}
_EXPECTED = "a text, a list of token ids and texts, or {'prompt_string': …}"


class OptionsForm(RawRequest):
    """How a reply is chosen and answered."""

    n_predict: int | None = Field(
        None,
        validation_alias=AliasChoices("n_predict", "max_tokens"),
        description="0: the prompt is computed for the cache; below 0: what the context holds.",
    )
    n_cmpl: int | None = Field(
        None, ge=1, le=MOST_REPLIES, validation_alias=AliasChoices("n_cmpl", "n")
    )
    stream: bool | None = None
    temperature: float | None = Field(None, description="0.2 by default; 0 and below: greedy.")
    top_k: int | None = Field(None, description="50 by default; 0 and below: off.")
    top_p: float | None = Field(None, description="0.95 by default.")
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = Field(None, description="0: no penalties; -1: all tokens.")
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = Field(None, description="Below 0: a fresh one.")
    ignore_eos: bool | None = None
    logit_bias: Bias = None
    stop: Stop = None
    samplers: Texts | str | None = Field(
        None, description="Of penalties, top_k, top_p and min_p, those that are not listed are off."
    )
    grammar: str | None = None
    json_schema: dict[str, Any] | bool | None = None
    n_probs: int | None = None
    n_indent: int | None = Field(None, description="A line with less indentation ends the reply.")
    t_max_predict_ms: float | None = Field(
        None, description="Time from the first token after which the reply ends with its line."
    )
    cache_prompt: bool | None = None
    id_slot: int | None = None
    return_tokens: bool | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None
    post_sampling_probs: bool | None = None
    sse_ping_interval: float | None = Field(None, le=86_400)
    response_fields: Texts | None = None
    lora: list[Any] | None = None
    cache_salt: str | None = None

    async def asked(self, service: Service) -> Asked:
        """Return the options in starchat's terms."""
        asked = Asked(_NAMES)
        ignored = self.unsupported()
        ignored += [name for name in ("post_sampling_probs", "lora") if getattr(self, name)]
        asked.ignore(ignored)
        n_tokens = self.n_predict
        if n_tokens is not None:
            # The prompt is in the cache once a token follows it.
            n_tokens = service.info.n_ctx if n_tokens < 0 else max(n_tokens, 1)
        names = ("ignore_eos", "min_p", "presence_penalty", "frequency_penalty", "cache_salt")
        asked.options.update({name: getattr(self, name) for name in names})
        asked.options.update(
            max_tokens=n_tokens,
            n=self.n_cmpl,
            temperature=None if self.temperature is None else max(self.temperature, 0.0),
            top_k=None if self.top_k is None else max(self.top_k, 0),
            repetition_penalty=self.repeat_penalty,
            logprobs=self.n_probs or None,
            grammar=self.grammar or None,
            json_schema=None if self.json_schema is False else self.json_schema,
            logit_bias=await read_bias(self.logit_bias, service) or None,
        )
        self._set_penalties(asked.options)
        asked.set_top_p(self.top_p)
        asked.set_stop("stop", self.stop)
        asked.set_seed(None if self.seed == _RANDOM_SEED else self.seed)
        self._switch_off(asked.options)
        return asked

    def _set_penalties(self, options: dict[str, Any]) -> None:
        window = self.repeat_last_n
        if window == 0:
            options.update(dict.fromkeys(_PENALTIES))
        elif window is not None:
            options["repetition_window"] = max(window, 0)

    def _switch_off(self, options: dict[str, Any]) -> None:
        """Switch those samplers off that a list of them leaves out."""
        if self.samplers is None:
            return
        given = self.samplers
        listed = [_LETTERS.get(letter) for letter in given] if isinstance(given, str) else given
        for name, off in _OFF.items():
            if name not in listed:
                options.update(off)


_NAMES = {
    "max_tokens": "n_predict",
    "n": "n_cmpl",
    "repetition_penalty": "repeat_penalty",
    "repetition_window": "repeat_last_n",
    "logprobs": "n_probs",
}
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_OFF: dict[str, dict[str, Any]] = {
    "penalties": dict.fromkeys(_PENALTIES),
    "top_k": {"top_k": 0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": None},
}


class CompletionForm(OptionsForm):
    """The body of /completion."""

    prompt: Annotated[Any, WithJsonSchema(_PROMPTS)] = Field(
        description="A text, token ids, both mixed, or a list of these."
    )

    @property
    def is_list(self) -> bool:
        """Whether there are several prompts; ids make a list one prompt."""
        return isinstance(self.prompt, list) and not any(isinstance(p, int) for p in self.prompt)

    def prompts(self) -> list[str | list[int | str]]:
        """Return each prompt: a text, or ids and texts."""
        if not self.is_list:
            return [_prompt("prompt", self.prompt)]
        if not 0 < len(self.prompt) <= MOST_REPLIES:
            raise unexpected("prompt", f"1 to {MOST_REPLIES} prompts", len(self.prompt))
        return [_prompt(f"prompt[{i}]", prompt) for i, prompt in enumerate(self.prompt)]


class ExtraText(BaseModel):
    """Another file's text, or a part of it."""

    text: str
    filename: str | None = None


class InfillForm(OptionsForm):
    """The body of /infill."""

    input_prefix: str
    input_suffix: str
    input_extra: list[ExtraText] | None = Field(None, max_length=1_024)
    prompt: str | None = Field(None, description="The beginning of what is missing.")


def _prompt(where: str, prompt: Any) -> str | list[int | str]:
    match prompt:
        case str():
            return prompt
        case {"multimodal_data": [_, *_]}:
            problem = "expected none: this model reads text only"
            raise InvalidRequestError.of(where, problem, "multimodal_data")
        case {"prompt_string": str(text)}:
            return text
        case list() if all(isinstance(piece, (int, str)) for piece in prompt):
            return prompt
    raise unexpected(where, _EXPECTED, prompt)


def settings_of(options: dict[str, Any], service: Service) -> dict[str, Any]:
    """Return options under llama.cpp's names, with the defaults of what is not given."""
    given = {name: value for name, value in options.items() if value is not None}
    defaults = SamplingParams()
    values = {name: given.get(name, getattr(defaults, name)) for name in _REPORTED}
    n_predict = given.get("max_tokens", service.settings.default_max_tokens)
    return {
        "n_ctx": service.info.n_ctx,
        "model": service.name,
        "n_predict": n_predict,
        "max_tokens": n_predict,
        "seed": given.get("seed", _RANDOM_SEED),
        **{_REPORTED[name]: value for name, value in values.items()},
        "repeat_last_n": given.get("repetition_window", -1) or -1,
        "stop": given.get("stop", []),
        "grammar": given.get("grammar", ""),
        "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
    }


_REPORTED = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "ignore_eos": "ignore_eos",
}
