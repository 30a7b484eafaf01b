"""What the cluster's nodes have and what is taken of it, and how fast its replicas are.

Knows no Ray and no clock: `cluster` tells it what it sees. On a cluster that others use too, what
they hold is left to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from arbitrage.placement import Node, Place, Slots

if TYPE_CHECKING:
    from collections.abc import Mapping

OLD = 0.8
"""The weight of what was measured before in a moving mean."""


def slots_of(resources: Mapping[str, float]) -> Slots:
    """An amount in Ray's names."""
    memory_gb = resources.get("memory", 0.0) / 1e9
    return Slots(resources.get("CPU", 0.0), resources.get("GPU", 0.0), memory_gb)


def resources_of(demand: Slots, *, spread: bool) -> dict[str, float]:
    """What a replica's actor asks for itself, in Ray's names."""
    found: dict[str, float] = {"num_cpus": demand.cpus}
    if not spread:  # else the engine's own workers take them, each in its bundle
        found["num_gpus"] = demand.gpus
        if demand.memory_gb:
            found["memory"] = int(demand.memory_gb * 1e9)
    return found


class Nodes:
    """The nodes that are alive, and our replicas on them."""

    def __init__(self) -> None:
        self._whole: dict[str, Slots] = {}
        self._taken: dict[str, Slots] = {}
        self._others: dict[str, Slots] = {}

    def update(
        self, whole: Mapping[str, Slots], available: Mapping[str, Slots] | None = None
    ) -> None:
        """Takes in which nodes there are now, with what is available on them where others may
        hold something too."""
        self._whole = dict(whole)
        self._others = {}
        for name, slots in whole.items() if available is not None else ():
            ours = self._taken.get(name, Slots())
            held = slots.minus((available or {}).get(name, Slots())).minus(ours)
            self._others[name] = Slots(*(max(0.0, amount) for amount in held))

    def take(self, place: Place) -> None:
        """Counts a replica's shares as ours."""
        for share in place:
            taken = self._taken.get(share.node, Slots())
            self._taken[share.node] = taken.plus(share.slots)

    def give(self, place: Place) -> None:
        """Counts a replica's shares as free again."""
        for share in place:
            self._taken[share.node] = self._taken[share.node].minus(share.slots)

    def free(self) -> list[Node]:
        """Every node with what neither our replicas nor others hold."""
        nothing = Slots()
        found = []
        for name, whole in self._whole.items():
            held = self._taken.get(name, nothing).plus(self._others.get(name, nothing))
            amounts = (max(0.0, round(amount, 6)) for amount in whole.minus(held))
            found.append(Node(name, Slots(*amounts), whole))
        return found

    def has(self, place: Place) -> bool:
        """Whether all nodes of a place are alive."""
        return all(share.node in self._whole for share in place)

    def empty(self) -> list[Node]:
        """Every node as it would be if nobody held anything."""
        return [Node(name, whole, whole) for name, whole in self._whole.items()]

    @property
    def total(self) -> Slots:
        """All nodes together."""
        total = Slots()
        for whole in self._whole.values():
            total = total.plus(whole)
        return total


@dataclass
class Pace:
    """Moving means of a role's seconds: of one replica per task, and per load; 0 if unknown."""

    task_s: float = 0.0
    load_s: float = 0.0

    def did(self, seconds: float, in_flight: int) -> None:
        """A task took so long while its replica had so many, which shared its speed."""
        self.task_s = _mean(self.task_s, seconds / in_flight)

    def loaded(self, seconds: float) -> None:
        """A load took so long."""
        self.load_s = _mean(self.load_s, seconds)


def _mean(old: float, new: float) -> float:
    return OLD * old + (1 - OLD) * new if old else new
