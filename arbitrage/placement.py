"""Where replicas have room: nodes, what is free on them, and where a demand fits.

Knows no Ray, clock or file. A replica lives on one node, the fullest that holds it, so that large
ones keep finding room. One with more accelerators than any node has is spread: whole accelerators
of several nodes, the emptiest first; its processors are taken on the first of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_EPSILON = 1e-6


class Slots(NamedTuple):
    """An amount of the cluster: CPUs, accelerators, gigabytes of memory."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gb: float = 0.0

    def holds(self, demand: Slots) -> bool:
        """Whether the demand fits in."""
        return (
            self.gpus + _EPSILON >= demand.gpus
            and self.cpus + _EPSILON >= demand.cpus
            and self.memory_gb + _EPSILON >= demand.memory_gb
        )

    def plus(self, other: Slots) -> Slots:
        """The sum."""
        cpus, gpus, memory_gb = self.cpus + other.cpus, self.gpus + other.gpus, self.memory_gb
        return Slots(cpus, gpus, memory_gb + other.memory_gb)

    def minus(self, other: Slots) -> Slots:
        """The difference."""
        cpus, gpus, memory_gb = self.cpus - other.cpus, self.gpus - other.gpus, self.memory_gb
        return Slots(cpus, gpus, memory_gb - other.memory_gb)


class Node(NamedTuple):
    """One machine of the cluster: what is free on it, and what it has in all."""

    name: str
    free: Slots
    whole: Slots


class Share(NamedTuple):
    """What a replica takes on one node."""

    node: str
    slots: Slots


Place = tuple[Share, ...]
"""All that a replica takes; several shares if it is spread, none if it needs nothing."""


def bundles_of(place: Place) -> tuple[list[dict[str, float]], list[str]]:
    """A bundle for each accelerator, in Ray's names, and its node; the first takes the CPUs."""
    bundles: list[dict[str, float]] = []
    nodes: list[str] = []
    for share in place:
        each = share.slots.memory_gb * 1e9 // share.slots.gpus
        for number in range(int(share.slots.gpus)):
            bundle = {"GPU": 1.0, "CPU": 0.0 if number else share.slots.cpus, "memory": each}
            bundles.append({name: amount for name, amount in bundle.items() if amount})
            nodes.append(share.node)
    return bundles, nodes


class Room:
    """What is free, node by node, while decisions are made.

    Nodes with the same amount free are held together: on a large cluster most are full, and a
    search costs as much as there are different amounts.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._free: dict[str, Slots] = {}
        self._groups: dict[Slots, dict[str, None]] = {}
        self._largest = 0.0
        for node in nodes:
            self._free[node.name] = node.free
            self._groups.setdefault(node.free, {})[node.name] = None
            self._largest = max(self._largest, node.whole.gpus)

    def place(self, demand: Slots) -> Place | None:
        """Where a replica fits now; None if nowhere."""
        if not any(demand):
            return ()
        if demand.gpus > self._largest + _EPSILON:
            return self._spread(demand)
        fitting = [free for free in self._groups if free.holds(demand)]
        if not fitting:
            return None
        fullest = min(fitting, key=lambda free: (free.gpus, free.cpus, free.memory_gb))
        return (Share(next(iter(self._groups[fullest])), demand),)

    def _spread(self, demand: Slots) -> Place | None:
        """Whole accelerators of several nodes."""
        each_gb = demand.memory_gb / demand.gpus
        left, shares = int(demand.gpus), list[Share]()
        for name, free in sorted(self._free.items(), key=lambda item: (-item[1].gpus, item[0])):
            cpus = 0.0 if shares else demand.cpus
            count = min(left, int(free.gpus + _EPSILON))
            if each_gb:
                count = min(count, int((free.memory_gb + _EPSILON) / each_gb))
            if count > 0 and free.cpus + _EPSILON >= cpus:
                shares.append(Share(name, Slots(cpus, count, count * each_gb)))
                left -= count
            if not left:
                return tuple(shares)
        return None

    def take(self, place: Place) -> None:
        """Takes what a replica takes."""
        for share in place:
            self._set(share.node, self._free[share.node].minus(share.slots))

    def give(self, place: Place) -> None:
        """Gives back what a replica took; a node that is gone takes nothing back."""
        for share in place:
            if share.node in self._free:
                self._set(share.node, self._free[share.node].plus(share.slots))

    def enough(self, places: Sequence[Place], demand: Slots) -> int:
        """How many of some places, given back in this order, make a demand fit that fits nowhere
        now; 0 if all of them do not. Gives nothing back."""
        if demand.gpus > self._largest + _EPSILON:
            return self._enough_to_spread(places, demand)
        free: dict[str, Slots] = {}
        for count, place in enumerate(places, 1):
            for name, slots in place:
                if name in self._free:
                    more = free.get(name) or self._free[name]
                    free[name] = more = more.plus(slots)
                    if more.holds(demand):
                        return count
        return 0

    def _enough_to_spread(self, places: Sequence[Place], demand: Slots) -> int:
        tried = self.copy()
        for count, place in enumerate(places, 1):
            tried.give(place)
            if tried.place(demand) is not None:
                return count
        return 0

    def holds(self, place: Place) -> bool:
        """Whether all shares are free where they are."""
        return all(
            share.node in self._free and self._free[share.node].holds(share.slots)
            for share in place
        )

    def keep(self, place: Place) -> None:
        """Keeps what is free of a place for somebody who waits for all of it."""
        for share in place:
            free = self._free[share.node]
            self._set(
                share.node,
                Slots(*(max(0.0, a - b) for a, b in zip(free, share.slots, strict=True))),
            )

    def keep_anywhere(self, demand: Slots) -> None:
        """The same for a demand that no node can hold soon: on the emptiest nodes."""
        left = demand
        for name in sorted(self._free, key=lambda name: (-self._free[name].gpus, name)):
            free = self._free[name]
            taken = Slots(*(min(a, b) for a, b in zip(free, left, strict=True)))
            self._set(name, free.minus(taken))
            left = left.minus(taken)
            if demand.gpus <= self._largest or not any(left):
                return

    def copy(self) -> Room:
        """A room of its own to try things out in."""
        other = Room(())
        other._free = dict(self._free)
        other._groups = {free: dict(names) for free, names in self._groups.items()}
        other._largest = self._largest
        return other

    def _set(self, name: str, free: Slots) -> None:
        group = self._groups[self._free[name]]
        del group[name]
        if not group:
            del self._groups[self._free[name]]
        self._free[name] = free
        self._groups.setdefault(free, {})[name] = None
