"""What is still to be made: from components and a directory listing to tasks.

A task is a frozen value; its output path derives from what goes in, so equal tasks are the same
task, and a task whose output exists is done. Knows no Ray, clock or engine, and reads no data.

    arbitrage plan arbitrage.yaml
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.errors import StoreError
from arbitrage.identity import fingerprint
from arbitrage.records import SELECTED
from arbitrage.store import shard_number
from arbitrage.usage import Usage, total_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from arbitrage.components import Component, Components
    from arbitrage.store import Listing, Store

READER = "reader"
CLERK = "clerk"
STAGES = ("read", "route", "generate", "score", "select")


@dataclass(frozen=True)
class Task:
    """One idempotent step: `inputs` (store paths) to `output` (a store path).

    `owner` is who can do it: a teacher's or the Arbiter's fingerprint, the reader or the clerk.
    Inputs of generate: prompts, routes, and the teacher's earlier candidates of the shard if any.
    `key` names what goes in; for the product, whose name is fixed, it stands in the footer.
    `rows` is how many prompts it is about, `requests` how many completions or scores it asks an
    engine for, at most: answers that are stored already are not asked for again. `wary`: replicas
    died under it, so it is done alone and a few items at a time.
    """

    stage: str
    owner: str
    shard: int
    inputs: tuple[str, ...]
    output: str
    key: str = ""
    rows: int = field(default=0, compare=False)
    requests: int = field(default=0, compare=False)
    wary: bool = field(default=False, compare=False)


class Report(NamedTuple):
    """What a finished task says of itself: rows that it made, and what it spent on them.

    `facts` are what later planning needs.
    """

    rows: int
    errors: int = 0
    seconds: float = 0.0
    spent: Usage = Usage()
    facts: dict[str, Any] = {}  # noqa: RUF012 - never changed


@dataclass
class ShardState:
    """A prompt shard, and who is asked: per teacher fingerprint (rows, digest of the ids)."""

    number: int
    path: str
    rows: int
    routed: dict[str, tuple[int, str]] | None = None


@dataclass
class Planner:
    """Names the missing tasks of each shard. `selected` maps product files to their keys."""

    components: Components
    listing: Listing
    selected: dict[str, str]
    _earlier: dict[tuple[str, int], list[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Notes what each teacher has of each shard already, whoever it was asked for."""
        for path in sorted(self.listing.files):
            if path.startswith("candidates/"):
                place = (path.rpartition("/")[0], shard_number(path))
                self._earlier.setdefault(place, []).append(path)

    def folder_of(self, component: Component, parent: str = "") -> str:
        """A component's folder, found by fingerprint, else the one it will get."""
        return self.listing.folder(parent or component.kind, component.label, component.fingerprint)

    def route_task(self, shard: ShardState) -> Task:
        """Decides who is asked what."""
        folder = self.folder_of(self.components.router)
        key = fingerprint(shard.path)
        output = f"{folder}/{shard.number:05d}.{key}.parquet"
        return Task("route", CLERK, shard.number, (shard.path,), output, key, shard.rows)

    def tasks(self, shard: ShardState) -> Iterator[Task]:
        """All missing tasks of a shard that can be named, in order; not all can start yet.

        Before the shard is routed nothing but its routing can be named.
        """
        route = self.route_task(shard)
        if not self.is_done(route) or shard.routed is None:
            yield route
            return
        pairs = self.pairs(shard)
        for task in (*itertools.chain(*pairs), self.select_task(shard, pairs)):
            if not self.is_done(task):
                yield task

    def pairs(self, shard: ShardState) -> list[tuple[Task, Task]]:
        """Per teacher that is asked something, done or not: its generate and its score task."""
        asked = sorted((shard.routed or {}).items())
        route = self.route_task(shard)
        return [self._pair(shard, route, owner, *told) for owner, told in asked]

    def _pair(
        self, shard: ShardState, route: Task, owner: str, rows: int, digest: str
    ) -> tuple[Task, Task]:
        teacher, arbiter = self.components.teacher(owner), self.components.arbiter
        key = fingerprint([shard.path, digest])
        name = f"{shard.number:05d}.{key}.parquet"
        answers = f"{self.folder_of(teacher)}/{name}"
        earlier = self._earlier.get((answers.rpartition("/")[0], shard.number), [])
        inputs = (shard.path, route.output, *(path for path in earlier if path != answers))
        asked = rows * sum(group.n for group in teacher.config.sampling)
        generate = Task("generate", owner, shard.number, inputs, answers, key, rows, asked)
        judged = f"{self.folder_of(teacher, self.folder_of(arbiter))}/{name}"
        inputs = (shard.path, answers)
        score = Task("score", arbiter.fingerprint, shard.number, inputs, judged, key, rows, asked)
        return generate, score

    def select_task(self, shard: ShardState, pairs: Sequence[tuple[Task, Task]]) -> Task:
        """The product of a shard from these pairs' candidates; of all of them, it is complete."""
        folder = self.folder_of(self.components.selector)
        made_of = [f"{generate.owner}/{generate.key}" for generate, _ in pairs]
        # Many readers want the same columns in all files of a folder, an earlier version's too.
        key = fingerprint([shard.path, self.components.fingerprint, made_of, SELECTED.names])
        output = f"{folder}/{shard.number:05d}.parquet"
        parts = [task.output for pair in pairs for task in pair]
        return Task("select", CLERK, shard.number, (shard.path, *parts), output, key, shard.rows)

    def is_done(self, task: Task) -> bool:
        """Whether the task's output is there, made from exactly its inputs."""
        if task.stage == "select":
            return self.selected.get(task.output) == task.key
        return task.output in self.listing.files

    def is_ready(self, task: Task) -> bool:
        """Whether everything that the task reads is there."""
        return all(path in self.listing.files for path in task.inputs)

    def record(self, task: Task) -> None:
        """Notes that a task's output is now there."""
        self.listing.files.add(task.output)
        if task.stage == "select":
            self.selected[task.output] = task.key


