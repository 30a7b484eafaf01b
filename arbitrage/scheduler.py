"""Decides, purely, which replicas to start and stop and which task goes to which replica.

Knows no Ray, clock or file: values in, decisions out. Rules:

* work-conserving: no slot idles while a role that fits has work; roles that do not fit wait for
  their turn, those first that can do all of theirs in it, then the one with most work;
* a replica that has work is never stopped, so every turn is played to its end;
* an idle replica gives its slots back when nothing more is to come for it, or another role that is
  waiting needs them; roles that expect work are loaded ahead when nobody else waits;
* a role that starts gets up to its minimum before any role grows beyond its own; the next slot
  then goes to the role with the longest remaining time per replica, if that is longer than a load;
* where a role waits without any replica and another holds more than its minimum, or has far more
  left per replica than that other, it gets a place of it: the replica is drained, that is, given
  nothing more, and stopped when it is idle;
* nothing is drained unless what is gained is several times the loads that it costs, so that
  replicas are not moved in circles;
* every replica has two tasks in flight, so that its batch does not drain at a shard's edge.

What becomes of the processes of those that stop is for `turns` to say.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from arbitrage.placement import Node, Place, Room, Slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

IN_FLIGHT_PER_REPLICA = 2
FAR_ABOVE = 2.0
"""So many times the remaining time of another role is enough to take a place of it."""
LOADS_GAINED = 4.0
"""A drain must gain so many times what both loads take."""


@dataclass(frozen=True)
class RoleView:
    """A role as the scheduler sees it.

    `ready`: tasks that could start now; `expected`: whether more will become ready; `replicas`:
    live or starting ones; `idle`: names of those with nothing in flight; `most`, `least`: bounds;
    `left`: all tasks not done; `task_s`: seconds that one replica needs per task, `load_s`: seconds
    to load, both 0 if unknown; `at`: where the live replicas are; `draining`: who gets no task;
    `ending`: whether nothing is left but what is in flight.
    """

    name: str
    demand: Slots
    ready: int
    expected: bool
    replicas: int
    idle: tuple[str, ...] = ()
    most: int = 1
    least: int = 1
    left: int = 0
    task_s: float = 0.0
    load_s: float = 0.0
    at: Mapping[str, Place] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    ending: bool = False

    @property
    def work(self) -> float:
        """Seconds of one replica that are left; just tasks while nobody knows how long one is."""
        return max(self.left, self.ready) * (self.task_s or 1.0)

    @property
    def remaining(self) -> float:
        """The same per replica that works on."""
        return self.work / max(1, self.replicas - len(self.draining))


class Start(NamedTuple):
    """Start one more replica of a role at a place."""

    role: str
    place: Place


class Stop(NamedTuple):
    """Stop an idle replica."""

    role: str
    replica: str


class Drain(NamedTuple):
    """Give a replica no more tasks; it is stopped when it is idle."""

    role: str
    replica: str


Decision = Start | Stop | Drain


def decide(roles: Sequence[RoleView], nodes: Iterable[Node]) -> list[Decision]:
    """Replicas to stop, then to start, then to drain, given what is free on the nodes."""
    named = {role.name: role for role in roles}
    room = Room(nodes)
    stops = _finished(roles)
    for stop in stops:
        room.give(named[stop.role].at[stop.replica])
    waiting = in_line(roles, stops)
    starts: list[Start] = []
    made_room: list[Stop] = []
    for role in waiting:
        place = room.place(role.demand)
        if place is None:
            more = _make_room(roles, {*stops, *made_room}, role.demand, room)
            made_room += more
            place = room.place(role.demand) if more else None
        if place is not None:
            room.take(place)
            starts.append(Start(role.name, place))
    stops += _without_spare(named, made_room, room)
    starts += _to_minimum(roles, starts, room)
    started = {start.role for start in starts}
    patient = [role for role in waiting if role.name not in started]
    drains = _drain(roles, patient, room, stops)
    starts += _grow(roles, starts, room)
    return [*stops, *starts, *_load_ahead(roles, room), *drains]


def in_line(roles: Iterable[RoleView], stops: Sequence[Stop] = ()) -> list[RoleView]:
    """The roles that have work and, after the stops, no replica, in the order in which they get
    one. (The last replica of a role may have been drained for one that cannot start yet.)"""
    going = Counter(stop.role for stop in stops)
    waiting = [role for role in roles if role.ready and role.replicas == going[role.name]]
    return sorted(waiting, key=lambda role: (role.expected, -role.work))


def _finished(roles: Sequence[RoleView]) -> list[Stop]:
    """Idle replicas of roles that are done, and those that were drained."""
    return [
        Stop(role.name, name)
        for role in roles
        for name in role.idle
        if name in role.draining or not (role.ready or role.expected)
    ]


def _make_room(
    roles: Sequence[RoleView], stops: set[Stop], demand: Slots, room: Room
) -> list[Stop]:
    """Stops idle replicas so that `demand` fits; none if even that would not do."""
    chosen: list[Stop] = []
    tried = room.copy()
    for role in roles:
        if role.ready or not any(role.demand):
            continue
        for replica in role.idle:
            stop = Stop(role.name, replica)
            if stop in stops:
                continue
            chosen.append(stop)
            tried.give(role.at[replica])
            if tried.place(demand) is not None:
                for one in chosen:
                    room.give(_place_of(roles, one))
                return chosen
    return []


def _place_of(roles: Sequence[RoleView], stop: Stop) -> Place:
    return next(role.at[stop.replica] for role in roles if role.name == stop.role)


def _without_spare(named: Mapping[str, RoleView], stops: list[Stop], room: Room) -> list[Stop]:
    """Takes back the stops whose slots are still free after all: others made room enough."""
    kept = []
    for stop in stops:
        place = named[stop.role].at[stop.replica]
        if room.holds(place):
            room.take(place)
        else:
            kept.append(stop)
    return kept


def _to_minimum(roles: Sequence[RoleView], starts: Sequence[Start], room: Room) -> list[Start]:
    """Roles that have work get up to their minimum, the one with most work first."""
    found: list[Start] = []
    begun = {start.role for start in starts}
    for role in sorted(roles, key=lambda role: -role.work):
        if role.least < 2 or role.idle or not (role.replicas or role.name in begun):
            continue
        count = max(role.replicas, 1)
        while count < role.least and role.ready > IN_FLIGHT_PER_REPLICA * (count - role.replicas):
            place = room.place(role.demand)
            if place is None:
                break
            room.take(place)
            found.append(Start(role.name, place))
            count += 1
    return found


def _drain(
    roles: Sequence[RoleView], patient: Sequence[RoleView], room: Room, stops: Sequence[Stop]
) -> list[Drain]:
    """Keeps room for the roles that wait, and drains replicas of others to make it."""
    takers = [*patient, *_far_behind(roles, room)]
    if not takers:
        return []
    drains: list[Drain] = []
    stopped = {stop.replica for stop in stops}
    spare = {role.name: _spare(role, stopped) for role in roles}
    leaving = [r.at[n] for r in roles for n in r.draining if n in r.at and n not in stopped]
    for role in takers:
        tried = room.copy()
        for left in leaving:
            tried.give(left)
        place = tried.place(role.demand)
        more: list[Drain] = []
        if place is None:
            more, place = _enough(roles, role, spare, tried)
        if place is None:
            room.keep_anywhere(role.demand)
            continue
        room.keep(place)
        drains += more
        for drain in more:
            spare[drain.role].remove(drain.replica)
            leaving.append(_place_of(roles, Stop(*drain)))
    return drains


def _spare(role: RoleView, stopped: set[str]) -> list[str]:
    """The replicas beyond a role's minimum, those that started last first."""
    names = [n for n in role.at if n not in role.draining and n not in stopped]
    return names[: max(role.least, 1) - 1 : -1] if any(role.demand) else []


