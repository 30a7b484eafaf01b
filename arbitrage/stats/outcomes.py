"""Games between two models as columns of numbers: what all statistics of win rates start from.

One row is one game: a judge saw the answers of two models to one prompt, in one order, and said who
won. Names are told once; rows hold their places. Knows no file and no judge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FIRST_SHOWN, UNKNOWN, SECOND_SHOWN = 1, 0, -1
"""Values of `position`."""


@dataclass(frozen=True)
class Outcomes:
    """n games. Arrays have n rows; `first`, `second`, `judge`, `language` and `category` are places
    in the tuples of names.

    `score` is the first model's: 1 it won, 0 it lost, 0.5 a tie, between them for judges that give
    shares; nan: there is no verdict. `weight`: for how many copies the game counts, 1 or the weight
    of a strong win. `position`: whether the first model's answer was shown first (1) or second
    (-1), 0 where nobody knows. `prompt` numbers what was asked, in its language: games of one pair
    and judge on one prompt belong together. `question` numbers what is drawn anew by the bootstrap:
    a prompt with its translations. `style` has a column (n, k) for each of `styles`: how much more
    of it the first answer has than the second; nan where an answer is not known.
    """

    models: tuple[str, ...]
    judges: tuple[str, ...]
    languages: tuple[str, ...]
    categories: tuple[str, ...]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    judge: NDArray[np.int64]
    language: NDArray[np.int64]
    category: NDArray[np.int64]
    prompt: NDArray[np.int64]
    question: NDArray[np.int64]
    score: NDArray[np.float64]
    weight: NDArray[np.float64]
    position: NDArray[np.int64]
    styles: tuple[str, ...] = ()
    style: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.score)

    def where(self, rows: NDArray[Any]) -> Outcomes:
        """Some of the games, by a mask or by row numbers; the names stay as they are."""
        columns = {name: getattr(self, name)[rows] for name in ROWS}
        style = None if self.style is None else self.style[rows]
        return replace(self, **columns, style=style)


ROWS = (
    *("first", "second", "judge", "language", "category", "prompt", "question"),
    *("score", "weight", "position"),
)
NAMED = {"judge": "judges", "language": "languages", "category": "categories"}


def outcomes_of(
    columns: Mapping[str, Sequence[Any]],
    styles: Sequence[str] = (),
    style: NDArray[np.float64] | None = None,
) -> Outcomes:
    """From columns of names and numbers, as long as each other.

    `first`, `second`, `judge`, `language`, `category` are names, `prompt` and `question` keys of
    any kind that can be hashed, `score`, `weight` and `position` numbers. Names are in the order in
    which they first appear, those of models first down `first`, then down `second`.
    """
    n = len(columns["score"])
    both = pd.factorize(np.array([*columns["first"], *columns["second"]], object))
    found: dict[str, Any] = {"first": both[0][:n], "second": both[0][n:]}
    found["models"] = tuple(both[1])
    for name, plural in NAMED.items():
        found[name], names = pd.factorize(np.array([*columns[name]], object))
        found[plural] = tuple(names)
    for name in ("prompt", "question"):
        found[name] = pd.factorize(_keys(columns[name]))[0]
    for name, kind in (("score", np.float64), ("weight", np.float64), ("position", np.int64)):
        found[name] = np.asarray(columns[name], kind)
    for name in ("first", "second", *NAMED, "prompt", "question"):
        found[name] = found[name].astype(np.int64)
    return Outcomes(**found, styles=tuple(styles), style=style)


def _keys(values: Sequence[Any]) -> NDArray[np.object_]:
    """Keys as an array of objects: tuples stay whole."""
    keys = np.empty(len(values), object)
    keys[:] = list(values)
    return keys
