"""Says, purely, what becomes of a replica's process when its turn ends: another role may get it,
and may be prepared in it before.

Knows no Ray, clock or file. Nothing here changes what `scheduler.decide` has decided:

* where a replica stops and another of its kind starts, its process is kept and changes the engine;
* where a role waits for the place of replicas that have nothing left but what is in flight, the
  last one that it needs is told to prepare it, on the node where it will be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from arbitrage.placement import Room
from arbitrage.scheduler import Start, Stop, in_line

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from arbitrage.placement import Node, Place, Slots
    from arbitrage.scheduler import Decision, RoleView


class Swap(NamedTuple):
    """Let an idle replica go and use its process, where it is, for another role."""

    replica: str
    role: str


class Prepare(NamedTuple):
    """Let the process of a replica whose turn ends make ready for a role that gets its place."""

    role: str
    replica: str


def with_swaps(
    decisions: Sequence[Decision],
    kinds: Mapping[str, Hashable],
    at: Mapping[str, Place],
) -> list[Decision | Swap]:
    """The same decisions, with a `Swap` for each pair of a stop and a start of one kind.

    `kinds` maps roles to what their replicas' processes have in common, `at` the replicas that
    may stop to where they are: a process stays there, so nobody else may start on its nodes unless
    the place is the very same.
    """
    stops = [decision for decision in decisions if isinstance(decision, Stop)]
    starts: list[Decision | Swap] = []
    for decision in decisions:
        if isinstance(decision, Stop):
            continue
        used = None
        if isinstance(decision, Start):
            others = [d for d in decisions if isinstance(d, Start) and d is not decision]
            used = next((s for s in stops if _can_swap(s, decision, kinds, at, others)), None)
        if used is None:
            starts.append(decision)
        else:
            stops.remove(used)
            starts.append(Swap(used.replica, decision.role))
    return [*stops, *starts]


def _can_swap(
    stop: Stop,
    start: Start,
    kinds: Mapping[str, Hashable],
    at: Mapping[str, Place],
    others: Sequence[Start],
) -> bool:
    if kinds[stop.role] != kinds[start.role]:
        return False
    place = at[stop.replica]
    nodes = {share.node for share in place}
    taken = {share.node for other in others for share in other.place}
    return place == start.place or not nodes & taken


def preparations(
    roles: Sequence[RoleView], nodes: Iterable[Node], decisions: Sequence[Decision]
) -> list[Prepare]:
    """Which roles still wait after the decisions, and whose process can prepare each of them.

    `roles` and `nodes` are what was decided on. The same is said again for as long as it holds.
    """
    started = {decision.role for decision in decisions if isinstance(decision, Start)}
    waiting = [role for role in in_line(roles) if role.name not in started]
    ending = _ending(roles) if waiting else {}
    if not ending:
        return []
    found: list[Prepare] = []
    room = _room_after(roles, nodes, decisions)
    for role in waiting:
        names, room = _needed(role.demand, ending, room)
        if names:
            found.append(Prepare(role.name, names[-1]))
            ending = {name: place for name, place in ending.items() if name not in names}
    return found


def _ending(roles: Iterable[RoleView]) -> dict[str, Place]:
    """The busy replicas that stop when they are idle, with what that frees."""
    return {
        name: place
        for role in roles
        for name, place in role.at.items()
        if place and name not in role.idle and (role.ending or name in role.draining)
    }


def _needed(demand: Slots, ending: Mapping[str, Place], room: Room) -> tuple[list[str], Room]:
    """The first replicas without which a demand would not fit, and the room when it has its place;
    none if all of them are not enough."""
    tried = room.copy()
    names: list[str] = []
    for name, place in ending.items():
        names.append(name)
        tried.give(place)
        found = tried.place(demand)
        if found is not None:
            tried.take(found)
            return names, tried
    return [], room


def _room_after(
    roles: Iterable[RoleView], nodes: Iterable[Node], decisions: Iterable[Decision]
) -> Room:
    """What is free once the decisions are carried out."""
    room = Room(nodes)
    at = {role.name: role.at for role in roles}
    for decision in decisions:
        if isinstance(decision, Stop):
            room.give(at[decision.role][decision.replica])
        elif isinstance(decision, Start):
            room.take(decision.place)
    return room
