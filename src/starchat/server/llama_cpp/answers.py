"""Replies → llama.cpp's objects, whole or as events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...types import Chunk, TokenLogprob, Usage
from ..events import event
from ..json_response import finite
from ..progress import PromptProgress, timings, with_progress
from ..raw_request import Asked
from ..service import Replies, Service
from .forms import OptionsForm, settings_of
from .line_limits import LineLimits
from .prompts import AskedPrompt


class _Reply:
    """One of the replies, as far as it is written."""

    def __init__(self, form: OptionsForm) -> None:
        self._is_kept = form.n_predict != 0  # else the prompt alone was wanted
        self._lines = LineLimits(form.n_indent or 0, max(form.t_max_predict_ms or 0, 0) / 1e3)
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[dict[str, Any]] = []
        self.last: Chunk | None = None
        self.has_ended = False

    @property
    def was_cut(self) -> bool:
        """Whether it was ended here, before its last chunk."""
        return self._lines.is_over

    def take(self, chunk: Chunk) -> tuple[str, list[dict[str, Any]]]:
        """Return the text and the log probabilities that a chunk adds."""
        if self.has_ended or not self._is_kept:
            self._end(chunk)
            return "", []
        text = self._lines.feed(chunk.text)
        if chunk.finish_reason is not None:
            text += self._lines.finish()
        logprobs = [_probability(token) for token in chunk.logprobs]
        self.text += text
        self.token_ids += chunk.token_ids
        self.logprobs += logprobs
        self._end(chunk)
        return text, logprobs

    def _end(self, chunk: Chunk) -> None:
        if chunk.finish_reason is not None:
            self.last = chunk
        self.has_ended = self.last is not None or self._lines.is_over

    def stop_type(self) -> str:
        """Return why it ended, in llama.cpp's words."""
        if not self._is_kept or self.was_cut or self.last is None:
            return "limit"
        if self.last.finish_reason == "length":
            return "limit"
        return "word" if self.last.stop_string else "eos"


class Answer:
    """What one prompt of a request is answered with."""

    def __init__(
        self, form: OptionsForm, asked: Asked, prompt: AskedPrompt, service: Service
    ) -> None:
        """Begin the answer."""
        self._form, self._asked, self._prompt, self._service = form, asked, prompt, service
        self._replies = [_Reply(form) for _ in range(form.n_cmpl or 1)]
        self._usage = Usage(0, 0)  # of the prompt, with times as the reader sees them
        self._began = time.monotonic()
        self._first = 0.0

    async def whole(self) -> list[dict[str, Any]]:
        """Ask the service, and return an object for each reply."""
        async with await self._asked.stream(self._prompt.prompt, self._service) as replies:
            async for chunk in replies:
                self._saw(replies)
                self._replies[chunk.index].take(chunk)
                if self._is_cut_short():
                    break
        return [self._last(index, reply.text) for index, reply in enumerate(self._replies)]

    async def events(self, replies: Replies) -> AsyncIterator[bytes]:
        """Yield the events of a stream."""
        async for chunk in with_progress(replies, self._form.return_progress):
            if isinstance(chunk, PromptProgress):
                yield event({**self._piece(0, "", ()), "prompt_progress": chunk.fields()})
                continue
            self._saw(replies)
            index, reply = chunk.index, self._replies[chunk.index]
            if reply.has_ended:
                continue
            text, logprobs = reply.take(chunk)
            if text or chunk.token_ids:
                piece = self._piece(index, text, chunk.token_ids)
                if self._form.n_probs:
                    piece["completion_probabilities"] = logprobs
                if self._form.n_predict != 0:
                    yield event(piece)
            if reply.has_ended:
                yield event(self._last(index, ""))
            if self._is_cut_short():
                break

    def _is_cut_short(self) -> bool:
        ended = all(reply.has_ended for reply in self._replies)
        return ended and any(reply.last is None for reply in self._replies)

    def _saw(self, replies: Replies) -> None:
        """Take the time, and what is known of the prompt before the last chunk."""
        now = time.monotonic()
        self._first = self._first or now
        self._usage = Usage(
            replies.prompt_progress[1],
            0,
            cached_tokens=replies.cached_tokens,
            prompt_seconds=self._first - self._began,
            decode_seconds=now - self._first,
        )

    def _usage_of(self, reply: _Reply) -> Usage:
        usage = reply.last.usage if reply.last else None
        return replace(usage or self._usage, completion_tokens=len(reply.token_ids))

    def _piece(self, index: int, text: str, token_ids: Sequence[int]) -> dict[str, Any]:
        usage = self._usage_of(self._replies[index])
        piece = {
            "index": index,
            "content": text,
            "tokens": [*token_ids],
            "stop": False,
            "id_slot": max(self._form.id_slot or 0, 0),
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
        }
        if self._form.timings_per_token:
            piece["timings"] = timings(usage)
        return piece

    def _last(self, index: int, text: str) -> dict[str, Any]:
        """Return the object of a whole reply, or the last event of a stream."""
        form, reply = self._form, self._replies[index]
        usage = self._usage_of(reply)
        is_full = usage.total_tokens >= self._service.info.n_ctx
        answer: dict[str, Any] = {
            "index": index,
            "content": text,
            "tokens": reply.token_ids if form.return_tokens and not form.stream else [],
            "id_slot": max(form.id_slot or 0, 0),
            "stop": True,
            "model": self._service.name,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "generation_settings": settings_of(self._asked.options, self._service),
            "prompt": self._prompt.text,
            "has_new_line": "\n" in reply.text,
            "truncated": self._prompt.is_cut or (reply.stop_type() == "limit" and is_full),
            "stop_type": reply.stop_type(),
            "stopping_word": reply.last.stop_string if reply.last else "",
            "tokens_cached": usage.cached_tokens,
            "timings": timings(usage),
        }
        if form.n_probs and not form.stream:
            answer["completion_probabilities"] = reply.logprobs
        if self._asked.warnings:
            answer["warnings"] = self._asked.warnings
        if form.response_fields:
            return _chosen(answer, form.response_fields)
        return answer


def _probability(token: TokenLogprob) -> dict[str, Any]:
    best = [_likely(other) for other in token.best]
    return {**_likely(token), "top_logprobs": best}


def _likely(token: TokenLogprob) -> dict[str, Any]:
    return {
        "id": token.token_id,
        "token": token.token,
        "bytes": [*token.bytes],
        "logprob": finite(token.logprob),
    }


def _chosen(answer: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the fields that a client asks for; a slash leads to one within another.

    >>> _chosen({"a": {"b": 1}, "c": 2}, ["a/b", "d"])
    {'a/b': 1}
    """
    chosen = {}
    for name in names:
        value: Any = answer
        for key in name.split("/"):
            if not (isinstance(value, Mapping) and key in value):
                break
            value = value[key]
        else:
            chosen[name] = value
    return chosen
