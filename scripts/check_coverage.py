"""Whether win rates are unbiased and their intervals honest, on judges whose mind is known.

For each scenario: the mean error of the plain and of the controlled win rate, in points (100 is
everything), and in how many of the simulations their 95 % intervals hold the truth. The truth of
the plain rate is that of complete games, so that verdicts that go missing by position or length may
bias it; the truth of the controlled one is the preference without length and position. Five hundred
simulations tell a coverage to within 1.9 points, two thousand to within 1.

    python scripts/check_coverage.py --simulations 500
    python scripts/check_coverage.py --simulations 2000 --only length position
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import NamedTuple

from arbitrage.stats.simulation import World, simulate, true_rates
from arbitrage.winrate.analysis import analyse
from arbitrage.winrate.choices import AnalysisConfig
from arbitrage.winrate.results import ALL, LANGUAGES, Estimate

DUEL = World(strengths={"a": 0.7, "base": 0.0}, baseline="base")
LEAGUE = World(strengths={"a": 0.7, "b": 0.2, "c": -0.4, "d": 0.0}, questions=60)


def biased(world: World) -> World:
    """The same, judged with a liking for what is shown first and for length."""
    return replace(world, first_shown=0.6, longer=0.6, lengths={"a": 0.7})


class Scenario(NamedTuple):
    """A world, the pair to look at, and on which scope. `fair`: the plain rate has no bias."""

    name: str
    world: World
    scope: str = ALL
    other: str = "base"
    fair: bool = True


SCENARIOS = (
    Scenario("fair judge", DUEL),
    Scenario("20 questions", replace(DUEL, questions=20)),
    Scenario("500 questions", replace(DUEL, questions=500)),
    Scenario("strong model", replace(DUEL, strengths={"a": 2.5, "base": 0.0})),
    Scenario("position", replace(DUEL, first_shown=1.0)),
    Scenario("length", replace(DUEL, longer=0.8, lengths={"a": 0.7})),
    Scenario("both biases", biased(DUEL)),
    Scenario("both, 500 questions", replace(biased(DUEL), questions=500)),
    Scenario("missing at random", replace(biased(DUEL), missing=0.15)),
    Scenario("missing by position", replace(biased(DUEL), missing_second=0.5), fair=False),
    Scenario("missing by length", replace(biased(DUEL), missing_long=0.4), fair=False),
    Scenario("no ties, no strong", replace(biased(DUEL), tie=0.0, strong=99.0)),
    Scenario("translations", replace(biased(DUEL), languages=("en", "th", "sw"))),
    Scenario(
        "mean over languages",
        replace(biased(DUEL), languages=("en", "th", "sw"), lifts={("th", "a"): -0.8}),
        LANGUAGES,
    ),
    Scenario("two judges", replace(biased(DUEL), judges={"j": 0.0, "k": 0.5})),
    Scenario("all against all", biased(LEAGUE), other="c"),
)


class Tally(NamedTuple):
    """Of many simulations: mean error in points, and percent of intervals that hold the truth."""

    bias: float
    coverage: float
    width: float


def tally(estimates: list[Estimate], truth: float) -> Tally:
    """What they come to."""
    n = len(estimates)
    held = sum(one.low <= truth <= one.high for one in estimates)
    width = sum(one.high - one.low for one in estimates) / n
    return Tally(
        100 * (sum(one.value for one in estimates) / n - truth), 100 * held / n, 100 * width
    )


def check(scenario: Scenario, simulations: int, resamples: int = 400) -> tuple[Tally, Tally]:
    """Of the plain and of the controlled win rate."""
    world = scenario.world
    truth = true_rates(world)["a", scenario.other]
    if scenario.scope == LANGUAGES:
        each = [true_rates(world, one)["a", scenario.other] for one in world.languages]
        truth = type(truth)(*(sum(column) / len(each) for column in zip(*each, strict=True)))
    plain, controlled = [], []
    by = ("language",) if scenario.scope == LANGUAGES else ()
    for seed in range(simulations):
        choices = AnalysisConfig(resamples=resamples, seed=seed, by=by)
        results = analyse(simulate(world, seed), choices, world.baseline)
        row = results.row("a", scenario.other, scenario.scope)
        if row is None:
            raise ValueError(f"no row in scenario {scenario.name}")
        plain.append(row.rate)
        controlled.append(row.controlled or Estimate(math.nan, math.nan, math.nan))
    return tally(plain, truth.plain), tally(controlled, truth.controlled)


def main() -> None:
    """Prints a table, a line per scenario."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--only", nargs="*", default=[], help="scenarios whose names begin so")
    told = parser.parse_args()
    print(f"{'':22}{'plain':^27}{'controlled':^27}")
    print(f"{'scenario':22}" + f"{'bias':>7}{'coverage':>11}{'width':>8} " * 2)
    for scenario in SCENARIOS:
        if told.only and not scenario.name.startswith(tuple(told.only)):
            continue
        tallies = check(scenario, told.simulations, told.resamples)
        cells = "".join(f"{t.bias:>+7.2f}{t.coverage:>10.1f}%{t.width:>8.1f} " for t in tallies)
        note = "" if scenario.fair else " plain rate is of what is left"
        print(f"{scenario.name:22}{cells}{note}", flush=True)


if __name__ == "__main__":
    main()
