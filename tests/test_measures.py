"""Shares, ranks, correlations and slopes, each found in a second, plainer way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.measures import (
    Estimate,
    mean_of,
    pearson,
    ranks,
    ranks_within,
    share,
    slope,
    spearman,
    spearman_within,
)
from arbitrage.stats import Z95
from plain_measures import plain_pearson, plain_ranks, plain_slope

if TYPE_CHECKING:
    from collections.abc import Sequence

few_values = st.sampled_from([-2.5, -1.0, 0.0, 0.0, 0.25, 1.0, 3.0, 7.5])
points = st.lists(st.tuples(few_values, few_values), max_size=25)


def columns(rows: Sequence[tuple[float, ...]], width: int = 2) -> list[np.ndarray]:
    return list(np.array(rows, np.float64).reshape(-1, width).T)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_limits_are_where_the_score_test_just_rejects(told: tuple[int, int]) -> None:
    count, total = told
    found = share(count, total)
    assert found.value == count / total
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    for limit in (found.low, found.high):
        if 0 < limit < 1:
            distance = abs(found.value - limit) / math.sqrt(limit * (1 - limit) / total)
            assert distance == pytest.approx(Z95, rel=1e-6)


def test_a_textbook_interval() -> None:
    found = share(81, 263)  # Newcombe, Statistics in Medicine 17, 1998, table I, method 3
    assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (0.2553, 0.3662)


def test_a_share_of_nothing_is_not_known() -> None:
    found = share(0, 0)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert not found.is_doubtful(0.5)


def test_a_value_is_doubtful_where_its_interval_holds_the_threshold() -> None:
    found = Estimate(0.8, 0.7, 0.9)
    assert [found.is_doubtful(at) for at in (0.69, 0.7, 0.85, 0.9, 0.91)] == [
        *(False, True, True, True, False)
    ]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=6))
def test_the_mean_of_shares_and_its_interval(told: list[tuple[int, int]]) -> None:
    parts = [share(min(pair), pair[1]) for pair in told]
    found = mean_of([*parts, share(0, 0)])
    if not parts:
        assert found == Estimate(None, None, None)
        return
    size = len(parts)
    value = sum(part.count / part.total for part in parts) / size
    assert found.value == pytest.approx(value)
    below = sum((part.value - part.low) ** 2 for part in parts if part.low is not None) / size**2  # type: ignore[operator]
    assert found.low == pytest.approx(value - math.sqrt(below))
    if size == 1:
        assert found.high == pytest.approx(parts[0].high)


@given(st.lists(few_values, max_size=25))
def test_ranks_count_the_smaller_ones(values: list[float]) -> None:
    assert ranks(np.array(values)).tolist() == plain_ranks(values)


@given(points)
def test_correlations_and_slopes(rows: list[tuple[float, float]]) -> None:
    x, y = columns(rows)
    close = pytest.approx
    assert pearson(x, y) == close(plain_pearson(x.tolist(), y.tolist()), abs=1e-12)
    wanted = plain_pearson(plain_ranks(x.tolist()), plain_ranks(y.tolist()))
    assert spearman(x, y) == close(wanted, abs=1e-12)
    line, told = slope(x, y), plain_slope(x.tolist(), y.tolist())
    assert (line is None) == (told is None)
    if line is not None:
        assert line.value == close(told, abs=1e-12)


@given(points)
def test_the_error_of_a_slope_by_the_correlation(rows: list[tuple[float, float]]) -> None:
    """A textbook's other formula: from the slope and the correlation alone."""
    x, y = columns(rows)
    line, correlation = slope(x, y), plain_pearson(x.tolist(), y.tolist())
    if line is None or not correlation or abs(correlation) < 1e-6:
        return
    left = max(0.0, 1 / correlation**2 - 1)
    assert line.error == pytest.approx(
        abs(line.value) * math.sqrt(left / (len(rows) - 2)), rel=1e-6, abs=1e-6
    )


def test_a_line_through_all_points_has_no_error() -> None:
    x = np.array([0.0, 1.0, 2.0, 5.0])
    found = slope(x, 3 - 2 * x)
    assert found is not None
    assert (found.value, found.error) == (pytest.approx(-2), pytest.approx(0, abs=1e-12))


@given(st.lists(st.tuples(st.integers(0, 4), few_values, few_values), max_size=30))
def test_within_groups_is_group_by_group(rows: list[tuple[int, float, float]]) -> None:
    group = np.array([row[0] for row in rows], np.int64)
    x, y = columns([row[1:] for row in rows])
    within = ranks_within(group, x)
    found = spearman_within(group, 6, x, y)
    assert len(found) == 6
    for number in range(6):
        own = group == number
        assert within[own].tolist() == plain_ranks(x[own].tolist())
        wanted = plain_pearson(plain_ranks(x[own].tolist()), plain_ranks(y[own].tolist()))
        if wanted is None:
            assert math.isnan(found[number])
        else:
            assert found[number] == pytest.approx(wanted, abs=1e-12)
