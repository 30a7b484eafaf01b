"""What teachers are worth, against choosing again without them, by brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from arbitrage.worth import Loss, drawn, losses, thinned

NAN = math.nan
SOME = st.floats(-5, 5).map(lambda value: round(value, 1)) | st.just(NAN)


@st.composite
def rewards(draw: Any) -> Any:
    """(teachers, prompts) with holes and ties; every prompt has an answer, or it were lost."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 12)))
    alone = draw(arrays.arrays(np.float64, shape, elements=SOME))
    some = alone[:, ~np.isnan(alone).all(axis=0)]
    return some if some.size else np.ones((shape[0], 1))


def names_of(alone: Any) -> list[str]:
    return [f"t{number}" for number in range(len(alone))]


def chosen(alone: Any) -> tuple[Any, Any]:
    """The best reward of each prompt, and who has it: of several the first."""
    filled = np.nan_to_num(alone, nan=-np.inf)
    return filled.max(axis=0), filled.argmax(axis=0)


def best_of(values: Any) -> float:
    return max((value for value in values if not math.isnan(value)), default=NAN)


@given(rewards())
def test_a_loss_is_what_choosing_again_without_the_teacher_loses(alone: Any) -> None:
    reward, owner = chosen(alone)
    found = losses(names_of(alone), reward, owner, alone)
    for number, name in enumerate(names_of(alone)):
        rest = [best_of(np.delete(alone[:, p], number)) for p in range(alone.shape[1])]
        lost = [reward[p] - rest[p] for p in range(len(rest)) if not math.isnan(rest[p])]
        assert found[name].alone == sum(map(math.isnan, rest))
        assert found[name].reward.count == len(lost)
        assert found[name].reward.total == pytest.approx(sum(lost))
        assert found[name].changed == sum(value > 0 for value in lost)


def test_who_was_chosen_without_the_best_reward_can_be_gone_for_the_better() -> None:
    """An Arbiter that is not trusted does not decide: its rewards then tell of no loss."""
    alone = np.array([[1.0, 1.0], [3.0, 0.0]])
    found = losses(["trusted", "other"], np.array([1.0, 1.0]), np.array([0, 0]), alone)
    assert found["trusted"].reward.total == -2.0 + 1.0
    assert found["other"].reward.total == 0


def test_a_teacher_that_another_repeats_is_worth_nothing() -> None:
    alone = np.array([[2.0, 5.0], [2.0, 4.0]])
    found = losses(["a", "b"], np.array([2.0, 5.0]), np.array([0, 0]), alone)
    assert (found["a"].reward.total, found["a"].changed, found["b"].reward.total) == (1.0, 1, 0.0)
    assert found["a"].as_dict()["prompts"] == 2


@given(rewards())
def test_drawing_is_the_mean_over_all_draws(alone: Any) -> None:
    asked = np.where(np.isnan(alone), 0, 2)
    points = drawn(alone, asked)
    for count, point in enumerate(points, start=1):
        means, completions = [], []
        for prompt in alone.T:
            able = [value for value in prompt if not math.isnan(value)]
            draws = list(itertools.combinations(able, min(count, len(able))))
            means.append(sum(map(max, draws)) / len(draws))
            completions.append(2 * min(count, len(able)))
        assert point.reward == pytest.approx(sum(means) / len(means))
        assert point.asked == pytest.approx(sum(completions) / len(completions))
    assert len(points) == (~np.isnan(alone)).sum(axis=0).max(initial=0)


@given(rewards())
def test_a_pool_is_thinned_by_whoever_costs_least_for_what_is_saved(alone: Any) -> None:
    names, asked = names_of(alone), np.where(np.isnan(alone), 1, 3)
    points = thinned(names, alone, asked)
    assert len(points) == len(names)
    left = list(range(len(names)))
    assert points[0].left_out is None
    missing = float(np.std([best_of(column) for column in alone.T]))
    for before, point in itertools.pairwise(points):
        assert point.left_out is not None
        gone = names.index(point.left_out)
        prices = {other: _lost(alone, left, other, missing) / asked[other].mean() for other in left}
        assert prices[gone] == pytest.approx(min(prices.values()), abs=1e-9)
        left.remove(gone)
        assert (point.answered, point.reward) == pytest.approx(_pool(alone, left), nan_ok=True)
        assert point.asked <= before.asked
        assert point.asked == pytest.approx(asked[left].sum(axis=0).mean())


def _lost(alone: Any, pool: list[int], gone: int, missing: float) -> float:
    """What the pool loses without a teacher, summed over the prompts that it can answer."""
    total = 0.0
    for column in alone.T:
        own = [column[number] for number in pool]
        rest = [column[number] for number in pool if number != gone]
        if not math.isnan(best_of(own)):
            total += missing if math.isnan(best_of(rest)) else best_of(own) - best_of(rest)
    return total


def _pool(alone: Any, pool: list[int]) -> tuple[float, float]:
    best = [best_of(column) for column in alone[pool].T]
    known = [value for value in best if not math.isnan(value)]
    mean = sum(known) / len(known) if known else NAN
    return len(known) / max(1, len(best)), mean


def test_nothing_is_worth_nothing() -> None:
    nothing = np.zeros((2, 0))
    assert losses(["a", "b"], np.zeros(0), np.zeros(0, int), nothing)["a"] == Loss()
    assert drawn(nothing, nothing) == []
    assert thinned(["a", "b"], nothing, nothing) == []