def _enough(
    roles: Sequence[RoleView], taker: RoleView, spare: Mapping[str, list[str]], tried: Room
) -> tuple[list[Drain], Place | None]:
    """The replicas to drain for one more of `taker`, and its place then."""
    donors = [role for role in roles if spare[role.name] and _may_take(taker, role)]
    donors.sort(key=lambda role: role.remaining)
    offered = [(role, name) for role in donors for name in spare[role.name]]
    count = tried.enough([role.at[name] for role, name in offered], taker.demand)
    if not count:
        return [], None
    for role, name in offered[:count]:
        tried.give(role.at[name])
    place = tried.place(taker.demand)
    tried.take(place or ())
    named = {role.name: role for role in donors}
    stops = [Stop(role.name, name) for role, name in offered[:count]]
    return [Drain(*stop) for stop in _without_spare(named, stops, tried)], place


def _may_take(taker: RoleView, donor: RoleView) -> bool:
    """Whether what is gained is several times what the loads cost."""
    loads = taker.load_s + donor.load_s
    if not taker.replicas:  # else the place would be free soon by itself
        return donor.name != taker.name and donor.remaining > FAR_ABOVE * loads
    after = donor.work / max(1, donor.replicas - len(donor.draining) - 1)
    gained = taker.remaining - after
    few = len(donor.draining) <= donor.replicas // 8
    known = bool(donor.task_s)
    return known and few and taker.remaining > FAR_ABOVE * after and gained > LOADS_GAINED * loads


