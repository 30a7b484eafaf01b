"""Learns from the run's own scores whom to ask, and spends a given share of all generations.

The idea is that of an online policy with limited advice (prediction with expert advice under a
label budget: Cesa-Bianchi, Lugosi and Stoltz 2005), on the greedy rule for the best set (Nemhauser,
Wolsey and Fisher 1978). What it learns is the lift of every pair of teachers in every language, see
`lifts`; its state is sums and counts alone. Nothing here looks at a prompt's text: within a
language it is the hash of the id that says which prompt is asked more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.routers.lifts import Pairs, greedy, rows_by_language
from arbitrage.routers.protocol import Asked, Decision, Pool, Seen, first, lots_of_pairs

if TYPE_CHECKING:
    from arbitrage.choices import AdaptiveRouting
    from arbitrage.routers.protocol import Bools, Floats

FEW = 5
"""So many prompts of a language are asked of everyone, also where some were seen already."""
PAID_BACK = 0.25
"""The largest share of a shard's budget that goes into what the warm-up spent too much."""


class Adaptive:
    """Asks everyone about the first prompts of a language, then where most is to be gained.

    The first are `warm_up` while nothing is known of the language, and FEW once something is. Of
    each shard's budget, `explore` goes to the pairs of language and teacher that are known least,
    the rest to the largest expected gains. The warm-up may spend more than the budget; later shards
    give up to a quarter of theirs until that is paid back, and from then on the share of all
    generations stays within the budget, but for prompts that one teacher each must answer.
    """

    rounds = 1

    def __init__(self, config: AdaptiveRouting, pool: Pool) -> None:
        self.lag = config.lag
        self._config = config
        self._pool = pool

    def route(
        self, asked: Asked, round: int, state: dict[str, Any] | None, seen: Seen | None
    ) -> Decision:
        """Whom to ask; `state` holds spendings, prompts per language, and the sums of the pairs."""
        del round
        state = state or {"spent": 0, "possible": 0, "prompts": {}, "pairs": {}}
        pairs = Pairs(state["pairs"], len(self._pool.fingerprints))
        if seen is not None:
            pairs.add(seen)
        ask = self._decide(asked, state, pairs)
        counts = dict(state["prompts"])
        for code in asked.languages:
            counts[code] = counts.get(code, 0) + 1
        covers = self._pool.covering(asked.languages)
        spent, possible = int(ask.sum()), int(covers.sum())
        return Decision(
            ask,
            {
                "spent": state["spent"] + spent,
                "possible": state["possible"] + possible,
                "prompts": counts,
                "pairs": pairs.plain(),
            },
        )

    def _decide(self, asked: Asked, state: dict[str, Any], pairs: Pairs) -> Bools:
        covers = self._pool.covering(asked.languages)
        ask = covers & self._is_warming_up(asked, state["prompts"], pairs)[:, None]
        gains = self._ranked(asked, covers & ~ask, pairs)
        allowed = self._allowance(state, int(covers.sum()))
        ask |= np.isposinf(gains)
        explored = min(allowed - int(ask.sum()), int(allowed * self._config.explore))
        self._take(ask, gains, asked, allowed - int(ask.sum()) - max(explored, 0))
        self._explore(ask, covers, asked, pairs, explored)
        return ask

    def _is_warming_up(self, asked: Asked, routed: dict[str, int], pairs: Pairs) -> Bools:
        """Whether a prompt is among the first of its language."""
        most = self._config.warm_up
        wanted = {c: min(most, FEW) if pairs.has(c) else most for c in asked.languages}
        left = {code: count - routed.get(code, 0) for code, count in wanted.items()}
        warm = np.zeros(len(asked.ids), dtype=bool)
        for place, code in enumerate(asked.languages):
            warm[place] = left[code] > 0
            left[code] -= 1
        return warm

    def _allowance(self, state: dict[str, Any], possible: int) -> int:
        """How many generations the shard may spend: its share, and what is left or owed."""
        own = self._config.budget * possible
        left = self._config.budget * state["possible"] - state["spent"]
        return int(own + max(left, -PAID_BACK * own))

    def _ranked(self, asked: Asked, open_: Bools, pairs: Pairs) -> Floats:
        """(prompts, teachers) what a teacher is expected to add to those that stand before it in
        the language's order; infinite for the first, 0 where it cannot be asked or adds nothing.
        Before anything was seen all add next to nothing, and the lot says who is first."""
        if not pairs.is_empty:
            gains = np.zeros(open_.shape)
            lifts = pairs.lifts(sorted(set(asked.languages)), self._pool.families)
            for code, rows in rows_by_language(asked.languages):
                covering = np.flatnonzero([code in covers for covers in self._pool.covers])
                for teacher, gain in greedy(lifts[code], covering):
                    gains[rows, teacher] = gain
        else:
            gains = np.full(open_.shape, np.finfo(float).tiny)
            order = np.argsort(lots_of_pairs(asked.ids, self._pool.fingerprints), axis=1)
            gains[first(order, open_, 1)] = np.inf
        return np.where(open_, gains, 0.0)

    def _take(self, ask: Bools, gains: Floats, asked: Asked, count: int) -> None:
        """Asks, in place, the `count` pairs with the largest gains."""
        lot = lots_of_pairs(asked.ids, self._pool.fingerprints)
        some = np.flatnonzero((gains > 0) & ~ask)
        order = some[np.lexsort((lot.ravel()[some], -gains.ravel()[some]))]
        ask.ravel()[order[: max(count, 0)]] = True

    def _explore(self, ask: Bools, covers: Bools, asked: Asked, pairs: Pairs, count: int) -> None:
        """Asks, in place, `count` teachers more, those that the language knows least first."""
        known = np.zeros(ask.shape)
        for code, rows in rows_by_language(asked.languages):
            known[rows] = pairs.answers(code) + ask[rows].sum(axis=0)
        lot = lots_of_pairs(asked.ids, self._pool.fingerprints)
        some = np.flatnonzero(covers & ~ask)
        order = some[np.lexsort((lot.ravel()[some], known.ravel()[some]))]
        ask.ravel()[order[: max(count, 0)]] = True
