"""Sentences that a reader of win rates must know: what could not be told, and why.

Each kind of trouble is one sentence, however many models and languages it concerns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from arbitrage.stats.outcomes import UNKNOWN
from arbitrage.stats.strengths import islands
from arbitrage.winrate.results import ALL, CATEGORY, EVERYONE, LANGUAGE
from arbitrage.winrate.scopes import chosen_styles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from arbitrage.stats.outcomes import Outcomes
    from arbitrage.stats.tallies import Settled
    from arbitrage.winrate.choices import AnalysisConfig
    from arbitrage.winrate.results import Row

LEAST_LOST = 10
"""Games without a verdict of which it can be said that they are of one order."""
NAMED = 5
"""How many names a sentence tells."""


def remarks_on(
    outcomes: Outcomes,
    settled: Settled,
    choices: AnalysisConfig,
    rows: Sequence[Row],
    unidentified: Mapping[str, Sequence[str]],
) -> tuple[str, ...]:
    """All of them, what concerns everything first."""
    return (
        *_of_games(settled),
        *_of_judges(outcomes),
        *_of_orders(outcomes),
        *_of_strengths(outcomes, settled),
        *_of_control(outcomes, settled, choices, unidentified),
        *_of_rows(rows, outcomes.judges),
        *_of_few(outcomes, settled, choices),
    )


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Names as a sentence tells them."""
    some = list(names[:most])
    if len(names) > most:
        return f"{', '.join(some)} and {len(names) - most} more"
    return " and ".join([", ".join(some[:-1]), some[-1]] if len(some) > 1 else some)


def _of_orders(outcomes: Outcomes) -> Iterator[str]:
    """Judges whose verdicts are missing more often in one order than chance makes them."""
    lost = np.isnan(outcomes.score) & (outcomes.position != UNKNOWN)
    pair = outcomes.first * len(outcomes.models) + outcomes.second
    for number, judge in enumerate(outcomes.judges):
        mine = lost & (outcomes.judge == number)
        _, place = np.unique(pair[mine], return_inverse=True)
        several = np.bincount(place)
        apart = np.abs(np.bincount(place, outcomes.position[mine]))
        uneven = (several >= LEAST_LOST) & (apart > 3 * np.sqrt(several))
        if uneven.any():
            yield (
                f"verdicts of {judge} are missing in one order more often than in the other "
                f"({int(several[uneven].sum())} games): where it likes a position the plain win "
                "rate leans; the controlled one, or `missing: prompt`, does not"
            )


def _of_games(settled: Settled) -> Iterator[str]:
    missing = int(settled.meetings.missing.sum())
    if missing and not len(settled.games):
        yield f"none of the {_games(missing)} has a verdict, so there is no win rate"
    if settled.alone:
        yield f"{_games(settled.alone)} of a model against itself {_are(settled.alone)} left out"
    if settled.repeated:
        yield (
            f"{_games(settled.repeated)} {_are(settled.repeated)} a second judgement of one order "
            "of one prompt by the same judge, and each counts"
        )


def _games(number: int) -> str:
    return f"{number:,} game" if number == 1 else f"{number:,} games"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _of_judges(outcomes: Outcomes) -> Iterator[str]:
    """That judges of both kinds do not weigh the same where they are taken together."""
    places = outcomes.position != 0
    ordered = np.unique(outcomes.judge[places])
    blind = np.setdiff1d(np.unique(outcomes.judge), ordered)
    if len(ordered) and len(blind):
        chat, arbiters = (
            listed([outcomes.judges[one] for one in some]) for some in (ordered, blind)
        )
        yield (
            f"where all judges are taken together, a chat judge ({chat}) counts two games per "
            f"prompt and an Arbiter ({arbiters}) one"
        )


def _of_strengths(outcomes: Outcomes, settled: Settled) -> Iterator[str]:
    played = np.unique(settled.games.pair)
    groups = islands(settled.pairs[played], len(outcomes.models))
    if len(groups) > 1:
        told = "; ".join(
            listed([outcomes.models[one] for one in group]) for group in groups[:NAMED]
        )
        yield (
            f"no chain of games joins these groups of models, so that strengths of one say nothing "
            f"about those of another: {told}"
        )


def _of_control(
    outcomes: Outcomes,
    settled: Settled,
    choices: AnalysisConfig,
    unidentified: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    places = chosen_styles(outcomes.styles, choices.control)
    bare = int(np.isnan(settled.games.style[:, places]).any(axis=1).sum())
    if bare:
        yield (
            f"{bare:,} of {_games(len(settled.games))} {_are(bare)} left out of the controlled win "
            "rates, as the style of an answer is not known; models that no other games join have "
            "none"
        )
    for name in sorted({name for names in unidentified.values() for name in names}):
        yield (
            f"{name} is the same in all games of each two models, so it cannot be told apart from "
            "their quality and is not controlled"
        )


def _of_rows(rows: Sequence[Row], judges: Sequence[str]) -> Iterator[str]:
    """Where a rate is 0 or 1, as the judge sees it who stands for all."""
    pooled = judges[0] if len(judges) == 1 else EVERYONE
    some = [row for row in rows if row.judge == pooled and row.scope in (ALL, LANGUAGE, CATEGORY)]
    silent = [_where(row) for row in some if row.games == 0 and row.missing]
    if silent:
        yield f"no verdict at all, and so no win rate, for {listed(silent)}"
    won = [_where(row) for row in some if row.rate.value == 1]
    if won:
        yield (
            f"every game was won by {listed(won)}, so that the gain cannot be told and only the "
            "prior keeps strengths finite"
        )
    lost = [_where(row) for row in some if row.rate.value == 0]
    if lost:
        yield f"every game was lost by {listed(lost)}, so only the prior keeps strengths finite"


def _where(row: Row) -> str:
    foe = f" against {row.against}" if row.against else ""
    return f"{row.model}{foe}{f' in {row.of}' if row.of else ''}"


def _of_few(outcomes: Outcomes, settled: Settled, choices: AnalysisConfig) -> Iterator[str]:
    """Scopes too small for an interval."""
    games = settled.games
    counts = {"all games": len(np.unique(games.question))} if len(games) else {}
    named = ((LANGUAGE, outcomes.languages), (CATEGORY, outcomes.categories))
    for scope, names in named:
        if scope in choices.by and len(games):
            size = int(games.question.max()) + 1
            place = np.unique(getattr(games, scope) * size + games.question) // size
            many = np.bincount(place, minlength=len(names))
            counts |= {n: int(many[i]) for i, n in enumerate(names) if n and many[i]}
    few = [f"{name} ({number})" for name, number in counts.items() if number < choices.least]
    if few and choices.resamples:
        yield (
            f"fewer than {choices.least} questions, and so no intervals, in {listed(few)}; "
            "`least` sets the number"
        )
