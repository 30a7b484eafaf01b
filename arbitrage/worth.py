"""What each teacher is worth, from stored rewards alone: what would be lost without it.

Pure arithmetic over arrays (teachers, prompts) of each teacher's best reward on the prompts that
were selected, nan where it has no usable answer. It says what the Arbiter would say: rewards, no
truth. Ways to choose that leave the best reward aside (quotas, an Arbiter that is not trusted) are
followed for what was chosen, and taken for the best reward in what would be chosen instead.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.baselines import moments_of
from arbitrage.stats import Moments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass
class Loss:
    """What is lost without a teacher: `reward` per prompt that others can answer too, `alone` the
    prompts that nobody else can answer, `changed` those that would get another answer."""

    reward: Moments = field(default_factory=Moments)
    alone: int = 0
    changed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "reward": self.reward.mean,
            "interval": self.reward.half_width,
            "alone": self.alone,
            "changed": self.changed,
            "prompts": self.reward.count + self.alone,
        }


@dataclass(frozen=True)
class Point:
    """One pool of a curve: mean `reward` over the prompts that it can answer, a share `answered` of
    all, for `asked` completions per prompt. `left_out` is the teacher that went last."""

    asked: float
    reward: float
    answered: float
    left_out: str | None = None


def losses(names: Sequence[str], reward: Floats, owner: Ints, alone: Floats) -> dict[str, Loss]:
    """Without each teacher in turn; `reward` and `owner` (the chosen teacher) are (prompts,)."""
    found = {}
    best, second = _two_best(alone)
    for number, name in enumerate(names):
        mine = owner == number
        others = np.where(alone[number] == best, second, best)[mine]
        lost = np.zeros(len(reward))
        lost[mine] = reward[mine] - others
        changed = int((lost[mine] != 0).sum() - np.isnan(others).sum())
        found[name] = Loss(moments_of(lost), int(np.isnan(others).sum()), changed)
    return found


def _two_best(alone: Floats) -> tuple[Floats, Floats]:
    """(prompts,) each: the best reward of all teachers and the second best, equal where two have
    the same; nan where there is none."""
    padded = np.vstack([np.full((2, alone.shape[1]), -np.inf), np.nan_to_num(alone, nan=-np.inf)])
    top = np.partition(padded, len(padded) - 2, axis=0)[-2:]
    second, best = np.where(np.isinf(top), np.nan, top)
    return best, second


def drawn(alone: Floats, asked: Ints) -> list[Point]:
    """The best of 1, 2, ... teachers drawn by lot from those that were asked about a prompt and can
    answer it: the mean over all draws, exactly. `asked` is (teachers, prompts), completions.

    Of a prompt that fewer teachers can answer all of them are drawn.
    """
    order = np.sort(alone, axis=0)
    able = (~np.isnan(alone)).sum(axis=0)
    total, teachers = asked.sum(axis=0), np.maximum((asked > 0).sum(axis=0), 1)
    found = []
    for count in range(1, int(able.max(initial=0)) + 1):
        best = np.full(alone.shape[1], np.nan)
        for number in range(1, len(alone) + 1):
            mine = able == number
            weights = _weights(number, min(count, number))
            best[mine] = weights @ order[:number, mine]
        completions = total * np.minimum(count, teachers) / teachers
        found.append(Point(float(completions.mean()), float(np.nanmean(best)), 1.0))
    return found


def _weights(number: int, count: int) -> Floats:
    """The chance that the i-th smallest of `number` values is the largest of `count` drawn ones."""
    ways = [math.comb(place, count - 1) for place in range(number)]
    return np.array(ways, float) / math.comb(number, count)


def thinned(names: Sequence[str], alone: Floats, asked: Ints) -> list[Point]:
    """Teachers left out one after the other, each time the one without which least reward is lost
    per completion saved. A prompt without any answer counts as a standard deviation lost."""
    if not alone.shape[1]:
        return []
    left = list(range(len(names)))
    found = [_point(alone, asked, left, None)]
    missing = float(np.nanstd(_best(alone)))
    while len(left) > 1:
        prices = [_price(alone, asked, left, gone, missing) for gone in left]
        gone = left.pop(int(np.argmin(prices)))
        found.append(_point(alone, asked, left, names[gone]))
    return found


def _price(alone: Floats, asked: Ints, pool: Sequence[int], gone: int, missing: float) -> float:
    """Reward lost without one of a pool, over all prompts, per completion saved on each."""
    best, without = _best(alone[pool]), _best(alone[[other for other in pool if other != gone]])
    lost = np.where(np.isnan(without), missing, best - without)[~np.isnan(best)]
    saved = float(asked[gone].mean())
    return float(lost.sum()) / saved if saved else -math.inf


def _best(alone: Floats) -> Floats:
    """(prompts,): the best reward, nan where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # prompts without an answer are nan
        best: Floats = np.nanmax(alone, axis=0)
    return best


def _point(alone: Floats, asked: Ints, pool: Sequence[int], left_out: str | None) -> Point:
    best = _best(alone[pool])
    known = best[~np.isnan(best)]
    return Point(
        float(asked[pool].sum(axis=0).mean()),
        float(known.mean()) if len(known) else math.nan,
        len(known) / max(1, len(best)),
        left_out,
    )
