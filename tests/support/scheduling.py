"""Steps of the core's scheduler over its fake model, and waiting for the engine's thread."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from starchat._core import SamplingParams

testing: Any = importlib.import_module("starchat._core.testing")


def run(scheduler: Any) -> None:
    """Step until nothing is left to do."""
    while scheduler.step():
        pass


def submit(engine: Any, prompt: list[int], params: Any, ready: Any = None, key: int = 0) -> Any:
    """Start one sequence on an engine and return its stream."""
    (stream,) = engine.submit_replies(prompt, params, ready, [key])
    return stream


def ids_of(stream: Any) -> list[int]:
    """Return the ids that a stream has now."""
    return [token.id for token in stream.drain()]


def finish(scheduler: Any, *streams: Any) -> list[list[int]]:
    """Step until nothing is left to do, reading along; return each stream's ids."""
    ids: list[list[int]] = [[] for _ in streams]
    more = True
    while more:
        more = scheduler.step()
        for got, stream in zip(ids, streams, strict=True):
            got += ids_of(stream)
    return ids


def alone(prompt: list[int], period: int = 0, **sampling: Any) -> list[int]:
    """Return what a sequence gives by itself: nothing is batched, cached or guessed."""
    scheduler = testing.Scheduler(max_columns=256, period=period, prefix_cache_bytes=0)
    params = SamplingParams(**{"speculation": False} | sampling)
    return finish(scheduler, scheduler.add(prompt, params))[0]


def wait_until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Return once a condition holds; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {timeout_s} s"
        time.sleep(0.002)
