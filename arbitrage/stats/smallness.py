"""What a fit is wrong by because its questions are few, and how far each question moves it.

Estimates of a logistic model lean away from zero, and what it predicts at zero covariates leans
away from one half, by an amount that falls with the number of questions: 0.6 of a point for a rate
of 0.9 on 60 questions with two covariates. The bias of an estimating equation of independent
questions is known to first order (D. Cox and E. Snell, J. Royal Statistical Society B 30, 1968; for
clusters by their own sums in place of expectations) and is taken off.

The influence of a question, to first order, is its score times the inverse information. A fit has
followed each question a little, so that this is too small. Where questions are few it is divided by
the root of what the other questions leave of the information, which makes variances unbiased where
the model holds (bias-reduced linearization: A. Bell and D. McCaffrey, Survey Methodology 28, 2002).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from arbitrage.stats.strengths import Fit, logistic, odds, sums
from arbitrage.stats.tallies import distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MOST = 0.5
"""How many standard errors are taken off at most; a first-order term that is larger is none."""
FEW = 1000
"""Questions up to which influences are enlarged."""
TERMS = 8
"""Of the series of the inverse root: enough for a question with half of the information."""
CELLS = 20_000_000
"""Numbers that the information of all questions may take."""


class Smallness(NamedTuple):
    """`bias` (m + k,) and `covariance` (m + k, m + k) of a fit's estimates; `moved` (q, m + k) is
    what each of `questions` (q,) does to them, to first order or `enlarged`."""

    bias: Numbers
    covariance: Numbers
    questions: NDArray[np.int64]
    moved: Numbers
    enlarged: bool


def smallness(
    found: Fit,
    design: Numbers,
    pair: NDArray[np.int64],
    score: Numbers,
    weight: Numbers,
    z: Numbers,
    question: NDArray[np.int64],
) -> Smallness:
    """Arguments are those of the fit; `design` (p, m) is the incidence of pairs, `question` (n,)
    the places of the games' questions."""
    drawn = distinct(question)
    local = np.searchsorted(drawn, question)
    questions, (p, models) = len(drawn), design.shape
    estimates = np.concatenate([found.strengths, found.effects])
    chance = logistic(odds(design, estimates, pair, z))
    rest, spread = weight * (score - chance), weight * chance * (1 - chance)
    first, second = design.argmax(axis=1)[pair], design.argmin(axis=1)[pair]
    scores = sums(local * models + first, rest, questions * models)
    scores -= sums(local * models + second, rest, questions * models)
    by_effect = [sums(local, rest * column, questions) for column in z.T]
    scores = np.column_stack([scores.reshape(questions, models), *by_effect])
    moved = scores @ found.inverse
    covariance = moved.T @ moved * (questions / max(questions - 1, 1))
    felt = moved[local, first] - moved[local, second]
    felt += (z * moved[local, models:]).sum(axis=1)
    both = covariance[:models, :models]
    turn = (design @ both * design).sum(axis=1)[pair]
    turn += 2 * (z * (design @ covariance[:models, models:])[pair]).sum(axis=1)
    turn += (z @ covariance[models:, models:] * z).sum(axis=1)
    bent = -spread * (felt + (1 - 2 * chance) * turn / 2)
    slope = np.concatenate([design.T @ sums(pair, bent, p), z.T @ bent])
    enlarged = questions <= FEW and questions * len(estimates) ** 2 <= CELLS
    if enlarged:
        own = _information(local, first, second, spread, z, (questions, models))
        moved = _enlarged(moved, own, found.inverse)
    return Smallness(found.inverse @ slope, covariance, drawn, moved, enlarged)


def _enlarged(moved: Numbers, own: Numbers, inverse: Numbers) -> Numbers:
    """(1 - share) ** -1/2 of each row, where the share of the information is a matrix."""
    total, term, factor = moved.copy(), moved, 1.0
    for power in range(1, TERMS + 1):
        term = np.matmul(own, term[:, :, None])[:, :, 0] @ inverse
        factor *= (2 * power - 1) / (2 * power)
        total += factor * term
    return total


def _information(
    local: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    spread: Numbers,
    z: Numbers,
    size: tuple[int, int],
) -> Numbers:
    """Each question's part of the information: (questions, m + k, m + k)."""
    questions, models = size
    width = models + z.shape[1]
    told = np.zeros(questions * width * width)
    sides = [(first, 1.0), (second, -1.0)]
    columns = [(models + place, column) for place, column in enumerate(z.T)]
    parts: list[tuple[NDArray[np.int64] | int, Numbers | float]] = [*sides, *columns]
    for row, left in parts:
        for column, right in parts:
            place = (local * width + row) * width + column
            told += sums(place, spread * left * right, len(told))
    return told.reshape(questions, width, width)


def corrected_chance(chance: Numbers, design: Numbers, small: Smallness) -> Numbers:
    """Chances (p,) at zero covariates without the bias of the strengths and that of bending them
    into chances."""
    models, bias, covariance = design.shape[1], small.bias, small.covariance
    steep = chance * (1 - chance)
    spread = (design @ covariance[:models, :models] * design).sum(axis=1)
    excess = steep * (design @ bias[:models]) + steep * (1 - 2 * chance) * spread / 2
    most = MOST * steep * np.sqrt(np.maximum(spread, 0))
    told: Numbers = np.clip(chance - np.clip(excess, -most, most), chance / 2, (1 + chance) / 2)
    return told


def corrected_effects(effects: Numbers, small: Smallness) -> Numbers:
    """Effects (k,) without their bias."""
    first = len(small.bias) - len(effects)
    most = MOST * np.sqrt(np.maximum(np.diag(small.covariance)[first:], 0))
    told: Numbers = effects - np.clip(small.bias[first:], -most, most)
    return told
