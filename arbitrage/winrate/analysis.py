"""From games to win rates: rows, effects of style and position, and agreements between judges.

Every judge, and all of them together, is looked at on every scope. What all estimates share is one
set of resamples of the questions. A row's points and gain are functions of its rate, and so are
their intervals.

    results = analyse(outcomes, AnalysisConfig(), baseline="o3-mini")
    results.row("my-model").rate
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arbitrage.errors import InputError
from arbitrage.stats.agreement import Agreeing, met, words
from arbitrage.stats.resampling import (
    Mean,
    Resamples,
    Spread,
    plain_interval,
    share_interval,
    variances,
)
from arbitrage.stats.strengths import islands
from arbitrage.stats.tallies import Games, Meetings, Settled, settle
from arbitrage.winrate.census import Census, Match, census, matches
from arbitrage.winrate.remarks import remarks_on
from arbitrage.winrate.results import (
    ALL,
    CATEGORY,
    EVERYONE,
    LANGUAGE,
    LANGUAGES,
    Agreement,
    Effect,
    Estimate,
    Results,
    Row,
)
from arbitrage.winrate.scopes import Figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from arbitrage.stats.outcomes import Outcomes
    from arbitrage.winrate.choices import AnalysisConfig

    Numbers = NDArray[np.float64]

NOTHING = Estimate(math.nan, math.nan, math.nan)


class Seen(NamedTuple):
    """One judge (-1: all together) on one scope. `place` is that of the language or category."""

    judge: int
    scope: str
    of: str
    place: int


@dataclass(frozen=True)
class Found:
    """Estimates of one scope in the columns of `Figures`, with their variances, and what was
    counted. `drawn`: questions behind each; `free`: degrees of freedom of the variances;
    `enough`: whether the questions are enough for an interval."""

    seen: Seen
    values: Numbers
    variance: Numbers
    drawn: NDArray[np.int64]
    free: Numbers
    enough: NDArray[np.bool_]
    certain: NDArray[np.bool_]
    counted: Census
    names: tuple[str, ...] = ()


def analyse(
    outcomes: Outcomes, choices: AnalysisConfig, baseline: str = "", **told: Any
) -> Results:
    """All of the results. `told` are further fields of `Results` that the games do not tell:
    `failures`, `made_from`, more `settings` and `remarks`, which come first.

    A row is made for each model against the baseline; without one, or where others met as well,
    against each that it met and against all others together. Raises InputError where there is no
    game, or none of the baseline.
    """
    anchor = _check(outcomes, baseline)
    outcomes = _numbered(outcomes)
    settled = settle(outcomes, choices.flips, choices.missing)
    if not len(settled.meetings):
        raise InputError(
            "every game is of a model against itself; name two models or more, and judge them anew"
        )
    analysis = _Analysis(outcomes, settled, choices, anchor)
    found = analysis.found()
    rows = tuple(row for one in found for row in analysis.rows(one))
    remarks = remarks_on(outcomes, settled, choices, rows, analysis.unidentified)
    return Results(
        baseline=baseline,
        models=outcomes.models,
        judges=outcomes.judges,
        languages=outcomes.languages,
        categories=outcomes.categories,
        settings={**choices.model_dump(mode="json"), **told.pop("settings", {})},
        rows=rows,
        effects=tuple(effect for one in found for effect in analysis.effects(one)),
        agreements=analysis.agreements(),
        remarks=(*told.pop("remarks", ()), *remarks),
        **told,
    )


def _check(outcomes: Outcomes, baseline: str) -> int | None:
    """The place of the baseline."""
    if not len(outcomes):
        raise InputError("there is no game to analyse; judge some first with `arbitrage winrate`")
    if not baseline:
        return None
    if baseline not in outcomes.models:
        known = ", ".join(outcomes.models[:10])
        raise InputError(
            f"the baseline {baseline} is in no game; name one of {known}, or leave it out"
        )
    return outcomes.models.index(baseline)


def _numbered(outcomes: Outcomes) -> Outcomes:
    """With prompts and questions numbered from zero, whatever stood for them."""
    prompt, question = (
        np.unique(one, return_inverse=True)[1].astype(np.int64)
        for one in (outcomes.prompt, outcomes.question)
    )
    return replace(outcomes, prompt=prompt, question=question)


class _Analysis:
    """What all scopes share."""

    def __init__(
        self, outcomes: Outcomes, settled: Settled, choices: AnalysisConfig, anchor: int | None
    ) -> None:
        self.outcomes, self.settled, self.choices, self.anchor = outcomes, settled, choices, anchor
        self.resamples = Resamples(
            int(outcomes.question.max()) + 1, choices.resamples, choices.seed
        )
        self.prompts = int(outcomes.prompt.max()) + 1
        models = np.unique(settled.pairs)
        groups = islands(settled.pairs, len(outcomes.models))
        self.joined = len(settled.pairs) > len(models) - len(groups)
        self.wanted = matches(settled.pairs, anchor)
        self.unidentified: dict[str, tuple[str, ...]] = {}

    def found(self) -> list[Found]:
        """Every judge on every scope, judge by judge; all judges together come last."""
        judges = list(range(len(self.outcomes.judges)))
        told = [self._judge(judge) for judge in ([*judges, -1] if len(judges) > 1 else judges)]
        return [one for some in told for one in some]

    def _judge(self, judge: int) -> list[Found]:
        games, meetings = self.settled.games, self.settled.meetings
        if judge >= 0:
            games = games.where(games.judge == judge)
            meetings = meetings.where(meetings.judge == judge)
        scopes = list(self._scopes(judge, meetings))
        figures = [self._figures(_within(games, seen)) for seen in scopes]
        counted = [
            census(_within(games, seen), _within(meetings, seen), self.settled.pairs, self.prompts)
            for seen in scopes
        ]
        if figures[0].told.unidentified:
            self.unidentified[self._name(judge)] = figures[0].told.unidentified
        spoken = [place for place, seen in enumerate(scopes) if seen.scope == LANGUAGE]
        means = [_mean_of(figures, spoken)] if len(spoken) > 1 else []
        spread, meant = variances(figures, means, self.resamples)
        told = [
            Found(
                seen,
                one.values,
                self._or_none(some.variance),
                one.questions,
                some.freedom(one.questions),
                one.questions >= self.choices.least,
                one.certain,
                many,
                one.names,
            )
            for seen, one, some, many in zip(scopes, figures, spread, counted, strict=True)
        ]
        if means:
            told.insert(1, self._over_languages(told, spoken, means[0], meant[0]))
        return told

    def _scopes(self, judge: int, meetings: Meetings) -> Iterator[Seen]:
        """All, and each language and category that this judge has met."""
        yield Seen(judge, ALL, "", 0)
        named = ((LANGUAGE, self.outcomes.languages), (CATEGORY, self.outcomes.categories))
        for scope, names in named:
            if scope not in self.choices.by:
                continue
            here = np.unique(getattr(meetings, scope))
            yield from (Seen(judge, scope, names[i], i) for i in here.tolist() if names[i])

    def _figures(self, games: Games) -> Figures:
        return Figures(
            games,
            self.settled.pairs,
            len(self.outcomes.models),
            self.outcomes.styles,
            tuple(self.choices.control),
            self.choices.ridge,
            self.anchor,
        )

    def _over_languages(
        self, told: list[Found], spoken: Sequence[int], mean: Mean, variance: Numbers
    ) -> Found:
        """The plain mean over languages; Student's quantile counts the questions of them all."""
        some = [told[place] for place in spoken]
        size = mean.weight.shape[1]
        values = np.stack([one.values[:size] for one in some])
        complete = np.where(np.isnan(values), 0.0, values)
        mixed = (mean.weight * complete).sum(axis=0)
        values = np.where(mean.weight.sum(axis=0) > 0, mixed, np.nan)
        enough = np.stack([one.enough[:size] for one in some]) | (mean.weight == 0)
        certain = np.asarray(np.stack([one.certain[:size] for one in some]).all(axis=0))
        return Found(
            Seen(some[0].seen.judge, LANGUAGES, "", 0),
            values,
            self._or_none(variance),
            told[0].drawn[:size],
            told[0].free[:size],
            np.asarray(enough.all(axis=0)),
            certain,
            Census.total([one.counted for one in some]),
        )

    def rows(self, found: Found) -> Iterator[Row]:
        """The rows of one scope, as far as its models met there."""
        names = self.outcomes.models
        for match in self.wanted:
            model, other = match.model, match.other
            place, turned = self._column(match)
            counts = found.counted.of(match)
            if counts["games"] + counts["missing"] == 0:
                continue
            rate = self._share(found, place, turned)
            rates = len(self.settled.pairs) + len(names)
            controlled = self._share(found, rates + place, turned)
            strength = self._strength(found, 2 * rates + model)
            yield Row(
                judge=self._name(found.seen.judge),
                model=names[model],
                against=EVERYONE if other is None else names[other],
                scope=found.seen.scope,
                of=found.seen.of,
                rate=rate,
                points=Estimate(*(2 * one - 1 for one in rate)),
                gain=Estimate(*(gain_of(one) for one in rate)),
                controlled=None if math.isnan(controlled.value) else controlled,
                strength=strength,
                **counts,
            )

    def _name(self, judge: int) -> str:
        return EVERYONE if judge < 0 else self.outcomes.judges[judge]

    def _column(self, match: Match) -> tuple[int, bool]:
        """Where a rate stands, and whether it is told of the other model."""
        if match.other is None:
            return len(self.settled.pairs) + match.model, False
        return (match.mine or match.yours)[0], bool(match.yours)

    def _share(self, found: Found, place: int, turned: bool) -> Estimate:
        value = float(found.values[place])
        low = high = math.nan
        if found.enough[place]:
            low, high = share_interval(
                value,
                self._variance(found, place),
                int(found.drawn[place]),
                float(found.free[place]),
                certain=bool(found.certain[place]),
            )
        return Estimate(1 - value, 1 - high, 1 - low) if turned else Estimate(value, low, high)

    def _variance(self, found: Found, place: int) -> float:
        """That of a controlled rate is no less than the plain one's would be at its value, where
        no third model tells of a pair: control cannot make games more than there are."""
        rates = len(self.settled.pairs) + len(self.outcomes.models)
        variance, plain = float(found.variance[place]), place - rates
        if self.joined or not 0 <= plain < rates:
            return variance
        value, rate = found.values[place], found.values[plain]
        spread = max(float(rate * (1 - rate)), 1e-12)
        return max(variance, float(found.variance[plain] * value * (1 - value)) / spread)

    def _strength(self, found: Found, place: int) -> Estimate | None:
        """None for means over languages, and where the model has no game. Without an interval
        where it won or lost everything: only the prior keeps it finite."""
        if found.seen.scope == LANGUAGES or math.isnan(found.values[place]):
            return None
        return self._symmetric(found, place)

    def _symmetric(self, found: Found, place: int) -> Estimate:
        value, free = float(found.values[place]), float(found.free[place])
        if found.certain[place] or not found.enough[place]:
            return Estimate(value, math.nan, math.nan)
        return Estimate(value, *plain_interval(value, float(found.variance[place]), free))

    def effects(self, found: Found) -> Iterator[Effect]:
        """Of one judge, on all of its games."""
        if found.seen.scope != ALL or (found.seen.judge < 0):
            return
        start = len(found.values) - len(found.names)
        for place, name in enumerate(found.names, start):
            yield Effect(self._name(found.seen.judge), name, self._symmetric(found, place))

    def agreements(self) -> tuple[Agreement, ...]:
        """Of each two judges, on everything and in each language."""
        games = self.settled.games
        each = [words(games.where(games.judge == j), self.prompts) for j in self._judges()]
        told: list[tuple[int, int, str, str, Agreeing]] = []
        for first, second in combinations(self._judges(), 2):
            pair = met(each[first], each[second])
            told.append((first, second, ALL, "", Agreeing(pair)))
            for place in np.unique(pair.language).tolist() if LANGUAGE in self.choices.by else ():
                some = Agreeing(pair.where(pair.language == place))
                told.append((first, second, LANGUAGE, self.outcomes.languages[place], some))
        told = [one for one in told if len(one[-1].pair.first) and (one[2] == ALL or one[3])]
        spread, _ = variances([one[-1] for one in told], [], self.resamples) if told else ([], [])
        names = self.outcomes.judges
        return tuple(
            Agreement(names[a], names[b], scope, of, *self._agree(one, v))
            for (a, b, scope, of, one), v in zip(told, spread, strict=True)
        )

    def _judges(self) -> range:
        return range(len(self.outcomes.judges))

    def _agree(self, one: Agreeing, spread: Spread) -> tuple[Estimate, Estimate, int]:
        same = kappa = (math.nan, math.nan)
        of_same, of_kappa = self._or_none(spread.variance).tolist()
        free = spread.freedom(np.full(2, one.questions)).tolist()
        if one.questions >= self.choices.least:
            same = share_interval(one.same, of_same, one.questions, free[0])
            kappa = plain_interval(one.kappa, of_kappa or math.nan, free[1])
        low, high = np.clip(kappa, -1, 1).tolist()
        told = Estimate(one.same, *same), Estimate(one.kappa, low, high)
        return *told, len(one.pair.first)

    def _or_none(self, variance: Numbers) -> Numbers:
        """No variance without resamples."""
        return variance if self.choices.resamples else np.full(len(variance), np.nan)


