"""What a run will cost and how long it will take, from figures of earlier work; values in and out.

Knows no Ray, clock or file. A figure has a source: `earlier` (this run's files and diary), `probe`
(a few prompts sent through the pipeline just now), or `bound`: nothing is known, and `max_tokens`
says how many tokens a completion has at most. What nobody knows is none, and never 0.

`forecast` plays a run in thought, with the scheduler's own decisions. Prompts count as read at
once, a replica does one task after the other, and a role without known times gets one second per
request, so that the order can still be told; then no time is told.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from arbitrage.placement import Node, Place, Share, Slots
from arbitrage.scheduler import Drain, RoleView, Start, assign, decide
from arbitrage.turns import Swap, with_swaps
from arbitrage.usage import PER

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from arbitrage.config import Sampling
    from arbitrage.scheduler import Decision

MACHINE = "machine"
MAX_JOBS = 4_000
"""A longer run is played in blocks of shards."""


@dataclass(frozen=True)
class Figures:
    """What one request of a role takes, and how long a replica takes to load.

    `request_s` is the time of one replica that has its usual number of requests in flight.
    """

    source: str
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    request_s: float | None = None
    request_bytes: float | None = None
    load_s: float | None = None


@dataclass(frozen=True)
class Costs:
    """What is expected for all of a role's missing requests; none where nobody knows.

    `time_s` is the working time of replicas, all together and without loading; money is in the
    currency of the prices, none also where there is no price. With source `bound` tokens and money
    are upper bounds of the completions' part.
    """

    source: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    money: float | None = None
    time_s: float | None = None
    bytes: int | None = None


def at_most(sampling: Sequence[Sampling]) -> Figures:
    """What is known of a teacher that has never worked."""
    requests = sum(group.n for group in sampling)
    return Figures("bound", None, sum(group.n * group.max_tokens for group in sampling) / requests)


def cost_of(requests: int, figures: Figures, price: tuple[float, float] | None) -> Costs:
    """What so many requests will take."""
    if not requests:
        return Costs(money=0.0 if price else None, time_s=0.0, bytes=0)
    prompt = _times(requests, figures.prompt_tokens)
    completion = _times(requests, figures.completion_tokens)
    money = None
    if price is not None and completion is not None:
        money = ((prompt or 0.0) * price[0] + completion * price[1]) / PER
    return Costs(
        figures.source,
        _whole(prompt),
        _whole(completion),
        money,
        _times(requests, figures.request_s),
        _whole(_times(requests, figures.request_bytes)),
    )


def _times(count: int, each: float | None) -> float | None:
    return None if each is None else count * each


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def add_up(numbers: Iterable[float | None]) -> float | None:
    """The sum; none if one of them is not known."""
    known = list(numbers)
    return None if any(n is None for n in known) else sum(n for n in known if n is not None)


class Role(NamedTuple):
    """A teacher or the Arbiter as the forecast plays it; `most`, `least`, `kind`: see scheduler."""

    owner: str
    name: str
    demand: Slots
    most: int
    least: int
    kind: Hashable
    request_s: float | None
    load_s: float | None


class Unit(NamedTuple):
    """What one teacher's part of one shard still needs: requests to it and to each Arbiter."""

    teacher: str
    shard: int
    generate: int
    score: Mapping[str, int]


@dataclass
class Part:
    """When a role has its slots. Roles of one `turn` are loaded together; times are from the
    start, none where they are not known; `load_s` is what one replica takes to load."""

    name: str
    turn: int
    replicas: int
    load_s: float | None
    start_s: float | None
    end_s: float | None


@dataclass
class Forecast:
    """A run played in thought. `time_s`: from the first load to the last score."""

    parts: list[Part]
    time_s: float | None
    bottleneck: str | None


@dataclass
class _Job:
    owner: str
    requests: int
    next: list[_Job] = field(default_factory=list)


@dataclass
class _Replica:
    owner: str
    demand: Slots
    loaded: bool = False
    draining: bool = False
    jobs: deque[_Job] = field(default_factory=deque)


@dataclass
class _Seen:
    """What a role has had."""

    start_s: float
    end_s: float = 0.0
    now: int = 0
    peak: int = 0
    work_s: float = 0.0


def forecast(roles: Sequence[Role], units: Iterable[Unit], total: Slots) -> Forecast:
    """Plays what is missing on `total`; every role must fit."""
    jobs = _jobs(list(units))
    play = _Play(roles, jobs, total)
    play.run()
    busy = [role for role in roles if role.owner in play.seen]
    known = all(role.request_s is not None and role.load_s is not None for role in busy)
    work = {r.owner: play.seen[r.owner].work_s / play.seen[r.owner].peak for r in busy}
    most = max(work, key=lambda owner: work[owner], default=None) if known else None
    return Forecast(
        _parts(busy, play.seen, known=known),
        play.now if known else None,
        next((role.name for role in busy if role.owner == most), None),
    )


def _parts(busy: Sequence[Role], seen: Mapping[str, _Seen], *, known: bool) -> list[Part]:
    """In the order of their starts; a turn begins with a start for which another had to end."""
    parts: list[Part] = []
    turn, first_end = 1, float("inf")
    for role in sorted(busy, key=lambda r: seen[r.owner].start_s):
        had = seen[role.owner]
        if had.start_s >= first_end:
            turn, first_end = turn + 1, float("inf")
        first_end = min(first_end, had.end_s)
        times = (had.start_s, had.end_s) if known else (None, None)
        parts.append(Part(role.name, turn, had.peak, role.load_s, *times))
    return parts


