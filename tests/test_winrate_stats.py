"""The parts of win-rate statistics: strengths, intervals, resamples, meetings, agreement."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage.stats.agreement import Agreeing, Pair, met, words
from arbitrage.stats.outcomes import outcomes_of
from arbitrage.stats.resampling import (
    Resamples,
    plain_interval,
    share_interval,
    student,
    variances,
)
from arbitrage.stats.simulation import World, simulate, true_rates
from arbitrage.stats.smallness import smallness
from arbitrage.stats.strengths import fit, incidence, islands
from arbitrage.stats.tallies import distinct, settle
from plain_winrate import logistic_fit, rate

# Made with choix 0.4.1: choix.opt_pairwise(4, data, alpha=ALPHA, tol=1e-12), where data has each
# (winner, loser) as often as it won. Its penalty, alpha times the sum of squares, is our ridge.
WINS = (
    *((0, 1, 7), (1, 0, 3), (0, 2, 9), (2, 0, 2), (1, 2, 4), (2, 1, 5)),
    *((2, 3, 6), (3, 2, 1), (0, 3, 5)),
)
CHOIX = {
    1e-4: (1.422129, 0.243985, 0.179032, -1.845146),
    0.1: (1.306451, 0.157721, 0.130499, -1.594672),
}


def fitted(wins: tuple[tuple[int, int, float], ...], models: int, ridge: float) -> np.ndarray:
    pairs = np.array(sorted({(min(a, b), max(a, b)) for a, b, _ in wins}))
    place = {tuple(pair): i for i, pair in enumerate(pairs.tolist())}
    pair = np.array([place[min(a, b), max(a, b)] for a, b, _ in wins])
    score = np.array([float(a < b) for a, b, _ in wins])
    weight = np.array([float(n) for _, _, n in wins])
    return fit(pairs, models, pair, score, weight, ridge=ridge).strengths


@pytest.mark.parametrize("alpha", CHOIX)
def test_strengths_are_those_of_choix(alpha: float) -> None:
    assert fitted(WINS, 4, alpha) == pytest.approx(CHOIX[alpha], abs=2e-6)


def test_a_model_that_won_everything_is_finite_and_as_choix_has_it() -> None:
    """choix.opt_pairwise(3, [(0, 1)] * 5 + [(1, 2)] * 4 + [(2, 1)], alpha=1e-4, tol=1e-12)."""
    told = fitted(((0, 1, 5), (1, 2, 4), (2, 1, 1)), 3, 1e-4)
    assert told == pytest.approx((6.016382, -2.315506, -3.700876), abs=2e-5)
    assert np.isfinite(fitted(((0, 1, 5), (1, 2, 4)), 3, 0.0)).all()


def test_a_tie_is_half_a_win_for_both() -> None:
    """choix has no ties: all games twice with twice the penalty, a tie as one win for each. 3 wins,
    2 ties and 1 loss of 0 over 1, 2 wins, 1 tie and 1 loss of 1 over 2, alpha=0.02."""
    pairs = np.array([[0, 1], [1, 2]])
    pair = np.array([0, 0, 0, 1, 1, 1])
    score, weight = np.array([1, 0.5, 0, 1, 0.5, 0]), np.array([3.0, 2, 1, 2, 1, 1])
    told = fit(pairs, 3, pair, score, weight, ridge=0.01).strengths
    assert told == pytest.approx((0.622181, -0.061648, -0.560533), abs=2e-6)


def test_effects_of_covariates_are_those_of_a_slow_fit() -> None:
    generator = np.random.default_rng(3)
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    pair = generator.integers(3, size=40)
    z = generator.normal(size=(40, 2))
    score, weight = generator.choice([0, 0.5, 1], 40), generator.choice([1.0, 3.0], 40)
    told = fit(pairs, 3, pair, score, weight, z, ridge=0.05)
    rows = np.concatenate([incidence(pairs, 3)[pair], z], axis=1).tolist()
    slow = logistic_fit(rows, score.tolist(), weight.tolist(), 0.05)
    assert [*told.strengths, *told.effects] == pytest.approx(slow, abs=1e-5)


def test_influences_on_few_questions_lie_half_way_to_a_refit_without_the_question() -> None:
    generator = np.random.default_rng(5)
    pairs, n = np.array([[0, 1], [0, 2], [1, 2]]), 600
    question, pair = np.arange(n) // 6, np.tile([0, 0, 1, 1, 2, 2], n // 6)
    z = generator.normal(size=(n, 1))
    score = (generator.random(n) < 0.6).astype(float)
    weight = np.ones(n)
    whole = fit(pairs, 3, pair, score, weight, z, ridge=0.01)
    games = incidence(pairs, 3), pair, score, weight, z
    small = smallness(whole, *games, question)
    assert small.enlarged
    assert np.abs(small.bias).max() < 0.05
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arbitrage.stats.smallness.FEW", 0)
        plain = smallness(whole, *games, question).moved
    for out in range(0, 100, 9):
        rest = question != out
        again = fit(pairs, 3, pair[rest], score[rest], weight[rest], z[rest], ridge=0.01)
        shift = np.concatenate([whole.strengths, whole.effects])
        shift -= np.concatenate([again.strengths, again.effects])
        assert small.moved[out] == pytest.approx((shift + plain[out]) / 2, abs=0.002)
    assert (small.moved**2).sum() > 1.01 * (plain**2).sum()


def test_the_variance_of_one_pair_is_that_of_a_sample_mean() -> None:
    """Sum of squares over n (n - 1), turned into log-odds."""
    score = np.array([1.0] * 7 + [0.0] * 5)
    pairs, n = np.array([[0, 1]]), len(score)
    games = np.zeros(n, np.int64), score, np.ones(n)
    found = fit(pairs, 2, *games, ridge=1e-9)
    small = smallness(found, incidence(pairs, 2), *games, np.zeros((n, 0)), np.arange(n))
    mean = score.mean()
    variance = ((score - mean) ** 2).sum() / (n * (n - 1)) / (mean * (1 - mean)) ** 2
    moved = small.moved[:, 0] - small.moved[:, 1]
    assert float((moved**2).sum()) == pytest.approx(variance, rel=1e-6)


def test_groups_that_never_met_are_told_apart() -> None:
    assert islands(np.array([[0, 1], [2, 3], [3, 4]]), 7) == [[0, 1], [2, 3, 4]]
    assert islands(np.zeros((0, 2), np.int64), 3) == []


def test_quantiles_of_student_are_those_of_tables() -> None:
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 29: 2.045, 1e6: 1.960}
    for freedom, point in table.items():
        assert student(freedom) == pytest.approx(point, abs=0.005)
    assert math.isnan(student(0))
    assert student(2) > student(2.5) > student(3) > student(3.5)


@given(st.floats(0, 1), st.floats(0, 0.3), st.integers(2, 1000))
def test_intervals_of_shares_hold_the_share_and_stay_within_bounds(
    share: float, variance: float, questions: int
) -> None:
    low, high = share_interval(share, variance, questions, questions - 1.0)
    assert 0 <= low <= share <= high <= 1
    assert high > low


def test_a_share_of_all_has_an_interval_of_some_width() -> None:
    """Wilson's with every question as one game: 1 / (1 + t^2 / n) for the lower end."""
    low, high = share_interval(1.0, 0.0, 30, 29.0, certain=True)
    assert (low, high) == (pytest.approx(1 / (1 + 2.0452**2 / 30), abs=1e-4), 1.0)
    assert math.isnan(share_interval(0.5, math.nan, 30, 29.0)[0])
    assert math.isnan(share_interval(0.5, 0.01, 1, 0.0)[0])
    assert plain_interval(1.0, 0.04, 1e9) == pytest.approx((0.608, 1.392), abs=1e-3)


