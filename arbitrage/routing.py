"""What a stored run teaches about routing: fits routers to its rewards, and reports what its own
routing, and that of each other router, costs and loses.

Reads the product, whose `candidates` hold every reward; starts nothing. Losses are measured against
asking every covering teacher, so on prompts where that was done. A prompt never counts for a router
that was fitted to it.

    arbitrage route report runs/first
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.choices import (
    AdaptiveRouting,
    CascadeRouting,
    FixedRouting,
    GatesConfig,
    LearnedRouting,
    RandomRouting,
    RoutingConfig,
)
from arbitrage.errors import InputError
from arbitrage.plan import read_state
from arbitrage.replay import Measure, Outcomes, by_language, cross_fitted, measured, replay
from arbitrage.routers import ROUTERS, Pool, asked_of, pool_of
from arbitrage.routers import fixed as fixed_router
from arbitrage.routers import learned as learned_router
from arbitrage.routers.protocol import lots
from arbitrage.views import open_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from arbitrage.components import Components
    from arbitrage.routers.protocol import Bools, Router

COLUMNS = ["prompt_id", "language", "messages", "candidates"]
MOST_FITTED = 50_000
"""Prompts that a fit looks at, drawn by the hash of their ids; more take memory and add little."""
FEWEST_FITTED = 20
ALL = "all"


@dataclass(frozen=True)
class Fitted:
    """A fitted router's file, and what it learned from. Measures are cross-validated, by language
    and over all (the key `all`)."""

    router: str
    text: str
    prompts: dict[str, int]
    regret: dict[str, Measure]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the file."""
        regret = {code: _told(one) for code, one in self.regret.items()}
        return {"router": self.router, "prompts": self.prompts, "regret": regret}


