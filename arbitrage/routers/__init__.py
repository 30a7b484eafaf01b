"""Routers decide which teachers are asked. One module and one line in `ROUTERS` each.

A router sees prompts, and where it learns the rewards of prompts that were routed before; never an
answer. It is pure: what it has to remember it gives back, and the store keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.identity import digest
from arbitrage.records import ROUTES
from arbitrage.routers.adaptive import Adaptive
from arbitrage.routers.cascade import Cascade
from arbitrage.routers.drawn import Random
from arbitrage.routers.everyone import Everyone
from arbitrage.routers.fixed import Fixed
from arbitrage.routers.learned import Learned
from arbitrage.routers.protocol import Asked, Decision, Pool, Router, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arbitrage.components import Components, Teacher

__all__ = [
    "ROUTERS",
    "Asked",
    "Decision",
    "Pool",
    "Routed",
    "Router",
    "Seen",
    "routed_as",
    "routes_of",
]

ROUTERS: dict[str, Callable[[Any, Pool], Router]] = {
    "all": Everyone,
    "fixed": Fixed,
    "random": Random,
    "learned": Learned,
    "cascade": Cascade,
    "adaptive": Adaptive,
}
"""Each is made from its block of the config, with its names resolved, and the pool."""


class Routed(NamedTuple):
    """Per teacher (rows, digest of the ids that it is asked); the ROUTES table; what the router
    wants to remember."""

    asked: dict[str, tuple[int, str]]
    table: pa.Table
    state: dict[str, Any]


def routes_of(
    prompts: pa.Table,
    components: Components,
    round: int = 0,
    state: dict[str, Any] | None = None,
    seen: Seen | None = None,
) -> Routed:
    """Whom the run's router asks about `prompts` (prompt_id, language, messages) in this round."""
    asked = asked_of(prompts)
    pool = pool_of(components)
    decision = router_of(components).route(asked, round, state, seen)
    return routed_as(asked.ids, pool.fingerprints, decision)


def routed_as(ids: Sequence[str], fingerprints: Sequence[str], decision: Decision) -> Routed:
    """A decision about prompts and teachers, by their ids and fingerprints, as it is stored."""
    counts = {}
    keys = np.asarray(ids, dtype=object)
    for column, fingerprint in enumerate(fingerprints):
        asked = keys[decision.ask[:, column]].tolist()
        if asked:
            counts[fingerprint] = (len(asked), digest("".join(asked).encode()))
    owners = pa.array(fingerprints, pa.string()).take(pa.array(np.nonzero(decision.ask)[1]))
    ends = np.concatenate([[0], np.cumsum(decision.ask.sum(axis=1))])
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), owners)
    return Routed(counts, pa.table([pa.array(ids, pa.string()), lists], ROUTES), decision.state)


def router_of(components: Components) -> Router:
    """The run's router. Raises ConfigError where its file is gone or is none."""
    config = components.router.config
    return ROUTERS[config.router](config, pool_of(components))


def pool_of(components: Components) -> Pool:
    """The run's teachers, as routers see them."""
    teachers = sorted(components.teachers, key=lambda teacher: teacher.fingerprint)
    return Pool(
        tuple(teacher.fingerprint for teacher in teachers),
        tuple(teacher.languages for teacher in teachers),
        components.families,
        tuple(_cost(teacher) for teacher in teachers),
    )


def _cost(teacher: Teacher) -> float:
    """Of an answer, relative to others: a token in and a token out, 1 where there is no price."""
    price = teacher.config.price
    return 1.0 if price is None else float(sum(price))


def asked_of(prompts: pa.Table) -> Asked:
    """The prompts of a table as routers see them."""
    ids, languages = (prompts[name].to_pylist() for name in ("prompt_id", "language"))
    return Asked(ids, languages, _last_words(prompts["messages"].combine_chunks()))


def _last_words(messages: pa.ListArray) -> list[str]:
    """Per prompt the content of the last user message; empty where there is none."""
    turns = messages.flatten()
    owner = pc.list_parent_indices(messages).to_numpy()
    said = pc.equal(turns.field("role"), "user").to_numpy(zero_copy_only=False)
    last = np.full(len(messages), -1, dtype=np.int64)
    np.maximum.at(last, owner[said], np.flatnonzero(said))
    places = pa.array(np.where(last < 0, 0, last), pa.int64(), mask=last < 0)
    texts = turns.field("content").take(places).to_pylist()
    return [text or "" for text in texts]
