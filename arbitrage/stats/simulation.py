"""Judges whose mind is known, and games as they would judge them, to try estimates on.

A judge sees, on a scale of log-odds: the difference of two models' strengths on the question, what
it gives to the answer shown first, and what it gives to length. With logistic noise on top, far on
one side is a strong win, near the middle a tie. Verdicts go missing, for all games alike or more
often in one of the two orders, or where the answers differ much in length.

    world = World(strengths={"a": 0.8, "base": 0.0}, first_shown=0.5, longer=0.6)
    outcomes, truth = simulate(world, seed=1), true_rates(world)["a", "base"]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from arbitrage.stats.outcomes import FIRST_SHOWN, SECOND_SHOWN, Outcomes
from arbitrage.stats.strengths import logistic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

NODES = 40
"""Of the integrals over questions and lengths."""
STYLES = ("length",)


@dataclass(frozen=True)
class World:
    """What is simulated; effects are in log-odds.

    `strengths` by model; `lifts` more of it, by (language, model). With a `baseline` all others
    meet it, else all meet all. `uneven`: standard deviation over questions of the difference of two
    models, of which the share `common` is that of all translations of a question. `first_shown`:
    what the judge gives to the first answer. `longer`: what it gives to a standard deviation of
    length; `lengths`: mean length by model, in standard deviations of the difference. `tie` and
    `strong`: how far from the middle a win and a strong win begin. `missing`: share of verdicts
    that are lost; `missing_second`: the same on top where the first model of a pair is shown
    second, `missing_long` where lengths differ by more than a standard deviation. `judges`: names,
    and what each gives to the first answer besides.
    """

    strengths: Mapping[str, float]
    baseline: str = ""
    questions: int = 60
    languages: tuple[str, ...] = ("en",)
    categories: tuple[str, ...] = ("chat",)
    translated: bool = True
    lifts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    uneven: float = 0.8
    common: float = 0.5
    first_shown: float = 0.0
    longer: float = 0.0
    lengths: Mapping[str, float] = field(default_factory=dict)
    tie: float = 0.4
    strong: float = 2.0
    strong_weight: float = 3.0
    missing: float = 0.0
    missing_second: float = 0.0
    missing_long: float = 0.0
    judges: Mapping[str, float] = field(default_factory=lambda: {"judge": 0.0})

    def pairs(self) -> list[tuple[str, str]]:
        """Who meets whom, by name."""
        if self.baseline:
            return [(one, self.baseline) for one in self.strengths if one != self.baseline]
        return list(combinations(self.strengths, 2))


class Truth(NamedTuple):
    """Of the first model of a pair: `plain` is the rate of many games in both orders, none of them
    missing; `controlled` that of answers of equal length, neither of them shown first."""

    plain: float
    controlled: float


def simulate(world: World, seed: int) -> Outcomes:
    """Two games per judge, pair, question and language, with the positions swapped.

    A language has `questions` prompts; they are the same questions in all languages where they are
    translated, else others.
    """
    generator = np.random.default_rng(seed)
    models, pairs = tuple(world.strengths), world.pairs()
    sizes = (len(pairs), world.questions, len(world.languages))
    pair, question, language = (axis.ravel() for axis in np.indices(sizes))
    mind = _gap(world, models, pair, language) + _unevenness(world, generator, sizes)
    length = _length_gap(world, pair) + generator.standard_normal(len(pair))
    prompt = question * len(world.languages) + language
    meetings = {
        "first": np.array([models.index(one) for one, _ in pairs])[pair],
        "second": np.array([models.index(two) for _, two in pairs])[pair],
        "language": language,
        "category": question % len(world.categories),
        "prompt": prompt,
        "question": question if world.translated else prompt,
    }
    columns, score, weight, judge, position = [], [], [], [], []
    for place, bias in enumerate(world.judges.values()):
        for side in (FIRST_SHOWN, SECOND_SHOWN):
            felt = mind + world.longer * length + side * (world.first_shown + bias)
            felt += generator.logistic(size=len(felt))
            score.append(_with_missing(world, generator, _score(world, felt), side, length))
            weight.append(np.where(np.abs(felt) > world.strong, world.strong_weight, 1.0))
            judge.append(np.full(len(felt), place))
            position.append(np.full(len(felt), side))
            columns.append(length)
    times = len(score)
    return Outcomes(
        models=models,
        judges=tuple(world.judges),
        languages=world.languages,
        categories=world.categories,
        judge=np.concatenate(judge).astype(np.int64),
        position=np.concatenate(position).astype(np.int64),
        score=np.concatenate(score),
        weight=np.concatenate(weight),
        styles=STYLES,
        style=np.concatenate(columns)[:, None],
        **{name: np.tile(column, times).astype(np.int64) for name, column in meetings.items()},
    )


def _gap(
    world: World, models: tuple[str, ...], pair: NDArray[np.int64], language: NDArray[np.int64]
) -> Numbers:
    """Difference of strengths by meeting."""
    told = [[_strength(world, m, one) for m in models] for one in world.languages]
    table = np.array(told)
    places = np.array([[models.index(a), models.index(b)] for a, b in world.pairs()])
    gap: Numbers = table[language, places[pair, 0]] - table[language, places[pair, 1]]
    return gap


def _strength(world: World, model: str, language: str) -> float:
    return world.strengths[model] + world.lifts.get((language, model), 0.0)


def _unevenness(world: World, generator: np.random.Generator, sizes: tuple[int, ...]) -> Numbers:
    """What a question adds to the difference of two models, in part in all languages alike."""
    pairs, questions, languages = sizes
    shared = generator.standard_normal((pairs, questions, 1))
    own = generator.standard_normal((pairs, questions, languages))
    mixed = np.sqrt(world.common) * shared + np.sqrt(1 - world.common) * own
    told: Numbers = (world.uneven * mixed).ravel()
    return told


def _length_gap(world: World, pair: NDArray[np.int64]) -> Numbers:
    gaps = [world.lengths.get(a, 0.0) - world.lengths.get(b, 0.0) for a, b in world.pairs()]
    told: Numbers = np.array(gaps)[pair]
    return told


def _score(world: World, felt: Numbers) -> Numbers:
    return np.where(np.abs(felt) <= world.tie, 0.5, (felt > 0).astype(np.float64))


def _with_missing(
    world: World, generator: np.random.Generator, score: Numbers, side: int, length: Numbers
) -> Numbers:
    lost = np.full(len(score), world.missing)
    lost += world.missing_second if side == SECOND_SHOWN else 0.0
    lost += np.where(np.abs(length) > 1, world.missing_long, 0.0)
    return np.where(generator.random(len(score)) < lost, np.nan, score)


def true_rates(world: World, language: str = "") -> dict[tuple[str, str], Truth]:
    """Of each pair, in a language or in all together, by Gauss-Hermite quadrature."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(NODES)
    mass = mass / mass.sum()
    told = {}
    for one, two in world.pairs():
        sums = np.zeros(4)
        length = world.lengths.get(one, 0.0) - world.lengths.get(two, 0.0) + nodes
        for spoken in [language] if language else world.languages:
            gap = _strength(world, one, spoken) - _strength(world, two, spoken)
            mind = gap + world.uneven * nodes
            sums[2:] += [mass @ moment for moment in _moments(world, mind)]
            for bias in world.judges.values():
                for side in (FIRST_SHOWN, SECOND_SHOWN):
                    felt = mind[:, None] + world.longer * length[None, :]
                    felt = felt + side * (world.first_shown + bias)
                    sums[:2] += [mass @ moment @ mass for moment in _moments(world, felt)]
        told[one, two] = Truth(float(sums[0] / sums[1]), float(sums[2] / sums[3]))
    return told


def _moments(world: World, mind: Numbers) -> tuple[Numbers, Numbers]:
    """Expected weight times score, and expected weight, without noise known."""
    win, loss = logistic(mind - world.tie), logistic(-mind - world.tie)
    edge = max(world.strong, world.tie)
    strong_win, strong_loss = logistic(mind - edge), logistic(-mind - edge)
    more = world.strong_weight - 1
    won = win + more * strong_win + (1 - win - loss) / 2
    return won, 1 + more * (strong_win + strong_loss)
