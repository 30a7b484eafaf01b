"""Decides, purely, which replicas to start and stop and which task goes to which replica.

Knows no Ray, clock or file: values in, decisions out. Rules:

* work-conserving: no slot idles while a role that fits has work; roles that do not fit wait for
  their turn, the one with most work ready first;
* a replica that has work is never stopped, so every turn is played to its end;
* an idle replica gives its slots back when nothing more is to come for it, or another role that is
  waiting needs them; roles that expect work are loaded ahead when nobody else waits;
* every replica has two tasks in flight, so that its batch does not drain at a shard's edge;
* where a replica stops and another of its kind starts, its process is kept and changes the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

IN_FLIGHT_PER_REPLICA = 2
_EPSILON = 1e-6


class Slots(NamedTuple):
    """An amount of the cluster: CPUs, accelerators, gigabytes of memory."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gb: float = 0.0

    def holds(self, demand: Slots) -> bool:
        """Whether the demand fits in."""
        return all(have + _EPSILON >= want for have, want in zip(self, demand, strict=True))

    def plus(self, other: Slots) -> Slots:
        """The sum."""
        return Slots(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Slots) -> Slots:
        """The difference."""
        return Slots(*(a - b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class RoleView:
    """A role as the scheduler sees it.

    `ready`: tasks that could start now; `expected`: whether more will become ready; `replicas`:
    live or starting ones; `idle`: names of those with nothing in flight; `most`: the upper bound.
    """

    name: str
    demand: Slots
    ready: int
    expected: bool
    replicas: int
    idle: tuple[str, ...] = ()
    most: int = 1


class Start(NamedTuple):
    """Start one more replica of a role."""

    role: str


class Stop(NamedTuple):
    """Stop an idle replica."""

    role: str
    replica: str


class Swap(NamedTuple):
    """Let an idle replica go and use its process for another role."""

    replica: str
    role: str


def decide(roles: Sequence[RoleView], free: Slots) -> list[Start | Stop]:
    """Replicas to stop, then replicas to start, given the free slots."""
    done = [role for role in roles if not role.ready and not role.expected]
    stops = [Stop(role.name, replica) for role in done for replica in role.idle]
    free = _freed(roles, stops, free)
    waiting = sorted(
        (role for role in roles if role.ready and not role.replicas), key=lambda r: -r.ready
    )
    starts: list[Start] = []
    made_room: list[Stop] = []
    for role in waiting:
        if not free.holds(role.demand):
            more = _make_room(roles, [*stops, *made_room], role.demand, free)
            made_room += more
            free = _freed(roles, more, free)
        if free.holds(role.demand):
            free = free.minus(role.demand)
            starts.append(Start(role.name))
    made_room, free = _without_spare(roles, made_room, free)
    stops += made_room
    started = {start.role for start in starts}
    patient = [role.demand for role in waiting if role.name not in started]
    free = _beside(patient, free)
    growth = _grow(roles, free)
    return [*stops, *starts, *growth, *_load_ahead(roles, _spent(roles, growth, free))]


def with_swaps(
    decisions: Sequence[Start | Stop], kinds: Mapping[str, Hashable]
) -> list[Start | Stop | Swap]:
    """The same decisions, with a `Swap` for each pair of a stop and a start of one kind.

    `kinds` maps roles to what their replicas' processes have in common.
    """
    stops = [decision for decision in decisions if isinstance(decision, Stop)]
    starts: list[Start | Swap] = []
    for decision in decisions:
        if isinstance(decision, Stop):
            continue
        kind = kinds[decision.role]
        used = next((stop for stop in stops if kinds[stop.role] == kind), None)
        if used is None:
            starts.append(decision)
        else:
            stops.remove(used)
            starts.append(Swap(used.replica, decision.role))
    return [*stops, *starts]


def _freed(roles: Sequence[RoleView], stops: Sequence[Stop], free: Slots) -> Slots:
    demand = {role.name: role.demand for role in roles}
    for stop in stops:
        free = free.plus(demand[stop.role])
    return free


def _make_room(
    roles: Sequence[RoleView], stops: Sequence[Stop], demand: Slots, free: Slots
) -> list[Stop]:
    """Idle replicas to stop so that `demand` fits; none if even that would not do."""
    chosen: list[Stop] = []
    for role in roles:
        if role.ready or not any(role.demand):
            continue
        for replica in role.idle:
            stop = Stop(role.name, replica)
            if stop in stops:
                continue
            chosen.append(stop)
            free = free.plus(role.demand)
            if free.holds(demand):
                return chosen
    return []


def _without_spare(
    roles: Sequence[RoleView], stops: list[Stop], free: Slots
) -> tuple[list[Stop], Slots]:
    """Takes back the stops whose slots are still free after all: later ones made room enough."""
    demand = {role.name: role.demand for role in roles}
    kept = []
    for stop in stops:
        if free.holds(demand[stop.role]):
            free = free.minus(demand[stop.role])
        else:
            kept.append(stop)
    return kept, free


def _beside(patient: Sequence[Slots], free: Slots) -> Slots:
    """What is left when everything that the waiting roles want is kept for them."""
    for wish in patient:
        free = Slots(*(max(0.0, have - want) for have, want in zip(free, wish, strict=True)))
    return free


def _grow(roles: Sequence[RoleView], free: Slots) -> list[Start]:
    """Further replicas for roles that have ready work and no idle replica to give it to."""
    starts: list[Start] = []
    growing = [role for role in roles if role.replicas]
    while True:
        growing = [
            role
            for role in growing
            if role.replicas < role.most
            and role.ready > 0
            and not role.idle
            and free.holds(role.demand)
        ]
        if not growing:
            return starts
        role = max(growing, key=lambda r: r.ready / r.replicas)
        free = free.minus(role.demand)
        starts.append(Start(role.name))
        left = max(0, role.ready - IN_FLIGHT_PER_REPLICA)
        grown = replace(role, replicas=role.replicas + 1, ready=left)
        growing = [grown if other is role else other for other in growing]


def _spent(roles: Sequence[RoleView], starts: Sequence[Start], free: Slots) -> Slots:
    demand = {role.name: role.demand for role in roles}
    for start in starts:
        free = free.minus(demand[start.role])
    return free


def _load_ahead(roles: Sequence[RoleView], free: Slots) -> list[Start]:
    """Roles that have nothing to do yet but will, in the order given, as far as they fit."""
    starts: list[Start] = []
    for role in roles:
        fits = free.holds(role.demand)
        if role.expected and not role.ready and not role.replicas and fits:
            free = free.minus(role.demand)
            starts.append(Start(role.name))
    return starts


def assign(ready: int, in_flight: dict[str, int]) -> list[str]:
    """The replicas that get the next tasks of a role, least loaded first; at most `ready` names."""
    load = dict(in_flight)
    given: list[str] = []
    while load and len(given) < ready:
        name = min(load, key=lambda replica: (load[replica], replica))
        if load[name] >= IN_FLIGHT_PER_REPLICA:
            break
        load[name] += 1
        given.append(name)
    return given
