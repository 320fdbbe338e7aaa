"""The chunks of a reply for its reader: Stream waits in a thread, AsyncStream in an event loop.

Closing or dropping either ends the sequence within one step of the engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from .async_waker import running_loop
from .errors import StarChatError
from .partial_reply import PartialReply
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

    def __init__(self, reply: PartialReply) -> None:
        """Read `reply`."""
        self._reply = reply

    def __next__(self) -> Chunk:
        """Wait for the next chunk.

        Raises EngineClosedError if the model is closed meanwhile, NumericalError if its weights
        give no finite logits.
        """
        reply = self._reply
        while not reply.ended:
            token = reply.tokens.next()
            fresh = [] if token is None else [token]
            with suppress(StarChatError):  # the next call raises it again, behind these tokens
                fresh += reply.tokens.drain()
            if chunk := reply.advance(fresh):
                return chunk
        raise StopIteration

    def close(self) -> None:
        """End the reply here; harmless when it has ended."""
        self._reply.close()

    def __enter__(self) -> Stream:
        """Return the stream."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the stream."""
        self.close()

    def result(self) -> Completion:
        """Wait for the end; return the whole reply, with what was already read.

        Raises InvalidRequestError after close().
        """
        for _ in self:
            pass
        return self._reply.completion()


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

    def __init__(self, reply: PartialReply) -> None:
        """Read `reply`; wake() tells that there is more of it."""
        self._reply = reply
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Continue the waiting task, from any thread."""
        self._waiting.discard(self)  # first, so that it cannot undo what a later wait has added
        waiter = self._waiter
        if waiter is not None:
            try:  # from here on the loop holds the waiter
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:  # the loop was closed, and its tasks with it
                self._reply.close()

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk; errors as those of Stream."""
        from asyncio import sleep

        reply = self._reply
        if self._waiter is not None:
            raise RuntimeError("this stream is already being read by another task")
        loop = running_loop()
        self._waiter = loop.create_future()
        try:
            await sleep(0)  # lets other tasks run, however far ahead the engine is
            while not reply.ended:
                if chunk := reply.advance(reply.tokens.drain()):
                    return chunk
                if not reply.ended:
                    self._waiting.add(self)
                    await self._waiter
                # Before the next look, so that news in between are not missed.
                self._waiter = loop.create_future()
        except BaseException:  # the task was cancelled, or the engine failed
            reply.close()
            raise
        finally:
            self._waiter = None
            self._waiting.discard(self)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the reply here; harmless when it has ended."""
        self._reply.close()
        self.wake()

    async def __aenter__(self) -> AsyncStream:
        """Return the stream."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the stream."""
        await self.aclose()

    async def result(self) -> Completion:
        """Wait for the end; return the whole reply, with what was already read."""
        async for _ in self:
            pass
        return self._reply.completion()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
