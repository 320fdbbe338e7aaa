"""A measured figure: the median of some samples, and the lowest and the highest of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median, lowest, highest.

    >>> print(Spread.of([531.2, 553.0, 560.4]))
    553 (531 to 560)
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Summarise samples."""
        return cls(statistics.median(samples), min(samples), max(samples))

    @classmethod
    def ratio(cls, ours: Sequence[float], theirs: Sequence[float], scale: float = 1.0) -> Spread:
        """Summarise the ratios within each round: what both shared, such as a slow hour, is gone.

        >>> Spread.ratio([2.0, 1.0], [1.0, 0.5])
        Spread(median=2.0, low=2.0, high=2.0)
        """
        return cls.of([scale * a / b for a, b in zip(ours, theirs, strict=True)])

    def __str__(self) -> str:
        """Return median and range, with three digits that count."""
        return f"{digits(self.median)} ({digits(self.low)} to {digits(self.high)})"

    def percent(self) -> str:
        """Return the same for a share."""
        return f"{self.median:.0%} ({self.low:.0%} to {self.high:.0%})"


def digits(value: float) -> str:
    """Return a number with three digits, or all before the point.

    >>> [digits(value) for value in (0.01234, 1.234, 12.34, 123.4, 12345.6)]
    ['0.0123', '1.23', '12.3', '123', '12,346']
    """
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"
