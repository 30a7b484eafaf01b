"""Simulates a long run on a large cluster: the real board, planner and scheduler, on a clock of
numbers.

    python scripts/simulate.py
    python scripts/simulate.py --nodes 1 --gpus 8 --prompts 1000000
    python scripts/simulate.py --seed 3 --failures-per-hour 20

Nine teachers of 1 to 8 accelerators and an Arbiter answer and score shards of 1,024 prompts.
Replicas take time to load, two tasks on one replica share its speed, replicas fail, and nodes are
lost and come back an hour later. Events happen in the driver's own order: hand out, decide, wait,
settle. A round is one call of `decide`, `with_swaps` and one of `assign` per role; building the
scheduler's view of the roles is timed apart. Both are processor times, so that whatever else runs
on the machine does not count. There is a round after every event, though a driver takes in many
events at once.
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from arbitrage.board import Board
from arbitrage.components import Components
from arbitrage.config import RunConfig
from arbitrage.nodes import Nodes
from arbitrage.placement import Place, Slots
from arbitrage.plan import CLERK, READER, Planner, Report, Task
from arbitrage.prompts import Shard
from arbitrage.resolve import resolve
from arbitrage.scheduler import Drain, RoleView, Start, Stop, assign, decide
from arbitrage.store import Listing
from arbitrage.turns import Swap, with_swaps
from arbitrage.usage import Usage

SIZES = (1, 1, 1, 1, 2, 2, 4, 4, 8)
TASK_S = (90.0, 120.0, 150.0, 180.0, 160.0, 200.0, 220.0, 260.0, 300.0)
"""Seconds that one replica needs for one shard; large teachers are slower."""
LOAD_S = {1: 60.0, 2: 120.0, 4: 180.0, 8: 300.0}
ARBITER_S = 12.0
NODE_BACK_S = 3600.0
OWN_WORK_S = {"read": 0.05, "route": 0.05, "gate": 0.05, "select": 0.05}


@dataclass
class Engine:
    """A replica: `tasks` maps what is in flight to the seconds of work that are left."""

    name: str
    owner: str
    place: Place
    ready_at: float
    tasks: dict[Task, float] = field(default_factory=dict)
    since: float = 0.0
    version: int = 0
    draining: bool = False
    loaded: bool = False

    def progress(self, now: float) -> None:
        """Shares the time since the last event among the tasks."""
        for task in self.tasks:
            self.tasks[task] -= (now - self.since) / len(self.tasks)
        self.since = now

    def next_end(self) -> float:
        """When the first of its tasks is finished, if nothing is added."""
        return self.since + max(0.0, min(self.tasks.values())) * len(self.tasks)


class Run:
    """One simulated run; `measured` afterwards tells how it went."""

    def __init__(self, told: argparse.Namespace) -> None:
        self.told = told
        self.rng = random.Random(told.seed)
        self.components = components_of()
        self.board = Board(Planner(self.components, Listing(), {}), (), unread=True, attempts=1000)
        self.shards = -(-told.prompts // told.shard_size)
        teachers = [teacher.fingerprint for teacher in self.components.teachers]
        self.arbiter = self.components.arbiter.fingerprint
        nothing = {READER: 0, CLERK: 0}
        self.size = {**nothing, **dict(zip(teachers, SIZES, strict=True)), self.arbiter: 1}
        self.task_s = {**dict(zip(teachers, TASK_S, strict=True)), self.arbiter: ARBITER_S}
        self.load_s = {owner: LOAD_S.get(size, 1.0) for owner, size in self.size.items()}
        self.nodes = Nodes()
        self.alive = {f"n{n}": Slots(0, told.gpus, 0) for n in range(told.nodes)}
        self.nodes.update(self.alive)
        self.engines: dict[str, dict[str, Engine]] = {owner: {} for owner in self.size}
        self.events: list[tuple[float, int, str, Any]] = []
        self.count, self.now = 0, 0.0
        self.starts, self.stops, self.drains = Counter[str](), Counter[str](), 0
        self.seconds: dict[str, float] = defaultdict(float)
        self.work = 0.0
        self.busy, self.loading, self.held = 0, 0, 0
        self.rounds_s: list[float] = []
        self.views_s = 0.0
        self.failures = self.losses = 0
        if told.failures_per_hour:
            self._later(self._gap(told.failures_per_hour), "fail", None)
        if told.node_losses_per_hour and told.nodes > 1:
            self._later(self._gap(told.node_losses_per_hour), "lose", None)

    def _gap(self, per_hour: float) -> float:
        return self.rng.expovariate(per_hour / 3600.0)

    def _later(self, seconds: float, kind: str, what: Any) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + seconds, self.count, kind, what))

    def go(self) -> Run:
        """Runs until nothing is left."""
        while self.board.is_open() or self.board.in_flight():
            self._round()
            self._next()
        return self

    def _round(self) -> None:
        load = {
            owner: {e.name: len(e.tasks) for e in engines.values() if e.loaded and not e.draining}
            for owner, engines in self.engines.items()
        }
        began = time.thread_time()
        given = {
            owner: assign(len(role.ready), load[owner]) for owner, role in self.board.roles.items()
        }
        spent = time.thread_time() - began
        for owner, names in given.items():
            for name in names:
                self._submit(self.engines[owner][name], self.board.take(owner))
        began = time.thread_time()
        views = [self._view(owner) for owner in self.board.roles]
        nodes = self.nodes.free()
        at = {name: place for view in views for name, place in view.at.items()}
        kinds = {owner: size or owner for owner, size in self.size.items()}
        self.views_s += time.thread_time() - began
        began = time.thread_time()
        decisions = with_swaps(decide(views, nodes), kinds, at)
        self.rounds_s.append(spent + time.thread_time() - began)
        for decision in decisions:
            self._apply(decision)

    def _view(self, owner: str) -> RoleView:
        role, engines = self.board.roles[owner], self.engines[owner].values()
        return RoleView(
            owner,
            Slots(gpus=self.size[owner]),
            len(role.ready),
            self.board.expects_more(owner),
            len(engines),
            tuple(e.name for e in engines if e.loaded and not e.tasks),
            self.told.replicas if self.size[owner] else 1,
            1,
            role.left,
            self.task_s.get(owner, 0.0),
            self.load_s[owner],
            {e.name: e.place for e in engines},
            frozenset(e.name for e in engines if e.draining),
        )

    def _apply(self, decision: Start | Stop | Swap | Drain) -> None:
        if isinstance(decision, Drain):
            self.engines[decision.role][decision.replica].draining = True
            self.drains += 1
            return
        if isinstance(decision, Start):
            self._start(decision.role, decision.place)
            return
        engine = self._engine(decision.replica)
        self._leave(engine)
        self.stops[engine.owner] += 1
        if isinstance(decision, Swap):
            self._start(decision.role, engine.place)

    def _engine(self, name: str) -> Engine:
        return self.engines[name.partition("/")[0]][name]

    def _start(self, owner: str, place: Place) -> None:
        self.count += 1
        engine = Engine(f"{owner}/{self.count}", owner, place, self.now + self.load_s[owner])
        self.engines[owner][engine.name] = engine
        self.nodes.take(place)
        self.starts[owner] += 1
        self.loading += self.size[owner]
        self.held += self.size[owner]
        self._later(self.load_s[owner], "loaded", engine)

    def _leave(self, engine: Engine) -> None:
        """Takes an engine out of the books; what it had in flight is given back."""
        del self.engines[engine.owner][engine.name]
        self.nodes.give(engine.place)
        engine.version += 1
        size = self.size[engine.owner]
        self.held -= size
        self.busy -= size if engine.tasks else 0
        self.loading -= 0 if engine.loaded else size
        for task in engine.tasks:
            self.board.failed(task, "its replica was lost")

    def _submit(self, engine: Engine, task: Task) -> None:
        engine.progress(self.now)
        self.busy += 0 if engine.tasks else self.size[engine.owner]
        if task.stage in OWN_WORK_S:
            work = OWN_WORK_S[task.stage]
            if task.stage == "read":
                work = self.told.shard_size / self.told.rows_per_s
        else:
            work = self.task_s[engine.owner] * self.rng.uniform(0.7, 1.3)
        engine.tasks[task] = work
        self._expect(engine)

    def _expect(self, engine: Engine) -> None:
        engine.version += 1
        if engine.tasks:
            self._later(engine.next_end() - self.now, "end", (engine, engine.version))

    def _next(self) -> None:
        """To the next event that means something."""
        while True:
            at, _, kind, what = heapq.heappop(self.events)
            if kind == "end" and what[0].version != what[1]:
                continue
            if kind == "loaded" and what.name not in self.engines[what.owner]:
                continue
            passed, self.now = at - self.now, at
            whole = sum(slots.gpus for slots in self.alive.values())
            waits = self.held - self.busy - self.loading
            self.seconds["busy"] += self.busy * passed
            self.seconds["loading"] += self.loading * passed
            self.seconds["loaded, nothing to do"] += waits * passed
            name = "free, tail" if not self.board.reading else "free, reading"
            self.seconds[name] += (whole - self.held) * passed
            self.seconds["all"] += whole * passed
            getattr(self, f"_on_{kind}")(what)
            return

    def _on_loaded(self, engine: Engine) -> None:
        engine.loaded, engine.since = True, self.now
        self.loading -= self.size[engine.owner]

    def _on_end(self, what: tuple[Engine, int]) -> None:
        engine = what[0]
        engine.progress(self.now)
        task = min(engine.tasks, key=engine.tasks.__getitem__)
        del engine.tasks[task]
        self.busy -= 0 if engine.tasks else self.size[engine.owner]
        self._expect(engine)
        if task.stage in ("generate", "score"):
            self.work += self.size[engine.owner] * self.task_s[engine.owner]
        self.board.finished(task, self._report(task))

    def _on_fail(self, _: None) -> None:
        live = [e for engines in self.engines.values() for e in engines.values() if e.place]
        if live:
            self._leave(self.rng.choice(live))
            self.failures += 1
        self._later(self._gap(self.told.failures_per_hour), "fail", None)

    def _on_lose(self, _: None) -> None:
        self._later(self._gap(self.told.node_losses_per_hour), "lose", None)
        if len(self.alive) == 1:
            return  # the last one holds the driver
        self.losses += 1
        name = self.rng.choice(sorted(self.alive))
        for engines in list(self.engines.values()):
            for engine in list(engines.values()):
                if any(share.node == name for share in engine.place):
                    self._leave(engine)
        self._later(NODE_BACK_S, "back", (name, self.alive.pop(name)))
        self.nodes.update(self.alive)

    def _on_back(self, what: tuple[str, Slots]) -> None:
        self.alive[what[0]] = what[1]
        self.nodes.update(self.alive)

    def _report(self, task: Task) -> Report:
        rows = self.told.shard_size
        if task.stage == "read":
            shard = Shard(task.shard, f"prompts/{task.shard:05d}.0.parquet", rows)
            return Report(rows, facts={"shard": shard if task.shard < self.shards else None})
        if task.stage == "route":
            prints = [teacher.fingerprint for teacher in self.components.teachers]
            return Report(rows, facts={"teachers": dict.fromkeys(prints, (rows, "ids"))})
        return Report(rows, spent=Usage(rows, 0, 0))

    def measured(self) -> dict[str, float]:
        """Utilisation, makespan in seconds, how far above the lower bound, and decision times."""
        times = sorted(self.rounds_s)
        return {
            "utilisation": self.seconds["busy"] / self.seconds["all"],
            "makespan_s": self.now,
            "bound_s": self.work / (self.told.nodes * self.told.gpus),
            "rounds": len(times),
            "mean_ms": 1e3 * sum(times) / len(times),
            "p99_ms": 1e3 * times[int(0.99 * (len(times) - 1))],
            "views_ms": 1e3 * self.views_s / len(times),
        }


def components_of() -> Components:
    """A pool of fake teachers; the simulation never calls them."""
    teachers = {
        f"t{n}-{size}": {"engine": "fake", "languages": "all", "options": {"voice": str(n)}}
        for n, size in enumerate(SIZES)
    }
    told = {
        "run": "run",
        "prompts": "none.jsonl",
        "teachers": teachers,
        "arbiter": {"engine": "fake"},
    }
    return resolve(RunConfig.model_validate(told))


def show(run: Run) -> None:
    """Prints what came out."""
    found = run.measured()
    print(f"{run.shards:,} shards, {run.told.nodes} nodes x {run.told.gpus}, seed {run.told.seed}")
    print(f"utilisation   {found['utilisation']:.2%} of what was alive")
    ratio = found["makespan_s"] / found["bound_s"]
    hours, least = found["makespan_s"] / 3600, found["bound_s"] / 3600
    print(f"makespan      {hours:.2f} h; lower bound {least:.2f} h ({ratio:.3f} times it)")
    for name, seconds in run.seconds.items():
        if name not in ("busy", "all"):
            print(f"idle          {seconds / run.seconds['all']:.2%} {name}")
    print(
        f"rounds        {found['rounds']:,}, mean {found['mean_ms']:.3f} ms, "
        f"p99 {found['p99_ms']:.3f} ms; views {found['views_ms']:.3f} ms beside"
    )
    print(f"drains        {run.drains}; replicas lost at random {run.failures}")
    for owner, role in run.board.roles.items():
        print(f"{role.name:12}  started {run.starts[owner]}, stopped {run.stops[owner]}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory        {peak:.0f} MB at most")


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--nodes", type=int, default=125)
    parser.add_argument("--gpus", type=int, default=8, help="per node")
    parser.add_argument("--prompts", type=int, default=10_000_000)
    parser.add_argument("--shard-size", type=int, default=1024)
    parser.add_argument("--rows-per-s", type=float, default=50_000.0, help="the reader's speed")
    parser.add_argument("--replicas", type=int, default=1000, help="at most, per role")
    parser.add_argument("--failures-per-hour", type=float, help="default: 5 per 1,000 slots")
    parser.add_argument("--node-losses-per-hour", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args(arguments)
    if told.failures_per_hour is None:
        told.failures_per_hour = told.nodes * told.gpus / 200
    return told


if __name__ == "__main__":
    show(Run(options()).go())
