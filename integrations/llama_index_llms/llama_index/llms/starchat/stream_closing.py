"""Closes the engine's stream when the reader closes the generator that LlamaIndex returns."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

# The streams that the current call has submitted. LlamaIndex's callback decorators iterate over
# the wrapped generator and never close it, and a handler that stores the exception, such as
# LlamaDebugHandler, keeps it alive. So the streams are closed outside these decorators.
_streams: ContextVar[list[Any]] = ContextVar("_streams")


def opened(stream: T) -> T:
    """Return `stream`, after noting that this call has to close it."""
    _streams.get().append(stream)
    return stream


def closing_stream(
    method: Callable[..., Generator[T, None, None]],
) -> Callable[..., Generator[T, None, None]]:
    """Close the engine's stream when the returned generator ends, however it ends."""

    @functools.wraps(method)
    def submit(*args: Any, **kwargs: Any) -> Generator[T, None, None]:
        streams: list[Any] = []
        token = _streams.set(streams)
        try:
            responses = _owned(method(*args, **kwargs), streams)
            next(responses)
            return responses
        finally:
            _streams.reset(token)

    return submit


def aclosing_stream(
    method: Callable[..., Coroutine[Any, Any, AsyncGenerator[T, None]]],
) -> Callable[..., Coroutine[Any, Any, AsyncGenerator[T, None]]]:
    """Do the same for a coroutine that returns an async generator."""

    @functools.wraps(method)
    async def submit(*args: Any, **kwargs: Any) -> AsyncGenerator[T, None]:
        streams: list[Any] = []
        token = _streams.set(streams)
        try:
            return _aowned(await method(*args, **kwargs), streams)
        finally:
            _streams.reset(token)

    return submit


def _owned(responses: Generator[T, None, None], streams: list[Any]) -> Generator[T, None, None]:
    try:
        # close() of a generator that nobody has begun runs nothing: the caller begins this one.
        yield  # type: ignore[misc]
        yield from responses
    finally:
        for stream in streams:
            stream.close()


async def _aowned(
    responses: AsyncGenerator[T, None], streams: list[Any]
) -> AsyncGenerator[T, None]:
    try:
        async for response in responses:
            yield response
    finally:
        for stream in streams:
            await stream.aclose()
        await responses.aclose()
