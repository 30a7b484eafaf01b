"""What is still to be made of an evaluation: from a contest and a listing to tasks.

    questions -> answers (one file per model) -> verdicts (per judge and pair), scores (per Arbiter)

As `plan` for runs, and for the same board: a task's output path derives from what goes in. Reads no
data. Where failures are to be tried again, a file that has some counts as not made, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from arbitrage.errors import StoreError
from arbitrage.identity import fingerprint
from arbitrage.plan import CLERK, Planner, ShardState, Task
from arbitrage.store import shard_number
from arbitrage.winrate.contest import Adopted, Contest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.store import Store
    from arbitrage.winrate.contest import Entrant, Judge, Pair

BETWEEN = "."
"""What stands between the names of a pair's folder; names may hold it too, so what is found by them
is only a place to look."""
GAMES = 2
"""Of a pair, for each judge and prompt: one in each order."""


@dataclass
class ContestPlanner(Planner):
    """Names the missing tasks of each shard of questions. `failures`: how many rows without a
    result each file has that is to be made again."""

    failures: dict[str, int] = field(default_factory=dict)
    _said: dict[tuple[str, int, frozenset[str]], list[str]] = field(
        default_factory=dict, init=False
    )
    _answers: dict[tuple[int, str], Task] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Notes what each judge has said before of two models of these names, whatever they were:
        verdicts on the very same answers still count."""
        super().__post_init__()
        for path in sorted(self.listing.files):
            if path.startswith("judgements/"):
                folder, _, pair = path.rpartition("/")[0].rpartition("/")
                names = frozenset(pair.rpartition("-")[0].split(BETWEEN))
                self._said.setdefault((folder, shard_number(path), names), []).append(path)

    @property
    def contest(self) -> Contest:
        """All parts, as what they are."""
        if not isinstance(self.components, Contest):
            raise TypeError("a contest's planner plans contests")
        return self.components

    def is_routed(self, shard: ShardState) -> bool:
        """Nobody routes: every model is asked everything in its languages."""
        del shard
        return True

    def tasks(self, shard: ShardState) -> Iterator[Task]:
        """All missing tasks of a shard, in order; not all can start yet."""
        yield from (task for task in self.all_tasks(shard) if not self.is_done(task))

    def all_tasks(self, shard: ShardState) -> list[Task]:
        """Those that are done too."""
        contest = self.contest
        judged = [self.judge_task(shard, j, pair) for j in contest.judges for pair in contest.pairs]
        scored = [
            self.score_task(shard, arbiter.fingerprint, one)
            for arbiter in contest.arbiters
            for one in contest.entrants
        ]
        return [*(self.answer_task(shard, one) for one in contest.entrants), *judged, *scored]

    def answer_task(self, shard: ShardState, entrant: Entrant) -> Task:
        """A model's answers: made by its engine, or taken over from where they are."""
        known = (shard.number, entrant.fingerprint)
        if known not in self._answers:
            self._answers[known] = self._answer_task(shard, entrant)
        return self._again(self._answers[known])

    def _answer_task(self, shard: ShardState, entrant: Entrant) -> Task:
        adopted = isinstance(entrant, Adopted)
        languages = [] if isinstance(entrant, Adopted) else sorted(entrant.languages)
        key = fingerprint([shard.path, languages])
        output = self._named(self.folder_of(entrant), shard, key)
        earlier = self._earlier.get((output.rpartition("/")[0], shard.number), [])
        reused = [] if adopted else [path for path in earlier if path != output]
        return Task(
            "adopt" if adopted else "generate",
            CLERK if adopted else entrant.fingerprint,
            shard.number,
            (shard.path, *reused),
            output,
            key,
            entrant.fingerprint if adopted else "",
            rows=shard.rows,
            requests=0 if adopted else shard.rows,
        )

    def judge_task(self, shard: ShardState, judge: Judge, pair: Pair) -> Task:
        """A judge's verdicts on two models. Inputs: the questions, the answers of both, and earlier
        verdicts of the judge on models of these names."""
        answers = [self.answer_task(shard, one) for one in pair]
        key = fingerprint([task.key for task in answers])
        parent = self.folder_of(judge)
        folder = self.listing.folder(parent, pair.label, pair.fingerprint)
        output = self._named(folder, shard, key)
        names = frozenset(pair.label.rpartition("-")[0].split(BETWEEN))
        earlier = self._said.get((parent, shard.number, names), [])
        return self._again(
            Task(
                "judge",
                judge.fingerprint,
                shard.number,
                (
                    shard.path,
                    *(task.output for task in answers),
                    *(path for path in earlier if path != output),
                ),
                output,
                key,
                rows=shard.rows,
                requests=shard.rows * GAMES,
            )
        )

    def score_task(self, shard: ShardState, arbiter: str, entrant: Entrant) -> Task:
        """An Arbiter's scores of a model's answers, as in a run."""
        made = self.answer_task(shard, entrant)
        folder = self.folder_of(entrant, self.folder_of(self.contest.arbiter_of(arbiter)))
        output = self._named(folder, shard, made.key)
        inputs = (shard.path, made.output)
        return self._again(
            Task(
                "score",
                arbiter,
                shard.number,
                inputs,
                output,
                made.key,
                rows=shard.rows,
                requests=shard.rows,
            )
        )

    def _named(self, folder: str, shard: ShardState, key: str) -> str:
        return f"{folder}/{shard.number:05d}.{key}.parquet"

    def _again(self, task: Task) -> Task:
        """What is made again reads what there is, and asks for no more than failed."""
        failed = self.failures.get(task.output)
        if failed is None:
            return task
        inputs = (*task.inputs, task.output)
        return replace(task, inputs=inputs, requests=min(task.requests, failed))

    def is_done(self, task: Task) -> bool:
        """Whether the output is there and need not be made again."""
        return super().is_done(task) and task.output not in self.failures

    def is_there(self, task: Task) -> bool:
        """Whether there is an output, be it one that is to be made again."""
        return super().is_done(task)

    def is_ready(self, task: Task) -> bool:
        """Whether everything that the task reads is there for good."""
        others = set(task.inputs[:3]) - {task.output}
        return super().is_ready(task) and not self.failures.keys() & others

    def record(self, task: Task) -> None:
        """Notes that a task's output is now there."""
        self.failures.pop(task.output, None)
        super().record(task)

    def followers(self, task: Task) -> list[int]:
        """Shards have nothing to do with each other."""
        del task
        return []


