"""A stand-in for the loaded model: it says what a test scripts, and keeps what it was asked.

It shows what the adapter does with a reply whatever the embedded model makes of a question.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starchat import Chunk, FinishReason, ToolCall, Usage
from starchat import ToolCallChunk as Piece


class Replies:
    """One iterator for both kinds of readers, and a context manager for both."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = iter(chunks)
        self.closed = False

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for chunk in self._chunks:
            yield chunk

    def __enter__(self) -> Replies:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    async def __aenter__(self) -> Replies:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


class ScriptedModel:
    """Answers in the order of the script; `asked` are the dialogues with their options."""

    def __init__(self, *replies: list[Chunk]) -> None:
        self.streams = [Replies(reply) for reply in replies]
        self._next = iter(self.streams)
        self.asked: list[tuple[Any, dict[str, Any]]] = []

    def stream_chat(self, dialogue: Any, **options: Any) -> Replies:
        self.asked.append((dialogue, options))
        return next(self._next)

    astream_chat = stream_chat


def reply(
    text: str = "", calls: list[tuple[str, Any]] | None = None, reason: FinishReason | None = None
) -> list[Chunk]:
    """Return the chunks of a reply, in pieces of a few characters.

    Arguments of a call are a dict, or a text if they are cut.
    """
    finished: list[ToolCall] = []
    chunks = [Chunk(text[i : i + 4], (i,)) for i in range(0, len(text), 4)]
    for index, (name, arguments) in enumerate(calls or []):
        said = arguments if isinstance(arguments, str) else json.dumps(arguments)
        chunks.append(Chunk("", (90,), tool_calls=(Piece(index, f"call_{index}", name, ""),)))
        for i in range(0, len(said), 3):
            chunks.append(Chunk("", (91,), tool_calls=(Piece(index, None, None, said[i : i + 3]),)))
        if not isinstance(arguments, str):
            finished.append(ToolCall(f"call_{index}", name, arguments))
    usage = Usage(7, len(chunks))
    reason = reason or ("tool_calls" if calls else "stop")
    end = Chunk("", (), finish_reason=reason, usage=usage, finished_calls=tuple(finished))
    return [*chunks, end]
