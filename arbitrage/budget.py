"""Says, purely, which tasks can still be paid for. Knows no Ray, clock or file.

A run's budget limits what its directory has spent in all, in requests, tokens or money. Rules:

* a task is expected to make the requests that it is about, and each to cost what its owner's have
  cost so far;
* while nothing is known of an owner, its requests are taken to cost what the dearest known one's
  do, only one of its tasks is in flight, as a probe, and no shard beyond its first goes out;
* what is in flight is reserved as expected, and a task that failed has cost what was expected;
* the budget is spent shard by shard: a task goes out only if all that is missing up to its shard,
  scores too, is expected to fit. So whoever is fast, or has its turn first, does not spend what the
  others need to make a product of it;
* a task that costs nothing in what is limited goes out always.

So requests never pass their limit. Tokens and money pass it by at most what the tasks in flight
cost beyond the expected, which for the first probes of a run is all of what they cost.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from arbitrage.usage import Usage, total_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from arbitrage.components import Components
    from arbitrage.plan import Task
    from arbitrage.settings import BudgetConfig

REQUESTS = "requests"
_EPSILON = 1e-9
"""Sums of money are floats."""


def open_budget(
    config: BudgetConfig, components: Components, earlier: Mapping[str, Usage]
) -> Budget:
    """The budget of a run; `earlier` is what each owner has spent before, by fingerprint."""
    parts = components.served
    free = {p.fingerprint: set() if any(p.config.price or ()) else {"money"} for p in parts}
    for arbiter in components.arbiters:
        if not arbiter.config.tells_tokens:
            free[arbiter.fingerprint].add("tokens")
    return Budget(config.limits(), earlier, free)


class Budget:
    """Spends `limits`, which are by measure: requests, tokens, money; none is no limit.

    `earlier`: what each owner has spent in this run directory. `free`: per owner the measures in
    which its work costs nothing, whatever it does.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        earlier: Mapping[str, Usage],
        free: Mapping[str, Collection[str]],
    ) -> None:
        self.limits = limits
        self._spent = dict(earlier)
        self._free = free
        self._in_flight: set[Task] = set()
        self._lost: dict[str, float] = {}
        self._told_of: set[str] = set()

    def against(self) -> dict[str, tuple[float, float]]:
        """(spent, limit) of everything that is limited, as far as tasks have told."""
        spent = total_of(self._spent.values()).measured()
        return {name: (spent[name], limit) for name, limit in self.limits.items()}

    def reserve(self, task: Task) -> None:
        """A task goes out."""
        self._in_flight.add(task)

    def settle(self, task: Task, spent: Usage) -> bool:
        """A task is done. True when its owner is found, for the first time, not to tell the tokens
        that a limit is about."""
        self._in_flight.discard(task)
        self._spent[task.owner] = self._spent.get(task.owner, Usage()).plus(spent)
        if not spent.untold or task.owner in self._told_of or not self._estimated(task.owner):
            return False
        self._told_of.add(task.owner)
        return True

    def fail(self, task: Task) -> None:
        """A task failed: nobody knows what it has cost, so it is as much as was expected."""
        self._in_flight.discard(task)
        _add(self._lost, self._expected(task, self._rates()))

    def too_dear(self, ready: Collection[Task], waiting: Iterable[Task]) -> set[Task]:
        """Those of the ready tasks that must not go out now; `waiting` is what will follow them.

        All others may go out together: it takes nothing from what is left for the rest.
        """
        if not self.limits:
            return set()
        rates = self._rates()
        need = total_of(self._spent.values()).measured()
        _add(need, self._lost)
        for task in self._in_flight:
            _add(need, self._expected(task, rates))
        paying = sorted((t for t in (*ready, *waiting) if self._costs(t)), key=_shard)
        unknown = [t.shard for t in (*self._in_flight, *paying) if self._is_unknown(t)]
        horizon = min(unknown, default=math.inf)
        dear: set[Task] = set()
        for _, group in itertools.groupby(paying, key=_shard):
            tasks = list(group)
            if tasks[0].shard > horizon:
                dear.update(tasks)
                continue
            costs = set().union(*map(self._costs, tasks))
            spent = any(need[name] >= self.limits[name] for name in costs)
            for task in tasks:
                _add(need, self._expected(task, rates))
            if spent or any(need[name] > self.limits[name] + _EPSILON for name in costs):
                dear.update(tasks)
        return dear | self._beside_probes([task for task in ready if task not in dear])

    def _beside_probes(self, tasks: Iterable[Task]) -> set[Task]:
        """All but one of the tasks of each owner of whom nothing is known."""
        probed = {task.owner for task in self._in_flight}
        held = set()
        for task in tasks:
            if self._is_unknown(task):
                held |= {task} if task.owner in probed else set()
                probed.add(task.owner)
        return held

    def _costs(self, task: Task) -> set[str]:
        """The measures in which a task costs something that is limited."""
        return self.limits.keys() - self._free.get(task.owner, ()) if task.requests else set()

    def _estimated(self, owner: str) -> set[str]:
        return self.limits.keys() - {REQUESTS} - set(self._free.get(owner, ()))

    def _is_unknown(self, task: Task) -> bool:
        """Whether nobody knows yet what the requests of a task's owner cost."""
        known = task.owner in self._spent and self._spent[task.owner].requests > 0
        return not known and task.requests > 0 and bool(self._estimated(task.owner))

    def _rates(self) -> dict[str, dict[str, float]]:
        """Per owner what a request is expected to cost; under "" what it is of an unknown one."""
        known = {
            owner: {name: total / spent.requests for name, total in spent.measured().items()}
            for owner, spent in self._spent.items()
            if spent.requests
        }
        dearest = {n: max((r[n] for r in known.values()), default=0.0) for n in self.limits}
        return {**known, "": dearest}

    def _expected(self, task: Task, rates: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        rate = rates.get(task.owner, rates[""])
        exact = {REQUESTS: 1.0}
        return {name: task.requests * exact.get(name, rate[name]) for name in self._costs(task)}


def _shard(task: Task) -> int:
    return task.shard


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0.0) + value
