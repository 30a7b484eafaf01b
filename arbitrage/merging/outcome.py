"""What a sweep found: figures per model, what merges gain over single models, and what a method is
like over all of its settings. Plain values; reads no file.

A mean is the plain mean of languages, as on a leaderboard. Gains of rewards are paired by prompt.
An average over fewer languages than others have is not compared.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.standings import interval_of, known, mean_of
from arbitrage.stats import Moments
from arbitrage.winrate import telling
from arbitrage.winrate.results import EVERYONE, LANGUAGE, Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from arbitrage.winrate.results import Results, Row

    Floats = NDArray[np.float64]

FORMAT = 1
UNKNOWN = Estimate(math.nan, math.nan, math.nan)
EVEN = 0.5


@dataclass(frozen=True)
class Figures:
    """One model: its mean over the languages, each language, and what it has more than each model
    beside. `answered`: the share of prompts that it has a usable answer to; `complete`: whether it
    has a value in every language that any model has."""

    mean: Estimate
    languages: dict[str, Estimate]
    gains: dict[str, Estimate]
    answered: float
    complete: bool

    @property
    def worst(self) -> str:
        """The language with the lowest mean."""
        return min(self.languages, key=lambda code: (self.languages[code].value, code))

    @property
    def spread(self) -> float:
        """The standard deviation of its languages' means; 0 of one."""
        return statistics.pstdev(one.value for one in self.languages.values())


class Rewards:
    """Adds up rewards shard by shard: of `models` alone, and paired with each of `references`."""

    def __init__(self, models: Sequence[str], references: Sequence[str]) -> None:
        self._models = list(models)
        self._references = [self._models.index(name) for name in references]
        self._sums: dict[str, Floats] = {}
        self._prompts: dict[str, int] = defaultdict(int)

    def add(self, alone: Floats, language: NDArray[Any]) -> None:
        """Rewards (models, prompts), nan where there is none; `language` of each prompt."""
        for code in sorted(set(language.tolist())):
            mine = alone[:, language == code]
            self._prompts[code] += mine.shape[1]
            blocks = [mine, *(mine - mine[place] for place in self._references)]
            told = np.stack([_sums(block) for block in blocks])
            self._sums[code] = self._sums[code] + told if code in self._sums else told

    def figures(self) -> dict[str, Figures]:
        """Of every model that has a reward anywhere."""
        anywhere = {code for code, sums in self._sums.items() if sums[0, :, 0].any()}
        found = {}
        for place, name in enumerate(self._models):
            moments = {code: self._moments(code, 0, place) for code in sorted(anywhere)}
            covered = {code: one for code, one in moments.items() if one.count}
            if not covered:
                continue
            gains = {
                self._models[other]: _meant(
                    [one for c in covered if (one := self._moments(c, number, place)).count]
                )
                for number, other in enumerate(self._references, 1)
            }
            answers = sum(one.count for one in moments.values())
            found[name] = Figures(
                _meant(list(covered.values())),
                {code: _estimate(one) for code, one in covered.items()},
                gains,
                answers / sum(self._prompts.values()),
                len(covered) == len(anywhere),
            )
        return found

    def _moments(self, code: str, block: int, place: int) -> Moments:
        count, total, squares = self._sums[code][block, place].tolist()
        return Moments(int(count), total, squares)


def _sums(values: Floats) -> Floats:
    """Count, sum and sum of squares (models, 3) of what is known."""
    known = ~np.isnan(values)
    some = np.where(known, values, 0.0)
    return np.stack([known.sum(axis=1), some.sum(axis=1), (some**2).sum(axis=1)], axis=1)


def _estimate(moments: Moments) -> Estimate:
    half = moments.half_width
    return Estimate(moments.mean, moments.mean - half, moments.mean + half)


def _meant(parts: Sequence[Moments]) -> Estimate:
    """The plain mean of languages, with the interval of so many independent means."""
    mean = mean_of([one.mean for one in parts])
    half = interval_of([known(one.half_width) for one in parts])
    value = math.nan if mean is None else mean
    half = math.nan if half is None else half
    return Estimate(value, value - half, value + half)


def of_win_rates(
    results: Results, names: Mapping[str, str], references: Sequence[str]
) -> dict[str, Figures]:
    """Figures of models by the sweep's names; `names` maps them to those of the evaluation."""
    rows = {row.model: row for row in telling.ranked(results)}
    shown = {name: there for name, there in names.items() if there in rows}
    covered = {name: _by_language(results, rows[there]) for name, there in shown.items()}
    anywhere = {code for told in covered.values() for code in told}
    prompts = max((row.prompts for row in rows.values()), default=0)
    found = {}
    for name, there in shown.items():
        row = telling.averaged(results, rows[there])
        gains = {one: _gain(results, row, names[one]) for one in references if one in names}
        told = covered[name] or {"": row.rate}
        share = rows[there].prompts / prompts if prompts else 0.0
        found[name] = Figures(row.rate, told, gains, share, set(told) >= anywhere)
    for name, there in names.items():
        if there == results.baseline:
            even = {code: Estimate(EVEN, math.nan, math.nan) for code in sorted(anywhere)}
            gains = {one: _gain_of_baseline(results, names[one]) for one in references}
            mean = Estimate(EVEN, math.nan, math.nan)
            found[name] = Figures(mean, even or {"": mean}, gains, 1.0, True)
    return found


