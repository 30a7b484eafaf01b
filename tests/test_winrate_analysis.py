"""Win rates from games to rows: figures made again in plain Python, intervals by brute force."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from arbitrage.errors import InputError
from arbitrage.stats.outcomes import Outcomes, outcomes_of
from arbitrage.stats.simulation import World, simulate, true_rates
from arbitrage.winrate.analysis import analyse, gain_of
from arbitrage.winrate.choices import AnalysisConfig
from arbitrage.winrate.results import Results, Row, results_from
from check_coverage import SCENARIOS, check
from plain_winrate import Game, deviation, games_of, logistic_fit, rate, spread_of_rate

WORLD = World(
    strengths={"a": 0.8, "b": -0.3, "base": 0.0},
    questions=40,
    languages=("en", "th"),
    categories=("chat", "code"),
    first_shown=0.4,
    longer=0.5,
    lengths={"a": 0.6},
    missing=0.05,
    judges={"j": 0.0, "k": 0.3},
)
DUEL = dataclasses.replace(WORLD, strengths={"a": 0.8, "base": 0.0}, judges={"j": 0.0})


def chosen(games: list[Game], row: Row) -> list[Game]:
    """The games that a row is about."""
    return [
        game
        for game in games
        if game.model == row.model
        and row.against in ("", game.other)
        and row.judge in ("", game.judge)
        and row.of in ("", getattr(game, row.scope, ""))
    ]


@pytest.fixture(scope="module")
def league() -> tuple[Outcomes, Results]:
    outcomes = simulate(WORLD, 3)
    return outcomes, analyse(outcomes, AnalysisConfig(resamples=200))


def test_every_count_and_rate_is_that_of_plain_python(league: tuple[Outcomes, Results]) -> None:
    outcomes, results = league
    games = games_of(outcomes, both_sides=True)
    assert len(results.rows) == 3 * 9 * (1 + 1 + 2 + 2)
    for row in results.rows:
        mine = chosen(games, row)
        told = [game for game in mine if not math.isnan(game.score)]
        counts = {
            "prompts": len({game.prompt for game in told}),
            "games": len(told),
            "wins": sum(game.score == 1 for game in told),
            "ties": sum(game.score == 0.5 for game in told),
            "losses": sum(game.score == 0 for game in told),
            "strong_wins": sum(game.score == 1 and game.weight == 3 for game in told),
            "strong_losses": sum(game.score == 0 and game.weight == 3 for game in told),
            "missing": len(mine) - len(told),
        }
        assert {name: getattr(row, name) for name in counts} == counts
        if row.scope != "languages":
            assert row.rate.value == pytest.approx(rate(told))
        assert row.points.value == pytest.approx(2 * row.rate.value - 1)
        assert row.gain.value == pytest.approx(row.rate.value / (1 - row.rate.value) - 1)
        assert row.rate.low < row.rate.value < row.rate.high


def test_flips_are_counted_of_prompts_judged_in_both_orders(
    league: tuple[Outcomes, Results],
) -> None:
    outcomes, results = league
    for row in (one for one in results.rows if one.against and one.scope != "languages"):
        by: dict[Any, dict[int, float]] = {}
        for game in chosen(games_of(outcomes, both_sides=True), row):
            if not math.isnan(game.score):
                by.setdefault((game.judge, game.prompt), {})[game.position] = game.score - 0.5
        both = [one for one in by.values() if len(one) == 2]
        assert (row.both, row.flipped) == (len(both), sum(x[1] * x[-1] < 0 for x in both))


def test_the_mean_over_languages_is_plain_whatever_their_sizes() -> None:
    outcomes = simulate(WORLD, 5)
    few = outcomes.where((outcomes.language == 0) | (outcomes.question < 10))
    results = analyse(few, AnalysisConfig(resamples=50))
    for model in ("a", "b", "base"):
        each = [results.row(model, scope="language", of=one) for one in ("en", "th")]
        mean = results.row(model, scope="languages")
        assert mean is not None
        assert mean.rate.value == pytest.approx(sum(one.rate.value for one in each if one) / 2)
        assert mean.strength is None
    assert mean is not None
    assert mean.controlled is None, "ten questions are too few to control in th"


def test_with_a_baseline_each_model_meets_it_and_a_league_has_both() -> None:
    pairs = [(row.model, row.against) for row in analyse(simulate(DUEL, 1), FAST, "base").rows]
    assert set(pairs) == {("a", "base")}
    league = analyse(simulate(WORLD, 1), FAST, "base")
    assert {row.against for row in league.rows if row.model == "a"} == {"", "b", "base"}
    base = league.row("base", "")
    assert base is not None
    assert base.strength is not None
    assert base.strength.value == 0
    a, other = league.row("a", "b"), league.row("b", "a")
    assert a is not None
    assert other is not None
    assert a.rate.value == pytest.approx(1 - other.rate.value)
    assert a.rate.low == pytest.approx(1 - other.rate.high)


FAST = AnalysisConfig(resamples=50)


def test_strengths_of_one_pair_are_the_log_odds_of_its_rate_whoever_is_first() -> None:
    outcomes = simulate(DUEL, 2)
    sides = outcomes.where(np.arange(len(outcomes)) % 2 == 0)
    odd = outcomes.where(np.arange(len(outcomes)) % 2 == 1)
    turned = dataclasses.replace(
        odd,
        first=odd.second,
        second=odd.first,
        score=1 - odd.score,
        position=-odd.position,
        style=None if odd.style is None else -odd.style,
    )
    assert turned.style is not None
    assert sides.style is not None
    mixed = dataclasses.replace(
        sides,
        style=np.concatenate([sides.style, turned.style]),
        **{
            name: np.concatenate([getattr(sides, name), getattr(turned, name)])
            for name in ("first", "second", "judge", "language", "category", "prompt")
        },
        **{
            name: np.concatenate([getattr(sides, name), getattr(turned, name)])
            for name in ("question", "score", "weight", "position")
        },
    )
    one, two = analyse(outcomes, FAST, "base"), analyse(mixed, FAST, "base")
    row, same = one.row("a", "base"), two.row("a", "base")
    assert row is not None
    assert same is not None
    assert row.strength is not None
    p = row.rate.value
    assert row.strength.value == pytest.approx(math.log(p / (1 - p)), abs=1e-4)
    assert same.rate == pytest.approx(row.rate)
    assert same.controlled == pytest.approx(row.controlled)


def test_intervals_are_as_wide_as_a_brute_force_bootstrap_over_questions() -> None:
    outcomes = simulate(dataclasses.replace(DUEL, questions=120), 4)
    results = analyse(outcomes, AnalysisConfig(resamples=2000), "base")
    games = [game for game in games_of(outcomes) if not math.isnan(game.score)]
    for scope, of in (("all", ""), ("language", "th"), ("category", "code")):
        row = results.row("a", "base", scope, of)
        assert row is not None
        spread = spread_of_rate(chosen(games, row), 1500, 9)
        assert row.rate.high - row.rate.low == pytest.approx(2 * 1.98 * spread, rel=0.08)


def controlled_again(games: list[Game], scale: float) -> tuple[float, ...]:
    """Log-odds of the first model at even positions and lengths, and the effects."""
    rows = [(1.0, game.style[0] / scale, float(game.position)) for game in games]
    scores, weights = [game.score for game in games], [game.weight for game in games]
    return tuple(logistic_fit(rows, scores, weights, 1e-6))


def test_controlled_rates_and_effects_are_those_of_full_refits() -> None:
    """The slow fit has the bias of few questions that the fast one takes off, a little."""
    outcomes = simulate(dataclasses.replace(DUEL, questions=100, languages=("en",)), 6)
    results = analyse(outcomes, AnalysisConfig(resamples=2000), "base")
    games = [game for game in games_of(outcomes) if not math.isnan(game.score)]
    scale = math.sqrt(sum(game.style[0] ** 2 for game in games) / len(games))
    whole = controlled_again(games, scale)
    row = results.row("a", "base")
    assert row is not None
    assert row.controlled is not None
    assert row.controlled.value == pytest.approx(1 / (1 + math.exp(-whole[0])), abs=0.01)
    assert [one.name for one in results.effects] == ["length", "position"]
    assert [one.size.value for one in results.effects] == pytest.approx(whole[1:], abs=0.04)
    by: dict[int, list[Game]] = {}
    for game in games:
        by.setdefault(game.question, []).append(game)
    generator = np.random.default_rng(1)
    refits = []
    for _ in range(80):
        drawn = generator.choice(list(by), len(by)).tolist()
        refits.append(controlled_again([one for q in drawn for one in by[q]], scale))
    for effect, values in zip(results.effects, list(zip(*refits, strict=True))[1:], strict=True):
        width = effect.size.high - effect.size.low
        assert width == pytest.approx(2 * 1.98 * deviation(values), rel=0.3)
    rates = [1 / (1 + math.exp(-one[0])) for one in refits]
    width = row.controlled.high - row.controlled.low
    assert width == pytest.approx(2 * 1.98 * deviation(rates), rel=0.3)


@pytest.mark.parametrize("name", ["both biases", "missing by position", "mean over languages"])
def test_intervals_cover_the_truth_and_control_takes_the_bias_off(name: str) -> None:
    """`scripts/check_coverage.py` does the same with more; 120 simulations tell 95 to within 4."""
    scenario = next(one for one in SCENARIOS if one.name == name)
    plain, controlled = check(scenario, 120, resamples=100)
    assert controlled.coverage >= 90
    assert abs(controlled.bias) < 2
    if scenario.fair:
        assert plain.coverage >= 90
        assert abs(plain.bias) < 1.5
        truth = true_rates(scenario.world)["a", "base"]
        assert truth.plain - truth.controlled > 0.05, "there is something to control"


def test_what_can_be_controlled_is_chosen_and_a_fixed_order_is_not() -> None:
    outcomes = simulate(DUEL, 8)
    only = AnalysisConfig(resamples=50, control=("position",))
    assert [one.name for one in analyse(outcomes, only, "base").effects] == ["position"]
    none = analyse(outcomes, AnalysisConfig(resamples=50, control=()), "base")
    assert none.effects == ()
    assert all(row.controlled is None for row in none.rows)
    one_order = outcomes.where(outcomes.position == 1)
    told = analyse(one_order, FAST, "base")
    assert [one.name for one in told.effects] == ["length"]
    assert any(remark.startswith("position is the same in all games") for remark in told.remarks)
    named = dataclasses.replace(outcomes, styles=("headers",))
    markdown = AnalysisConfig(resamples=50, control=("markdown",))
    assert [one.name for one in analyse(named, markdown, "base").effects] == ["headers"]


def duel(*scores: float, **other: list[Any]) -> Outcomes:
    """Games of `a` against `b`, one per prompt."""
    n = len(scores)
    same = {"first": ["a"] * n, "second": ["b"] * n, "judge": ["j"] * n, "language": ["en"] * n}
    plain = {"category": [""] * n, "prompt": list(range(n)), "question": list(range(n))}
    numbers = {"score": list(scores), "weight": [1.0] * n, "position": [1] * n}
    return outcomes_of({**same, **plain, **numbers, **other})


def test_a_model_that_won_everything_has_an_interval_and_no_gain() -> None:
    results = analyse(duel(*[1.0] * 20), FAST, "b")
    row = results.row("a", "b")
    assert row is not None
    assert row.rate.value == 1
    assert 0.7 < row.rate.low < 0.9
    assert math.isnan(row.gain.value)
    assert row.strength is not None
    assert math.isfinite(row.strength.value)
    assert math.isnan(row.strength.low)
    assert any("every game was won by a against b and" in one for one in results.remarks)
    assert json.loads(results.as_json())["rows"][0]["gain"][0] is None
    lost = analyse(duel(*[0.0] * 20), FAST, "b")
    assert any(one.startswith("every game was lost by a against b") for one in lost.remarks)
    ties = analyse(duel(*[0.5] * 20), FAST, "b").row("a", "b")
    assert ties is not None
    assert ties.rate.low < 0.4 < 0.5 < 0.6 < ties.rate.high


def test_few_questions_and_no_resamples_have_no_intervals() -> None:
    for results in (
        analyse(duel(1.0, 0.0, 0.5, 1.0), FAST, "b"),
        analyse(duel(*[1.0, 0.0] * 9), AnalysisConfig(resamples=0), "b"),
        analyse(duel(1.0), AnalysisConfig(resamples=9, least=1), "b"),
    ):
        assert all(math.isnan(row.rate.low) and math.isnan(row.rate.high) for row in results.rows)
        assert all(not math.isnan(row.rate.value) for row in results.rows)
    few = analyse(duel(1.0, 0.0, 0.5, 1.0), FAST, "b").remarks
    assert any(one.startswith("fewer than 5 questions") and "en (4)" in one for one in few)


def test_no_verdict_at_all_is_told_and_not_a_rate() -> None:
    results = analyse(duel(*[math.nan] * 8), FAST, "b")
    row = results.row("a", "b")
    assert row is not None
    assert (row.games, row.missing, row.prompts) == (0, 8, 0)
    assert math.isnan(row.rate.value)
    assert row.strength is None
    assert results.remarks[0] == "none of the 8 games has a verdict, so there is no win rate"
    assert results_from(json.loads(results.as_json())).rows[0].missing == 8


def test_models_that_never_met_stay_finite_and_are_named() -> None:
    scores = [1.0, 0.0, 1.0] * 4
    firsts, seconds = ["a"] * 6 + ["c"] * 6, ["b"] * 6 + ["d"] * 6
    results = analyse(duel(*scores, first=firsts, second=seconds), FAST)
    assert all(row.strength and abs(row.strength.value) < 3 for row in results.rows)
    assert any(
        "no chain of games joins" in one and "a and b; c and d" in one for one in results.remarks
    )
    assert results.row("a", "c") is None


def test_mistakes_of_a_user_are_one_sentence() -> None:
    empty = duel(1.0).where(np.zeros(1, bool))
    with pytest.raises(InputError, match="no game to analyse"):
        analyse(empty, FAST)
    with pytest.raises(InputError, match=r"the baseline gpt is in no game; name one of a, b"):
        analyse(duel(1.0), FAST, "gpt")
    with pytest.raises(InputError, match="against itself"):
        analyse(duel(1.0, first=["b"]), FAST)


def test_repeated_games_count_and_are_told() -> None:
    results = analyse(duel(1.0, 1.0, 0.0, prompt=[1, 1, 2], question=[1, 1, 2]), FAST, "b")
    assert results.rows[0].rate.value == pytest.approx(2 / 3)
    assert any(one.startswith("1 game is a second judgement") for one in results.remarks)


def test_judges_of_both_kinds_weigh_differently_and_that_is_told_once() -> None:
    judges, prompts = ["chat", "chat", "rm"] * 6, [n // 3 for n in range(18)]
    same = {"judge": judges, "prompt": prompts, "question": prompts}
    scores = [1.0, 0.0, 1.0] * 6

    def said(positions: list[int]) -> list[str]:
        results = analyse(duel(*scores, **same, position=positions), FAST, "b")
        return [one for one in results.remarks if "taken together" in one]

    assert said([1, -1, 0] * 6) == [
        "where all judges are taken together, a chat judge (chat) counts two games per prompt and "
        "an Arbiter (rm) one"
    ]
    assert said([1, -1, 1] * 6) == said([0, 0, 0] * 6) == []
    assert not any("taken together" in one for one in analyse(duel(1.0, 0.0), FAST, "b").remarks)


def test_agreements_are_of_all_judges_in_every_language(league: tuple[Outcomes, Results]) -> None:
    outcomes, results = league
    assert [(one.first, one.second, one.of) for one in results.agreements] == [
        ("j", "k", ""),
        ("j", "k", "en"),
        ("j", "k", "th"),
    ]
    said: dict[Any, dict[str, float]] = {}
    for game in games_of(outcomes):
        if not math.isnan(game.score):
            by = said.setdefault((game.model, game.other, game.prompt), {})
            by[game.judge] = by.get(game.judge, 0.0) + game.weight * (game.score - 0.5)
    both = [one for one in said.values() if len(one) == 2]
    same = sum(np.sign(one["j"]) == np.sign(one["k"]) for one in both)
    first = results.agreements[0]
    assert first.pairs == len(both)
    assert first.same.value == pytest.approx(same / len(both))
    assert first.same.low < first.same.value < first.same.high
    assert first.kappa.low < first.kappa.value < first.kappa.high <= 1


def test_results_are_equal_for_equal_seeds_and_keep_what_they_are_told() -> None:
    outcomes = simulate(WORLD, 3)
    told = {"failures": (("j", "a", "no verdict", 3),), "made_from": {"file": "x"}}
    one = analyse(outcomes, FAST, "base", remarks=("first",), settings={"judge": "j"}, **told)
    two = analyse(outcomes, FAST, "base", remarks=("first",), settings={"judge": "j"}, **told)
    assert one.as_json() == two.as_json()
    assert one.remarks[0] == "first"
    assert one.failures == told["failures"]
    assert one.settings["judge"] == "j"
    assert one.settings["resamples"] == 50
    assert results_from(json.loads(one.as_json())).as_json() == one.as_json()
    other = analyse(outcomes, AnalysisConfig(resamples=50, seed=1), "base")
    assert other.rows[0].rate.value == one.rows[0].rate.value
    assert other.rows[0].rate.low != one.rows[0].rate.low


def test_prompts_and_questions_may_be_any_numbers() -> None:
    outcomes = simulate(WORLD, 3)
    odd = dataclasses.replace(
        outcomes, prompt=outcomes.prompt * 10**15 - 7, question=outcomes.question * 10**15 + 5
    )
    assert analyse(odd, FAST, "base").as_json() == analyse(outcomes, FAST, "base").as_json()


def test_a_judge_who_never_gave_a_verdict_is_a_row_without_a_rate() -> None:
    outcomes = simulate(WORLD, 3)
    silent = dataclasses.replace(
        outcomes, score=np.where(outcomes.judge == 1, np.nan, outcomes.score)
    )
    results = analyse(silent, FAST, "base")
    row = results.row("a", "base", judge="k")
    assert row is not None
    assert (row.games, row.missing, math.isnan(row.rate.value)) == (0, 160, True)
    assert results.agreements == ()
    assert {one.judge for one in results.effects} == {"j"}


def test_gain_is_relative_to_the_opponent() -> None:
    assert gain_of(0.6) == pytest.approx(0.5)
    assert gain_of(0.0) == -1
    assert math.isnan(gain_of(1.0))
    assert math.isnan(gain_of(math.nan))


def test_many_questions_taken_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = simulate(WORLD, 3)
    whole = analyse(outcomes, FAST, "base").as_json()
    monkeypatch.setattr("arbitrage.winrate.scopes.HELD", 100)
    monkeypatch.setattr("arbitrage.stats.resampling.PART", 3)
    pieces = analyse(outcomes, FAST, "base").as_json()
    first, second = (results_from(json.loads(one)) for one in (whole, pieces))
    for one, two in zip(first.rows, second.rows, strict=True):
        assert one.rate == pytest.approx(two.rate, abs=1e-5)
        assert one.strength == pytest.approx(two.strength, abs=1e-4)
