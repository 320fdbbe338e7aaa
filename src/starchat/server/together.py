"""Several pieces of work of one request at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

_AT_ONCE = 8


async def together(
    work: Sequence[Callable[[], Coroutine[Any, Any, T]]], most: int = _AT_ONCE
) -> list[T]:
    """Return the results in order, `most` at a time at most; the first error ends the others.

    >>> async def one(): return 1
    >>> asyncio.run(together([one, one]))
    [1, 1]
    """
    places = asyncio.Semaphore(min(most, _AT_ONCE))

    async def in_place(begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with places:
            return await begin()

    tasks = [asyncio.ensure_future(in_place(begin)) for begin in work]
    try:
        return [*await asyncio.gather(*tasks)]
    finally:
        for task in tasks:
            task.cancel()


async def merged(
    work: Sequence[Callable[[], AsyncIterator[T]]], most: int = _AT_ONCE
) -> AsyncIterator[T]:
    """Yield what iterators yield, as it comes, of `most` at a time at most.

    The first error ends the others, behind what they have yielded. None is far ahead of its reader.
    """
    items: asyncio.Queue[T] = asyncio.Queue(_AT_ONCE)

    async def read(begin: Callable[[], AsyncIterator[T]]) -> None:
        async for item in begin():
            await items.put(item)

    reading = asyncio.ensure_future(together([partial(read, begin) for begin in work], most))
    item: asyncio.Future[T] | None = None
    try:
        while not (reading.done() and items.empty()):
            item = asyncio.ensure_future(items.get())
            await asyncio.wait((item, reading), return_when=asyncio.FIRST_COMPLETED)
            if item.done() or not items.empty():
                yield await item
        reading.result()
    finally:
        reading.cancel()
        if item is not None:
            item.cancel()
