"""Several pieces of work of one request at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
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
