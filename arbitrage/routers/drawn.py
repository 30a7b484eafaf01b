"""Some of the covering teachers, drawn per prompt by the hash of its id: the router `random`.

Each pair of prompt and teacher has its own lot, so that a teacher that joins the pool takes prompts
over and otherwise leaves them where they were (rendezvous hashing: Thaler and Ravishankar 1998).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.routers.protocol import Asked, Decision, Pool, Seen, first, lots_of_pairs

if TYPE_CHECKING:
    from arbitrage.choices import RandomRouting


class Random:
    """Asks `count` teachers, or all where fewer cover the language."""

    rounds = 1
    lag = 0

    def __init__(self, config: RandomRouting, pool: Pool) -> None:
        self._count = config.count
        self._pool = pool

    def route(
        self, asked: Asked, round: int, state: dict[str, Any] | None, seen: Seen | None
    ) -> Decision:
        """The teachers with the smallest lots; no state."""
        del round, state, seen
        order = np.argsort(lots_of_pairs(asked.ids, self._pool.fingerprints), axis=1)
        return Decision(first(order, self._pool.covering(asked.languages), self._count), {})
