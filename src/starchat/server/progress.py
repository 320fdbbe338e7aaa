"""How far a prompt is, and the times of a reply, in the forms of llama.cpp's server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ..types import Chunk, Usage
from .service import Replies

_LOOK_S = 0.05  # between two looks at a prompt


@dataclass(frozen=True)
class PromptProgress:
    """Tokens of a prompt that are done, and all of them, so many seconds after the request."""

    done: int
    total: int
    cached: int
    seconds: float

    def fields(self) -> dict[str, Any]:
        """Return llama.cpp's fields."""
        return {
            "total": self.total,
            "cache": self.cached,
            "processed": self.done,
            "time_ms": round(self.seconds * 1e3),
        }


async def with_progress(
    replies: Replies, wanted: bool | None
) -> AsyncIterator[Chunk | PromptProgress]:
    """Yield the chunks of replies; before the first one also the prompt's progress, if wanted."""
    if wanted:
        began = time.monotonic()
        first: asyncio.Task[Chunk] = asyncio.ensure_future(replies.__anext__())
        try:
            last = -1
            while not first.done():
                done, total = replies.prompt_progress
                if total and done != last:
                    last, cached = done, replies.cached_tokens
                    yield PromptProgress(done, total, cached, time.monotonic() - began)
                await asyncio.wait((first,), timeout=_LOOK_S)
            yield first.result()
        finally:
            first.cancel()
    async for chunk in replies:
        yield chunk


def timings(usage: Usage) -> dict[str, Any]:
    """Return the times of a reply in llama.cpp's form.

    >>> timings(Usage(9, 4, cached_tokens=1, prompt_seconds=0.5, decode_seconds=2))["prompt_ms"]
    500.0
    """
    n_prompt, n_reply = usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens
    return {
        "cache_n": usage.cached_tokens,
        **_times("prompt", n_prompt, usage.prompt_seconds),
        **_times("predicted", n_reply, usage.decode_seconds),
        "draft_n": usage.guessed_tokens,
        "draft_n_accepted": usage.accepted_tokens,
    }


def _times(name: str, n: int, seconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": n,
        f"{name}_ms": round(seconds * 1e3, 3),
        f"{name}_per_token_ms": round(seconds * 1e3 / max(n, 1), 3),
        f"{name}_per_second": round(n / seconds, 3) if seconds else 0.0,
    }
