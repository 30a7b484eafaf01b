"""What a run would do, take and cost, as plain data; reads files only, writes and starts nothing.

What is to be made is exact, but that answers which an earlier routing has left are counted again;
what it takes is estimated, and says from what.

    arbitrage plan arbitrage.yaml
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from arbitrage import manifest, prompts
from arbitrage.advice import advice
from arbitrage.components import Arbiter, Component, Components, Teacher
from arbitrage.demand import MEND_MISFIT, demand_of, machine_of, misfit
from arbitrage.estimate import (
    Costs,
    Figures,
    Forecast,
    Role,
    Unit,
    add_up,
    at_most,
    cost_of,
    forecast,
)
from arbitrage.figures import GATES, PRODUCT, PROMPTS, ROUTES, figures_of
from arbitrage.identity import nearest_identity
from arbitrage.plan import (
    CLERK,
    Lane,
    Planner,
    Round,
    ShardState,
    Task,
    read_state,
)
from arbitrage.records import MESSAGES, PROMPT_COLUMNS
from arbitrage.resolve import resolve
from arbitrage.routers import routes_of
from arbitrage.spending import paid
from arbitrage.store import Store
from arbitrage.summary import against

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arbitrage.config import RunConfig

NOTHING = Costs()


@dataclass
class RolePlan:
    """Work of one teacher, the Arbiter, the router or the selector: to do, and stored.

    `tasks` and `stored` are shards, `requests` completions or scores. Shards of prompts that are
    not read yet are those of `prompts.shard_size`.
    """

    name: str
    stage: str
    tasks: int = 0
    prompts: int = 0
    requests: int = 0
    stored: int = 0
    stored_prompts: int = 0
    stored_requests: int = 0
    changed: list[str] = field(default_factory=list)
    costs: Costs = NOTHING


@dataclass
class Preview:
    """What `run` would do; `budget` maps what is limited to (spent, limit).

    `languages`: prompts per language that a teacher or the Arbiter still has work with. `total`:
    the sum of all costs, a measure of it none where one part is not known. `misfits`: for each role
    that never fits the sentence with which `run` would refuse it. `forecast` is none where nothing
    is to be done or the machine is not known.
    """

    run: str
    unread: list[str]
    prompts: int
    new_prompts: int
    roles: list[RolePlan]
    budget: dict[str, tuple[float, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    languages: dict[str, int] = field(default_factory=dict)
    total: Costs = NOTHING
    free_bytes: int | None = None
    machine: dict[str, float] | None = None
    forecast: Forecast | None = None
    misfits: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.unread and not any(role.tasks for role in self.roles)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {**asdict(self), "nothing_to_do": self.is_empty}


def preview(config: RunConfig, probed: Mapping[str, Figures] | None = None) -> Preview:
    """Plans as `run` would, routing in memory; writes nothing.

    `probed` holds figures by fingerprint for parts that have none of their own in this run.
    """
    components = resolve(config)
    store = Store(config.run, patience_s=config.output.patience_s)
    prompt_set = prompts.find(config.prompts, components.covered, store)
    prompts.survey(prompt_set)
    planner, shards = read_state(components, store)
    usages = paid(store, planner.listing)
    # Before anything is routed in memory, as that adds to the listing what is not there.
    known = {**(probed or {}), **figures_of(store, planner, shards, usages)}
    count = _Count(planner, store)
    for shard in shards:
        count.add_shard(shard)
    new = prompts.new_prompts(prompt_set, store) if prompt_set.unread else iter(())
    fresh = count.add_new(new, config, len(shards))
    for role, part in count.parts():
        if role.tasks and not role.stored:
            role.changed = _changes(store, part)
    _price(count, known, fresh)
    limits = config.budget.limits()
    found = Preview(
        store.address(),
        [source.name for source in prompt_set.unread],
        sum(shard.rows for shard in shards),
        fresh,
        list(count.roles.values()),
        against(limits, usages) if limits else {},
        advice(config),
        dict(sorted(count.languages.items())),
        _total([role.costs for role in count.roles.values() if role.tasks]),
    )
    found.warnings += _later(components)
    _weigh_budget(found)
    _look_ahead(found, config, components, count.units, known)
    return found


def _later(components: Components) -> list[str]:
    """What nobody can count before it is there."""
    later = [f"router {components.router.name!r}"] if components.router.lag else []
    later += [one.name for one in components.rounds[1:]]
    if not later:
        return []
    return [
        f"who is asked depends on what comes of it ({', '.join(dict.fromkeys(later))}): the run "
        "may ask others, and more or fewer, than is told here"
    ]


def _weigh_budget(found: Preview) -> None:
    """Warns of what the budget is known, or expected, not to pay for."""
    total = found.total
    need: dict[str, float | None] = {"requests": sum(role.requests for role in found.roles)}
    if total.source != "bound":
        need |= {"tokens": add_up([total.prompt_tokens, total.completion_tokens])}
        need |= {"money": total.money}
    for name, (spent, limit) in found.budget.items():
        wanted, left = need.get(name), max(0.0, limit - spent)
        if wanted is not None and wanted > left:
            found.warnings.append(
                f"the budget pays for a part: {_told(wanted)} {name} are needed and {_told(left)} "
                "are left; the run will stop before its end, and go on when `budget:` is raised"
            )


def _told(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 or amount == round(amount) else f"{amount:,.2f}"


class _Count:
    """Adds up what is to do and what is stored, shard by shard."""

    def __init__(self, planner: Planner, store: Store) -> None:
        components = planner.components
        self.roles = {("route", ""): RolePlan("router", "route")}
        for teacher in components.answering:
            self.roles["generate", teacher.fingerprint] = RolePlan(teacher.name, "generate")
        self.roles["gate", ""] = RolePlan("gates", "gate")
        for arbiter in components.arbiters:
            self.roles["score", arbiter.fingerprint] = RolePlan(arbiter.name, "score")
        self.roles["select", ""] = RolePlan(components.selector.name, "select")
        self.units: list[Unit] = []
        self.languages: Counter[str] = Counter()
        self._planner = planner
        self._store = store

    def parts(self) -> Iterator[tuple[RolePlan, Teacher | Arbiter]]:
        """All that have an engine, with their work."""
        for part in self._planner.components.served:
            stage = "generate" if isinstance(part, Teacher) else "score"
            yield self.roles[stage, part.fingerprint], part

    def add_shard(self, shard: ShardState) -> None:
        """Counts a shard that is stored; one that is not routed yet is routed in memory."""
        planner, missing, table = self._planner, [], None
        if not shard.rounds:
            table = self._prompts_of(shard)
            asked = routes_of(table, planner.components)[0]
            route = planner.route_task(shard)
            if route is not None:
                planner.record(route)
            missing.append(Task("route", CLERK, shard.number, (), "", rows=shard.rows))
            shard.rounds.append(Round(route.output if route else "", asked))
        missing += planner.tasks(shard)
        if not any(task.stage == "select" for task in missing) and not self._is_complete(shard):
            missing.append(Task("select", CLERK, shard.number, (), "", rows=shard.rows))
        for task in missing:
            served = task.stage in ("generate", "score")
            role = self.roles[task.stage, task.owner if served else ""]
            _add(role, task.rows, task.requests)
        lanes = planner.lanes(shard)
        for task in (task for lane in lanes for task in lane.tasks if planner.is_done(task)):
            role = self.roles[task.stage, "" if task.owner == CLERK else task.owner]
            role.stored += 1
            role.stored_prompts += task.rows
            role.stored_requests += task.requests
        units = [unit for lane in lanes if (unit := self._unit(lane))]
        if units:
            self._add_units(units, self._prompts_of(shard) if table is None else table)

    def _is_complete(self, shard: ShardState) -> bool:
        """Whether nothing more can become of it that has no name yet."""
        return self._planner.is_routed(shard) and not any(self._planner.tasks(shard))

    def _prompts_of(self, shard: ShardState) -> pa.Table:
        return self._store.read(shard.path, columns=PROMPT_COLUMNS).table

    def _unit(self, lane: Lane) -> Unit | None:
        generate, done = lane.generate, self._planner.is_done
        asked = 0 if done(generate) else generate.requests
        judged = {task.owner: task.requests for task in lane.scores if not done(task)}
        judged = {owner: count for owner, count in judged.items() if count}
        return Unit(generate.owner, generate.shard, asked, judged) if asked or judged else None

    def _add_units(self, units: Sequence[Unit], table: pa.Table) -> None:
        self.units += units
        components = self._planner.components
        owners = {unit.teacher for unit in units}
        asked = [t.languages for t in components.teachers if t.fingerprint in owners]
        for language, count in Counter(table["language"].to_pylist()).items():
            if any(language in languages for languages in asked):
                self.languages[language] += count

    def add_new(self, fresh: Iterator[prompts.Accepted], config: RunConfig, number: int) -> int:
        """Adds the work of prompts that are in no shard yet; returns how many there are."""
        components = self._planner.components
        total = 0
        while rows := list(itertools.islice(fresh, config.prompts.shard_size)):
            messages = pa.array([row.messages for row in rows], MESSAGES)
            table = pa.table(
                [[row.id for row in rows], [row.language for row in rows], messages], PROMPT_COLUMNS
            )
            units = []
            for owner, (count, _) in routes_of(table, components)[0].items():
                requests = count * components.teacher(owner).samples
                _add(self.roles["generate", owner], count, requests)
                _add(self.roles["gate", ""], count, 0)
                judged = {a.fingerprint: requests for a in components.arbiters}
                for arbiter in judged:
                    _add(self.roles["score", arbiter], count, requests)
                units.append(Unit(owner, number, requests, judged))
            self._add_units(units, table)
            for stage in ("route", "select"):
                _add(self.roles[stage, ""], len(rows), 0)
            total, number = total + len(rows), number + 1
        return total


def _add(role: RolePlan, rows: int, requests: int) -> None:
    role.tasks += 1
    role.prompts += rows
    role.requests += requests


def _changes(store: Store, part: Component) -> list[str]:
    """How a component without files differs from the nearest earlier one of its name."""
    notes = manifest.identities(store, part.kind)
    earlier = [note["identity"] for note in notes if note["name"] == part.name]
    return nearest_identity(part.identity, [old for old in earlier if old != part.identity])


def _price(count: _Count, known: Mapping[str, Figures], fresh: int) -> None:
    """Sets every role's costs."""
    for role, part in count.parts():
        figures = known.get(part.fingerprint)
        if isinstance(part, Teacher):
            figures = figures or at_most(part.config.sampling)
        role.costs = cost_of(role.requests, figures or Figures("bound"), part.config.price)
    for stage, names in (("route", (PROMPTS, ROUTES)), ("gate", (GATES,)), ("select", (PRODUCT,))):
        role = count.roles[stage, ""]
        rows = {PROMPTS: fresh}
        parts = [cost_of(rows.get(n, role.prompts), known.get(n, Figures("")), None) for n in names]
        size = add_up(part.bytes for part in parts)
        source = next((part.source for part in parts if part.source), "")
        role.costs = Costs(source, 0, 0, None, 0.0, None if size is None else round(size))


