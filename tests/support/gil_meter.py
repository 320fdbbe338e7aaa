"""How long a call keeps other threads from the GIL, and a coroutine from the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress


def longest_hold_ms(call: Callable[[], object], runs: int = 3) -> float:
    """Return the longest time without the GIL for others, the least of several runs.

    A gap between two wake-ups of this thread counts only as far as the calling thread computed
    meanwhile, so that other programs do not count. What a call raises does not matter.
    """
    return min(_longest_gap_ms(call) for _ in range(runs))


def _longest_gap_ms(call: Callable[[], object]) -> float:
    begin, done, measured = threading.Event(), threading.Event(), threading.Event()
    kept: list[object] = []  # until it was measured: the caller frees it

    def work() -> None:
        begin.wait()
        try:
            kept.append(call())
        except Exception as error:
            kept.append(error)
        done.set()
        measured.wait()

    worker = threading.Thread(target=work)
    worker.start()
    assert worker.ident is not None
    clock = time.pthread_getcpuclockid(worker.ident)
    last, last_cpu, longest = time.perf_counter(), time.clock_gettime(clock), 0.0
    begin.set()
    more = True
    while more:
        time.sleep(0.0005)
        more = not done.is_set()
        now, now_cpu = time.perf_counter(), time.clock_gettime(clock)
        longest = max(longest, min(now - last, now_cpu - last_cpu))
        last, last_cpu = now, now_cpu
    measured.set()
    worker.join()
    return longest * 1000


def longest_hold_of_loop_ms(ask: Callable[[], Awaitable[object]], runs: int = 3) -> float:
    """Return the CPU time of an event loop's longest turn while `ask` runs, the least of runs."""

    async def measured() -> float:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            last = time.thread_time()
            while True:
                await asyncio.sleep(0.0005)
                now = time.thread_time()
                longest, last = max(longest, now - last), now

        ticking = asyncio.ensure_future(tick())
        await asyncio.sleep(0.002)
        with suppress(Exception):
            await ask()
        await asyncio.sleep(0.002)
        ticking.cancel()
        return longest * 1000

    return min(asyncio.run(measured()) for _ in range(runs))