def test_resamples_draw_as_many_questions_as_there_are_and_are_the_same_each_time() -> None:
    whole = list(Resamples(50, 230, 7, chunk=100))
    assert [part.shape for part in whole] == [(50, 100), (50, 100), (50, 30)]
    counts = np.concatenate(whole, axis=1)
    assert (counts.sum(axis=0) == 50).all()
    assert counts.mean(axis=1) == pytest.approx(1, abs=0.3)
    again = Resamples(50, 230, 7)
    for _ in range(2):
        assert (np.concatenate(list(again), axis=1) == counts).all()


def test_distinct_numbers_are_those_of_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.array([7, 3, 3, 9, 0])
    assert distinct(codes).tolist() == [0, 3, 7, 9]
    monkeypatch.setattr("arbitrage.stats.tallies.DENSE", 4)
    assert distinct(codes).tolist() == [0, 3, 7, 9]


def columns(*rows: tuple[str, str, int, float, float, int]) -> dict[str, list[object]]:
    """Rows of first, second, prompt, score, weight and position as columns."""
    first, second, prompt, score, weight, position = (list(one) for one in zip(*rows, strict=True))
    same = {
        "judge": ["j"] * len(rows),
        "language": ["en"] * len(rows),
        "category": [""] * len(rows),
    }
    told = {"first": first, "second": second, "score": score, "weight": weight, **same}
    return {**told, "position": position, "prompt": prompt, "question": prompt}


ROWS = (
    ("a", "b", 1, 1.0, 3.0, 1),  # follows the position, in both orders
    ("a", "b", 1, 0.0, 1.0, -1),
    ("a", "b", 2, 1.0, 1.0, 1),  # does not
    ("b", "a", 2, 0.0, 3.0, 1),
    ("a", "b", 3, math.nan, 1.0, 1),  # one verdict is missing
    ("a", "b", 3, 0.0, 1.0, -1),
    ("b", "a", 4, 0.5, 1.0, 1),  # a tie and a loss is no flip
    ("a", "b", 4, 0.0, 1.0, 1),
    ("b", "b", 4, 0.0, 1.0, 1),  # nobody meets himself
)


