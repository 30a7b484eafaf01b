"""What is still to be made: from components and a directory listing to tasks.

A task is a frozen value; its output path derives from what goes in, so equal tasks are the same
task, and a task whose output exists is done. Knows no Ray, clock or engine, and reads no data.

    arbitrage plan arbitrage.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.components import Fuser
from arbitrage.errors import StoreError
from arbitrage.identity import fingerprint
from arbitrage.records import SELECTED, leaves
from arbitrage.store import shard_number
from arbitrage.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from arbitrage.components import Component, Components, Teacher
    from arbitrage.store import Listing, Store

READER = "reader"
CLERK = "clerk"
STAGES = ("read", "route", "generate", "gate", "score", "select")


@dataclass(frozen=True)
class Task:
    """One idempotent step: `inputs` (store paths) to `output` (a store path).

    `owner` is who can do it: a teacher's or an Arbiter's fingerprint, the reader or the clerk; and
    `variant` whose answers they are, where that is not the owner's own identity. What the inputs
    are, `Planner` says where it names the task. `key` names what goes in; for the product, whose
    name is fixed, it stands in the footer. `rows` is how many prompts it is about, `requests` how
    many completions or scores it asks an engine for, at most: answers that are stored already are
    not asked for again. `round`: of routing. `wary`: replicas died under it, so it is done alone
    and a few items at a time.
    """

    stage: str
    owner: str
    shard: int
    inputs: tuple[str, ...]
    output: str
    key: str = ""
    variant: str = ""
    round: int = 0
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


class Round(NamedTuple):
    """A route file, and who is asked in it: per teacher fingerprint (rows, digest of the ids)."""

    route: str
    asked: dict[str, tuple[int, str]]


class Lane(NamedTuple):
    """One teacher's way through a shard: answers, what gates find in them, every Arbiter's scores.

    All of its tasks, done or not.
    """

    generate: Task
    gate: Task
    scores: tuple[Task, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """In the order of the work."""
        return (self.generate, self.gate, *self.scores)

    @property
    def files(self) -> tuple[str, ...]:
        """What is made on it."""
        return tuple(task.output for task in self.tasks)


@dataclass
class ShardState:
    """A prompt shard, and the rounds in which it has been routed so far."""

    number: int
    path: str
    rows: int
    rounds: list[Round] = field(default_factory=list)


@dataclass
class Planner:
    """Names the missing tasks of each shard. `selected` maps product files to their keys; `absent`
    are the roles that are set aside: what they have not made is not waited for."""

    components: Components
    listing: Listing
    selected: dict[str, str]
    shards: dict[int, ShardState] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    _earlier: dict[tuple[str, int], list[str]] = field(default_factory=dict, init=False)
    _chain: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Notes what each teacher has of each shard already, whoever it was asked for."""
        for path in sorted(self.listing.files):
            if path.startswith("candidates/"):
                place = (path.rpartition("/")[0], shard_number(path))
                self._earlier.setdefault(place, []).append(path)

    def folder_of(self, component: Component, parent: str = "") -> str:
        """A component's folder, found by fingerprint, else the one it will get."""
        return self.listing.folder(parent or component.kind, component.label, component.fingerprint)

    def is_routed(self, shard: ShardState) -> bool:
        """Whether everything that is to be asked about a shard is known."""
        return len(shard.rounds) == len(self.components.rounds)

    def route_task(self, shard: ShardState, number: int = 0) -> Task | None:
        """Decides who is asked what in a round; none while it cannot be named.

        Inputs: the prompts; then, where it learns from what was before, the route file before it,
        and the prompts and all files of the lanes that it looks at.
        """
        component = self.components.rounds[number]
        known = self._known_to(shard, number)
        if known is None:
            return None
        names, lanes = known
        # Of the lanes the answers alone: whoever judges them anew asks nobody else by it.
        made_from = [shard.path, *names, *(lane.generate.output for lane in lanes)]
        key = fingerprint(made_from if names else shard.path)
        output = f"{self.folder_of(component)}/{shard.number:05d}.{key}.parquet"
        inputs = (shard.path, *names, *_files(lanes))
        return Task(
            "route", CLERK, shard.number, inputs, output, key, round=number, rows=shard.rows
        )

    def _known_to(
        self, shard: ShardState, number: int
    ) -> tuple[tuple[str, ...], list[Lane]] | None:
        """What a round is decided by besides its prompts: files, and lanes."""
        lag = self.components.router.lag
        if number:
            if len(shard.rounds) < number:
                return None
            lanes = self.present(self.lanes(shard, number))
            return (shard.rounds[number - 1].route, shard.path), lanes
        if not lag or not shard.number:
            return (), []
        before = self.shards.get(shard.number - 1)
        if before is None or not before.rounds:
            return None
        if shard.number < lag:
            return (before.rounds[0].route,), []
        seen = self.shards[shard.number - lag]
        lanes = self.present(self.lanes(seen, self.components.router.rounds))
        return (before.rounds[0].route, seen.path), lanes

    def tasks(self, shard: ShardState) -> Iterator[Task]:
        """All missing tasks of a shard that can be named, in order; not all can start yet.

        Before the shard is routed for good its product cannot be named.
        """
        lanes = self.lanes(shard)
        named: list[Task | None] = [task for lane in lanes for task in lane.tasks]
        if not self.is_routed(shard):
            named.append(self.route_task(shard, len(shard.rounds)))
        else:
            named += [self.select_task(shard, lanes), self._product(shard, lanes)]
        yield from (t for t in dict.fromkeys(named) if t is not None and not self.is_done(t))

    def _product(self, shard: ShardState, lanes: Sequence[Lane]) -> Task | None:
        """The complete product of a shard, or the one without those who are absent."""
        present = self.present(lanes)
        whole = self.select_task(shard, lanes)
        if len(present) == len(lanes) or (whole and self.is_done(whole)):
            return whole
        return self.select_task(shard, present) if present else None

    def lanes(self, shard: ShardState, rounds: int | None = None) -> list[Lane]:
        """One for every teacher that is asked something in the first `rounds`; none: in all."""
        return [
            self._lane(shard, number, owner, *told)
            for number, known in enumerate(shard.rounds[:rounds])
            for owner, told in sorted(known.asked.items())
        ]

    def present(self, lanes: Iterable[Lane]) -> list[Lane]:
        """Those that are there or can still be made in this call."""
        return [
            lane
            for lane in lanes
            if lane.generate.owner not in self.absent or self.is_done(lane.generate)
        ]

    def _lane(self, shard: ShardState, number: int, owner: str, rows: int, digest: str) -> Lane:
        """Inputs of generate: the prompts, the route, and the teacher's earlier candidates of the
        shard if any; of the fuser the candidates, and their gates, that it reads.
        """
        teacher = self.components.teacher(owner)
        read = self._read_by(teacher, shard, number)
        key = fingerprint([shard.path, digest, *read])
        answers = f"{self.folder_of(teacher)}/{shard.number:05d}.{key}.parquet"
        earlier = self._earlier.get((answers.rpartition("/")[0], shard.number), [])
        reused = [] if read else [path for path in earlier if path != answers]
        generate = Task(
            "generate",
            teacher.role or owner,
            shard.number,
            (shard.path, shard.rounds[number].route, *read[1:], *reused),
            answers,
            key,
            owner if teacher.role else "",
            number,
            rows,
            rows * teacher.samples,
        )
        gate = self._judged(generate, CLERK, self.components.gates, key, 0)
        scores = (
            self._judged(generate, a.fingerprint, a, a.key(key), generate.requests)
            for a in self.components.arbiters
        )
        return Lane(generate, gate, tuple(scores))

    def _read_by(self, teacher: Teacher, shard: ShardState, number: int) -> list[str]:
        """What a fuser goes by: the round's identity, and all candidates with their gates."""
        fuse = self.components.fuse
        if fuse is None or not isinstance(teacher, Fuser):
            return []
        lanes = self.present(self.lanes(shard, number))
        return [fuse.fingerprint, *(path for lane in lanes for path in lane.files[:2])]

    def _judged(self, made: Task, owner: str, by: Component, key: str, requests: int) -> Task:
        """What gates or an Arbiter say of candidates: a file for each of theirs."""
        teacher = self.components.teacher(made.variant or made.owner)
        folder = self.folder_of(teacher, self.folder_of(by))
        path = f"{folder}/{made.shard:05d}.{key}.parquet"
        inputs = (made.inputs[0], made.output)
        stage = "gate" if owner == CLERK else "score"
        return Task(
            stage, owner, made.shard, inputs, path, key, "", made.round, made.rows, requests
        )

    def select_task(self, shard: ShardState, lanes: Sequence[Lane]) -> Task | None:
        """The product of a shard from these lanes; of all of them, it is complete.

        None while the product before it, where that counts, is not there. Inputs: the prompts, all
        files of the lanes, and the product before it.
        """
        folder = self.folder_of(self.components.selector)
        made_of = [f"{one.variant or one.owner}/{one.key}" for one, *_ in lanes]
        before: list[str] = []
        if self.components.selector.chained:
            if not self._extend(shard.number):
                return None
            before = self._chain[: shard.number][-1:]
        # Many readers want the same columns in all files of a folder, an earlier version's too.
        made = [shard.path, self.components.fingerprint, made_of, leaves(SELECTED), *before]
        key = fingerprint(made)
        output = f"{folder}/{shard.number:05d}.parquet"
        inputs = [shard.path, *_files(lanes)]
        inputs += [f"{folder}/{shard.number - 1:05d}.parquet"] if before else []
        return Task("select", CLERK, shard.number, tuple(inputs), output, key, rows=shard.rows)

    def _extend(self, number: int) -> bool:
        """Follows the chain of finished products; whether it reaches up to a shard."""
        while len(self._chain) < number:
            shard = self.shards.get(len(self._chain))
            if shard is None or not self.is_routed(shard):
                return False
            task = self._product(shard, self.lanes(shard))
            if task is None or not self.is_done(task):
                return False
            self._chain.append(task.key)
        return True

    @property
    def product(self) -> list[str]:
        """The product's files, in the order of the shards."""
        folder = self.folder_of(self.components.selector)
        return sorted(path for path in self.listing.files if path.startswith(f"{folder}/"))

    def followers(self, task: Task) -> list[int]:
        """The other shards that may have new tasks now that this one is done."""
        router, selector = self.components.router, self.components.selector
        found = []
        if task.stage == "route" and router.lag:
            found.append(task.shard + 1)
        if task.stage in ("route", "gate", "score") and router.lag:
            found.append(task.shard + router.lag)
        if task.stage == "select" and selector.chained:
            found.append(task.shard + 1)
        return [number for number in found if number in self.shards]

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


def _files(lanes: Iterable[Lane]) -> list[str]:
    return [path for lane in lanes for path in lane.files]


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
    planner.shards = {shard.number: shard for shard in shards}
    for number in range(len(components.rounds)):
        one_by_one = number == 0 and components.router.lag
        for group in [[shard] for shard in shards] if one_by_one else [shards]:
            _read_round(planner, store, group, number)
    return planner, shards


def _read_round(planner: Planner, store: Store, shards: list[ShardState], number: int) -> None:
    """Notes who is asked in a round, where that is decided."""
    named = {s.number: planner.route_task(s, number) for s in shards if len(s.rounds) == number}
    routes = {n: t.output for n, t in named.items() if t and planner.is_done(t)}
    told = store.footers(routes.values())
    for shard in shards:
        if shard.number in routes:
            route = routes[shard.number]
            shard.rounds.append(Round(route, routed(told[route])))


def routed(note: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """Who is asked, from a route file's footer or its task's report."""
    return {owner: (rows, digest) for owner, (rows, digest) in note["teachers"].items()}


def quarantine_of(product_path: str) -> str:
    """Where the prompts are that a shard of the product had to leave out."""
    return f"quarantine/select/{product_path.removeprefix('selected/')}"
