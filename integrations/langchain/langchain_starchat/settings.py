"""What the models share: fields, the lazily loaded weights, and identity for caches.

Construction is cheap: weights are loaded at the first use. A call never changes a field.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import model_validator

from langchain_starchat.errors import langchain_errors
from starchat import (
    ConstraintOptions,
    Limits,
    ReplyOptions,
    SamplingParams,
    StarChat,
    model_settings,
)
from starchat import __version__ as starchat_version
from starchat.model_settings import unknown_argument

SAMPLING = tuple(field.name for field in dataclasses.fields(SamplingParams))
CONSTRAINTS = tuple(sorted(ConstraintOptions.__optional_keys__))
OF_REQUESTS = ("n", "cache_salt")
EMBEDDED = "starchat-nano"
N_TOGETHER = 64  # requests of a batch that are submitted at a time: each holds memory
_REMOTE_ONLY = frozenset({"api_key", "base_url", "max_retries", "timeout"})


class ModelSettings(model_settings.ModelSettings):
    """Which file, and how it runs; without a file, the embedded model."""

    model_path: str | None = None
    """The model file or its name, also as `model=`; None: the one inside `starchat`."""
    n_threads: int | None = None
    """Threads that compute; None: one for each core."""
    n_ctx: int | None = None
    """Tokens that one text, or prompt and reply together, may have; None: what the file allows."""
    limits: Limits | None = None
    """Bounds on each request, where several people share the model; None: the defaults."""
    draft: str | None = None
    """A smaller model of the same family, which guesses ahead: replies come sooner, the same."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_arguments(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if "model" in values:  # as most models of LangChain call it
            values = dict(values)
            file = values.pop("model")
            if values.setdefault("model_path", file) != file:
                raise ValueError("model and model_path are one argument: give one of them")
            if file == EMBEDDED:
                values["model_path"] = None
        for name in values.keys() - cls.model_fields.keys() - _REMOTE_ONLY:
            raise ValueError(unknown_argument(cls.__name__, name, cls.model_fields))
        if idle := sorted(values.keys() & _REMOTE_ONLY):
            warnings.warn(
                f"{cls.__name__} runs in this process: {', '.join(idle)} has no effect",
                stacklevel=2,
            )
        return {name: value for name, value in values.items() if name not in _REMOTE_ONLY}

    @property
    def model_name(self) -> str:
        """The file's name, as traces and usage counters show it."""
        return EMBEDDED if self.model_path is None else Path(self.model_path).name

    def _model(self) -> StarChat:
        return self._noted(self.engine)

    async def _amodel(self) -> StarChat:
        return self._noted(await self._aengine())

    def _noted(self, model: StarChat) -> StarChat:
        """Take over what only a loaded model knows, such as its context."""
        return model