def read_contest(
    contest: Contest, store: Store, *, again: bool
) -> tuple[ContestPlanner, list[ShardState]]:
    """What the store holds: the planner, and every shard of questions.

    With `again`, files with failures are to be made again, each once. Raises StoreError where the
    shards are not numbered as they must be.
    """
    planner = ContestPlanner(contest, store.listing(), {})
    paths = sorted((p for p in planner.listing.files if p.startswith("prompts/")), key=shard_number)
    if [shard_number(path) for path in paths] != list(range(len(paths))):
        raise StoreError(
            f"the shards in {store.address('prompts')} are not numbered 0 to {len(paths) - 1}, "
            "each once; one was removed or copied in by hand: put that right first"
        )
    notes = store.footers(paths)
    shards = [ShardState(shard_number(path), path, notes[path]["rows"]) for path in paths]
    planner.shards = {shard.number: shard for shard in shards}
    if again:
        planner.failures = _failures(planner, store)
    return planner, shards


def _failures(planner: ContestPlanner, store: Store) -> dict[str, int]:
    """How many failures each file has that an engine made, and that can go well: where there is no
    answer no judge can mend that, unless the answer is asked for again too. Scores of candidates
    that are made again are made again."""
    tasks = [task for s in planner.shards.values() for task in planner.all_tasks(s)]
    done = [task for task in tasks if planner.is_done(task) and task.stage != "adopt"]
    notes = store.footers(task.output for task in done)
    found: dict[str, int] = {}
    for task in sorted(done, key=lambda task: task.stage != "generate"):
        told = notes[task.output]
        afresh = bool(found.keys() & set(task.inputs[1:3]))
        count = told.get("errors", 0) - (0 if afresh else told.get("unanswered", 0))
        if count > 0 or (afresh and task.stage == "score"):
            found[task.output] = count
    return found
