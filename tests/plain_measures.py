"""Ranks, correlations and slopes by their plainest definitions, to hold faster ones against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def plain_ranks(values: Sequence[float]) -> list[float]:
    """How many are smaller, and half of the others that are equal."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2 for v in values]


def plain_pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """By the sums of products over all pairs of points, which needs no mean."""
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    both = math.fsum((x[i] - x[j]) * (y[i] - y[j]) for i, j in pairs)
    one = math.fsum((x[i] - x[j]) ** 2 for i, j in pairs)
    other = math.fsum((y[i] - y[j]) ** 2 for i, j in pairs)
    return both / math.sqrt(one * other) if one and other else None


def plain_slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """By the same sums."""
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    width = math.fsum((x[i] - x[j]) ** 2 for i, j in pairs)
    if not width or len(x) < 3:
        return None
    return math.fsum((x[i] - x[j]) * (y[i] - y[j]) for i, j in pairs) / width
