"""No controlled rate is made of the prior alone, where the style of answers is not known."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from arbitrage.stats.outcomes import Outcomes
from arbitrage.stats.simulation import World, simulate
from arbitrage.stats.tallies import settle
from arbitrage.winrate.analysis import analyse
from arbitrage.winrate.choices import AnalysisConfig
from arbitrage.winrate.results import Results, Row
from arbitrage.winrate.scopes import Figures

CHOICES = AnalysisConfig(resamples=100)
WORLD = World(
    strengths={"a": 0.8, "b": -0.3, "c": 0.5, "base": 0.0},
    questions=80,
    languages=("en", "th"),
    categories=("chat", "code"),
    first_shown=0.4,
    longer=0.5,
    lengths={"a": 0.6},
)


def without_style(outcomes: Outcomes, rows: Any) -> Outcomes:
    assert outcomes.style is not None
    return dataclasses.replace(outcomes, style=np.where(rows[:, None], np.nan, outcomes.style))


def of_pairs(outcomes: Outcomes, *pairs: str) -> Any:
    """The games of some pairs of models, each told as `a b`."""
    names = outcomes.models
    wanted = [{names.index(one) for one in pair.split()} for pair in pairs]
    played = zip(outcomes.first.tolist(), outcomes.second.tolist(), strict=True)
    return np.array([set(pair) in wanted for pair in played])


def row_of(results: Results, *names: str) -> Row:
    row = results.row(*names)
    assert row is not None
    return row


def test_a_model_without_styles_has_no_controlled_rate_and_others_keep_theirs() -> None:
    outcomes = simulate(WORLD, 3)
    bare = of_pairs(outcomes, "a b", "a c", "a base")
    told = analyse(without_style(outcomes, bare), CHOICES)
    fewer = analyse(outcomes.where(~bare), CHOICES)
    for scope, of in (("all", ""), ("language", "th"), ("languages", ""), ("category", "code")):
        for model in ("b", "c", "base"):
            assert row_of(told, "a", model, scope, of).controlled is None
            assert row_of(told, model, "a", scope, of).controlled is None
            assert row_of(told, model, "", scope, of).controlled is None, "it played a as well"
        assert row_of(told, "a", "", scope, of).controlled is None
        for pair in combinations(("b", "c", "base"), 2):
            one, two = (row_of(each, *pair, scope, of).controlled for each in (told, fewer))
            assert one is not None
            assert one.value == pytest.approx(two.value if two else None, abs=1e-6)
            assert one.low < one.value < one.high


def test_a_pair_that_other_games_join_is_told_without_an_interval() -> None:
    outcomes = simulate(WORLD, 4)
    told = analyse(without_style(outcomes, of_pairs(outcomes, "a base")), CHOICES)
    whole = row_of(analyse(outcomes, CHOICES), "a", "base").controlled
    found = row_of(told, "a", "base").controlled
    assert found is not None
    assert whole is not None
    assert found.value == pytest.approx(whole.value, abs=0.1)
    assert np.isnan((found.low, found.high)).all()
    assert row_of(told, "a", "").controlled is not None


def test_islands_of_known_styles_say_nothing_about_each_other() -> None:
    outcomes = simulate(WORLD, 5)
    across = of_pairs(outcomes, "a c", "a base", "b c", "b base")
    told = analyse(without_style(outcomes, across), CHOICES)
    known = {(row.model, row.against) for row in told.rows if row.scope == "all" and row.controlled}
    assert known == {("a", "b"), ("b", "a"), ("c", "base"), ("base", "c")}


@pytest.mark.parametrize("scope", ["language", "category"])
def test_a_language_or_category_without_styles_has_no_controlled_rate(scope: str) -> None:
    outcomes = simulate(dataclasses.replace(WORLD, strengths={"a": 0.8, "base": 0.0}), 6)
    names = outcomes.languages if scope == "language" else outcomes.categories
    bare = getattr(outcomes, scope) == 1
    told = analyse(without_style(outcomes, bare), CHOICES, "base")
    assert row_of(told, "a", "base", scope, names[1]).controlled is None
    assert row_of(told, "a", "base", scope, names[0]).controlled is not None
    mean = row_of(told, "a", "base", "languages", "").controlled
    assert (mean is None) == (scope == "language")


def test_a_pair_bare_in_one_language_has_no_controlled_mean_over_languages() -> None:
    outcomes = simulate(WORLD, 7)
    bare = of_pairs(outcomes, "a b", "a c", "a base") & (outcomes.language == 1)
    told = analyse(without_style(outcomes, bare), CHOICES)
    assert row_of(told, "a", "base", "language", outcomes.languages[0]).controlled is not None
    assert row_of(told, "a", "base", "language", outcomes.languages[1]).controlled is None
    assert row_of(told, "a", "base", "languages", "").controlled is None
    one, two = (
        row_of(told, "b", "base", "language", name).controlled for name in outcomes.languages
    )
    mean = row_of(told, "b", "base", "languages", "").controlled
    assert one is not None
    assert two is not None
    assert mean is not None
    assert mean.value == pytest.approx((one.value + two.value) / 2)


def test_controlled_columns_count_the_questions_of_their_games() -> None:
    outcomes = simulate(dataclasses.replace(WORLD, strengths={"a": 0.8, "base": 0.0}), 8)
    settled = settle(without_style(outcomes, outcomes.question >= 33))
    figures = Figures(settled.games, settled.pairs, 2, outcomes.styles, CHOICES.control, 1e-4, None)
    every = len(np.unique(outcomes.question))
    plain, controlled, strengths = [every] * 3, [33] * 3, [every] * 2
    assert figures.questions.tolist() == [*plain, *controlled, *strengths, 33, 33]


def test_games_without_a_known_style_are_left_out_of_the_controlled_rate_only() -> None:
    outcomes = simulate(dataclasses.replace(WORLD, missing=0.05), 8)
    assert outcomes.style is not None
    style = outcomes.style.copy()
    style[:30] = np.nan
    bare = dataclasses.replace(outcomes, style=style)
    before, after = analyse(outcomes, CHOICES, "base"), analyse(bare, CHOICES, "base")
    one, two = before.row("a", "base"), after.row("a", "base")
    assert one is not None
    assert two is not None
    assert one.rate == two.rate
    assert one.controlled != two.controlled
    known = ~np.isnan(outcomes.score)
    many = f"{known[:30].sum()} of {known.sum():,} games"
    sentence = f"{many} are left out of the controlled win rates, as the style of an answer"
    assert any(remark.startswith(sentence) for remark in after.remarks)
    assert not any("left out of the controlled" in remark for remark in before.remarks)
