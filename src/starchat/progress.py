"""A progress bar on stderr while weights are read: at a terminal, and after two seconds."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_DELAY_S = 2.0


class LoadingBar:
    """Counts bytes that are done; shows itself after two seconds, where stderr is a terminal."""

    def __init__(self, path: str, action: str = "loading") -> None:
        """Name the bar after the file and what is done with it."""
        self._action = action
        self._name = os.path.basename(path)
        self._start = time.monotonic()
        self._bar: Progress | None = None

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        """Show that `done_bytes` of `total_bytes` are done."""
        if self._bar is None:
            if time.monotonic() - self._start < _DELAY_S or not sys.stderr.isatty():
                return
            self._bar = _bar()
            self._bar.add_task(f"{self._action} {self._name}", total=total_bytes)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done_bytes, total=total_bytes)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> Progress:
    # Here, because `import starchat` has no use for rich.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)