def test_flips_and_missing_games_are_found_whichever_model_is_told_first() -> None:
    told = settle(outcomes_of(columns(*ROWS)))
    assert told.alone == 1
    assert told.meetings.flipped.tolist() == [True, False, False, False]
    assert told.meetings.both.tolist() == [True, True, False, True]
    assert told.meetings.missing.tolist() == [0, 0, 1, 0]
    assert told.games.score.tolist() == [1, 0, 1, 1, 0, 0.5, 0]
    assert told.games.position.tolist() == [1, -1, 1, -1, -1, -1, 1]


def test_a_flip_can_be_one_tie_or_nothing_and_a_lone_game_nothing() -> None:
    outcomes = outcomes_of(columns(*ROWS))
    tie = settle(outcomes, "tie").games
    assert (tie.score[0], tie.weight[0], tie.position[0], len(tie)) == (0.5, 1.0, 0, 6)
    assert settle(outcomes, "abstain").games.prompt.tolist() == [1, 1, 2, 3, 3]
    assert settle(outcomes, "keep", "prompt").games.prompt.tolist() == [0, 0, 1, 1, 3, 3]


def test_a_second_judgement_of_one_order_is_counted() -> None:
    assert settle(outcomes_of(columns(*ROWS[:4]))).repeated == 0
    assert settle(outcomes_of(columns(*ROWS[:4], ROWS[0], ROWS[0]))).repeated == 2


def plain_kappa(pairs: list[tuple[int, int]]) -> float:
    same = sum(a == b for a, b in pairs) / len(pairs)
    chance = sum(
        sum(a == k for a, _ in pairs) * sum(b == k for _, b in pairs) / len(pairs) ** 2
        for k in range(3)
    )
    return (same - chance) / (1 - chance)


def test_agreement_is_the_share_of_the_same_and_kappa_with_a_brute_force_bootstrap() -> None:
    generator = random.Random(4)
    first = [generator.choice((0, 2, 2, 1)) for _ in range(300)]
    second = [one if generator.random() < 0.6 else generator.choice((0, 1, 2)) for one in first]
    question = np.arange(300) // 3
    pair = Pair(np.array(first), np.array(second), np.zeros(300, np.int64), question)
    told = Agreeing(pair)
    both = list(zip(first, second, strict=True))
    assert told.same == pytest.approx(sum(a == b for a, b in both) / 300)
    assert told.kappa == pytest.approx(plain_kappa(both))
    spread, _ = variances([told], [], Resamples(100, 2000, 1))
    kappas = []
    for _ in range(2000):
        drawn = generator.choices(range(100), k=100)
        kappas.append(plain_kappa([both[3 * q + i] for q in drawn for i in range(3)]))
    assert math.sqrt(spread[0].variance[1]) == pytest.approx(float(np.std(kappas)), rel=0.1)


def test_judges_are_compared_on_what_both_judged_and_ties_are_words_too() -> None:
    both = columns(*ROWS[2:4], *ROWS[6:8], *ROWS[2:4], *ROWS[:2])
    both["judge"] = ["j"] * 4 + ["k"] * 4
    games = settle(outcomes_of(both)).games
    j, k = (words(games.where(games.judge == place), 10) for place in (0, 1))
    assert j.word.tolist() == [2, 0]
    assert k.word.tolist() == [2, 2], "the strong verdict of a flip outweighs the other"
    assert met(j, k).first.tolist() == [2]


def test_simulated_games_have_the_rates_that_they_are_said_to_have() -> None:
    world = World(
        strengths={"a": 0.8, "b": 0.0, "c": -0.5},
        questions=4000,
        languages=("en", "th"),
        lifts={("th", "a"): -1.0},
        first_shown=0.5,
        longer=0.5,
        lengths={"a": 0.8},
    )
    outcomes = simulate(world, 1)
    for (one, two), truth in true_rates(world).items():
        rows = (outcomes.first == outcomes.models.index(one)) & (
            outcomes.second == outcomes.models.index(two)
        )
        some = outcomes.where(rows)
        assert float(some.weight @ some.score / some.weight.sum()) == pytest.approx(
            truth.plain, abs=0.015
        )
        english = some.where(some.language == 0)
        assert float(english.weight @ english.score / english.weight.sum()) == pytest.approx(
            true_rates(world, "en")[one, two].plain, abs=0.02
        )
    assert rate([]) != rate([])
    assert true_rates(world, "en")["a", "b"].plain > true_rates(world, "en")["a", "b"].controlled


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_simulations_of_one_seed_are_equal(seed: int) -> None:
    world = World(strengths={"a": 0.5, "b": 0.0}, questions=5, missing=0.3)
    one, two = simulate(world, seed), simulate(world, seed)
    assert np.array_equal(one.score, two.score, equal_nan=True)
    assert len(one) == 10
