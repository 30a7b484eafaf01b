"""One teacher after the other, until an answer is good enough: the router `cascade`.

After FrugalGPT (Chen, Zaharia and Zou 2023, arXiv 2305.05176), with the Arbiter as the one who says
what is good enough. A shard is routed once per teacher of the order, each time for the prompts that
are not content yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.routers.protocol import Asked, Decision, Pool, Seen, first

if TYPE_CHECKING:
    from arbitrage.choices import CascadeRouting
    from arbitrage.routers.protocol import Bools, Floats


class Cascade:
    """Asks the next of the order while the best reward so far is below the threshold.

    Without an order the cheapest comes first, and of equally cheap ones the lower fingerprint. A
    prompt that nobody of the order covers goes to all who cover it, at once.
    """

    lag = 0

    def __init__(self, config: CascadeRouting, pool: Pool) -> None:
        cheapest = sorted(zip(pool.costs, pool.fingerprints, strict=True))
        order = config.order or tuple(fingerprint for _, fingerprint in cheapest)
        self._order = [pool.fingerprints.index(f) for f in order if f in pool.fingerprints]
        self._threshold = config.threshold
        self._pool = pool
        self.rounds = max(1, len(self._order))

    def route(
        self, asked: Asked, round: int, state: dict[str, Any] | None, seen: Seen | None
    ) -> Decision:
        """The first in round 0, later whom else; no state."""
        del state
        covers = self._pool.covering(asked.languages)
        listed = np.zeros_like(covers)
        listed[:, self._order] = covers[:, self._order]
        order = np.broadcast_to(np.array(self._order, dtype=np.int64), (len(covers), self.rounds))
        if round == 0 or seen is None:
            alone = first(order, listed, 1)
            return Decision(np.where(listed.any(axis=1, keepdims=True), alone, covers), {})
        more = listed & ~seen.asked & ~self._content(asked, seen.reward)[:, None]
        return Decision(first(order, more, 1), {})

    def _content(self, asked: Asked, reward: Floats) -> Bools:
        """Whether the best reward so far reaches what the language asks for."""
        threshold = self._threshold
        if isinstance(threshold, dict):
            default = threshold.get("default", np.inf)
            limits = np.array([threshold.get(code, default) for code in asked.languages])
        else:
            limits = np.full(len(asked.ids), threshold)
        best = np.where(np.isnan(reward), -np.inf, reward).max(axis=1)
        reached: Bools = best >= limits
        return reached
