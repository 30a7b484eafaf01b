"""What `status` and `show` say, as plain data; reads files only and starts nothing."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from arbitrage import gates
from arbitrage.components import Components
from arbitrage.config import RunConfig
from arbitrage.errors import InputError, StoreError, UsageError
from arbitrage.plan import CLERK, STAGES, ShardState, read_state
from arbitrage.resolve import resolve
from arbitrage.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from arbitrage.plan import Lane, Planner

LOOK_PATIENCE_S = 10.0
"""Of those who only look; a run's own is in its config."""


@dataclass
class RoleStatus:
    """Stored work of one role: shards done of those known, rows, tokens, errors."""

    name: str
    stage: str
    done: int = 0
    known: int = 0
    rows: int = 0
    errors: int = 0
    completion_tokens: int = 0


@dataclass
class Status:
    """A run as its files tell. `set_aside`: teachers that the last call gave up, and why;
    `outdated`: shards of the product that are there, but not yet with all that they should have."""

    run: str
    running: bool
    holder: str | None
    prompts: int
    shards: int
    unrouted: int
    roles: list[RoleStatus]
    set_aside: dict[str, str]
    outdated: int
    last_event: dict[str, Any] | None
    seconds_since_event: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def open_run(place: Path | str) -> tuple[Store, Components]:
    """A run directory, or the config that names one. Raises UsageError where there is no run."""
    store = Store(place, patience_s=LOOK_PATIENCE_S)
    if not store.exists():
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


def status(place: Path | str) -> Status:
    """Counts what is stored, from listings and footers."""
    store, components = open_run(place)
    planner, shards = read_state(components, store)
    roles = {
        **{t.fingerprint: RoleStatus(t.name, "generate") for t in components.answering},
        CLERK: RoleStatus("gates", "gate"),
        **{a.fingerprint: RoleStatus(a.name, "score") for a in components.arbiters},
        "": RoleStatus(components.selector.name, "select", known=len(shards)),
    }
    files: dict[str, list[str]] = {owner: [] for owner in roles}
    outdated = 0
    for shard in shards:
        for task in (task for lane in planner.lanes(shard) for task in lane.tasks):
            roles[task.owner].known += 1
            if planner.is_done(task):
                files[task.owner].append(task.output)
        made = f"{planner.folder_of(components.selector)}/{shard.number:05d}.parquet"
        if not any(task.stage in STAGES[1:] for task in planner.tasks(shard)):
            files[""].append(made)
        else:
            outdated += made in planner.selected
    for owner, paths in files.items():
        _add_footers(roles[owner], list(store.footers(paths).values()))
    last = None
    set_aside: dict[str, str] = {}
    for event in store.events():
        last = event
        if event["event"] == "run_started":
            set_aside = {}
        elif event["event"] == "set_aside":
            set_aside[event["role"]] = event["reason"]
    return Status(
        store.address(),
        running := store.is_held(),
        store.holder() if running else None,
        sum(shard.rows for shard in shards),
        len(shards),
        sum(not planner.is_routed(shard) for shard in shards),
        list(roles.values()),
        set_aside,
        outdated,
        last,
        round(time.time() - last["time"], 1) if last else None,
    )


def _add_footers(role: RoleStatus, notes: Sequence[dict[str, Any]]) -> None:
    totals: Counter[str] = Counter()
    for note in notes:
        for name in ("rows", "errors", "completion_tokens"):
            totals[name] += note.get(name, 0)
    role.done = len(notes)
    role.rows, role.errors = totals["rows"], totals["errors"]
    role.completion_tokens = totals["completion_tokens"]


@dataclass
class Shown:
    """One prompt with every candidate, best first."""

    prompt: dict[str, Any]
    candidates: list[dict[str, Any]]
    selected: dict[str, Any] | None
    quarantined: str | None


def show(place: Path | str, prefix: str) -> Shown:
    """Finds a prompt by id, or the start of one, or the user's own id. Raises InputError."""
    store, components = open_run(place)
    planner, shards = read_state(components, store)
    config = RunConfig.model_validate(store.read_json("run.json")["config"])
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
