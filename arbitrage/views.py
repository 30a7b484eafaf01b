"""Opens a run to look at, and what `show` says, as plain data; reads files only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from arbitrage import gates
from arbitrage.components import Components
from arbitrage.config import RunConfig
from arbitrage.errors import InputError, StoreError, UsageError
from arbitrage.plan import Planner, ShardState, read_state
from arbitrage.resolve import resolve
from arbitrage.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from arbitrage.plan import Lane

LOOK_PATIENCE_S = 10.0
"""Of those who only look; a run's own is in its config."""


def open_run(place: Path | str) -> tuple[Store, Components]:
    """A run directory, or the config that names one. Raises UsageError where there is no run."""
    store = Store(place, patience_s=LOOK_PATIENCE_S)
    if not store.exists():
        if store.has("evaluation.json"):
            raise UsageError(
                f"{place} holds win rates and is no run directory; `arbitrage winrate CONFIG.yaml` "
                "sums them up"
            )
        raise UsageError(f"{place} is no run directory; `arbitrage run CONFIG.yaml` makes one")
    told = store.read_json("run.json")
    try:
        config, known = RunConfig.model_validate(told["config"]), told["fingerprints"]
    except (ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise StoreError(
            f"{store.address('run.json')} was written by another version: {first}"
        ) from error
    return store, resolve(config, known)


def config_of(store: Store) -> RunConfig:
    """The config with which an opened run was last made."""
    return RunConfig.model_validate(store.read_json("run.json")["config"])


class View(NamedTuple):
    """A run as its files were at one moment."""

    store: Store
    components: Components
    planner: Planner
    shards: list[ShardState]
    config: RunConfig

    def name_of(self, found: str) -> str:
        """The name of the teacher whose answers those with a fingerprint are."""
        owner = self.components.owner(found)
        return owner.name if owner else self.components.teacher(found).name


def look(place: Path | str) -> View:
    """Reads what there is: listings and footers. Raises UsageError where there is no run."""
    store, components = open_run(place)
    return View(store, components, *read_state(components, store), config_of(store))


@dataclass
class Shown:
    """One prompt with every candidate, best first."""

    prompt: dict[str, Any]
    candidates: list[dict[str, Any]]
    selected: dict[str, Any] | None
    quarantined: str | None


def show(place: Path | str, prefix: str) -> Shown:
    """Finds a prompt by id, or the start of one, or the user's own id. Raises InputError."""
    store, components, planner, shards, config = look(place)
    shard, prompt = _find(store, shards, prefix)
    key = prompt["prompt_id"]
    candidates: list[dict[str, Any]] = []
    for lane in planner.lanes(shard):
        if planner.is_done(lane.generate):
            candidates += _candidates(store, planner, lane, prompt, config)
    candidates.sort(
        key=lambda row: (bool(row["gates"]), row["score"] is None, -(row["score"] or 0.0))
    )
    folder = planner.folder_of(components.selector)
    product = f"{folder}/{shard.number:05d}.parquet"
    selected = quarantined = None
    if product in planner.selected:
        rows = store.read(product).table.to_pylist()
        selected = next((row for row in rows if row["prompt_id"] == key), None)
        aside = f"quarantine/select/{product.removeprefix('selected/')}"
        if selected is None and store.has(aside):
            lost = store.read(aside).table.to_pylist()
            quarantined = next((r["reason"] for r in lost if r["prompt_id"] == key), None)
    return Shown(prompt, candidates, selected, quarantined)


def _find(store: Store, shards: list[ShardState], prefix: str) -> tuple[ShardState, dict[str, Any]]:
    found = []
    for shard in shards:
        table = store.read(shard.path, columns=["prompt_id", "user_id"]).table
        ids, own = table["prompt_id"].to_pylist(), table["user_id"].to_pylist()
        rows = [n for n, key in enumerate(ids) if key.startswith(prefix) or own[n] == prefix]
        found += [(shard, row) for row in rows]
    if not found:
        raise InputError(f"no prompt of this run has an id that is or begins with {prefix!r}")
    if len(found) > 1:
        raise InputError(f"{len(found)} prompts have an id that begins with {prefix!r}; give more")
    shard, row = found[0]
    return shard, store.read(shard.path).table.slice(row, 1).to_pylist()[0]


def _candidates(
    store: Store, planner: Planner, lane: Lane, prompt: dict[str, Any], config: RunConfig
) -> list[dict[str, Any]]:
    """One teacher's candidates of a prompt with what is known of each; `score` is the first
    Arbiter's that gave one."""
    name = planner.components.teacher(lane.generate.variant or lane.generate.owner).name
    table = store.read(lane.generate.output).table
    key = prompt["prompt_id"]
    mine = [n for n, one in enumerate(table["prompt_id"].to_pylist()) if one == key]
    rows = [
        {"teacher": name, **row, "score": None, "gates": [], "scores": {}}
        for row in table.take(pa.array(mine, pa.int64())).to_pylist()
    ]
    if planner.is_done(lane.gate):
        facts = store.read(lane.gate.output).table.take(pa.array(mine, pa.int64()))
        failed = gates.apply(facts, [prompt["language"]] * len(rows), config.gates)
        for row, names in zip(rows, failed.to_pylist(), strict=True):
            row["gates"] = names
    for task in (task for task in lane.scores if planner.is_done(task)):
        arbiter = planner.components.arbiter_of(task.owner).name
        verdicts = store.read(task.output).table.take(pa.array(mine, pa.int64())).to_pylist()
        for row, told in zip(rows, verdicts, strict=True):
            row["scores"][arbiter] = told["score"]
            row["score"] = told["score"] if row["score"] is None else row["score"]
            row["error"] = row["error"] or told["error"]
    return rows