@dataclass(frozen=True)
class RoutingReport:
    """Measures by language and over all (the key `all`): of the run's own routing on all prompts of
    its product, where nothing is known of what it lost, and of each router by replay."""

    router: str
    own: dict[str, Measure]
    complete: int
    replayed: dict[str, dict[str, Measure]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        own = {
            code: {"prompts": m.prompts, "asked": m.asked, "possible": m.possible, "saved": m.saved}
            for code, m in self.own.items()
        }
        replayed = {
            name: {code: _told(one) for code, one in measures.items()}
            for name, measures in self.replayed.items()
        }
        return {
            "router": self.router,
            "own": own,
            "prompts_with_all_answers": self.complete,
            "replayed": replayed,
        }


def fit(place: Path | str, router: str = "learned", count: int = 1) -> Fitted:
    """Fits a router to a stored run's rewards; `count` is for whom the regret is measured, and how
    many teachers a fixed table names.

    Raises UsageError where there is no run, InputError where too few prompts say anything.
    """
    known, components = outcomes(place)
    pool = pool_of(components)
    rows = np.flatnonzero(_telling(known))
    if len(rows) < FEWEST_FITTED:
        raise InputError(
            f"{len(rows):,} prompts of this run have answers of two teachers or more, and a router "
            f"needs {FEWEST_FITTED}; let the run go on, or ask more teachers (`router: all`)"
        )
    known = known.take(rows[np.argsort(lots(known.asked.ids, "fit")[rows])[:MOST_FITTED]])
    whole = complete(known, pool)
    ask = cross_fitted(lambda part: MAKERS[router](part, pool, count), known)
    regret = _measures(ask[whole], known.take(whole)) if len(whole) else {}
    text = learned_text(known) if router == "learned" else fixed_text(known, count)
    return Fitted(router, text, dict(sorted(Counter(known.asked.languages).items())), regret)


def report(place: Path | str) -> RoutingReport:
    """What routing saves and loses in a stored run.

    Raises UsageError where there is no run, InputError where it has no product.
    """
    known, components = outcomes(place)
    pool = pool_of(components)
    covers = pool.covering(known.asked.languages)
    own = _measures(known.put, Outcomes(known.asked, known.teachers, covers, known.reward))
    whole = known.take(complete(known, pool)).mixed()
    replayed = {name: _measures(ask, whole) for name, ask in replays(whole, pool).items()}
    return RoutingReport(components.router.name, own, len(whole.put), replayed)


def replays(known: Outcomes, pool: Pool) -> dict[str, Bools]:
    """Whom each router would have asked, by a name that tells its setting.

    What is fitted is cross-fitted; the cascade's threshold is the median of the best reward.
    """
    if not len(known.put):
        return {}
    best = np.where(np.isnan(known.reward), -np.inf, known.reward).max(axis=1)
    threshold = float(np.median(best[np.isfinite(best)])) if np.isfinite(best).any() else 0.0
    plain = {
        "all": RoutingConfig(),
        "random 1": RandomRouting(),
        "random 2": RandomRouting(count=2),
        "cascade": CascadeRouting(threshold=threshold),
        "adaptive": AdaptiveRouting(),
    }
    found = {name: replay(ROUTERS[one.router](one, pool), known) for name, one in plain.items()}
    for count in (1, 2):
        for name, make in MAKERS.items():
            found[f"{name} {count}"] = cross_fitted(
                lambda part, make=make, count=count: make(part, pool, count),  # type: ignore[misc]
                known,
            )
    return found


def learned_text(known: Outcomes) -> str:
    """The file of a learned router, fitted to these outcomes."""
    model = learned_router.fit(known.asked, known.reward, known.put, known.teachers)
    return model.text()


def fixed_text(known: Outcomes, count: int) -> str:
    """The file of a fixed router, fitted to these outcomes."""
    return fixed_router.fit(known.asked, known.reward, known.put, known.teachers, count)


def learned_from(known: Outcomes, pool: Pool, count: int) -> learned_router.Learned:
    """A learned router, fitted to these outcomes."""
    return learned_router.Learned(LearnedRouting(file=learned_text(known), count=count), pool)


def fixed_from(known: Outcomes, pool: Pool, count: int) -> fixed_router.Fixed:
    """A fixed router, fitted to these outcomes."""
    return fixed_router.Fixed(FixedRouting(file=fixed_text(known, count)), pool)


MAKERS: dict[str, Callable[[Outcomes, Pool, int], Router]] = {
    "fixed": fixed_from,
    "learned": learned_from,
}
"""Routers that are fitted: to what they learn from, for this pool, asking so many."""


def outcomes(place: Path | str) -> tuple[Outcomes, Components]:
    """Every prompt of a run's product with the rewards of the pool, and the run's parts.

    Raises UsageError where there is no run, InputError where it has no product.
    """
    store, components = open_run(place)
    planner, _ = read_state(components, store)
    tables = [store.read(path, COLUMNS).table for path in sorted(planner.selected)]
    if not any(table.num_rows for table in tables):
        raise InputError(f"{place} has no product yet; `arbitrage run` makes it")
    gates = GatesConfig.model_validate((store.read_json("run.json") or {})["config"]["gates"])
    teachers = pool_of(components).fingerprints
    return outcomes_of(pa.concat_tables(tables), teachers, gates.enforced()), components


def outcomes_of(table: pa.Table, teachers: tuple[str, ...], enforced: tuple[str, ...]) -> Outcomes:
    """The rewards in a product (prompt_id, language, messages, candidates).

    A candidate is usable where it has a reward, no error, and passes the `enforced` gates; those of
    teachers that are not in `teachers` are passed over.
    """
    column = table["candidates"].combine_chunks()
    rows = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    made = column.flatten()
    owner = pc.index_in(made.field("teacher_fingerprint"), value_set=pa.array(teachers))
    place = pc.fill_null(owner, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    shape = (table.num_rows, len(teachers))
    put = np.zeros(shape, dtype=bool)
    put[rows[place >= 0], place[place >= 0]] = True
    reward = made.field("reward").to_numpy(zero_copy_only=False).astype(np.float64)
    usable = (place >= 0) & ~np.isnan(reward) & ~_stopped(made.field("gates"), enforced)
    usable &= pc.is_null(made.field("error")).to_numpy(zero_copy_only=False)
    best = np.full(shape, -np.inf)
    np.maximum.at(best, (rows[usable], place[usable]), reward[usable])
    return Outcomes(asked_of(table), teachers, put, np.where(np.isfinite(best), best, np.nan))


def complete(known: Outcomes, pool: Pool) -> NDArray[np.int64]:
    """Rows of the prompts that every covering teacher was asked."""
    covers = pool.covering(known.asked.languages)
    return np.flatnonzero((known.put | ~covers).all(axis=1) & covers.any(axis=1))


def _stopped(gates: pa.ListArray, enforced: tuple[str, ...]) -> Bools:
    fails = np.zeros(len(gates), dtype=bool)
    hits = pc.is_in(gates.flatten(), value_set=pa.array(enforced, pa.string()))
    fails[pc.list_parent_indices(gates).to_numpy()[hits.to_numpy(zero_copy_only=False)]] = True
    return fails


def _telling(known: Outcomes) -> Bools:
    """Prompts of two teachers or more that have a usable answer."""
    telling: Bools = (known.put.sum(axis=1) >= 2) & ~np.isnan(known.reward).all(axis=1)
    return telling


def _measures(ask: Bools, known: Outcomes) -> dict[str, Measure]:
    return {ALL: measured(ask, known), **by_language(ask, known)}


def _told(measure: Measure) -> dict[str, Any]:
    return {
        **measure._asdict(),
        "saved": measure.saved,
        "oracle_gap": measure.oracle_gap,
    }
