"""Strengths of models from games between pairs, with or without covariates.

Bradley and Terry's model (Biometrika 39, 1952): the log-odds of a win are the difference of two
strengths, plus effects times covariates where there are some. A tie is half a win; scores may be
any shares, weights any counts. Fitted by Newton's method with a ridge prior, which keeps models
that won everything, or never met, finite.

The gauge is the ridge's: strengths sum to zero in each fit; `Fit.over` gives them over a baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

STEPS, HALVINGS, TOLERANCE = 60, 30, 1e-10
LEAST_RIDGE = 1e-9
"""Where none is chosen: enough to stay finite, too little to be seen."""


@dataclass(frozen=True)
class Fit:
    """m models, k covariates. `inverse` is that of the information, (m + k, m + k): a score vector
    times it is how much the estimates move."""

    strengths: Numbers
    effects: Numbers
    inverse: Numbers

    def over(self, baseline: int | None) -> Numbers:
        """Strengths over a baseline's, or over their mean."""
        zero = self.strengths.mean() if baseline is None else self.strengths[baseline]
        told: Numbers = self.strengths - zero
        return told

    def chance(self, pairs: NDArray[np.int64]) -> Numbers:
        """Of the first model of each pair, where all covariates are zero."""
        return logistic(self.strengths[pairs[:, 0]] - self.strengths[pairs[:, 1]])


def logistic(x: Numbers) -> Numbers:
    """1 / (1 + exp(-x)), without overflow."""
    told: Numbers = 0.5 * (1 + np.tanh(0.5 * x))
    return told


def sums(place: NDArray[np.int64], values: Numbers, size: int) -> Numbers:
    """Sums of values by place, (size,)."""
    told: Numbers = np.bincount(place, values, size).astype(np.float64, copy=False)
    return told


def incidence(pairs: NDArray[np.int64], models: int) -> Numbers:
    """(p, m): 1 for the first model of a pair, -1 for the second."""
    design = np.zeros((len(pairs), models))
    rows = np.arange(len(pairs))
    design[rows, pairs[:, 0]] = 1.0
    design[rows, pairs[:, 1]] = -1.0
    return design


def fit(
    pairs: NDArray[np.int64],
    models: int,
    pair: NDArray[np.int64],
    score: Numbers,
    weight: Numbers,
    covariates: Numbers | None = None,
    ridge: float = 1e-4,
) -> Fit:
    """Strengths of `models` models and effects of covariates (n, k).

    `pair` (n,) are places in `pairs` (p, 2), `score` shares of the first model. Maximizes the
    weighted log-likelihood less `ridge` times the sum of squared strengths (and effects).
    """
    z = np.zeros((len(score), 0)) if covariates is None else covariates
    design = incidence(pairs, models)
    prior = 2 * max(ridge, LEAST_RIDGE)
    found = np.zeros(models + z.shape[1])
    aim = _aim(design, found, pair, score, weight, z, prior)
    information = np.eye(len(found))
    for _ in range(STEPS):
        slope, information = _newton(design, found, pair, score, weight, z, prior)
        step = np.linalg.solve(information, slope)
        for _ in range(HALVINGS):
            reached = _aim(design, found + step, pair, score, weight, z, prior)
            if reached >= aim - 1e-9 * abs(aim):
                break
            step /= 2
        found, aim = found + step, reached
        if np.abs(step).max(initial=0.0) < TOLERANCE**0.5 and slope @ step < TOLERANCE:
            break
    _, information = _newton(design, found, pair, score, weight, z, prior)
    inverse: Numbers = np.linalg.inv(information).astype(np.float64, copy=False)
    return Fit(found[:models], found[models:], inverse)


def odds(design: Numbers, found: Numbers, pair: NDArray[np.int64], z: Numbers) -> Numbers:
    """Log-odds of each game."""
    models = design.shape[1]
    told: Numbers = (design @ found[:models])[pair]
    return told + z @ found[models:] if z.shape[1] else told


def _aim(
    design: Numbers,
    found: Numbers,
    pair: NDArray[np.int64],
    score: Numbers,
    weight: Numbers,
    z: Numbers,
    prior: float,
) -> float:
    """What is maximized."""
    eta = odds(design, found, pair, z)
    likelihood = weight @ (score * eta - np.logaddexp(0, eta))
    return float(likelihood - prior / 2 * (found @ found))


def _newton(
    design: Numbers,
    found: Numbers,
    pair: NDArray[np.int64],
    score: Numbers,
    weight: Numbers,
    z: Numbers,
    prior: float,
) -> tuple[Numbers, Numbers]:
    """Gradient and information: sums by pair stand for the columns of the models."""
    p, models = len(design), design.shape[1]
    chance = logistic(odds(design, found, pair, z))
    rest, spread = weight * (score - chance), weight * chance * (1 - chance)
    slope = np.concatenate([design.T @ sums(pair, rest, p), z.T @ rest]) - prior * found
    information = prior * np.eye(len(found))
    information[:models, :models] += design.T @ (sums(pair, spread, p)[:, None] * design)
    if z.shape[1]:
        scaled = z * spread[:, None]
        by_pair = np.stack([sums(pair, column, p) for column in scaled.T], axis=1)
        cross = design.T @ by_pair
        information[:models, models:] += cross
        information[models:, :models] += cross.T
        information[models:, models:] += scaled.T @ z
    return slope, information


def islands(pairs: NDArray[np.int64], models: int) -> list[list[int]]:
    """Groups of models that no chain of games joins; models without a game are in none."""
    group = list(range(models))

    def root(model: int) -> int:
        while group[model] != model:
            group[model] = group[group[model]]
            model = group[model]
        return model

    for first, second in pairs.tolist():
        group[root(first)] = root(second)
    found: dict[int, list[int]] = {}
    for model in sorted(set(pairs.ravel().tolist())):
        found.setdefault(root(model), []).append(model)
    return list(found.values())
