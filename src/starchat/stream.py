"""The chunks of a reply for its reader: Stream waits in a thread, AsyncStream in an event loop.

Closing or dropping either ends the sequence within one step of the engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from inspect import isawaitable
from types import coroutine
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from . import _core
from .async_waker import running_loop, shared_waker
from .errors import StarChatError
from .partial_reply import PartialReplies, PartialReply
from .types import Chunk, Completion
from .worker import Job, workers

if TYPE_CHECKING:
    import asyncio  # not at run time: it would double the time of `import starchat`


T = TypeVar("T")


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
        # What `ready` had. At first all: reading tells the engine that somebody waits.
        self._news = [*range(len(replies))]

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


class Submitted(NamedTuple):
    """Replies that the engine works on, and the waker's keys of their news."""

    replies: PartialReplies
    keys: Sequence[int]


class AsyncStream(AsyncIterator[Chunk]):
    """The chunks of a reply, as they come, for one task; cancelling it ends the reply.

    A long prompt, tools and constraints are prepared in a thread, which reads what was given until
    the first chunk comes. Errors of such a request are raised by submitted(), or where the stream
    is first read; those of others by the call that made the stream.

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
        self._has_waited = False  # other tasks could run since the last chunk
        self._has_news = True  # a look may find something
        self._waiter: asyncio.Future[None] | None = None
        self._job: Job[Submitted] | None = None  # until it is submitted

    def read(self, submitted: Submitted) -> None:
        """Read these replies; for the thread that made the stream, or that reads it."""
        self._replies = submitted.replies
        for key in submitted.keys:
            shared_waker().attach(key, self)

    def prepare(self, submit: Callable[[Job[Submitted]], Submitted]) -> None:
        """Have a worker submit what is read; dropping or closing the stream before ends it."""
        shared_waker()  # a worker must not be the first to need it: gevent's locks
        self._job = Job(submit, self)
        workers.submit(self._job)

    @property
    def prompt_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that are done, cached ones included, and all; for any thread.

        (0, 0) while a thread prepares the request.
        """
        return self._replies.prompt_progress

    def wake(self) -> None:
        """Continue the waiting task, from any thread."""
        self._has_news = True
        self._waiting.discard(self)  # before the waiter, else it could undo what a later wait adds
        waiter = self._waiter
        if waiter is not None:
            try:  # from here on the loop holds the waiter
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:  # the loop was closed, and its tasks with it
                self._close()

    def _close(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        self._replies.close()

    async def submitted(self) -> None:
        """Wait until the request is prepared and the engine has it; raise what is wrong with it.

        Reading the stream does this too.
        """
        await self._alone(self._submitted)

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk; errors as those of Stream, and of submitted()."""
        return await self._alone(self._next)

    async def _alone(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Read as the only reader; whatever ends the reading early ends the reply."""
        if self._waiter is not None:
            raise RuntimeError("this stream is already being read by another task")
        self._waiter = running_loop().create_future()
        try:
            return await read()
        except StopAsyncIteration:
            raise
        except BaseException:  # the task was cancelled, or the engine failed
            self._close()
            raise
        finally:
            self._waiter = None
            self._waiting.discard(self)

    async def _wait(self, waiter: asyncio.Future[None]) -> None:
        self._waiting.add(self)
        await waiter
        self._has_waited = True

    async def _submitted(self) -> None:
        while (job := self._job) is not None and (waiter := self._waiter):
            if job.is_done:
                self._job = None
                self.read(job.result())
            else:
                await self._wait(waiter)
            self._waiter = waiter.get_loop().create_future()

    async def _next(self) -> Chunk:
        if not self._has_waited:
            await _let_others_run()  # however far ahead the engine is
        self._has_waited = False
        await self._submitted()
        replies = self._replies
        while not replies.ended and (waiter := self._waiter):
            if (reported := replies.progress()) is not None and isawaitable(reported):
                await reported
            if self._has_news:
                self._has_news = len(replies.all) > 1  # now: there may be more during the look
                if chunk := self._next_chunk():
                    return chunk
            if not replies.ended:
                await self._wait(waiter)
            # Before the next look, so that news in between are not missed.
            self._waiter = waiter.get_loop().create_future()
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

    def close(self) -> None:
        """End the reply here, for calls that cannot await; harmless when it has ended."""
        self._close()
        self.wake()

    async def aclose(self) -> None:
        """End the reply here; harmless when it has ended."""
        self.close()

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


@coroutine
def _let_others_run() -> Iterator[None]:
    """Do what asyncio.sleep(0) does, without an import for each chunk."""
    yield


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