def _by_language(results: Results, row: Row) -> dict[str, Estimate]:
    told = telling.scope_rows(results, row, LANGUAGE)
    return {code: one.rate for code, one in told.items() if math.isfinite(one.rate.value)}


def _gain(results: Results, row: Row, reference: str) -> Estimate:
    """What a model wins beyond a half against one that it met; else the difference of their rates,
    of which no interval is known."""
    if reference == row.model:
        return Estimate(0.0, 0.0, 0.0)
    met = results.row(row.model, reference, judge=row.judge)
    if met is not None:
        rate = telling.averaged(results, met).rate
        return Estimate(*(value - EVEN for value in rate))
    other = results.row(reference, results.opponent, judge=row.judge)
    if other is None:
        return UNKNOWN
    value = row.rate.value - telling.averaged(results, other).rate.value
    return Estimate(value, math.nan, math.nan)


def _gain_of_baseline(results: Results, reference: str) -> Estimate:
    if reference == results.baseline:
        return Estimate(0.0, 0.0, 0.0)
    other = results.row(reference, results.opponent or EVERYONE)
    if other is None:
        return UNKNOWN
    rate = telling.averaged(results, other).rate
    return Estimate(EVEN - rate.value, EVEN - rate.high, EVEN - rate.low)


@dataclass(frozen=True)
class Outcome:
    """A point of a sweep, or a model beside. `state`: evaluated, merged (and not evaluated),
    refused, or removed after it was evaluated. `reasons`: why it was refused."""

    name: str
    state: str
    folder: str
    method: str = ""
    fingerprint: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    varied: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    figures: Figures | None = None

    @property
    def compares(self) -> bool:
        """Whether its mean can be compared with others'."""
        return self.figures is not None and self.figures.complete

    @property
    def order(self) -> tuple[bool, bool, float, str]:
        """Sorts the best first, what does not compare behind it, what has no figures last."""
        mean = self.figures.mean.value if self.figures else 0.0
        return not self.figures, not self.compares, -mean, self.name


@dataclass(frozen=True)
class MethodLine:
    """A method over its settings: the best point and its mean, the mean and the worst of all, and
    the spread over languages, on average."""

    method: str
    settings: int
    best: str
    highest: float
    mean: float
    lowest: float
    spread: float


@dataclass(frozen=True)
class Swept:
    """All of a sweep, ordered. `unit`: reward or win rate. `base` and `single` are names of models
    beside: what the merges were trained from, and the best that is no merge."""

    unit: str
    evaluation: str
    points: tuple[Outcome, ...]
    beside: tuple[Outcome, ...]
    base: str = ""
    problems: tuple[str, ...] = ()

    @property
    def single(self) -> str:
        """The model beside with the highest mean, if any compares."""
        return next((one.name for one in self.beside if one.compares), "")

    @property
    def best(self) -> Outcome | None:
        """The point with the highest mean, if any compares."""
        return next((one for one in self.points if one.compares), None)

    @property
    def refused(self) -> tuple[Outcome, ...]:
        """Points that could not be merged."""
        return tuple(one for one in self.points if one.state == "refused")

    def methods(self) -> list[MethodLine]:
        """One line per method that has points that compare, the most consistent mean first."""
        found = defaultdict(list)
        for one in self.points:
            if one.figures is not None and one.compares:
                found[one.method].append((one.figures.mean.value, one.name, one.figures.spread))
        lines = [
            MethodLine(
                method,
                len(told),
                max(told)[1],
                max(told)[0],
                statistics.fmean(mean for mean, *_ in told),
                min(told)[0],
                statistics.fmean(spread for *_, spread in told),
            )
            for method, told in found.items()
        ]
        return sorted(lines, key=lambda line: (-line.mean, line.method))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `sweep.json`: nan is null."""
        return {
            "format": FORMAT,
            "unit": self.unit,
            "evaluation": self.evaluation,
            "best": self.best.name if self.best else None,
            "base": self.base or None,
            "best_single": self.single or None,
            "points": [_told(one, self) for one in self.points],
            "beside": [_told(one, self) for one in self.beside],
            "methods": [_plain(vars(line)) for line in self.methods()],
            "problems": list(self.problems),
        }


def ordered(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """The best first."""
    return tuple(sorted(outcomes, key=lambda one: one.order))


def _told(one: Outcome, swept: Swept) -> dict[str, Any]:
    told: dict[str, Any] = {"name": one.name, "state": one.state, "folder": one.folder}
    if one.method:
        told |= {"method": one.method, "fingerprint": one.fingerprint, "settings": one.settings}
        told |= {"varied": one.varied, "merge": one.config, "reasons": list(one.reasons)}
    figures = one.figures
    if figures is not None:
        gains = {"base": swept.base, "best_single": swept.single}
        told |= {
            "mean": _plain(figures.mean),
            "languages": {code: _plain(value) for code, value in figures.languages.items()},
            "worst": {"language": figures.worst, "mean": figures.languages[figures.worst].value},
            "spread": figures.spread,
            "answered": figures.answered,
            "complete": figures.complete,
            "gain_over": {name: _plain(value) for name, value in figures.gains.items()},
            "gain": {key: _plain(figures.gains.get(name)) for key, name in gains.items()},
        }
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {key: known(number) for key, number in value._asdict().items()}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return known(value) if isinstance(value, float) else value
