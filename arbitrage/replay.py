"""Replays routers over prompts whose rewards are known, and measures what they would have lost.

Pure: arrays in, numbers out. A router is shown exactly what it would have seen in a run: earlier
shards only, and only the rewards of teachers that it asked itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from arbitrage.routers.protocol import Asked, Seen, lots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from arbitrage.routers.protocol import Bools, Floats, Router

    Ints = NDArray[np.int64]

SHARD_SIZE = 64
FOLDS = 5


@dataclass(frozen=True)
class Outcomes:
    """What became of prompts: `put` (whether the teacher was asked) and `reward` (its best usable
    one, nan without), both (prompts, teachers) in the order of `teachers`, which are fingerprints.
    """

    asked: Asked
    teachers: tuple[str, ...]
    put: Bools
    reward: Floats

    def take(self, rows: Ints) -> Outcomes:
        """Some of the prompts, in the order of `rows`."""
        return Outcomes(part_of(self.asked, rows), self.teachers, self.put[rows], self.reward[rows])

    def mixed(self, salt: str = "order") -> Outcomes:
        """All prompts ordered by the hash of their ids, so that languages do not come in turn."""
        return self.take(np.argsort(lots(self.asked.ids, salt), kind="stable"))


class Measure(NamedTuple):
    """What routing some prompts would have cost and lost, against asking every covering teacher.

    `asked` of `possible` generations; `lost`: mean reward lost, over prompts with an answer;
    `other`: prompts whose pick has a lower reward, or that have none; `unanswered`: those with
    none; `oracle`: generations of who always knows the winner, one per prompt.
    """

    prompts: int
    asked: int
    possible: int
    lost: float
    other: int
    unanswered: int
    oracle: int

    @property
    def share(self) -> float:
        """Of all generations, those that are made."""
        return self.asked / self.possible if self.possible else 0.0

    @property
    def saved(self) -> float:
        """Of all generations, those that are not made."""
        return 1.0 - self.share

    @property
    def oracle_gap(self) -> float:
        """Of all generations, those that one who always knows the winner would save besides."""
        return (self.asked - self.oracle) / self.possible if self.possible else 0.0


def part_of(asked: Asked, rows: Ints) -> Asked:
    """Some of the prompts, in the order of `rows`."""
    places = rows.tolist()
    return Asked(
        [asked.ids[n] for n in places],
        [asked.languages[n] for n in places],
        [asked.texts[n] for n in places],
    )


def replay(router: Router, known: Outcomes, size: int = SHARD_SIZE) -> Bools:
    """(prompts, teachers) whom the router would have asked, in shards of `size`, in their order."""
    ask = np.zeros_like(known.put)
    shards = [np.arange(start, min(start + size, len(ask))) for start in range(0, len(ask), size)]
    state = None
    for number, rows in enumerate(shards):
        asked = part_of(known.asked, rows)
        far = number >= router.lag > 0
        seen = _seen(known, ask, shards[number - router.lag]) if far else None
        decision = router.route(asked, 0, state, seen)
        ask[rows], state = decision.ask, decision.state
        for turn in range(1, router.rounds):
            more = router.route(asked, turn, state, _seen(known, ask, rows)).ask
            ask[rows] |= more
    return ask


def _seen(known: Outcomes, ask: Bools, rows: Ints) -> Seen:
    languages = [known.asked.languages[row] for row in rows.tolist()]
    return Seen(languages, ask[rows], np.where(ask[rows], known.reward[rows], np.nan))


def cross_fitted(make: Callable[[Outcomes], Router], known: Outcomes) -> Bools:
    """Whom routers would have asked that were each made without the prompts that they route.

    The prompts are cut into FOLDS parts by the hash of their ids.
    """
    ask = np.zeros_like(known.put)
    fold = lots(known.asked.ids, "fold") % np.uint64(FOLDS)
    for number in np.unique(fold).tolist():
        inside = fold == np.uint64(number)
        router = make(known.take(np.flatnonzero(~inside)))
        rows = np.flatnonzero(inside)
        ask[rows] = router.route(part_of(known.asked, rows), 0, None, None).ask
    return ask


def measured(ask: Bools, known: Outcomes) -> Measure:
    """What this routing costs and loses on prompts whose covering teachers were all asked."""
    reward = np.where(np.isnan(known.reward), -np.inf, known.reward)
    best = reward.max(axis=1, initial=-np.inf)
    some = np.isfinite(best)
    kept = np.where(ask, reward, -np.inf).max(axis=1, initial=-np.inf)
    answered = some & np.isfinite(kept)
    lost = (best - np.where(answered, kept, 0.0))[answered]
    return Measure(
        prompts=len(ask),
        asked=int((ask & known.put).sum()),
        possible=int(known.put.sum()),
        lost=float(lost.mean()) if len(lost) else 0.0,
        other=int((some & (kept < best)).sum()),
        unanswered=int((some & ~answered).sum()),
        oracle=int(known.put.any(axis=1).sum()),
    )


def by_language(ask: Bools, known: Outcomes) -> dict[str, Measure]:
    """`measured` per language, sorted by its code."""
    return {
        code: measured(ask[rows], known.take(rows)) for code, rows in _rows_by_language(known.asked)
    }


def _rows_by_language(asked: Asked) -> Iterator[tuple[str, Ints]]:
    languages = np.asarray(asked.languages, dtype=str)
    for code in np.unique(languages).tolist():
        yield code, np.flatnonzero(languages == code)
