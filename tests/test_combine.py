"""Combined scores and length control against plain loops, one prompt at a time."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage.combine import METHODS, combined, rank, residualised, zscore

NAN = math.nan
scores = st.one_of(
    st.sampled_from([-1.0, 0.0, 0.1, 0.1, 0.1, 0.5, 2.0]), st.floats(-1e6, 1e6), st.just(NAN)
)
Table = tuple[list[list[float]], list[int], list[list[float]]]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Scores, prompts, and the weights of each prompt; prompts in any order, numbers with gaps."""
    arbiters = draw(st.integers(1, 3))
    weight = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    prompt = draw(st.lists(st.sampled_from([3, 5, 900]), max_size=14))
    rows = draw(
        st.lists(
            st.lists(scores, min_size=arbiters, max_size=arbiters),
            min_size=len(prompt),
            max_size=len(prompt),
        )
    )
    of = {n: draw(st.lists(weight, min_size=arbiters, max_size=arbiters)) for n in (3, 5, 900)}
    return rows, prompt, [of[n] for n in prompt]


def plain_zscore(values: list[float]) -> list[float]:
    if min(values) == max(values):
        return [0.0] * len(values)
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    return [(value - mean) / deviation for value in values]


def plain_rank(values: list[float]) -> list[float]:
    others = max(1, len(values) - 1)
    return [(sum(o < v for o in values) - sum(o > v for o in values)) / others for v in values]


PLAIN = {"zscore": plain_zscore, "rank": plain_rank}


def plainly(table: Table, method: str) -> list[float]:
    """The rule as its docstring says it, prompt by prompt."""
    rows, prompts, weights = table
    result = [NAN] * len(rows)
    for prompt in set(prompts):
        mine = [n for n, other in enumerate(prompts) if other == prompt]
        counting = [a for a, weight in enumerate(weights[mine[0]]) if weight]
        whole = [n for n in mine if counting and not any(math.isnan(rows[n][a]) for a in counting)]
        if len(counting) == 1:
            for n in whole:
                result[n] = rows[n][counting[0]]
        elif whole:
            scaled = {a: PLAIN[method]([rows[n][a] for n in whole]) for a in counting}
            total = sum(weights[mine[0]])
            for place, n in enumerate(whole):
                parts = (weights[n][a] * scaled[a][place] for a in counting)
                result[n] = sum(parts) / total
    return result


def arrays(table: Table) -> tuple[Any, Any, Any]:
    rows, prompts, weights = table
    shape = (len(rows), len(rows[0]) if rows else 2)
    return (
        np.array(rows, float).reshape(shape),
        np.array(prompts, np.int64),
        np.array(weights, float).reshape(shape),
    )


@pytest.mark.parametrize("method", METHODS)
@given(tables())
@settings(max_examples=200, deadline=None)
def test_the_combination_is_that_of_a_plain_loop(method: str, table: Table) -> None:
    found = combined(*arrays(table), method)
    wanted = plainly(table, method)
    assert found == pytest.approx(wanted, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("method", METHODS)
@given(tables(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_candidates_changes_no_bit(method: str, table: Table, rng: Any) -> None:
    rows, prompts, weights = table
    places = list(range(len(rows)))
    rng.shuffle(places)
    mixed = [[values[n] for n in places] for values in (rows, prompts, weights)]
    wanted = combined(*arrays(table), method)
    assert np.array_equal(combined(*arrays(mixed), method), wanted[places], equal_nan=True)  # type: ignore[arg-type]


def test_a_score_is_plain_where_one_arbiter_counts_and_none_where_one_that_counts_failed() -> None:
    table = np.array([[7.0, NAN], [-3.0, 1.0], [NAN, 5.0]])
    prompt = np.zeros(3, np.int64)
    alone = combined(table, prompt, (2.0, 0.0), "zscore")
    assert alone == pytest.approx([7.0, -3.0, NAN], nan_ok=True)
    both = combined(table, prompt, (1.0, 1.0), "zscore")
    assert both == pytest.approx([NAN, 0.0, NAN], nan_ok=True), "only one is left: no spread"
    assert np.isnan(combined(table, prompt, (0.0, 0.0), "rank")).all()


def test_adding_to_all_scores_of_a_prompt_or_stretching_them_changes_no_zscore() -> None:
    rng = np.random.default_rng(1)
    prompt = np.repeat(np.arange(50), 6)
    score = rng.normal(size=300)
    other = score * rng.uniform(0.1, 90, 50)[prompt] + rng.normal(size=50)[prompt] * 1000
    assert zscore(other, prompt) == pytest.approx(zscore(score, prompt), abs=1e-6)
    assert np.array_equal(rank(other, prompt), rank(score, prompt))


@pytest.mark.parametrize("value", [0.1, 1e-300, -1e300])
def test_equal_scores_have_no_spread_whatever_rounding_says(value: float) -> None:
    for method in METHODS.values():
        assert method(np.full(3, value), np.zeros(3, np.int64)).tolist() == [0.0] * 3


def test_scores_of_any_size_keep_their_scale() -> None:
    for factor in (1e-300, 1e-9, 1e150):
        found = zscore(np.array([1.0, 2.0, 3.0]) * factor, np.zeros(3, np.int64))
        assert found == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])


def test_a_hundred_thousand_candidates_agree_with_pandas() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"prompt": rng.integers(0, 9000, 100_000), "a": rng.normal(size=100_000)})
    table["b"] = np.round(rng.normal(size=100_000), 1)
    by = table.groupby("prompt")
    wanted = 0.25 * ((table["a"] - by["a"].transform("mean")) / by["a"].transform("std", ddof=0))
    wanted += 0.75 * ((table["b"] - by["b"].transform("mean")) / by["b"].transform("std", ddof=0))
    found = combined(table[["a", "b"]].to_numpy(), table["prompt"].to_numpy(), (1.0, 3.0), "zscore")
    assert np.nanmax(np.abs(found - wanted)) < 1e-9
    average = by["b"].rank() * 2 - by["b"].transform("size") - 1
    ranked = average / (by["b"].transform("size") - 1)
    assert rank(table["b"].to_numpy(), table["prompt"].to_numpy()) == pytest.approx(
        ranked.fillna(0)
    )


@pytest.mark.parametrize(
    ("weights", "method", "sentence"),
    [
        ((1.0, 1.0), "median", "unknown method 'median'; methods are zscore, rank"),
        ((1.0, -1.0), "rank", "0 or more"),
        ((1.0, NAN), "rank", "finite number"),
        ([[1.0, 1.0], [1.0, 2.0]], "rank", "the same within a prompt"),
    ],
)
def test_what_cannot_be_combined_is_refused(weights: Any, method: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        combined(np.ones((2, 2)), np.zeros(2, np.int64), weights, method)


# Length control


def test_length_control_takes_away_what_the_slope_says_and_leaves_languages_without_one() -> None:
    score = np.array([1.0, 1.0, NAN, 0.5])
    found = residualised(
        score, np.array([0, 9, 9, 99]), np.array([0, 0, 0, 1]), np.array([0.5, NAN])
    )
    wanted = [1.0, 1.0 - 0.5 * math.log(10), NAN, 0.5]
    assert found == pytest.approx(wanted, nan_ok=True)