class StarChatSettings(ModelSettings):
    """The constructor arguments; a sampling field left at None means starchat's default."""

    # Sampling parameters, written by scripts/sampling_parameters.py
    max_tokens: int | None = None
    """Most tokens of a reply; by default what the context holds."""
    temperature: float | None = None
    """Randomness; 0: always the likeliest token."""
    top_k: int | None = None
    """Choose among the k likeliest tokens; 0: off."""
    top_p: float | None = None
    """Choose among the likeliest tokens of this probability; 1: off."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the best; 0: off."""
    repetition_penalty: float | None = None
    """Above 1: tokens of prompt and reply become less likely; 1: off."""
    frequency_penalty: float | None = None
    """Subtracted from a logit for each time in the reply; 0: off."""
    presence_penalty: float | None = None
    """Subtracted from the logits of what is in the reply; 0: off."""
    repetition_window: int | None = None
    """Penalties see the last so many tokens of prompt and reply; 0: all."""
    logit_bias: dict[int, float] | None = None
    """Token id → what is added to its logit; -inf bans it."""
    seed: int | None = None
    """The same seed gives the same reply; by default a fresh one each time."""
    stop: list[str] | None = None
    """Strings that end a reply and are not part of it."""
    stop_token_ids: list[int] | None = None
    """Ids that end a reply."""
    min_tokens: int | None = None
    """No end token before so many tokens; stop strings still count."""
    ignore_eos: bool | None = None
    """End tokens are masked: only stop strings, stop ids and the limit end a reply."""
    logprobs: int | None = None
    """n: report log probabilities, and of the n likeliest tokens."""
    schema_limits: dict[str, int] | None = None
    """Most characters (string), items (array), keys (object), digits."""
    speculation: bool | None = None
    """Guess ahead by prompt look-up; the tokens are the same without."""
    # End of sampling parameters
    json_schema: dict[str, Any] | Literal[True] | None = None
    """Replies are JSON of this schema; True: any JSON object. One constraint at most."""
    regex: str | None = None
    """Replies match this expression."""
    grammar: str | None = None
    """Replies follow this grammar, in Lark's form or GBNF."""
    choice: list[str] | None = None
    """Replies are one of these texts."""
    n: int | None = None
    """Replies of each prompt, which is computed once: `generate` has them all, others the first."""
    cache_salt: str | None = None
    """Only prompts with the same one share the prefix cache: one for each guest of the engine."""

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What an answer depends on, as the cache key: a replaced file is another model."""
        return {
            "model": self.model_name,
            "model_file": self._file_identity(),
            "n_ctx": self.n_ctx,
            **{name: getattr(self, name) for name in (*SAMPLING, *CONSTRAINTS, *OF_REQUESTS)},
            # LangChain overwrites "stop" with the call's own.
            "default_stop": self.stop,
        }

    def _file_identity(self) -> list[str | int]:
        if self.model_path is None:
            return [EMBEDDED, starchat_version]
        return self._file_state() or [self.model_path]  # loading reports what is wrong

    @langchain_errors()
    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text as a call reads it, by the model's own tokenizer."""
        custom = getattr(self, "custom_get_token_ids", None)
        if custom:
            return list(custom(text))
        # A field of StarChatLLM; the text of a message has no control tokens.
        return self._prompt_ids(text, getattr(self, "allow_special", False))

    def _sampling(self, stop: list[str] | None, call: dict[str, Any]) -> ReplyOptions:
        """Merge the fields with a call's arguments, which win; starchat refuses unknown ones."""
        held = any(call.get(name) is not None for name in (*CONSTRAINTS, "response_format"))
        if held or (call.get("tools") and call.get("tool_choice") != "none"):
            names = (*SAMPLING, *OF_REQUESTS)  # a call's own constraint or tools replace the field
        else:
            names = (*SAMPLING, *CONSTRAINTS, *OF_REQUESTS)
        fields = {name: getattr(self, name) for name in names}
        merged = {name: value for name, value in fields.items() if value is not None} | call
        merged.pop("stream", None)  # LangChain's own switch, already handled
        return cast(ReplyOptions, merged if stop is None else merged | {"stop": stop})


class WideBatches(Runnable[LanguageModelInput, Any]):
    """Answers a batch as wide as the engine computes it, also where answers come one by one."""

    def batch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index, answer) as `Runnable.batch_as_completed` does, as wide as `batch`."""
        return super().batch_as_completed(inputs, wide(config, len(inputs)), **kwargs)

    def abatch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[int, Any]]:
        """Yield (index, answer) as `Runnable.abatch_as_completed` does, as wide as `batch`."""
        return super().abatch_as_completed(inputs, wide(config, len(inputs)), **kwargs)


def wide(config: Any, n_inputs: int) -> list[RunnableConfig]:
    """Return a config for each input; max_concurrency is that of an engine's batch by default.

    LangChain's default, a few more threads than cores, would leave batches half empty.
    """
    default = RunnableConfig(max_concurrency=N_TOGETHER)
    return [
        default | own if own.get("max_concurrency") is None else own
        for own in get_config_list(config, n_inputs)
    ]
