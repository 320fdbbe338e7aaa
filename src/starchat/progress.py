"""Progress for people: of loading, as a bar after two seconds at a terminal; of long prompts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from .errors import unexpected

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY_S = 2.0  # before anything is shown
_LONG = 512  # tokens

R = TypeVar("R")
Report: TypeAlias = Callable[[int, int], object]  # is told how much of how much is done
Unit: TypeAlias = Literal["bytes", "tokens"]


def long_prompts_only(report: Callable[[int, int], R]) -> Callable[[int, int], R | None]:
    """Return a `prompt_progress` for one call that has something to tell of long prompts only.

    Long are 512 tokens, or two seconds. A prompt that the first step completes is never long.

    >>> told = long_prompts_only(lambda done, total: f"{done} of {total}")
    >>> told(64, 500), told(256, 1000), told(1000, 1000)
    (None, '256 of 1000', '1000 of 1000')
    """
    start = time.monotonic()
    is_long = False

    def told(done: int, total: int) -> R | None:
        nonlocal is_long
        is_late = time.monotonic() - start > DELAY_S
        is_long = is_long or (done < total and (total >= _LONG or is_late))
        return report(done, total) if is_long else None

    return told


class LoadingBar:
    """Counts what is done; shows itself after two seconds, where stderr is a terminal."""

    def __init__(self, path: str, action: str = "loading", unit: Unit = "bytes") -> None:
        """Name the bar after the file and what is done with it."""
        self._unit = unit
        self._action = action
        self._name = os.path.basename(path)
        self._start = time.monotonic()
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that so much of the total is done."""
        if self._bar is None:
            if time.monotonic() - self._start < DELAY_S or not sys.stderr.isatty():
                return
            self._bar = _bar(self._unit)
            self._bar.add_task(f"{self._action} {self._name}", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line on stderr, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif sys.stderr:
            print(text, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def check_progress(progress: Any) -> Report | Literal[False] | None:
    """Return a function, None for a bar, or False; raise InvalidRequestError for all else."""
    if not (progress is None or progress is False or callable(progress)):
        raise unexpected("progress", "a function, False or None", progress)
    return cast("Report | Literal[False] | None", progress)


@contextmanager
def shown_progress(
    progress: Callable[[int, int], R] | Literal[False] | None,
    path: str,
    action: str = "loading",
    unit: Unit = "bytes",
) -> Iterator[Callable[[int, int], R | None] | None]:
    """Return what is to be told of done and total units: by default a bar, which ends with this."""
    bar = LoadingBar(path, action, unit) if progress is None else None
    try:
        yield bar or progress or None
    finally:
        if bar:
            bar.close()


def _bar(unit: Unit) -> Progress:
    # Here, because `import starchat` has no use for rich.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts: tuple[ProgressColumn, ...] = (DownloadColumn(), TransferSpeedColumn())
    if unit == "tokens":
        counts = (MofNCompleteColumn(), TextColumn("tokens"))
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
