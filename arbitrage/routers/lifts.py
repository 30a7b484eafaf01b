"""What asking a teacher adds where another was asked, learnt from prompts that both have answered.

    lift[i, j] = mean of max(0, reward of j - reward of i) over prompts that both were asked,

per language. Two teachers that complete each other lift each other, so that the expected best of a
set counts and not only its best mean; and a teacher that was seldom asked is not taken for a bad
one. Few answers are helped out by the family, and a family by all languages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from arbitrage.routers.protocol import Floats, Seen

BORROWED = 0.25
"""A language's estimate counts its family's as this many prompts, a family all languages'."""


class Pairs:
    """Per language and pair of teachers: on how many prompts both were asked, and the sum of lifts.

    Both are (teachers, teachers); a teacher without a usable answer counts as the worst answer that
    the language has in the shard.
    """

    def __init__(self, plain: dict[str, list[list[Any]]], teachers: int) -> None:
        self._shape = (teachers, teachers)
        self._count: dict[str, Floats] = {}
        self._total: dict[str, Floats] = {}
        for code, rows in plain.items():
            count, total = self._of(code)
            for i, j, both, up, down in rows:
                count[i, j] = count[j, i] = both
                total[i, j], total[j, i] = up, down

    def _of(self, code: str) -> tuple[Floats, Floats]:
        for sums in (self._count, self._total):
            sums.setdefault(code, np.zeros(self._shape))
        return self._count[code], self._total[code]

    def add(self, seen: Seen) -> None:
        """Counts one shard's outcome."""
        for code, rows in rows_by_language(seen.languages):
            asked, reward = seen.asked[rows], seen.reward[rows]
            if np.isnan(reward).all():
                continue
            reward = np.where(np.isnan(reward), np.nanmin(reward), reward)
            both = asked[:, :, None] & asked[:, None, :] & ~np.eye(self._shape[0], dtype=bool)
            lift = np.maximum(reward[:, None, :] - reward[:, :, None], 0.0)
            count, total = self._of(code)
            count += both.sum(axis=0)
            total += np.where(both, lift, 0.0).sum(axis=0)

    def plain(self) -> dict[str, list[list[Any]]]:
        """[i, j, prompts, sum of lift i to j, sum of lift j to i] of every pair seen, i < j."""
        return {
            code: [
                [i, j, int(count[i, j]), float(total[i, j]), float(total[j, i])]
                for i, j in np.argwhere(np.triu(count, 1)).tolist()
            ]
            for code, (count, total) in ((c, self._of(c)) for c in sorted(self._count))
        }

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen yet."""
        return not self._count

    def has(self, code: str) -> bool:
        """Whether anything was seen of a language."""
        return code in self._count

    def answers(self, code: str) -> Floats:
        """Per teacher: on how many prompts it was seen beside some other."""
        most: Floats = self._count.get(code, np.zeros(self._shape)).max(axis=0)
        return most

    def lifts(self, codes: Sequence[str], families: Mapping[str, str]) -> dict[str, Floats]:
        """Per language the estimate of every pair's lift, helped out by family and all."""
        flat = np.zeros(self._shape)
        every = _mean(sum(self._total.values(), flat), sum(self._count.values(), flat), None)
        by_family = {
            family: self._family(family, families, every)
            for family in {families.get(code, code) for code in codes}
        }
        return {
            code: _mean(self._total.get(code, flat), self._count.get(code, flat), prior)
            for code in codes
            for prior in [by_family[families.get(code, code)]]
        }

    def _family(self, family: str, families: Mapping[str, str], every: Floats) -> Floats:
        flat = np.zeros(self._shape)
        members = [code for code in self._count if families.get(code, code) == family]
        total = sum((self._total[code] for code in members), flat)
        return _mean(total, sum((self._count[code] for code in members), flat), every)


def _mean(total: Floats, count: Floats, prior: Floats | None) -> Floats:
    """Means, drawn to the prior; without one, to the mean over all pairs."""
    if prior is None:
        prior = np.full(total.shape, total.sum() / max(count.sum(), 1.0))
    mean: Floats = (total + BORROWED * prior) / (count + BORROWED)
    return mean


def greedy(lift: Floats, covering: NDArray[Any]) -> Iterator[tuple[int, float]]:
    """Teachers in the order in which they add most to those before them, with what they add.

    What j adds to a set is at most the least that it adds to one of its members.
    """
    left = covering.tolist()
    if not left:
        return
    ahead = (lift - lift.T)[np.ix_(covering, covering)].mean(axis=0)
    best = left[int(ahead.argmax())]
    yield best, np.inf
    left.remove(best)
    adds = lift[best].copy()
    while left:
        best = left[int(adds[left].argmax())]
        yield best, float(adds[best])
        left.remove(best)
        adds = np.minimum(adds, lift[best])


def rows_by_language(languages: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each language with the places where it stands, in order."""
    codes, place = np.unique(np.asarray(languages, dtype=str), return_inverse=True)
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(len(codes) + 1))
    for number, code in enumerate(codes.tolist()):
        yield code, order[ends[number] : ends[number + 1]]
