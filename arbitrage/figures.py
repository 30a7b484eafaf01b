"""What earlier work of a run tells of what more would take: footers, sizes and the diary.

Reads files only; of sizes a fair part.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.components import Teacher
from arbitrage.estimate import Figures
from arbitrage.store import shard_number
from arbitrage.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from arbitrage.plan import Planner, ShardState
    from arbitrage.store import Store

SAMPLED_FILES = 64
KEPT_SPANS = 16
PROMPTS, ROUTES, GATES, PRODUCT = "prompts", "routes", "gates", "selected"
"""Under these names `Figures` of files that no engine makes are kept; their requests are rows.
Who routes or selects changes little in their size, so earlier ones count too."""


def figures_of(
    store: Store,
    planner: Planner,
    shards: Sequence[ShardState],
    usages: Mapping[str, Usage],
    source: str = "earlier",
) -> dict[str, Figures]:
    """What the files and the diary of a run tell, by fingerprint; only of parts that did work."""
    components = planner.components
    parts = components.served
    diary = speeds(store.events(), {part.fingerprint: part.name for part in parts})
    files = _files(planner, shards)
    found = {}
    for part in parts:
        spent = usages.get(part.fingerprint, Usage())
        if spent.requests:
            told = not spent.untold and (isinstance(part, Teacher) or part.config.tells_tokens)
            found[part.fingerprint] = Figures(
                source,
                spent.prompt_tokens / spent.requests if told else None,
                spent.completion_tokens / spent.requests if told else None,
                diary[part.fingerprint].request_s,
                _mean_bytes(store, files[part.fingerprint]),
                diary[part.fingerprint].load_s,
            )
    for name in (PROMPTS, ROUTES, GATES, PRODUCT):
        size = _mean_bytes(store, files[name])
        if size is not None:
            found[name] = Figures(source, request_bytes=size)
    return found


def _files(planner: Planner, shards: Sequence[ShardState]) -> dict[str, list[tuple[str, int]]]:
    """Stored files with their rows, by owner."""
    files: dict[str, list[tuple[str, int]]] = defaultdict(list)
    rows = {shard.number: shard.rows for shard in shards}
    for path in sorted(planner.listing.files):
        kind = path.partition("/")[0]
        if kind in (PROMPTS, ROUTES, GATES, PRODUCT):
            files[kind].append((path, rows.get(shard_number(path), 0)))
    for shard in shards:
        for task in (task for lane in planner.lanes(shard) for task in lane.tasks):
            if planner.is_done(task) and task.requests:
                files[task.owner].append((task.output, task.requests))
    return files


def _mean_bytes(store: Store, files: Sequence[tuple[str, int]]) -> float | None:
    """Bytes per row, from at most `SAMPLED_FILES` files spread over all."""
    sampled = files[:: -(-len(files) // SAMPLED_FILES) or 1]
    rows = sum(count for _, count in sampled)
    if not rows:
        return None
    return sum((store.size(path) or 0) for path, _ in sampled) / rows


class Speed(NamedTuple):
    """What the diary says of a role: time of a replica per request, and to load it."""

    request_s: float | None
    load_s: float | None


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

    The time of a replica is that in which it had a task in flight, however many. Loading is told
    from when the slots were free: the start of the run (so with Ray's own start), or the last task
    of another replica; it is that of the latest run that loaded the role.
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
        owner: Speed(worked[owner] / requests[owner] if requests[owner] else None, loads.get(name))
        for owner, name in names.items()
    }
