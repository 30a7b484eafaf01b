"""Win rates the slow way: plain Python over games, to compare the fast way with."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arbitrage.stats.outcomes import Outcomes


class Game(NamedTuple):
    """One game, told of `model`."""

    model: str
    other: str
    judge: str
    language: str
    category: str
    prompt: int
    question: int
    score: float
    weight: float
    position: int
    style: tuple[float, ...]


def games_of(outcomes: Outcomes, both_sides: bool = False) -> list[Game]:
    """All games by name; with `both_sides` each is told of both models."""
    told = []
    for i in range(len(outcomes)):
        style = () if outcomes.style is None else tuple(map(float, outcomes.style[i]))
        game = Game(
            outcomes.models[outcomes.first[i]],
            outcomes.models[outcomes.second[i]],
            outcomes.judges[outcomes.judge[i]],
            outcomes.languages[outcomes.language[i]],
            outcomes.categories[outcomes.category[i]],
            int(outcomes.prompt[i]),
            int(outcomes.question[i]),
            float(outcomes.score[i]),
            float(outcomes.weight[i]),
            int(outcomes.position[i]),
            style,
        )
        told.append(game)
        if both_sides:
            told.append(turned(game))
    return told


def turned(game: Game) -> Game:
    """The same game, told of the other model."""
    return game._replace(
        model=game.other,
        other=game.model,
        score=1 - game.score,
        position=-game.position,
        style=tuple(-one for one in game.style),
    )


def rate(games: Iterable[Game]) -> float:
    """Weighted mean of the scores that there are."""
    told = [game for game in games if not math.isnan(game.score)]
    whole = sum(game.weight for game in told)
    return sum(game.weight * game.score for game in told) / whole if whole else math.nan


def spread_of_rate(games: Sequence[Game], resamples: int, seed: int) -> float:
    """Standard deviation of the rate over resamples of the questions."""
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for game in games:
        sums[game.question][0] += game.weight * game.score
        sums[game.question][1] += game.weight
    questions, generator = sorted(sums), random.Random(seed)
    rates = []
    for _ in range(resamples):
        drawn = [sums[one] for one in generator.choices(questions, k=len(questions))]
        rates.append(sum(one for one, _ in drawn) / sum(two for _, two in drawn))
    return deviation(rates)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((one - mean) ** 2 for one in values) / len(values))


def logistic_fit(
    rows: Sequence[Sequence[float]], scores: Sequence[float], weights: Sequence[float], ridge: float
) -> list[float]:
    """Coefficients that maximize the penalized likelihood, by slow and sure gradient steps with
    Newton's curvature taken from finite differences of the gradient."""
    k = len(rows[0])
    found = [0.0] * k

    def slope(at: list[float]) -> list[float]:
        told = [-2 * ridge * one for one in at]
        for row, score, weight in zip(rows, scores, weights, strict=True):
            rest = weight * (
                score - 1 / (1 + math.exp(-sum(a * b for a, b in zip(row, at, strict=True))))
            )
            told = [one + rest * x for one, x in zip(told, row, strict=True)]
        return told

    for _ in range(12):
        here, step = slope(found), 1e-5
        moved = [slope([f + step * (i == j) for i, f in enumerate(found)]) for j in range(k)]
        curve = [[(moved[j][i] - here[i]) / step for j in range(k)] for i in range(k)]
        found = [f - d for f, d in zip(found, solved(curve, here), strict=True)]
    return found


def solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of a linear system, by elimination."""
    n = len(right)
    rows: list[list[Any]] = [[*matrix[i], right[i]] for i in range(n)]
    for i in range(n):
        best = max(range(i, n), key=lambda j: abs(rows[j][i]))
        rows[i], rows[best] = rows[best], rows[i]
        for j in range(n):
            if j != i:
                factor = rows[j][i] / rows[i][i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [rows[i][n] / rows[i][i] for i in range(n)]