def read_state(components: Components, store: Store) -> tuple[Planner, list[ShardState]]:
    """What the store holds: the planner, and every prompt shard with its routing if it has one.

    Reads one listing per component, and the footers of prompt, route and product shards.
    """
    listing = store.listing()
    planner = Planner(components, listing, {})
    product = planner.folder_of(components.selector)
    made = [path for path in listing.files if path.startswith(f"{product}/")]
    planner.selected = {p: note.get("key", "") for p, note in store.footers(made).items()}
    prompts = sorted((p for p in listing.files if p.startswith("prompts/")), key=shard_number)
    numbers = [shard_number(path) for path in prompts]
    if numbers != list(range(len(numbers))):
        raise StoreError(
            f"the prompt shards in {store.address('prompts')} are not numbered 0 to "
            f"{len(numbers) - 1}, each once; one was removed or copied in by hand: put that right "
            "first"
        )
    notes = store.footers(prompts)
    shards = [ShardState(shard_number(path), path, notes[path]["rows"]) for path in prompts]
    routes = {shard.number: planner.route_task(shard).output for shard in shards}
    there = store.footers(path for path in routes.values() if path in listing.files)
    for shard in shards:
        if routes[shard.number] in there:
            shard.routed = routed(there[routes[shard.number]])
    return planner, shards


def routed(note: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """Who is asked, from a route file's footer or its task's report."""
    return {owner: (rows, digest) for owner, (rows, digest) in note["teachers"].items()}


def paid(store: Store, listing: Listing) -> dict[str, Usage]:
    """What each teacher and Arbiter that ever was in this run has spent, by fingerprint.

    It is what the footers of all candidates and scores say, so a file that is gone is forgotten.
    """
    files = sorted(p for p in listing.files if p.startswith(("candidates/", "scores/")))
    spent: dict[str, list[Usage]] = {}
    for told in store.footers(files).values():
        owner = told["teacher"] if "teacher" in told else told["arbiter"]
        spent.setdefault(owner, []).append(Usage(**told.get("spent", {})))
    return {owner: total_of(usages) for owner, usages in spent.items()}


def quarantine_of(product_path: str) -> str:
    """Where the prompts are that a shard of the product had to leave out."""
    return f"quarantine/select/{product_path.removeprefix('selected/')}"


def changes(old: Any, new: Any, place: str = "") -> list[str]:
    """Which fields differ between two identities, as `field: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in changes(old.get(key), new.get(key), f"{place}.{key}" if place else key)
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in changes(a, b, f"{place}.{i}")]
    return [] if old == new else [f"{place}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    return "default" if value is None else f"{value!r:.60}"


def nearest_identity(new: dict[str, Any], others: Iterable[dict[str, Any]]) -> list[str]:
    """The shortest account of how `new` differs from something that is already there."""
    accounts = [changes(other, new) for other in others]
    return min(accounts, key=len, default=[])
