"""The run's work in memory: what is ready, in flight, done and given up, per role.

Grows with the number of tasks, not of rows. Knows no Ray and no clock. A task that fails is tried
again a bounded number of times; a role whose engine cannot work is set aside with its reason, and
the others go on: then shards are finished without a teacher that is set aside.

A task whose replica dies is tried again too. From the second death on it is wary: it gets a replica
for itself, and finds out which of its items is to blame. A role whose wary tasks keep dying, or
whose tasks keep being given up, with none finished in between, is set aside.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from arbitrage.plan import CLERK, READER, Planner, Report, Round, ShardState, Task, routed

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from arbitrage.prompts import Shard


WARY_AFTER = 2
FAILURES_IN_A_ROW = 20
"""Enough to isolate a prompt that kills its engine, about ten deaths, and then another one."""


@dataclass
class RoleWork:
    """One role's tasks. `held` could start, but the budget does not pay for them now. `rows` and
    tokens count what was made in this call, `failures` wary deaths and tasks given up since a
    task was finished. `told`: whether the user knows that it is set aside."""

    name: str
    owner: str
    ready: dict[Task, None] = field(default_factory=dict)
    held: dict[Task, None] = field(default_factory=dict)
    in_flight: set[Task] = field(default_factory=set)
    waiting: set[Task] = field(default_factory=set)
    done: int = 0
    rows: int = 0
    errors: int = 0
    completion_tokens: int = 0
    failures: int = 0
    set_aside: str = ""
    told: bool = False

    @property
    def left(self) -> int:
        """Tasks that are known and not done."""
        return sum(map(len, (self.ready, self.held, self.in_flight, self.waiting)))


class Board:
    """Hands out tasks and takes back what became of them."""

    def __init__(
        self, planner: Planner, shards: Iterable[ShardState], *, unread: bool, attempts: int
    ) -> None:
        self._planner = planner
        self._shards = planner.shards
        self._unrouted: set[int] = set()
        self._attempts = attempts
        self._tries: Counter[Task] = Counter()
        self._deaths: Counter[Task] = Counter()
        self._lost_loads: Counter[str] = Counter()
        self._stale: Counter[str] = Counter()
        self.given_up: dict[Task, str] = {}
        self._dead: set[str] = set()
        self._cut_off: set[Task] = set()
        components = planner.components
        served = ((part.name, part.fingerprint) for part in components.served)
        owners = [(READER, READER), *served, (CLERK, CLERK)]
        self.roles = {owner: RoleWork(name, owner) for name, owner in owners}
        self.reading = False
        self._shards.update({shard.number: shard for shard in shards})
        for shard in list(self._shards.values()):
            self._add(shard)
        if unread:
            self._read_next()

    def _add(self, shard: ShardState) -> None:
        self._shards[shard.number] = shard
        if not self._planner.is_routed(shard):
            self._unrouted.add(shard.number)
        self._refresh(shard)

    def _read_next(self) -> None:
        number = max(self._shards, default=-1) + 1
        self.reading = True
        self.roles[READER].ready[Task("read", READER, number, (), f"prompts/{number:05d}")] = None

    def _refresh(self, shard: ShardState) -> None:
        """Puts the shard's missing tasks where they belong."""
        named = list(self._planner.tasks(shard))
        if self._planner.absent:
            self._owe(shard, set(named))
        for task in named:
            role = self.roles[task.owner]
            known = (role.in_flight, role.ready, role.held, self.given_up)
            if any(task in tasks for tasks in known):
                continue
            lost = next((path for path in task.inputs if path in self._dead), None)
            if lost:
                self._cut_off.add(task)
                self._drop(task, f"it needs {lost}, which is not to be had")
            elif role.set_aside:
                self._drop(task, role.set_aside)
            elif self._planner.is_ready(task):
                role.waiting.discard(task)
                role.ready[task] = None
            else:
                role.waiting.add(task)

    def _owe(self, shard: ShardState, named: set[Task]) -> None:
        """What was to be made with those who are absent is named anew without them."""
        mine = {task for task in self.roles[CLERK].waiting if task.shard == shard.number}
        for task in mine - named:
            self._cut_off.add(task)
            self._drop(task, "it needs answers of a teacher that is set aside")

    @property
    def shards(self) -> int:
        """Prompt shards known so far."""
        return len(self._shards)

    @property
    def names(self) -> dict[str, str]:
        """Of all roles, by owner."""
        return {owner: role.name for owner, role in self.roles.items()}

    @property
    def prompts(self) -> int:
        """Prompts known so far."""
        return sum(shard.rows for shard in self._shards.values())

    def is_open(self) -> bool:
        """Whether there is anything that can still be done."""
        return any(role.ready or role.in_flight for role in self.roles.values())

    def in_flight(self) -> bool:
        """Whether any replica is at work."""
        return any(role.in_flight for role in self.roles.values())

    def expects_more(self, owner: str) -> bool:
        """Whether tasks may become ready for a role that are not now."""
        role = self.roles[owner]
        if role.set_aside or owner == READER:
            return False
        return bool(role.in_flight or self._opens_more(role))

    def _opens_more(self, role: RoleWork) -> bool:
        return bool(self.reading or self._unrouted or role.waiting)

    def is_ending(self, owner: str) -> bool:
        """Whether nothing is left for a role but what is in flight, if that does not fail."""
        role = self.roles[owner]
        return bool(role.in_flight) and not (role.ready or role.held or self._opens_more(role))

    def hold_back(self, dear: Callable[[list[Task], list[Task]], Container[Task]]) -> None:
        """Holds back the ready tasks that are too dear and lets go those that no longer are.

        `dear` chooses them from all tasks that could start, given those that still wait. What is
        left is taken shard by shard.
        """
        roles = self.roles.values()
        could = {r.owner: sorted((*r.ready, *r.held), key=_urgency) for r in roles}
        waiting = [task for role in roles for task in role.waiting]
        held = dear([task for tasks in could.values() for task in tasks], waiting)
        for role in roles:
            role.ready = dict.fromkeys(task for task in could[role.owner] if task not in held)
            role.held = dict.fromkeys(task for task in could[role.owner] if task in held)

    def held_prompts(self) -> int:
        """Prompts of the shards that are not complete because of tasks held back."""
        held = {task.shard for role in self.roles.values() for task in role.held}
        return sum(self._shards[number].rows for number in held)

    def wary(self, owner: str) -> int:
        """How many of a role's next tasks want a replica for themselves; they come first."""
        return sum(1 for _ in itertools.takewhile(lambda t: t.wary, self.roles[owner].ready))

    def take(self, owner: str, *, wary: bool = False) -> Task:
        """The next task of a role, now in flight; StopIteration if none is ready. A wary one is for
        a replica that has no other."""
        role = self.roles[owner]
        task = next(task for task in role.ready if task.wary is wary)
        del role.ready[task]
        role.in_flight.add(task)
        return task

    def finished(self, task: Task, report: Report) -> None:
        """Takes in a finished task and what it opens up."""
        role = self.roles[task.owner]
        role.in_flight.discard(task)
        role.failures = 0
        if task.stage == "read":
            self._was_read(report.facts["shard"])
            role.rows += report.rows
            role.done += report.rows > 0
            return
        self._revive(task)
        role.done += 1
        role.rows += report.rows
        role.errors += report.errors
        role.completion_tokens += report.spent.completion_tokens
        self._planner.record(task)
        shard = self._shards[task.shard]
        if task.stage == "route":
            shard.rounds.append(Round(task.output, routed(report.facts)))
            if self._planner.is_routed(shard):
                self._unrouted.discard(shard.number)
        self._refresh(shard)
        for number in self._planner.followers(task):
            self._refresh(self._shards[number])

    def _revive(self, task: Task) -> None:
        """A task that was given up is done after all (by another replica): so others may be."""
        if task not in self.given_up:
            return
        followers = [other for other in self._cut_off if other.shard == task.shard]
        for other in [task, *followers]:
            self.given_up.pop(other, None)
            self._dead.discard(other.output)
            self._cut_off.discard(other)

    def _was_read(self, shard: Shard | None) -> None:
        if shard is None:
            self.reading = False
            return
        self._planner.listing.files.add(shard.path)
        self._add(ShardState(shard.number, shard.path, shard.rows))
        self._read_next()

    def put_back(self, task: Task) -> None:
        """Takes back a task that was stopped on request."""
        role = self.roles[task.owner]
        role.in_flight.discard(task)
        role.ready[task] = None

    def failed(self, task: Task, reason: str, *, lost: bool = False) -> bool:
        """Takes back a task that failed, or that was `lost` with its replica; true if it will be
        tried again."""
        role = self.roles[task.owner]
        role.in_flight.discard(task)
        if role.set_aside:
            self._give_up(task, reason)
            return False
        counts = self._deaths if lost else self._tries
        counts[task] += 1
        again = lost or counts[task] < self._attempts
        role.failures += task.wary if lost else not again
        if again:
            wary = self._deaths[task] >= WARY_AFTER
            first, last = ({replace(task, wary=True): None}, {}) if wary else ({}, {task: None})
            role.ready = {**first, **role.ready, **last}
        else:
            self._give_up(task, reason)
        if role.failures >= FAILURES_IN_A_ROW:
            self.set_aside(role.owner, f"it failed {role.failures} times in a row ({reason})")
            return False
        return again

    def _give_up(self, task: Task, reason: str) -> None:
        """Gives up a task and all that would need its output."""
        self._drop(task, reason)
        if task.stage == "read":
            self.reading = False
        else:
            self._refresh(self._shards[task.shard])

    def _drop(self, task: Task, reason: str) -> None:
        self.given_up[task] = reason
        if task.stage != "select":  # there may be a product under this name all the same
            self._dead.add(task.output)
        self.roles[task.owner].waiting.discard(task)
        if task.stage == "route":
            self._unrouted.discard(task.shard)

    def stale(self, task: Task, scores: str, reason: str) -> bool:
        """A product task met scores of other candidates: they are made again, then it is."""
        role = self.roles[task.owner]
        role.in_flight.discard(task)
        self._stale[scores] += 1
        if self._stale[scores] >= self._attempts:
            self._give_up(task, reason)
            return False
        self._planner.listing.files.discard(scores)
        self._refresh(self._shards[task.shard])
        return True

    def loaded(self, owner: str) -> None:
        """A replica of a role could be loaded: earlier losses are forgiven."""
        del self._lost_loads[owner]

    def load_lost(self, owner: str) -> bool:
        """Counts a replica that died while loading; true when that was once too often."""
        self._lost_loads[owner] += 1
        return self._lost_loads[owner] >= self._attempts

    def set_aside(self, owner: str, reason: str) -> None:
        """Gives up all tasks of a role whose engine cannot work."""
        role = self.roles[owner]
        role.set_aside = reason
        self._planner.absent.add(owner)
        left = [*role.ready, *role.held, *role.in_flight, *role.waiting]
        role.ready.clear()
        role.held.clear()
        role.in_flight.clear()
        for task in left:
            self._give_up(task, reason)
        for number in sorted(self._unrouted):  # they may go on without what it has not made
            self._refresh(self._shards[number])


def _urgency(task: Task) -> tuple[bool, int]:
    return not task.wary, task.shard
