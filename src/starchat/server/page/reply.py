"""A reply's chunks → the events that the page shows: rendered pieces, calls, progress, the end.

Chunks are read as they come and rendered by a worker, at most every TICK_S, and so seldom that
rendering takes a tenth of the time: a long piece is shown less often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from ...async_waker import in_worker
from ...types import Chunk
from ..events import event
from ..service import Replies
from .blocks import BlockSplitter
from .markdown import Block, BlockRenderer

TICK_S = 0.05  # between two events
PROGRESS_S = 0.1  # between two looks at a prompt that is being computed
_SHARE = 10  # the time between two renderings, as a multiple of what one takes


class _Inbox:
    """The chunks that came and that nobody took yet."""

    def __init__(self, replies: Replies) -> None:
        self.replies = replies
        self._chunks: list[Chunk] = []
        self._came = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for chunk in self.replies:
                self._chunks.append(chunk)
                self._came.set()
        finally:
            self._came.set()

    async def wait(self, timeout_s: float | None) -> bool:
        """Return whether there is something to take, once there is or the time is over."""
        try:
            await asyncio.wait_for(self._came.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def pause(self, s: float) -> None:
        """Wait, but not beyond the end of the replies."""
        if s > 0 and not self._reading.done():
            await asyncio.wait((self._reading,), timeout=s)

    def take(self) -> list[Chunk]:
        """Return the chunks; raise what ended them before their time."""
        self._came.clear()
        chunks, self._chunks = self._chunks, []
        if self._reading.done():
            self._came.set()
            if not chunks:
                self._reading.result()
        return chunks

    def close(self) -> None:
        if not self._reading.cancel() and not self._reading.cancelled():
            self._reading.exception()  # of a client that has gone: nobody else asks for it


class ReplyEvents:
    """What one reply became so far."""

    def __init__(self, begun: str = "") -> None:
        """Go on with a text that has begun, "" for a new one."""
        self._begun = begun
        self._splitter = BlockSplitter()
        self._renderer = BlockRenderer()
        self._shows_code = False
        self._cost_s = 0.0  # of rendering what is open
        self._token_ids: list[int] = []

    async def of(self, replies: Replies) -> AsyncIterator[bytes]:
        """Return the events; the last one says how the reply ended."""
        inbox = _Inbox(replies)
        done, sent, has_begun = -1, 0.0, False
        try:
            while True:
                if not await inbox.wait(None if has_begun else PROGRESS_S):
                    n_done, n_all = replies.prompt_progress
                    if n_done != done:
                        done = n_done
                        yield event({"progress": [n_done, n_all]})
                    continue
                has_begun = True
                interval = max(TICK_S, _SHARE * self._cost_s)
                await inbox.pause(sent + interval - time.monotonic())
                chunks = inbox.take()
                data = await self._data(chunks)
                if chunks and chunks[-1].finish_reason:
                    yield event({**data, "end": self._end(chunks[-1])})
                    return
                sent = time.monotonic()
                if data:
                    yield event(data)
        finally:
            inbox.close()

    async def _data(self, chunks: list[Chunk]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        text = "".join([chunk.text for chunk in chunks])
        is_end = bool(chunks and chunks[-1].finish_reason)
        self._token_ids += [id for chunk in chunks for id in chunk.token_ids]
        if text:
            data["text"] = text
        if chunks:
            data["n_tokens"] = len(self._token_ids)
        if calls := [asdict(call) for chunk in chunks for call in chunk.tool_calls]:
            data["calls"] = calls
        if text or is_end:
            data |= await in_worker(lambda: self._shown(text, is_end))
        return data

    def _shown(self, text: str, is_end: bool) -> dict[str, Any]:
        """Add a text; return `blocks`, which stay, `open`, which replaces the last one, `code`."""
        splitter, renderer = self._splitter, self._renderer
        if self._begun:
            splitter.feed(self._begun)
            self._begun = ""
        splitter.feed(text)
        if is_end:
            splitter.finish()
        shown: dict[str, Any] = {}
        whole, language, code = splitter.take_whole(), splitter.language, splitter.take_code()
        if whole:
            shown["blocks"] = [block(renderer.whole(piece)) for piece in whole]
        elif self._shows_code and language is not None:
            return {"code": code} if code else {}
        begin = time.thread_time()
        if language is None:
            opened = renderer.open(splitter.open)
        else:  # its text follows as it comes
            opened = renderer.open_code(language, code)
        self._cost_s = time.thread_time() - begin
        self._shows_code = language is not None
        return {**shown, "open": block(opened)}

    def _end(self, last: Chunk) -> dict[str, Any]:
        """Return the counts of a reply, and what belongs to its message."""
        usage = last.usage
        return {
            "reason": last.finish_reason,
            "calls": [asdict(call) for call in last.finished_calls],
            "token_ids": self._token_ids,
            "usage": asdict(usage) if usage else None,
        }


def block(rendered: Block) -> dict[str, Any]:
    """Return a rendered piece as the page reads it."""
    return rendered._asdict()
