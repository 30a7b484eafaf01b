"""How rewards are spread, and what length does to them: counts in fixed bins, so that they add up.

Pure; knows no files. Nan stands for what is not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arbitrage.baselines import Answers

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

BINS = 40
TAIL = 0.5
"""Per cent at either end that the outermost bins take in."""
LENGTH_BINS = np.array([-2.0, -1.5, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, 1.5, 2.0])
"""Edges in doublings of a prompt's mean length; what lies outside counts in the outermost."""


def edges_of(values: Floats) -> Floats:
    """The edges of `BINS` bins of equal width that hold all but the tails; empty of nothing."""
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(0)
    low, high = np.percentile(known, [TAIL, 100 - TAIL])
    edges: Floats = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    return edges


def counted(values: Floats, edges: Floats) -> list[int]:
    """How many of the values are in each bin; the outermost hold what lies outside."""
    if not len(edges):
        return []
    known = np.clip(values[~np.isnan(values)], edges[0], edges[-1])
    return [int(count) for count in np.histogram(known, edges)[0]]


@dataclass
class LengthEffect:
    """Candidates by their length against the mean of their prompt's: per bin of `LENGTH_BINS` how
    many, how many of them were chosen, and the sum of what their rewards are above their prompt's
    mean. Of prompts with one usable answer, and of lengths that are not known, nothing is taken."""

    candidates: Ints = field(default_factory=lambda: np.zeros(len(LENGTH_BINS) - 1, np.int64))
    chosen: Ints = field(default_factory=lambda: np.zeros(len(LENGTH_BINS) - 1, np.int64))
    above: Floats = field(default_factory=lambda: np.zeros(len(LENGTH_BINS) - 1))

    def add(self, answers: Answers, is_chosen: NDArray[np.bool_], prompts: int) -> None:
        """Takes in a shard; `is_chosen` is per answer."""
        known = answers.distinct & ~np.isnan(answers.chars)
        prompt = answers.prompt[known]
        number = np.bincount(prompt, minlength=prompts)
        mean_chars, mean_reward = (
            np.bincount(prompt, values[known], prompts) / np.maximum(number, 1)
            for values in (answers.chars, answers.reward)
        )
        among = (number > 1)[prompt] & (mean_chars > 0)[prompt]
        prompt = prompt[among]
        chars = np.maximum(answers.chars[known][among], 0.5)
        doublings = np.log2(chars / mean_chars[prompt])
        bins = np.clip(
            np.searchsorted(LENGTH_BINS, doublings, side="right") - 1, 0, len(self.above) - 1
        )
        size = len(self.above)
        self.candidates += np.bincount(bins, minlength=size)
        self.chosen += np.bincount(bins[is_chosen[known][among]], minlength=size)
        above = answers.reward[known][among] - mean_reward[prompt]
        self.above += np.bincount(bins, above, size)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `above` is the mean of a bin, none of nothing."""
        means = [
            float(total / count) if count else None
            for total, count in zip(self.above, self.candidates, strict=True)
        ]
        return {
            "edges": LENGTH_BINS.tolist(),
            "candidates": self.candidates.tolist(),
            "chosen": self.chosen.tolist(),
            "above": means,
        }
