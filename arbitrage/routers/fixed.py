"""A table says who is asked in which language: the router `fixed`.

The table comes from the config, or from `arbitrage route fit --router fixed`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.directions import FILE_VERSION, fitted
from arbitrage.routers.lifts import Pairs, greedy, rows_by_language
from arbitrage.routers.protocol import Asked, Decision, Pool, Seen, nobody_left_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.choices import FixedRouting
    from arbitrage.routers.protocol import Bools, Floats

FEWEST = 5
"""Prompts that a language needs for a row of its own; with fewer all teachers are asked."""


class Fixed:
    """Asks whom the language's row names; all who cover the language where there is no row.

    A teacher that joined the pool after a fitted table was made is asked as well.
    """

    rounds = 1
    lag = 0

    def __init__(self, config: FixedRouting, pool: Pool) -> None:
        self._pool = pool
        note = fitted(config.file, config.router) if config.file else None
        self._table = note["table"] if note else config.table
        known = note["teachers"] if note else pool.fingerprints
        self._new = np.array([fingerprint not in known for fingerprint in pool.fingerprints])

    def route(
        self, asked: Asked, round: int, state: dict[str, Any] | None, seen: Seen | None
    ) -> Decision:
        """What the table says; no state."""
        del round, state, seen
        codes, place = np.unique(np.asarray(asked.languages, dtype=str), return_inverse=True)
        rows = np.array([self._row(code) for code in codes.tolist()], dtype=bool)
        rows = rows.reshape(len(codes), len(self._pool.fingerprints))
        covers = self._pool.covering(asked.languages)
        return Decision(nobody_left_out(rows[place] & covers, covers) | (self._new & covers), {})

    def _row(self, code: str) -> list[bool]:
        named = self._table.get(code, ())
        return [fingerprint in named for fingerprint in self._pool.fingerprints]


def fit(asked: Asked, reward: Floats, put: Bools, teachers: Sequence[str], count: int) -> str:
    """A table, as JSON: per language the `count` teachers whose best answer is expected to be best.

    Found one after the other, each with the largest lift. `reward` and `put` (whether the teacher
    was asked) are (prompts, teachers), a reward is nan without a usable answer.
    """
    pairs = Pairs({}, len(teachers))
    pairs.add(Seen(asked.languages, put, reward))
    rows = dict(rows_by_language(asked.languages))
    known = [code for code in rows if len(rows[code]) >= FEWEST and pairs.has(code)]
    table = {}
    for code, lift in pairs.lifts(known, {}).items():
        best = [n for n, _ in greedy(lift, np.flatnonzero(put[rows[code]].any(axis=0)))]
        table[code] = sorted(teachers[n] for n in best[:count])
    told = {"version": FILE_VERSION, "router": "fixed", "teachers": list(teachers), "table": table}
    return json.dumps(told, indent=1) + "\n"
