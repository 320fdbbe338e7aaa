"""Generations by their keys: what they have written so far, and how to end one.

Clients that poll ask for the text beside the request that writes it. Those of other API keys are
never found. A generation without a key is told while there is no other one without.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from ...types import Chunk, Usage
from ..request import current_request
from ..service import Replies

_MOST_KEPT = 64  # generations whose text is known behind their end


class Generation:
    """A request that writes a reply; leaving it ends the work."""

    def __init__(self) -> None:
        """Begin without text."""
        self.text = ""
        self.was_aborted = False
        self.is_running = True
        self._waiting: asyncio.Future[Replies] | None = None
        self._replies: Replies | None = None

    async def submit(self, stream: Coroutine[Any, Any, Replies]) -> None:
        """Wait until the engine has it, or it is aborted."""
        if self.was_aborted:  # before there was anything to end
            stream.close()
            return
        self._waiting = asyncio.ensure_future(stream)
        try:
            self._replies = await self._waiting
            if self.was_aborted:
                await self.end()
        except asyncio.CancelledError:
            if not self.was_aborted:
                raise
        finally:
            self._waiting.cancel()  # of no effect where it has ended

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the chunks, and keep their text; none follow an abort."""
        if self._replies is not None:
            async for chunk in self._replies:
                self.text += chunk.text
                yield chunk

    async def abort(self) -> None:
        """End it with what it has."""
        self.was_aborted = True
        await self.end()

    async def end(self) -> None:
        """End it; harmless where it has ended."""
        self.is_running = False
        if self._waiting is not None:
            self._waiting.cancel()
        if self._replies is not None:
            await self._replies.aclose()

    async def __aenter__(self) -> Generation:
        """Return it."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """End it."""
        await self.end()


class Generations:
    """Those of one application, and figures of the one that ended last."""

    def __init__(self) -> None:
        """Begin without any."""
        self._by_key: OrderedDict[tuple[str, str], list[Generation]] = OrderedDict()
        self.began = self.last_end = time.monotonic()
        self.n_total = 0
        self.last_usage = Usage(0, 0)
        self.last_seed = -1
        self.last_stop = -1  # 0: length, 1: an end token, 2: a stop sequence

    def begin(self, key: str | None) -> Generation:
        """Return a generation that is found by its key."""
        generation, place = Generation(), _place(key)
        known = [other for other in self._by_key.pop(place, ()) if other.is_running]
        self._by_key[place] = [*known, generation]
        if len(self._by_key) > _MOST_KEPT:
            ended = (key for key, these in self._by_key.items() if not _running(these))
            self._by_key.pop(next(ended, place))
        return generation

    def text(self, key: str | None) -> str:
        """Return what the last generation of a key has written so far."""
        known = self._by_key.get(_place(key))
        if not known or (not key and len(_running(known)) > 1):
            return ""
        return known[-1].text

    async def abort(self, key: str) -> bool:
        """End the generations of a key; return whether there were any."""
        running = _running(self._by_key.get(_place(key), []))
        for generation in running:
            await generation.abort()
        return bool(running)

    def ended(self, last: Chunk, seed: int) -> None:
        """Keep the figures of a generation that ended by itself."""
        self.n_total += 1
        self.last_end = time.monotonic()
        self.last_usage = last.usage or self.last_usage
        self.last_seed = seed
        is_length = last.finish_reason == "length"
        self.last_stop = 0 if is_length else 2 if last.stop_string else 1


def _place(key: str | None) -> tuple[str, str]:
    return current_request().salt or "", key or ""


def _running(generations: list[Generation]) -> list[Generation]:
    return [generation for generation in generations if generation.is_running]
