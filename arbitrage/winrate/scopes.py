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
from arbitrage.stats.strengths import Fit, fit, incidence, sums
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
    column; `certain` marks rates whose games all ended alike. Implements `Influences`."""

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
        self._count_questions()
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
        first, second = np.maximum(self._design, 0), np.maximum(-self._design, 0)
        self._sides = first, second
        self._model_won = first.T @ self._won + second.T @ (self._played - self._won)
        self._model_played = (first + second).T @ self._played
        self._model_rate = _ratio(self._model_won, self._model_played)

    def _count_questions(self) -> None:
        g, m, p = self.games, self.models, len(self.pairs)
        by_pair = distinct(g.question * p + g.pair) % max(p, 1)
        self._of_pair = np.bincount(by_pair, minlength=p)
        sides = [g.question * m + self.pairs[g.pair, side] for side in (0, 1)]
        by_model = distinct(np.concatenate(sides)) % max(m, 1)
        self._of_model = np.bincount(by_model, minlength=m)
        self.drawn = len(distinct(g.question))

    def _fit_controlled(self) -> None:
        if not self.told.names:
            return
        some = self.games.where(self.told.rows)
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
            pair_free = np.where(self._played > 0, free, np.nan)
            model_free = _ratio(*self._expected(free))
            effects = corrected_effects(self.controlled.effects, self._small)
        strengths = np.where(self._model_played > 0, self.plain.over(self.baseline), np.nan)
        rates = (self._pair_rate, self._model_rate)
        self.values = np.concatenate([*rates, pair_free, model_free, strengths, effects])
        counts = np.concatenate([self._of_pair, self._of_model])
        every = np.full(len(effects), self.drawn)
        self.questions = np.concatenate([counts, counts, self._of_model, every])
        alike = np.concatenate([np.isin(rate, (0.0, 1.0)) for rate in rates])
        self.certain = np.concatenate([alike, alike, alike[p:], np.zeros(len(effects), bool)])

    def _expected(self, chance: Numbers) -> tuple[Numbers, Numbers]:
        """By model: what it would win at these chances, and what it played."""
        first, second = self._sides
        won = first.T @ (self._played * chance) + second.T @ (self._played * (1 - chance))
        return won, self._model_played

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
