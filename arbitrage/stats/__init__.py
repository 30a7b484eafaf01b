"""Small statistics: means with intervals, gathered shard by shard in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959964
"""Two-sided 95 % point of the normal distribution."""


@dataclass
class Moments:
    """Count, sum and sum of squares of a sample."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, count: int, total: float, squares: float) -> None:
        """Takes in another part of the sample."""
        self.count += count
        self.total += total
        self.squares += squares

    @property
    def mean(self) -> float:
        """Arithmetic mean; nan of nothing."""
        return self.total / self.count if self.count else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample; nan below two values."""
        if self.count < 2:
            return math.nan
        return math.sqrt(max(0.0, self.squares - self.total**2 / self.count) / (self.count - 1))

    @property
    def half_width(self) -> float:
        """Half of the mean's 95 % interval (normal approximation); nan below two values."""
        return Z95 * self.deviation / math.sqrt(self.count) if self.count else math.nan
