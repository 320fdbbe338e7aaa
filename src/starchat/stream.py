"""The chunks of a reply for its reader: Stream waits in a thread, AsyncStream in an event loop.

Closing or dropping either ends the sequence within one step of the engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from inspect import isawaitable
from typing import TYPE_CHECKING, ClassVar

from . import _core
from .async_waker import running_loop
from .errors import StarChatError
from .partial_reply import PartialReplies, PartialReply
from .types import Chunk, Completion

if TYPE_CHECKING:
    import asyncio  # not at run time: it would double the time of `import starchat`


class Stream(Iterator[Chunk]):
    """The chunks of a reply, as they come. For one reader; close() from any thread.

    >>> from starchat import StarChat
    >>> dialogue = [{"role": "user", "content": "Hello"}]
    >>> with StarChat.load().stream_chat(dialogue, temperature=0) as stream:
    ...     for chunk in stream:
    ...         print(chunk.text, end="", flush=True)
    Hello...
    """

    def __init__(
        self,
        *replies: PartialReply,
        ready: _core.ReadyQueue | None = None,
        report: Callable[[int, int], object] | None = None,
    ) -> None:
        """Read `replies`. `ready` gets the index of each that has news; one by itself needs none.

        report: is told how far the prompt is.
        """
        self._replies = PartialReplies(replies, report)
        self._ready = ready
        self._news: list[int] = []  # what `ready` had

    @property
    def prompt_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that are done, cached ones included, and all; for any thread."""
        return self._replies.prompt_progress

    def __next__(self) -> Chunk:
        """Wait for the next chunk.

        Raises EngineClosedError if the model is closed meanwhile, NumericalError if its weights
        give no finite logits, and what `prompt_progress` raises. A MemoryError closes the stream.
        """
        try:
            while not self._replies.ended:
                ready = self._ready
                chunk = self._next_of_one() if ready is None else self._next_of_any(ready)
                if chunk:
                    return chunk
        except MemoryError:  # tokens may be lost
            self.close()
            raise
        raise StopIteration

    def _next_of_one(self) -> Chunk | None:
        (reply,) = self._replies.all
        token = reply.tokens.next()
        fresh = [] if token is None else [token]
        with suppress(StarChatError):  # the next call raises it again, behind these tokens
            fresh += reply.tokens.drain()
        return reply.advance(fresh)

    def _next_of_any(self, ready: _core.ReadyQueue) -> Chunk | None:
        self._news = self._news or ready.wait()
        if not self._news:  # the interpreter ends
            self.close()
            return None
        self._replies.progress()
        reply = self._replies.all[self._news[0]]
        chunk = reply.advance(reply.tokens.drain())
        del self._news[0]  # now, as the next call shall raise what drain() has raised
        return chunk

    def close(self) -> None:
        """End the reply here; harmless when it has ended."""
        self._replies.close()

    def __enter__(self) -> Stream:
        """Return the stream."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the stream."""
        self.close()

    def result(self) -> Completion:
        """Wait for the end; return the whole reply, or n, with what was already read.

        Raises InvalidRequestError after close().
        """
        for _ in self:
            pass
        return self._replies.completion()


class AsyncStream(AsyncIterator[Chunk]):
    """The chunks of a reply, as they come, for one task; cancelling it ends the reply.

    >>> import asyncio
    >>> from starchat import StarChat
    >>> async def answer(dialogue):
    ...     async with StarChat.load().astream_chat(dialogue, temperature=0) as stream:
    ...         async for chunk in stream:
    ...             print(chunk.text, end="", flush=True)
    >>> asyncio.run(answer([{"role": "user", "content": "Hello"}]))
    Hello...
    """

    # Strong references to waiting streams, as asyncio has only weak ones to tasks: a stream holds
    # the future that its task waits for, and the future holds the task.
    _waiting: ClassVar[set[AsyncStream]] = set()

    def __init__(
        self, *replies: PartialReply, report: Callable[[int, int], object] | None = None
    ) -> None:
        """Read `replies`; wake() tells that there is more of them."""
        self._replies = PartialReplies(replies, report)
        self._turn = 0  # index of the reply that is looked at next
        self._waiter: asyncio.Future[None] | None = None

    @property
    def prompt_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that are done, cached ones included, and all; for any thread."""
        return self._replies.prompt_progress

    def wake(self) -> None:
        """Continue the waiting task, from any thread."""
        self._waiting.discard(self)  # first, so that it cannot undo what a later wait has added
        waiter = self._waiter
        if waiter is not None:
            try:  # from here on the loop holds the waiter
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:  # the loop was closed, and its tasks with it
                self._replies.close()

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk; errors as those of Stream."""
        from asyncio import sleep

        replies = self._replies
        if self._waiter is not None:
            raise RuntimeError("this stream is already being read by another task")
        loop = running_loop()
        self._waiter = loop.create_future()
        try:
            await sleep(0)  # lets other tasks run, however far ahead the engine is
            while not replies.ended:
                if isawaitable(reported := replies.progress()):
                    await reported
                if chunk := self._next_chunk():
                    return chunk
                if not replies.ended:
                    self._waiting.add(self)
                    await self._waiter
                # Before the next look, so that news in between are not missed.
                self._waiter = loop.create_future()
        except BaseException:  # the task was cancelled, or the engine failed
            replies.close()
            raise
        finally:
            self._waiter = None
            self._waiting.discard(self)
        raise StopAsyncIteration

    def _next_chunk(self) -> Chunk | None:
        """Return a chunk of a reply that has one; each gets its turn."""
        replies = self._replies.all
        for _ in replies:
            reply = replies[self._turn]
            self._turn = (self._turn + 1) % len(replies)
            if chunk := reply.advance(reply.tokens.drain()):
                return chunk
        return None

    async def aclose(self) -> None:
        """End the reply here; harmless when it has ended."""
        self._replies.close()
        self.wake()

    async def __aenter__(self) -> AsyncStream:
        """Return the stream."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the stream."""
        await self.aclose()

    async def result(self) -> Completion:
        """Wait for the end; return the whole reply, or n, with what was already read."""
        async for _ in self:
            pass
        return self._replies.completion()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
