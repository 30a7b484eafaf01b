"""How far a run is, from its files alone: of any host, whether it is running or not.

Reads listings, footers and the diary; starts nothing. What is being made while this looks is either
counted or not, and never an error.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from arbitrage.errors import StoreError
from arbitrage.pace import last_call
from arbitrage.plan import CLERK, STAGES, read_state
from arbitrage.prompts import MEMO
from arbitrage.reading import REPLACED
from arbitrage.spending import paid
from arbitrage.store import Store
from arbitrage.summary import against
from arbitrage.views import config_of, open_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from arbitrage.components import Components
    from arbitrage.pace import Call
    from arbitrage.plan import Planner, ShardState

TOLD_BY = {"routes": "teachers", "candidates": "teacher", "scores": "arbiter"}
"""What the footers of some kinds must tell."""
KEPT = {*TOLD_BY.values(), "rows", "errors", "completion_tokens", "spent"}

Notes = dict[str, dict[str, Any]]


@dataclass
class RoleStatus:
    """Stored work of one role: shards done of those known, rows done of those that these will have,
    tokens, errors. Of a running run `rows_per_s` is the speed of all replicas in this call, and
    `left_s` what is left at that speed; none where it is not known."""

    name: str
    stage: str
    done: int = 0
    known: int = 0
    rows: int = 0
    errors: int = 0
    completion_tokens: int = 0
    rows_left: int = 0
    rows_per_s: float | None = None
    left_s: float | None = None

    @property
    def share(self) -> float | None:
        """How much of what is known is done, 0 to 1."""
        return self.done / self.known if self.known else None


@dataclass
class Status:
    """A run as its files tell.

    `selected` and `quarantined` are prompts of the current product, `refused` rows of the sources;
    `outdated`: shards of the product that are there, but not yet with all that they should have.
    `set_aside`: teachers that the last call gave up, and why. `budget` maps what is limited to
    (spent, limit). `left_s`: about the time left by the role that is last, none where not known.
    """

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
    selected: int = 0
    quarantined: int = 0
    refused: int = 0
    budget: dict[str, tuple[float, float]] = field(default_factory=dict)
    left_s: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every prompt is selected or quarantined, with all of its answers."""
        whole = self.prompts == self.selected + self.quarantined
        return bool(self.shards) and whole and not self.outdated and not self.unrouted

    @property
    def share(self) -> float:
        """Of the prompts that are stored, those that are selected or quarantined, 0 to 1."""
        return (self.selected + self.quarantined) / self.prompts if self.prompts else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        roles = [{**asdict(role), "share": role.share} for role in self.roles]
        return {**asdict(self), "complete": self.is_complete, "roles": roles}


@dataclass(frozen=True)
class _Remembering(Store):
    """Reads the footer of a file that never changes once only."""

    notes: Notes = field(default_factory=dict, compare=False, repr=False)

    def footer(self, relative: str) -> dict[str, Any]:
        if relative in self.notes:
            return self.notes[relative]
        note = super().footer(relative)
        kind = relative.partition("/")[0]
        if TOLD_BY.get(kind, "rows") not in note:
            raise StoreError(f"{self.address(relative)} is no file of a run; move it elsewhere")
        if kind not in REPLACED:
            self.notes[relative] = {name: note[name] for name in KEPT & note.keys()}
        return note


def status(place: Path | str, notes: Notes | None = None) -> Status:
    """Counts what is stored. `notes` keeps what need not be read again for the next look.

    Raises UsageError where there is no run, StoreError where it cannot be read.
    """
    store, components = open_run(place)
    remembering = _Remembering(
        store.root, patience_s=store.patience_s, notes={} if notes is None else notes
    )
    try:
        return _status(remembering, components)
    except StoreError:  # a file that was listed may be gone a moment later
        return _status(remembering, components)


def _status(store: Store, components: Components) -> Status:
    config = config_of(store)
    running = store.is_held()  # first: what ends meanwhile is then told to be running, not lost
    planner, shards = read_state(components, store)
    call = last_call(store.events())
    roles, outdated = _roles(store, components, planner, shards)
    limits = config.budget.limits()
    found = Status(
        store.address(),
        running,
        store.holder() if running else None,
        sum(shard.rows for shard in shards),
        len(shards),
        sum(not planner.is_routed(shard) for shard in shards),
        list(roles.values()),
        call.set_aside,
        outdated,
        call.last,
        max(0.0, round(time.time() - call.last["time"], 1)) if call.last else None,
        refused=_refused(store),
        budget=against(limits, paid(store, planner.listing)) if limits else {},
    )
    for note in store.footers(planner.selected).values():
        found.quarantined += note.get("quarantined", 0)
        found.selected += note.get("selected", note["rows"])
    if running:
        _time(found, roles, call)
    return found


def _refused(store: Store) -> int:
    """Rows of the sources that are no prompts."""
    tallies = (store.read_json(MEMO) or {}).values()
    return sum(sum(tally["refused"].values()) for tally in tallies)


def _roles(
    store: Store, components: Components, planner: Planner, shards: Iterable[ShardState]
) -> tuple[dict[tuple[str, str], RoleStatus], int]:
    """By (stage, owner) what is stored, and how many shards of the product are outdated."""
    roles = {
        **{
            ("generate", t.fingerprint): RoleStatus(t.name, "generate")
            for t in components.answering
        },
        ("gate", CLERK): RoleStatus("gates", "gate"),
        **{("score", a.fingerprint): RoleStatus(a.name, "score") for a in components.arbiters},
        ("select", CLERK): RoleStatus(components.selector.name, "select"),
    }
    files: dict[tuple[str, str], list[str]] = {key: [] for key in roles}
    product, outdated = ("select", CLERK), 0
    for shard in shards:
        for lane in planner.lanes(shard):
            for task in lane.tasks:
                key = (task.stage, task.owner)
                roles[key].known += 1
                if planner.is_done(task):
                    files[key].append(task.output)
                else:
                    roles[key].rows_left += lane.generate.requests
        made = f"{planner.folder_of(components.selector)}/{shard.number:05d}.parquet"
        roles[product].known += 1
        if not any(task.stage in STAGES[1:] for task in planner.tasks(shard)):
            files[product].append(made)
        else:
            roles[product].rows_left += shard.rows
            outdated += made in planner.selected
    for key, paths in files.items():
        _add_footers(roles[key], list(store.footers(paths).values()))
    return roles, outdated


def _add_footers(role: RoleStatus, notes: list[dict[str, Any]]) -> None:
    totals: Counter[str] = Counter()
    for note in notes:
        for name in ("rows", "errors", "completion_tokens"):
            totals[name] += note.get(name, 0)
    role.done = len(notes)
    role.rows, role.errors = totals["rows"], totals["errors"]
    role.completion_tokens = totals["completion_tokens"]


def _time(found: Status, roles: Mapping[tuple[str, str], RoleStatus], call: Call) -> None:
    """Speeds, and what is left by them: of the whole where all that have work have a speed, and
    where no prompt is left whose work is not known yet."""
    waiting = []
    for (stage, owner), role in roles.items():
        role.rows_per_s = call.rows_per_s(stage, owner)
        if role.rows_left and role.rows_per_s and role.name not in call.set_aside:
            role.left_s = role.rows_left / role.rows_per_s
        if role.rows_left and role.name not in call.set_aside:
            waiting.append(role.left_s)
    known = [left for left in waiting if left is not None]
    if known and len(known) == len(waiting) and not found.unrouted:
        found.left_s = max(known)