def gain_of(rate: float) -> float:
    """The rate relative to the opponent's, less 1: 0.6 against 0.4 is a gain of 0.5. nan where the
    opponent has none, or the rate is none.

    Ties count half for both here. Improvements "in win rates" that papers tell in percent, as
    arXiv 2408.14960 does, are relative as well; where they set wins against losses and leave ties
    out, theirs are larger.
    """
    return rate / (1 - rate) - 1 if rate < 1 else math.nan


def _within(columns: Any, seen: Seen) -> Any:
    """Games or meetings of a scope."""
    if seen.scope == ALL:
        return columns
    return columns.where(getattr(columns, seen.scope) == seen.place)


def _mean_of(figures: Sequence[Figures], spoken: Sequence[int]) -> Mean:
    """The plain mean over languages of all columns but the effects. The controlled ones have a
    mean only where every language with a rate has them."""
    size = min(len(figures[place].values) - len(figures[place].names) for place in spoken)
    values = np.stack([figures[place].values[:size] for place in spoken])
    there = ~np.isnan(values)
    rates = (size - figures[0].models) // 2
    plain, controlled = there[:, :rates], there[:, rates : 2 * rates]
    controlled &= (controlled | ~plain).all(axis=0)
    weight = there / np.maximum(there.sum(axis=0), 1)
    return Mean(tuple(spoken), weight)
