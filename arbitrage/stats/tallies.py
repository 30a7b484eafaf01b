"""Games as statistics count them: each pair in one orientation, both orders of a prompt together.

`settle` turns the games of a pair round so that they are all told of the same model, finds the
verdicts that follow the position, and applies what was chosen about those and about games without a
verdict. Games are in the order of their questions. Knows no weights of verdicts and no intervals.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from arbitrage.stats.outcomes import FIRST_SHOWN, SECOND_SHOWN, UNKNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arbitrage.stats.outcomes import Outcomes

Flips = Literal["keep", "tie", "abstain"]
Missing = Literal["game", "prompt"]
DENSE = 100_000_000
"""Up to where numbers are told apart by a table."""


@dataclass(frozen=True)
class Columns:
    """Arrays of one length, of which some rows can be taken."""

    judge: NDArray[np.int64]
    pair: NDArray[np.int64]
    language: NDArray[np.int64]
    category: NDArray[np.int64]
    prompt: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pair)

    def where(self, rows: NDArray[Any] | slice) -> Self:
        """Some of the rows, by a mask, by numbers or by a slice."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Games(Columns):
    """n games with a verdict, in order of `question`. `score` and `position` are those of the first
    model of `pair`; `style` (n, k) is its answer's less the other's."""

    question: NDArray[np.int64]
    score: NDArray[np.float64]
    weight: NDArray[np.float64]
    position: NDArray[np.int64]
    style: NDArray[np.float64]


@dataclass(frozen=True)
class Meetings(Columns):
    """One row per judge, pair and prompt. `missing`: its games without a verdict; `both`: whether
    it was judged in both orders; `flipped`: whether the verdicts then followed the position."""

    missing: NDArray[np.int64]
    both: NDArray[np.bool_]
    flipped: NDArray[np.bool_]


class Settled(NamedTuple):
    """`pairs` (p, 2) are places of models, the lower first. `repeated`: games beyond the first of
    one meeting in one order; `alone`: games of a model against itself, which are left out."""

    pairs: NDArray[np.int64]
    games: Games
    meetings: Meetings
    repeated: int
    alone: int


def settle(outcomes: Outcomes, flips: Flips = "keep", missing: Missing = "game") -> Settled:
    """The games that count. A flip taken as one tie is one game of weight 1 and of no position."""
    sound = outcomes.first != outcomes.second
    pairs, every = _oriented(outcomes.where(sound))
    key = (every.judge * max(len(pairs), 1) + every.pair) * _size(every.prompt) + every.prompt
    _, opener, meeting = np.unique(key, return_index=True, return_inverse=True)
    told = ~np.isnan(every.score)
    seen = [_of_order(every, meeting, told, side, len(opener)) for side in (1, -1)]
    both = (seen[0][0] > 0) & (seen[1][0] > 0)
    flipped = both & (seen[0][1] * seen[1][1] < 0)
    lost = np.bincount(meeting[~told], minlength=len(opener))
    meetings = Meetings(
        **{field.name: getattr(every, field.name)[opener] for field in fields(Columns)},
        missing=lost,
        both=both,
        flipped=flipped,
    )
    keep = told & (lost[meeting] == 0) if missing == "prompt" else told
    games = _without_flips(every, keep, flipped[meeting], meeting, flips)
    repeated = sum(int(np.maximum(count - 1, 0).sum()) for count, _ in seen)
    return Settled(pairs, games, meetings, repeated, int((~sound).sum()))


def distinct(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The different values of numbers from zero on, in order."""
    top = int(codes.max(initial=-1)) + 1
    if top > DENSE:
        return np.unique(codes)
    seen = np.zeros(top, np.bool_)
    seen[codes] = True
    return np.flatnonzero(seen)


def _size(places: NDArray[np.int64]) -> int:
    return int(places.max(initial=-1)) + 1


def _oriented(outcomes: Outcomes) -> tuple[NDArray[np.int64], Games]:
    """All games, told of the model that comes first among the names, in order of question."""
    order = np.argsort(outcomes.question, kind="stable")
    o = outcomes.where(order)
    turned = o.first > o.second
    sign = np.where(turned, -1, 1)
    low, high = np.where(turned, o.second, o.first), np.where(turned, o.first, o.second)
    codes, pair = np.unique(low * len(o.models) + high, return_inverse=True)
    style = np.zeros((len(o), 0)) if o.style is None else o.style * sign[:, None]
    pairs = np.stack([codes // len(o.models), codes % len(o.models)], axis=1)
    games = Games(
        pair=pair,
        score=np.where(turned, 1 - o.score, o.score),
        weight=o.weight,
        position=o.position * sign,
        style=style,
        **{name: getattr(o, name) for name in ("judge", "language", "category")},
        **{name: getattr(o, name) for name in ("prompt", "question")},
    )
    return pairs.astype(np.int64), games


def _of_order(
    games: Games, meeting: NDArray[np.int64], told: NDArray[np.bool_], side: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """By meeting: how many verdicts there are in one order, and whom they favour."""
    rows = told & (games.position == (FIRST_SHOWN if side > 0 else SECOND_SHOWN))
    favour: NDArray[Any] = np.bincount(meeting[rows], games.score[rows] - 0.5, size)
    count: NDArray[Any] = np.bincount(meeting[rows], minlength=size)
    return count, favour


def _without_flips(
    games: Games,
    keep: NDArray[np.bool_],
    flipped: NDArray[np.bool_],
    meeting: NDArray[np.int64],
    flips: Flips,
) -> Games:
    """The games to keep, after what was chosen about flips."""
    if flips == "keep":
        return games.where(keep)
    rows = np.flatnonzero(keep & flipped)
    keep = keep & ~flipped
    if flips == "tie":
        rows = rows[np.unique(meeting[rows], return_index=True)[1]]
        keep[rows] = True
        score, weight, position = games.score.copy(), games.weight.copy(), games.position.copy()
        score[rows], weight[rows], position[rows] = 0.5, 1.0, UNKNOWN
        changed = {"score": score, "weight": weight, "position": position}
        games = Games(
            **{f.name: changed.get(f.name, getattr(games, f.name)) for f in fields(games)}
        )
    return games.where(keep)
