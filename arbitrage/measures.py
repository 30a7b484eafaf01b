"""Measures of how two things go together: shares with intervals, ranks, correlations, slopes.

Plain functions of numbers; what cannot be told (a correlation of constants, a share of nothing) is
None, never 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arbitrage.stats import Z95

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; all None where nothing is known."""

    value: float | None
    low: float | None
    high: float | None

    def is_doubtful(self, threshold: float) -> bool:
        """Whether the interval does not tell on which side of the threshold the value is."""
        return self.low is not None and self.high is not None and self.low <= threshold <= self.high


@dataclass(frozen=True)
class Share(Estimate):
    """`count` of `total`, between 0 and 1."""

    count: int
    total: int


@dataclass(frozen=True)
class Slope:
    """Of a least-squares line, with its standard error."""

    value: float
    error: float


def share(count: int, total: int) -> Share:
    """A share with its Wilson score interval (Wilson, JASA 22, 1927)."""
    if not total:
        return Share(None, None, None, count, total)
    value, square = count / total, Z95**2
    middle = (value + square / (2 * total)) / (1 + square / total)
    spread = math.sqrt(value * (1 - value) / total + square / (4 * total**2))
    half = Z95 * spread / (1 + square / total)
    low = 0.0 if count == 0 else max(0.0, middle - half)
    high = 1.0 if count == total else min(1.0, middle + half)
    return Share(value, low, high, count, total)


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """The plain mean of independent estimates; those that know nothing are left out.

    The interval adds up the squares of the parts' distances to their own limits (Zou and Donner,
    Statistics in Medicine 27, 2008), so that a share of 1 is not taken for certain.
    """
    known = [
        (part.value, part.low, part.high)
        for part in parts
        if part.value is not None and part.low is not None and part.high is not None
    ]
    if not known:
        return Estimate(None, None, None)
    value = math.fsum(part[0] for part in known) / len(known)
    below = math.sqrt(math.fsum((own - low) ** 2 for own, low, _ in known)) / len(known)
    above = math.sqrt(math.fsum((high - own) ** 2 for own, _, high in known)) / len(known)
    return Estimate(value, value - below, value + above)


def pearson(x: Floats, y: Floats) -> float | None:
    """Pearson's correlation; None of fewer than two points, or where one side is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    a, b = x - x.mean(), y - y.mean()
    found = float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))
    return min(1.0, max(-1.0, found))


def spearman(x: Floats, y: Floats) -> float | None:
    """Spearman's rank correlation; equal values share their mean rank."""
    return pearson(ranks(x), ranks(y))


def slope(x: Floats, y: Floats) -> Slope | None:
    """Of the least-squares line of y on x, with an intercept; None below three points, or where x
    is constant. The error takes the scatter about the line to be alike everywhere."""
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    a, b = x - x.mean(), y - y.mean()
    width = float(a @ a)
    value = float(a @ b) / width
    left = b - value * a
    return Slope(value, math.sqrt(float(left @ left) / (len(x) - 2) / width))


def ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share their mean rank."""
    return ranks_within(np.zeros(len(values), np.int64), values)


def ranks_within(group: Ints, values: Floats) -> Floats:
    """Ranks from 0 within each group; equal values of a group share their mean rank."""
    if not len(values):
        return np.zeros(0)
    order = np.lexsort((values, group))
    owner, value = group[order], values[order]
    place = np.arange(len(order)) - np.searchsorted(owner, owner)
    is_new = np.ones(len(order), bool)
    is_new[1:] = (owner[1:] != owner[:-1]) | (value[1:] != value[:-1])
    run = np.cumsum(is_new) - 1
    found = np.empty(len(order))
    found[order] = (np.bincount(run, place) / np.bincount(run))[run]
    return found


def spearman_within(group: Ints, groups: int, x: Floats, y: Floats) -> Floats:
    """Spearman's rank correlation in each of `groups` groups (numbered from 0): (groups,), nan
    where there are fewer than two points or one side is constant."""
    a, b = (_centred(group, groups, ranks_within(group, side)) for side in (x, y))
    width = np.bincount(group, a * a, groups) * np.bincount(group, b * b, groups)
    with np.errstate(invalid="ignore"):
        found: Floats = np.bincount(group, a * b, groups) / np.sqrt(np.where(width, width, np.nan))
    return found


def _centred(group: Ints, groups: int, values: Floats) -> Floats:
    counts = np.maximum(np.bincount(group, minlength=groups), 1)
    centred: Floats = values - (np.bincount(group, values, groups) / counts)[group]
    return centred
