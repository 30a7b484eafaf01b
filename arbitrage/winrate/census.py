"""What is counted of the games of a scope: wins, ties, flips, prompts, and who met whom.

Counts of one model against all others are sums over its pairs, but for prompts, which count once.
Knows no weights and no intervals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from arbitrage.stats.tallies import distinct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arbitrage.stats.tallies import Games, Meetings

    Counts = NDArray[np.int64]


class Match(NamedTuple):
    """A model against one other, or against all (None). `mine` are the places of the pairs whose
    first model it is, `yours` those whose second."""

    model: int
    other: int | None
    mine: list[int]
    yours: list[int]


class Census(NamedTuple):
    """Counts by pair (p,), told of its first model; `model_prompts` (m,) by model."""

    games: Counts
    wins: Counts
    losses: Counts
    strong_wins: Counts
    strong_losses: Counts
    missing: Counts
    flipped: Counts
    both: Counts
    prompts: Counts
    model_prompts: Counts

    @classmethod
    def total(cls, some: Sequence[Census]) -> Census:
        """Sums over scopes that share no game."""
        return cls(*(np.sum(columns, axis=0) for columns in zip(*some, strict=True)))

    def of(self, match: Match) -> dict[str, int]:
        """The counts of a row."""
        mine, yours = match.mine, match.yours
        both = [*mine, *yours]

        def turned(first: Counts, second: Counts) -> int:
            return int(first[mine].sum() + second[yours].sum())

        games, wins = int(self.games[both].sum()), turned(self.wins, self.losses)
        losses = turned(self.losses, self.wins)
        alone = match.other is not None
        prompts = self.prompts[both].sum() if alone else self.model_prompts[match.model]
        return {
            "prompts": int(prompts),
            "games": games,
            "wins": wins,
            "ties": games - wins - losses,
            "losses": losses,
            "strong_wins": turned(self.strong_wins, self.strong_losses),
            "strong_losses": turned(self.strong_losses, self.strong_wins),
            "missing": int(self.missing[both].sum()),
            "flipped": int(self.flipped[both].sum()),
            "both": int(self.both[both].sum()),
        }


def census(games: Games, meetings: Meetings, pairs: NDArray[np.int64], prompts: int) -> Census:
    """Of the games of a scope; `prompts` is above every place of a prompt."""
    p, models = len(pairs), int(pairs.max(initial=-1)) + 1
    won, lost, strong = games.score > 0.5, games.score < 0.5, games.weight != 1

    def by_pair(rows: NDArray[np.bool_]) -> Counts:
        return np.bincount(games.pair[rows], minlength=p)

    sides = [pairs[games.pair, side] * prompts + games.prompt for side in (0, 1)]
    by_model = distinct(np.concatenate(sides)) // max(prompts, 1)
    return Census(
        games=np.bincount(games.pair, minlength=p),
        wins=by_pair(won),
        losses=by_pair(lost),
        strong_wins=by_pair(won & strong),
        strong_losses=by_pair(lost & strong),
        missing=np.bincount(meetings.pair, meetings.missing, p).astype(np.int64),
        flipped=np.bincount(meetings.pair[meetings.flipped], minlength=p),
        both=np.bincount(meetings.pair[meetings.both], minlength=p),
        prompts=np.bincount(distinct(games.pair * prompts + games.prompt) // prompts, minlength=p),
        model_prompts=np.bincount(by_model, minlength=models),
    )


def matches(pairs: NDArray[np.int64], baseline: int | None) -> list[Match]:
    """Which rows to make: each model against the baseline; without one, or where others met too,
    against all and against each that it met."""
    others = baseline is None or bool((pairs != baseline).all(axis=1).any())
    told: list[Match] = []
    for model in np.unique(pairs).tolist():
        mine = np.flatnonzero(pairs[:, 0] == model).tolist()
        yours = np.flatnonzero(pairs[:, 1] == model).tolist()
        each = [Match(model, int(pairs[place, 0]), [], [place]) for place in yours]
        each += [Match(model, int(pairs[place, 1]), [place], []) for place in mine]
        if others:
            told += [Match(model, None, mine, yours), *each]
        elif model != baseline:
            told += [one for one in each if one.other == baseline]
    return told