def _total(costs: Sequence[Costs]) -> Costs:
    """The sum; roles without a price cost nothing, and the Arbiter's tokens count where told."""
    money = [one.money for one in costs if one.money is not None]
    prompt = add_up(one.prompt_tokens for one in costs if one.completion_tokens is not None)
    completion = [one.completion_tokens for one in costs if one.completion_tokens is not None]
    size = add_up(one.bytes for one in costs)
    return Costs(
        "bound" if any(one.source == "bound" for one in costs) else "",
        None if prompt is None else round(prompt),
        sum(completion) if completion else None,
        sum(money) if money else None,
        add_up(one.time_s for one in costs),
        None if size is None else round(size),
    )


def _look_ahead(
    found: Preview,
    config: RunConfig,
    components: Components,
    units: Sequence[Unit],
    known: Mapping[str, Figures],
) -> None:
    """Adds what the machine and its disk make of it."""
    found.free_bytes = _free_bytes(config.run)
    size = found.total.bytes
    if size is not None and found.free_bytes is not None and size > found.free_bytes:
        found.warnings.append(
            f"about {size / 1e9:,.1f} GB are to be written, and the disk of {config.run} has "
            f"{found.free_bytes / 1e9:,.1f} GB left; make room, or name another `run:`"
        )
    total = machine_of(config.cluster)
    if total is None:
        return
    found.machine = {"cpus": total.cpus, "gpus": total.gpus, "memory_gb": total.memory_gb}
    parts = components.served
    demands = {part.name: demand_of(part.config) for part in parts}
    found.misfits = [
        f"{misfit(name, demand, total)}; {MEND_MISFIT}"
        for name, demand in demands.items()
        if not total.holds(demand)
    ]
    if units and not found.misfits:
        roles = [_role(part, known.get(part.fingerprint, Figures(""))) for part in parts]
        found.forecast = forecast(roles, units, total)


def _role(part: Teacher | Arbiter, figures: Figures) -> Role:
    config = part.config
    demand = demand_of(config)
    kind = (config.engine, config.resources.python, demand)
    bounds = (config.resources.replicas, config.resources.min_replicas)
    times = (figures.request_s, figures.load_s)
    return Role(part.fingerprint, part.name, demand, *bounds, kind, *times)


def _free_bytes(run: str) -> int | None:
    """Room on the disk that a run directory is or would be on; none for an object store."""
    if "://" in run:
        return None
    place = Path(run).resolve()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    return shutil.disk_usage(there).free
