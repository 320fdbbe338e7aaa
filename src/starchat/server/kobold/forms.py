"""Bodies of requests as KoboldAI's clients write them, and the options that they stand for."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..raw_request import Asked, Bias, Ids, RawRequest, SpecialTokens, Stop, read_bias
from ..service import EMPTY_PROMPT, Prompt, Service
from ..settings import MOST_BIASES

_LONGEST_KEY = 256
_NAMES = {
    "max_tokens": "max_length",
    "repetition_penalty": "rep_pen",
    "repetition_window": "rep_pen_range",
    "seed": "sampler_seed",
    "stop": "stop_sequence",
}
# Fields that do nothing, and the values at which they do nothing elsewhere either.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "sampler_order": (None, [], [6, 0, 1, 2, 3, 4, 5], [6, 0, 1, 3, 4, 2, 5]),
    "rep_pen_slope": (None, 0, 1),
    "images": (None, []),
    "negative_prompt": (None, ""),
    "banned_strings": (None, []),
    "singleline": (None, False),
}


class GenerateForm(RawRequest):
    """The body of generate and generate/stream."""

    prompt: str = ""
    memory: str | None = Field(None, description="Is put before the prompt, and never cut.")
    max_length: int | None = Field(None, description="Most tokens of the reply.")
    max_context_length: int | None = Field(
        None, ge=1, description="Tokens of prompt and reply; the prompt's beginning is cut to them."
    )
    genkey: str | None = Field(
        None, max_length=_LONGEST_KEY, description="Names this generation for check and abort."
    )
    temperature: float | None = Field(None, description="0.2 by default.")
    top_k: int | None = Field(None, description="50 by default; 0: off.")
    top_p: float | None = Field(None, description="0.95 by default.")
    min_p: float | None = None
    rep_pen: float | None = None
    rep_pen_range: int | None = Field(None, description="0: all tokens.")
    presence_penalty: float | None = None
    sampler_seed: int | None = Field(None, description="Below 0: a fresh one.")
    stop_sequence: Stop = None
    trim_stop: bool | None = Field(None, description="False: the text has its stop sequence.")
    grammar: str | None = None
    bypass_eos: bool | None = None
    use_default_badwordsids: bool | None = Field(None, description="True: no end of the reply.")
    ban_eos_token: bool | None = None
    logit_bias: Bias = None
    banned_tokens: list[str] | None = Field(
        None, max_length=MOST_BIASES, description="Texts of one token each."
    )

    sampler_order: list[Any] | None = None
    rep_pen_slope: float | None = None
    images: list[Any] | None = None
    negative_prompt: str | None = None
    banned_strings: list[Any] | None = None
    singleline: bool | None = None

    async def asked(self, service: Service) -> tuple[Prompt, Asked]:
        """Return prompt and options in starchat's terms."""
        asked = Asked(_NAMES)
        names = [name for name, off in _NEUTRAL.items() if getattr(self, name) not in off]
        if self.rep_pen in (None, 1) and "rep_pen_slope" in names:
            names.remove("rep_pen_slope")  # of a penalty that is off
        asked.ignore(self.unsupported() + names)
        bans_end = self.bypass_eos or self.use_default_badwordsids or self.ban_eos_token
        bias = await read_bias(self.logit_bias, service)
        asked.options.update(
            max_tokens=self.max_length,
            temperature=None if self.temperature is None else max(self.temperature, 0.0),
            top_k=None if self.top_k is None else max(self.top_k, 0),
            min_p=self.min_p,
            repetition_penalty=self.rep_pen,
            repetition_window=None if self.rep_pen_range is None else max(self.rep_pen_range, 0),
            presence_penalty=self.presence_penalty,
            ignore_eos=bans_end or None,
            grammar=self.grammar or None,
            logit_bias=bias | await self._bans(service, asked) or None,
        )
        asked.set_top_p(self.top_p)
        asked.set_stop("stop_sequence", self.stop_sequence)
        asked.set_seed(self.sampler_seed)
        return await self._prompt(service, asked), asked

    async def _bans(self, service: Service, asked: Asked) -> dict[int, float]:
        bans: dict[int, float] = {}
        n_longer = 0
        for text in filter(None, self.banned_tokens or ()):
            ids = await service.tokenize(text, False)
            if len(ids) == 1:
                bans[ids[0]] = float("-inf")
            n_longer += len(ids) > 1
        if n_longer:
            asked.warnings.append(f"banned_tokens: {n_longer} texts have more than one token")
        return bans

    async def _prompt(self, service: Service, asked: Asked) -> Prompt:
        """Return memory and prompt, whose beginning is cut where both are too long.

        Clients count characters, or nothing, and leave the cut to the server.
        """
        memory = self.memory or ""
        text = memory + self.prompt
        if not text:
            return EMPTY_PROMPT
        n_ctx = service.info.n_ctx
        most = min(self.max_context_length or n_ctx, n_ctx)
        n_reply = self.max_length or min(service.settings.default_max_tokens, most // 2)
        room = max(most - n_reply, 1)
        if len(text) <= room // 4:  # no character has more than 4 tokens
            return Prompt(text=text, allow_special=self.allowed)
        ids = await service.tokenize(text, self.allowed)
        n_over = len(ids) - room
        if n_over <= 0:
            return Prompt(text=text, allow_special=self.allowed)
        kept = await service.tokenize(memory, self.allowed) if memory else []
        n_kept = len(kept) if len(kept) < room and ids[: len(kept)] == kept else 0
        asked.warnings.append(f"prompt: the first {n_over:,} tokens are cut to fit the context")
        return Prompt(text=[*ids[:n_kept], *ids[n_kept + n_over :]])


class KeyForm(BaseModel):
    """The body of check and abort."""

    model_config = ConfigDict(extra="ignore")

    genkey: str | None = Field(None, max_length=_LONGEST_KEY)


class TextForm(SpecialTokens):
    """The body of tokencount and tokenize."""

    prompt: str = ""


class IdsForm(BaseModel):
    """The body of detokenize."""

    model_config = ConfigDict(extra="ignore")

    ids: Ids
