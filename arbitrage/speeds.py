"""What the diary tells of time: how long replicas of each role were at work, and how long to load.

The time of a replica is that in which it had a task in flight, however many. Pure: events in.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KEPT_SPANS = 16


class Speed(NamedTuple):
    """What the diary says of a role: time at work of all its replicas, for how many requests, and
    to load one; none where that is not known."""

    busy_s: float
    requests: int
    load_s: float | None

    @property
    def request_s(self) -> float | None:
        """Time of a replica per request."""
        return self.busy_s / self.requests if self.requests else None


@dataclass
class _Busy:
    """The time in which a replica had anything in flight: two tasks overlap on it."""

    closed_s: float = 0.0
    spans: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, start: float, end: float) -> None:
        """Takes in a task's span; spans come in the order of their ends."""
        while self.spans and self.spans[-1][1] >= start:
            earlier, late = self.spans.pop()
            start, end = min(start, earlier), max(end, late)
        self.spans.append((start, end))
        if len(self.spans) > KEPT_SPANS:
            first, last = self.spans.popleft()
            self.closed_s += last - first

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return self.closed_s + sum(end - start for start, end in self.spans)


@dataclass
class _Session:
    """One call of `run` in the diary."""

    start: float = 0.0
    busy: dict[tuple[str, str], _Busy] = field(default_factory=dict)
    last_done: dict[str, float] = field(default_factory=dict)
    loaded: list[tuple[str, float]] = field(default_factory=list)

    def loads(self) -> dict[str, float]:
        """Per role the longest load: from the start, or from the last task of a replica that went
        before it."""
        found: dict[str, float] = {}
        ends = sorted(self.last_done.values())
        for role, now in self.loaded:
            place = bisect.bisect_right(ends, now)
            since = max(self.start, ends[place - 1]) if place else self.start
            found[role] = max(now - since, found.get(role, 0.0))
        return found


def speeds(events: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Speed]:
    """Per owner what the diary tells; `names` maps owners to the names of roles.

    Loading is told from when the slots were free: the start of the run (so with Ray's own start),
    or the last task of another replica; it is that of the latest run that loaded the role.
    """
    session = _Session()
    worked: dict[str, float] = defaultdict(float)
    requests: Counter[str] = Counter()
    loads: dict[str, float] = {}

    def close() -> None:
        loads.update(session.loads())
        for (owner, _), busy in session.busy.items():
            worked[owner] += busy.total_s

    for event in events:
        now, kind = float(event.get("time", 0.0)), event.get("event")
        if kind == "run_started":
            close()
            session = _Session(now)
        elif kind == "replica_loaded":
            session.loaded.append((str(event.get("role")), now))
        elif kind == "task_done" and event.get("replica") and event.get("requests"):
            owner, replica = str(event["owner"]), str(event["replica"])
            busy = session.busy.setdefault((owner, replica), _Busy())
            busy.add(now - float(event["seconds"]), now)
            session.last_done[replica] = now
            requests[owner] += int(event["requests"])
    close()
    return {
        owner: Speed(worked[owner], requests[owner], loads.get(name))
        for owner, name in names.items()
    }
