"""All estimates of one judge on one scope, and what each question adds to them.

`Figures` holds, for the games of a scope, the plain win rate of each pair and of each model against
all others, the same controlled for style and position, and the strengths. They are laid out as one
row of columns that is equal for all scopes, so that means over scopes are means of columns:

    pairs' rates | models' rates | pairs' controlled | models' controlled | strengths | effects

The plain rate is a ratio of sums. The controlled one is what a logistic model of the score, on
strengths, style differences and position, predicts where those differences are zero and neither
answer is shown first: the idea of the length-controlled AlpacaEval (Y. Dubois et al., arXiv
2404.04475), with Arena-Hard v2's covariates. The model has no terms of questions, so that its
prediction is the same for each of them, and their standardized mean is the prediction itself. What
it is wrong by on few questions is taken off.

A game whose style is not known is left out of that model. A pair has a controlled rate only where
the other games join its two models, or the prior alone would tell it. A model has one against all
others only where each pair that it played has: over some of them it would be a rate against other
opponents than the plain one beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from arbitrage.stats.smallness import (
    Smallness,
    corrected_chance,
    corrected_effects,
    smallness,
)
from arbitrage.stats.strengths import Fit, fit, incidence, islands, sums
from arbitrage.stats.tallies import distinct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from arbitrage.stats.tallies import Games

    Numbers = NDArray[np.float64]

PER_EFFECT = 10
"""Questions that a controlled fit needs for each covariate."""
VARIED = 1e-6
"""Share of a covariate's squares that must lie within the pairs, or it cannot be told apart from
the strengths."""
HELD = 4_000_000
"""Numbers of one array that are held at a time."""
POSITION = "position"


def chosen_styles(styles: Sequence[str], control: Sequence[str]) -> list[int]:
    """Places of the styles to control: names that begin with `length` belong to `length`, all
    others to `markdown`."""
    kinds = ["length" if name.startswith("length") else "markdown" for name in styles]
    return [place for place, kind in enumerate(kinds) if kind in control]


@dataclass(frozen=True)
class Control:
    """Covariates of a controlled fit: `styles` are places of columns, `names` those of all
    covariates, `scales` their root mean squares (1 for the position), `rows` the games used."""

    styles: list[int]
    position: bool
    names: tuple[str, ...]
    scales: Numbers
    rows: NDArray[np.bool_]
    unidentified: tuple[str, ...]

    def covariates(self, games: Games) -> Numbers:
        """(n, k) of some games, in standard deviations; zero where not known."""
        columns = [games.style[:, place] for place in self.styles]
        if self.position:
            columns.append(games.position.astype(np.float64))
        return np.nan_to_num(np.stack(columns, axis=1)) / self.scales


def controls(games: Games, styles: Sequence[str], control: Sequence[str]) -> Control:
    """What can be controlled on these games: the covariates that vary within pairs."""
    places = chosen_styles(styles, control)
    rows: NDArray[np.bool_] = np.asarray(~np.isnan(games.style[:, places]).any(axis=1))
    known = games.where(rows)
    columns = [(styles[place], known.style[:, place]) for place in places]
    if POSITION in control:
        columns.append((POSITION, known.position.astype(np.float64)))
    kept, scales, unidentified = [], [], []
    for place, (name, column) in enumerate(columns):
        size = float(np.sqrt(np.mean(column**2))) if len(column) else 0.0
        if size == 0:
            continue
        if _within(known.pair, column) <= VARIED * size**2 * len(column):
            unidentified.append(name)
            continue
        kept.append(place)
        scales.append(1.0 if name == POSITION else size)
    names = tuple(columns[place][0] for place in kept)
    used = [places[place] for place in kept if place < len(places)]
    return Control(used, POSITION in names, names, np.array(scales), rows, tuple(unidentified))


def _within(pair: NDArray[np.int64], column: Numbers) -> float:
    """Sum of squares about the mean of each pair."""
    count = np.maximum(np.bincount(pair), 1)
    mean = sums(pair, column, len(count)) / count
    return float(((column - mean[pair]) ** 2).sum())


@dataclass
class Figures:
    """Estimates of one scope. `values` and `questions` (on how many each rests) have one entry per
    column; `certain` marks rates whose games all ended alike. Both are of the games that a column
    is made of: the controlled ones of games with a known style, so that a pair without any, which
    is told through other models, has no interval. Implements `Influences`."""

    games: Games
    pairs: NDArray[np.int64]
    models: int
    styles: tuple[str, ...]
    control: tuple[str, ...]
    ridge: float
    baseline: int | None
    values: Numbers = field(init=False)
    questions: NDArray[np.int64] = field(init=False)
    certain: NDArray[np.bool_] = field(init=False)
    plain: Fit = field(init=False)
    told: Control = field(init=False)
    controlled: Fit | None = field(init=False, default=None)
    _small: Smallness | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        p, m = len(self.pairs), self.models
        g = self.games
        self._design = incidence(self.pairs, m)
        self._won = sums(g.pair, g.weight * g.score, p)
        self._played = sums(g.pair, g.weight, p)
        self._pair_rate = _ratio(self._won, self._played)
        self._of_models()
        used = np.flatnonzero(self._played > 0)
        rates, played = self._pair_rate[used], self._played[used]
        self.plain = fit(self.pairs, m, used, rates, played, ridge=self.ridge)
        self.told = controls(g, self.styles, self.control)
        self._known = g if self.told.rows.all() else g.where(self.told.rows)
        self._known_played = sums(self._known.pair, self._known.weight, p)
        self._fit_controlled()
        self._gather()

    @property
    def columns(self) -> int:
        """How many estimates."""
        return len(self.values)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the covariates whose effects are the last columns."""
        return () if self.controlled is None else self.told.names

    def _of_models(self) -> None:
        self._sides = np.maximum(self._design, 0), np.maximum(-self._design, 0)
        won, self._model_played = self._by_model(self._won, self._played)
        self._model_rate = _ratio(won, self._model_played)

    def _by_model(self, won: Numbers, played: Numbers) -> tuple[Numbers, Numbers]:
        """What each model won and played, from what the first of each pair did."""
        first, second = self._sides
        return first.T @ won + second.T @ (played - won), (first + second).T @ played

    def _counts(self, games: Games) -> NDArray[np.int64]:
        """Questions of each pair, then of each model."""
        g, m, p = games, self.models, len(self.pairs)
        by_pair = distinct(g.question * p + g.pair) % max(p, 1)
        sides = [g.question * m + self.pairs[g.pair, side] for side in (0, 1)]
        by_model = distinct(np.concatenate(sides)) % max(m, 1)
        told = np.bincount(by_pair, minlength=p), np.bincount(by_model, minlength=m)
        return np.concatenate(told)

    def _alike(self, games: Games) -> NDArray[np.bool_]:
        """Whether all games of each pair, then of each model, ended alike."""
        won = sums(games.pair, games.weight * games.score, len(self.pairs))
        played = sums(games.pair, games.weight, len(self.pairs))
        rates = _ratio(won, played), _ratio(*self._by_model(won, played))
        return np.isin(np.concatenate(rates), (0.0, 1.0))

    def _joined(self) -> NDArray[np.bool_]:
        """Pairs that played here, and whose models games of known style join."""
        played, known = self._played > 0, self._known_played > 0
        if np.array_equal(played, known):
            return played
        island = np.arange(self.models)
        for group in islands(self.pairs[known], self.models):
            island[group] = group[0]
        told: NDArray[np.bool_] = played & (island[self.pairs[:, 0]] == island[self.pairs[:, 1]])
        return told

    def _fit_controlled(self) -> None:
        if not self.told.names:
            return
        some = self._known
        if len(distinct(some.question)) < PER_EFFECT * len(self.told.names):
            return
        z = self.told.covariates(some)
        games = some.pair, some.score, some.weight, z
        self.controlled = fit(self.pairs, self.models, *games, self.ridge)
        self._small = smallness(self.controlled, self._design, *games, some.question)

    def _gather(self) -> None:
        p, m = len(self.pairs), self.models
        pair_free, model_free = np.full(p, np.nan), np.full(m, np.nan)
        effects = np.zeros(0)
        if self.controlled is not None and self._small is not None:
            chance = self.controlled.chance(self.pairs)
            free = corrected_chance(chance, self._design, self._small)
            joined = self._joined()
            pair_free = np.where(joined, free, np.nan)
            won, played = self._by_model(self._played * np.where(joined, free, 0.0), self._played)
            lost = (self._played > 0) & ~joined
            untold = np.isin(np.arange(m), self.pairs[lost])
            model_free = np.where(untold, np.nan, _ratio(won, played))
            effects = corrected_effects(self.controlled.effects, self._small)
        strengths = np.where(self._model_played > 0, self.plain.over(self.baseline), np.nan)
        rates = (self._pair_rate, self._model_rate)
        self.values = np.concatenate([*rates, pair_free, model_free, strengths, effects])
        counts, known = self._counts(self.games), self._counts(self._known)
        every = np.full(len(effects), len(distinct(self._known.question)))
        self.questions = np.concatenate([counts, known, counts[p:], every])
        alike, free_alike = self._alike(self.games), self._alike(self._known)
        none = np.zeros(len(effects), bool)
        self.certain = np.concatenate([alike, free_alike, alike[p:], none])

    def parts(self) -> Iterator[tuple[NDArray[np.int64], Numbers]]:
        """Influences of some questions at a time, widened for the degrees of freedom used."""
        g = self.games
        starts = np.flatnonzero(np.diff(g.question, prepend=-1))
        step = max(1, HELD // max(self.columns + len(self.pairs), 1))
        for place in range(0, len(starts), step):
            stop = starts[place + step] if place + step < len(starts) else len(g)
            questions = g.question[starts[place : place + step]]
            some = g.where(slice(int(starts[place]), int(stop)))
            yield questions, self._influence(some, questions) * self._widening()

    def _influence(self, some: Games, questions: NDArray[np.int64]) -> Numbers:
        local = np.searchsorted(questions, some.question)
        k, p = len(questions), len(self.pairs)
        code = local * p + some.pair
        won = sums(code, some.weight * some.score, k * p).reshape(k, p)
        played = sums(code, some.weight, k * p).reshape(k, p)
        first, second = self._sides
        model_won = won @ first + (played - won) @ second
        model_played = played @ (first + second)
        pair_rate = _residual(won, played, self._pair_rate, self._played)
        model_rate = _residual(model_won, model_played, self._model_rate, self._model_played)
        chance = self.plain.chance(self.pairs)
        moved = (won - played * chance) @ self._design @ self.plain.inverse
        zero = moved.mean(axis=1) if self.baseline is None else moved[:, self.baseline]
        strengths = moved - zero[:, None]
        if self.controlled is None:
            free = np.zeros_like(pair_rate), np.zeros_like(model_rate), np.zeros((k, 0))
        else:
            free = self._controlled(self.controlled, questions)
        return np.concatenate([pair_rate, model_rate, *free[:2], strengths, free[2]], axis=1)

    def _widening(self) -> Numbers:
        """n / (n - 1) for what an estimate has used up; n / (n - 1 - k) for controlled ones, and
        nothing where their influences are enlarged already."""
        n, used = np.maximum(self.questions, 2), len(self.names)
        plain = n / (n - 1)
        enlarged = self._small is not None and self._small.enlarged
        free = np.ones(len(n)) if enlarged else n / np.maximum(n - 1 - used, 1)
        told: Numbers = np.sqrt(np.where(self._controlled_columns(), free, plain))
        return told

    def _controlled_columns(self) -> NDArray[np.bool_]:
        rates = len(self.pairs) + self.models
        places = np.arange(self.columns)
        return (places >= rates) & ((places < 2 * rates) | (places >= 2 * rates + self.models))

    def _controlled(
        self, found: Fit, questions: NDArray[np.int64]
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Influences of the controlled rates of pairs and of models, and of the effects."""
        moved = np.zeros((len(questions), len(found.inverse)))
        if self._small is not None:
            _, here, there = np.intersect1d(questions, self._small.questions, True, True)
            moved[here] = self._small.moved[there]
        m, chance = self.models, found.chance(self.pairs)
        pair = (moved[:, :m] @ self._design.T) * (chance * (1 - chance))
        first, second = self._sides
        share = (first - second) * self._played[:, None] / np.maximum(self._model_played, 1e-300)
        return pair, pair @ share, moved[:, m:]


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    told: Numbers = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return told


def _residual(part: Numbers, whole: Numbers, rate: Numbers, total: Numbers) -> Numbers:
    """Influence of each question on ratios of sums."""
    told: Numbers = (part - whole * np.nan_to_num(rate)) / np.maximum(total, 1e-300)
    return told