def _far_behind(roles: Sequence[RoleView], room: Room) -> list[RoleView]:
    """The role with the longest remaining time, if it can use a place and there is none free."""
    growing = [r for r in roles if _may_grow(r) and r.task_s]
    if not growing:
        return []
    last = max(growing, key=lambda role: role.remaining)
    if room.place(last.demand) is not None:
        return []
    gives = any(_may_take(last, r) and _spare(r, set()) for r in roles if r is not last)
    return [last] if gives else []


def _may_grow(role: RoleView) -> bool:
    """Whether one more replica would have work for longer than it loads."""
    return (
        0 < role.replicas < role.most
        and role.ready > 0
        and not role.idle
        and (not role.task_s or role.remaining > role.load_s)
    )


def _grow(roles: Sequence[RoleView], starts: Sequence[Start], room: Room) -> list[Start]:
    """Further replicas for roles that have ready work and no idle replica to give it to."""
    found: list[Start] = []
    begun = {role.name: sum(start.role == role.name for start in starts) for role in roles}
    growing = [_grown(role, begun[role.name]) for role in roles if role.replicas]
    heap = [(-role.remaining, index) for index, role in enumerate(growing) if _may_grow(role)]
    heapq.heapify(heap)
    while heap:
        _, index = heapq.heappop(heap)
        role = growing[index]
        place = room.place(role.demand)
        if place is None:
            continue
        room.take(place)
        found.append(Start(role.name, place))
        growing[index] = _grown(role, 1)
        if _may_grow(growing[index]):
            heapq.heappush(heap, (-growing[index].remaining, index))
    return found


def _grown(role: RoleView, count: int) -> RoleView:
    """The role when so many more replicas of it are starting."""
    if not count:
        return role
    ready = max(0, role.ready - IN_FLIGHT_PER_REPLICA * count)
    left = max(role.left, role.ready)
    return replace(role, replicas=role.replicas + count, ready=ready, left=left)


def _load_ahead(roles: Sequence[RoleView], room: Room) -> list[Start]:
    """Roles that have nothing to do yet but will, in the order given, as far as they fit."""
    starts: list[Start] = []
    for role in roles:
        if role.expected and not role.ready and not role.replicas:
            place = room.place(role.demand)
            if place is not None:
                room.take(place)
                starts.append(Start(role.name, place))
    return starts


def assign(ready: int, in_flight: dict[str, int]) -> list[str]:
    """The replicas that get the next tasks of a role, least loaded first; at most `ready` names."""
    if not ready:
        return []
    load = [(count, name) for name, count in in_flight.items() if count < IN_FLIGHT_PER_REPLICA]
    heapq.heapify(load)
    given: list[str] = []
    while load and len(given) < ready:
        count, name = heapq.heappop(load)
        given.append(name)
        if count + 1 < IN_FLIGHT_PER_REPLICA:
            heapq.heappush(load, (count + 1, name))
    return given
