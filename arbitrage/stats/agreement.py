"""How far two judges agree on who won, and how far beyond chance.

What they agree on is a meeting: one pair of models on one prompt, all its games taken together. A
judge's word on it is a win, a tie or a loss, by the weighted mean of its scores.

Cohen's kappa (Educational and Psychological Measurement 20, 1960) over these three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from arbitrage.stats.tallies import Games

    Numbers = NDArray[np.float64]

WORDS = 3
EVEN = 1e-9
"""How far from one half a mean may be and still be a tie, for sums of fractions."""


class Words(NamedTuple):
    """One judge's: 0 lost, 1 tied, 2 won, by meeting; `key` is sorted and equal for all judges."""

    key: NDArray[np.int64]
    word: NDArray[np.int64]
    language: NDArray[np.int64]
    question: NDArray[np.int64]


class Pair(NamedTuple):
    """What two judges say, (n,) each, of the meetings that both judged."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    language: NDArray[np.int64]
    question: NDArray[np.int64]

    def where(self, rows: NDArray[np.bool_]) -> Pair:
        """Some of the meetings."""
        return Pair(*(column[rows] for column in self))


def words(games: Games, prompts: int) -> Words:
    """Of the games of one judge; `prompts` is above every place of a prompt."""
    key, opener, meeting = np.unique(
        games.pair * prompts + games.prompt, return_index=True, return_inverse=True
    )
    won = np.bincount(meeting, games.weight * (games.score - 0.5), len(key))
    word = 1 + (won > EVEN).astype(np.int64) - (won < -EVEN).astype(np.int64)
    return Words(key, word, games.language[opener], games.question[opener])


def met(first: Words, second: Words) -> Pair:
    """The meetings that both judges have judged."""
    _, mine, yours = np.intersect1d(first.key, second.key, True, True)
    return Pair(first.word[mine], second.word[yours], first.language[mine], first.question[mine])


class Agreeing:
    """Share of the same words and kappa of two judges. Implements `Influences`."""

    columns = 2

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        n = max(len(pair.first), 1)
        table = np.bincount(pair.first * WORDS + pair.second, minlength=WORDS**2)
        self._table = table.reshape(WORDS, WORDS) / n
        self._mine, self._yours = self._table.sum(axis=1), self._table.sum(axis=0)
        self.same = float(np.trace(self._table)) if len(pair.first) else float("nan")
        self._chance = float(self._mine @ self._yours)
        room = 1 - self._chance
        self.kappa = (self.same - self._chance) / room if room > EVEN else float("nan")
        self.questions = len(np.unique(pair.question))

    def parts(self) -> Iterator[tuple[NDArray[np.int64], Numbers]]:
        """Influences of all questions at once."""
        pair, n = self.pair, max(len(self.pair.first), 1)
        if n < 2 or self.questions < 2:
            return
        same = (pair.first == pair.second) - self.same
        chance = self._yours[pair.first] + self._mine[pair.second] - 2 * self._chance
        room = 1 - self._chance
        kappa = same / room - (1 - self.same) / room**2 * chance if room > EVEN else 0 * same
        questions, place = np.unique(pair.question, return_inverse=True)
        sums = [np.bincount(place, column, len(questions)) / n for column in (same, kappa)]
        yield questions, np.stack(sums, axis=1) * np.sqrt(self.questions / (self.questions - 1))