def _jobs(units: Sequence[Unit]) -> list[_Job]:
    """The first jobs, each with what follows it; neighbouring shards together in a long run."""
    block = -(-len(units) // MAX_JOBS) or 1
    asked: Counter[tuple[str, int]] = Counter()
    scored: dict[tuple[str, int], Counter[str]] = {}
    for unit in units:
        place = (unit.teacher, unit.shard // block)
        asked[place] += unit.generate
        scored.setdefault(place, Counter()).update(unit.score)
    jobs = []
    for place, generate in asked.items():
        judged = [_Job(owner, count) for owner, count in scored[place].items()]
        jobs += [_Job(place[0], generate, judged)] if generate else judged
    return jobs


def _decisions(
    views: Sequence[RoleView], machine: Node, kinds: Mapping[str, Hashable]
) -> Sequence[Decision | Swap]:
    """The only place that asks the scheduler."""
    at = {name: place for view in views for name, place in view.at.items()}
    return with_swaps(decide(views, [machine]), kinds, at)


class _Play:
    """The driver's loop without anything in it: hand out, decide, and on to the next event."""

    def __init__(self, roles: Sequence[Role], jobs: Sequence[_Job], total: Slots) -> None:
        self.now = 0.0
        self.seen: dict[str, _Seen] = {}
        self._roles = {role.owner: role for role in roles}
        self._total = self._free = total
        self._ready: dict[str, deque[_Job]] = {role.owner: deque() for role in roles}
        self._left = Counter(job.owner for job in jobs)
        self._left.update(after.owner for job in jobs for after in job.next)
        self._replicas: dict[str, _Replica] = {}
        self._events: list[tuple[float, int, str]] = []
        self._count = itertools.count()
        for job in jobs:
            self._ready[job.owner].append(job)

    def run(self) -> None:
        """Until nothing more can happen."""
        self._act()
        while self._events:
            self.now = self._events[0][0]
            while self._events and self._events[0][0] == self.now:
                self._happen(heapq.heappop(self._events)[2])
            self._act()

    def _act(self) -> None:
        own: dict[str, dict[str, _Replica]] = {owner: {} for owner in self._roles}
        for name, replica in self._replicas.items():
            own[replica.owner][name] = replica
        for owner, replicas in own.items():
            ours = [(name, r) for name, r in replicas.items() if r.loaded and not r.draining]
            load = {name: len(r.jobs) for name, r in ours}
            for name in assign(len(self._ready[owner]), load):
                self._give(name, self._ready[owner].popleft())
        views = [self._view(role, own[role.owner]) for role in self._roles.values()]
        kinds = {role.owner: role.kind for role in self._roles.values()}
        for decision in _decisions(views, Node(MACHINE, self._free, self._total), kinds):
            if isinstance(decision, Drain):
                self._replicas[decision.replica].draining = True
                continue
            if not isinstance(decision, Start):
                self._stop(decision.replica)
            if isinstance(decision, Start | Swap):
                self._start(decision.role)

    def _view(self, role: Role, replicas: Mapping[str, _Replica]) -> RoleView:
        ready = len(self._ready[role.owner])
        idle = tuple(name for name, r in replicas.items() if r.loaded and not r.jobs)
        left = self._left[role.owner]
        told = (role.demand, ready, left > ready, len(replicas), idle, role.most, role.least)
        place: Place = (Share(MACHINE, role.demand),) if any(role.demand) else ()
        return RoleView(
            role.owner,
            *told,
            left=left,
            load_s=role.load_s or 0.0,
            at=dict.fromkeys(replicas, place),
            draining=frozenset(name for name, r in replicas.items() if r.draining),
        )

    def _start(self, owner: str) -> None:
        role = self._roles[owner]
        name = f"{owner}/{next(self._count)}"
        self._replicas[name] = _Replica(owner, role.demand)
        self._free = self._free.minus(role.demand)
        had = self.seen.setdefault(owner, _Seen(self.now))
        had.now += 1
        had.peak = max(had.peak, had.now)
        self._after(role.load_s or 0.0, name)

    def _stop(self, name: str) -> None:
        replica = self._replicas.pop(name)
        self._free = self._free.plus(replica.demand)
        had = self.seen[replica.owner]
        had.now -= 1

    def _give(self, name: str, job: _Job) -> None:
        replica = self._replicas[name]
        replica.jobs.append(job)
        if len(replica.jobs) == 1:
            self._begin(name, job)

    def _begin(self, name: str, job: _Job) -> None:
        each = self._roles[job.owner].request_s
        seconds = job.requests * (1.0 if each is None else each)
        self.seen[job.owner].work_s += seconds
        self._after(seconds, name)

    def _after(self, seconds: float, name: str) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), name))

    def _happen(self, name: str) -> None:
        """A replica is loaded, or its first job is done."""
        replica = self._replicas[name]
        if not replica.loaded:
            replica.loaded = True
            return
        job = replica.jobs.popleft()
        self._left[job.owner] -= 1
        self.seen[job.owner].end_s = self.now
        for after in job.next:
            self._ready[after.owner].append(after)
        if replica.jobs:
            self._begin(name, replica.jobs[0])
