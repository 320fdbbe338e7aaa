"""Replies of any text, or calls, for tests of what is shown: chunks without an engine."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

from starchat.types import Chunk, ToolCall, ToolCallChunk, Usage


class FakeReplies:
    """Gives the chunks of a text, of 4 characters each, as Service.stream's replies do.

    wait_s: before the first chunk, while half of the prompt is done; pause_s: between two chunks;
    error: raised at the end.
    """

    prompt_progress = (32, 64)

    def __init__(
        self,
        text: str,
        calls: tuple[ToolCall, ...] = (),
        wait_s: float = 0.0,
        pause_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self.pieces = re.findall(r"(?s).{1,4}", text)
        self.calls = calls
        self.wait_s = wait_s
        self.pause_s = pause_s
        self.error = error

    async def __aenter__(self) -> FakeReplies:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        await asyncio.sleep(self.wait_s)
        for index, piece in enumerate(self.pieces):
            await asyncio.sleep(self.pause_s)
            yield Chunk(piece, (index,))
        for index, call in enumerate(self.calls):
            piece = ToolCallChunk(index, call.id, call.name, json.dumps(call.arguments))
            yield Chunk("", (index,), tool_calls=(piece,))
        if self.error:
            raise self.error
        usage = Usage(64, len(self.pieces), cached_tokens=32, decode_seconds=1.0)
        reason = "tool_calls" if self.calls else "stop"
        yield Chunk("", finish_reason=reason, usage=usage, finished_calls=self.calls)
