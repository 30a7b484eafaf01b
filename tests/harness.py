"""A run without Ray: the real planner, board and stages, driven by a plain loop in this process.

`run` does what `pipeline.run` does, one wave of tasks after the other, and gives back everything to
look at. `pretend` answers tasks without doing them, for tests of the board and the scheduler alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq

from arbitrage import manifest, prompts
from arbitrage.board import Board
from arbitrage.components import Components, Teacher
from arbitrage.config import RunConfig
from arbitrage.configfile import Loaded
from arbitrage.desk import Desk
from arbitrage.engines import build_generator, build_scorer
from arbitrage.errors import EngineError, StaleInputError, UsageError
from arbitrage.plan import (
    CLERK,
    READER,
    Planner,
    Report,
    Round,
    ShardState,
    Task,
    quarantine_of,
    read_state,
)
from arbitrage.prompts import Shard
from arbitrage.records import PROMPT_COLUMNS, SCHEMAS
from arbitrage.resolve import resolve
from arbitrage.routers import routes_of
from arbitrage.stages import execute
from arbitrage.store import Listing, Store
from arbitrage.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from arbitrage.config import Sampling
    from arbitrage.records import Completion, Prompt

LANGUAGES = ("de", "sw", "ja")
MAX_TASKS = 10_000


def write_prompts(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered_prompts(count: int, languages: Sequence[str] = LANGUAGES) -> list[dict[str, Any]]:
    """Distinct prompts with ids and an extra column, languages in turn."""
    return [
        {
            "id": f"own-{n}",
            "prompt": f"prompt number {n} asks for a few words",
            "language": languages[n % len(languages)],
            "topic": n % 5,
        }
        for n in range(count)
    ]


def fake(skill: Any = 0.5, languages: Any = "all", **more: Any) -> dict[str, Any]:
    """A teacher block with the fake engine; `options` are added to the skill."""
    options = {"skill": skill, **more.pop("options", {})}
    return {"engine": "fake", "languages": languages, "options": options, **more}


def make_config(
    folder: Path, teachers: dict[str, Any], source: Path | None = None, **blocks: Any
) -> RunConfig:
    """A run in `folder`; declared languages only, which the prompts' English does not care for."""
    asked = {
        "sources": [{"path": str(source or folder / "prompts.jsonl")}],
        "shard_size": 8,
        "detect": False,
        "contradiction": "ignore",
        **blocks.pop("prompts", {}),
    }
    gates = {"language": False, **blocks.pop("gates", {})}
    told = {"run": str(folder / "run"), "prompts": asked, "teachers": teachers, "gates": gates}
    told |= blocks
    alone = {} if "arbiters" in told else {"arbiter": {"engine": "fake"}}
    return RunConfig.model_validate({**alone, **told})


class Recorded:
    """An engine, and what it was asked."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.max_in_flight = engine.max_in_flight
        self.generated: list[tuple[Prompt, Sampling, list[int]]] = []
        self.scored: list[tuple[Prompt, str]] = []

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        self.generated.append((prompt, sampling, list(seeds)))
        return await self.engine.generate(prompt, sampling, seeds)

    async def score(self, prompt: Prompt, completion: str) -> float:
        self.scored.append((prompt, completion))
        return await self.engine.score(prompt, completion)

    def provenance(self) -> dict[str, str]:
        return self.engine.provenance()


@dataclass
class Run:
    """Everything that a run was made with and of; `done` and `failed` in order."""

    config: RunConfig
    components: Components
    store: Store
    planner: Planner
    board: Board
    desks: dict[str, Desk]
    done: list[tuple[Task, Report]] = field(default_factory=list)
    failed: list[tuple[Task, Exception]] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        """Stages of the tasks that were done, without the reader's last look."""
        return [task.stage for task, report in self.done if task.stage != "read" or report.rows]

    def engine(self, name: str) -> Recorded:
        """The engine of a teacher or of the Arbiter, by name."""
        owner = next(p.fingerprint for p in self.components.served if p.name == name)
        engine = self.desks[owner].engine
        assert isinstance(engine, Recorded)
        return engine

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """All rows of one kind of file, of the current selector where that matters."""
        product = self.planner.folder_of(self.components.selector)
        place = {"selected": product, "quarantine": quarantine_of(product)}
        return read_rows(self.store.root, place.get(kind, kind) + "/")

    def frame(self, kind: str) -> pd.DataFrame:
        """The same as a table of pandas."""
        return pd.DataFrame(self.rows(kind), columns=SCHEMAS[kind].names)


def read_rows(root: Path, prefix: str) -> list[dict[str, Any]]:
    """All rows of the files below a prefix, in the order of the files' names."""
    paths = [path for path in sorted(root.rglob("*.parquet")) if "latest" not in path.parts]
    paths = [path for path in paths if path.relative_to(root).as_posix().startswith(prefix)]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def frame(root: Path, prefix: str) -> pd.DataFrame:
    """The same as a table of pandas."""
    return pd.DataFrame(read_rows(root, prefix))


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every data file below a folder, by relative path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.parquet"))
        if "latest" not in path.parts
    }


def opened(config: RunConfig, engines: dict[str, Any] | None = None) -> Run:
    """Opens the store and plans, as a run does first; `engines` by component name."""
    components = resolve(config)
    store = Store(Path(config.run), config.output.compression)
    prompt_set = prompts.find(config.prompts, components.covered, store)
    prompts.survey(prompt_set)
    store.root.mkdir(parents=True, exist_ok=True)
    store.sweep()
    planner, shards = read_state(components, store)
    manifest.record_start(store, Loaded(config, ""), components, planner)
    attempts = config.cluster.attempts
    board = Board(planner, shards, unread=bool(prompt_set.unread), attempts=attempts)
    desks = {CLERK: Desk(store, config, components)}
    desks[READER] = Desk(store, config, components, prompt_set=prompt_set)
    for part in components.served:
        build = build_generator if isinstance(part, Teacher) else build_scorer
        engine = (engines or {}).get(part.name) or build(part)
        desks[part.fingerprint] = Desk(store, config, components, Recorded(engine))
    return Run(config, components, store, planner, board, desks)


def run(
    config: RunConfig,
    engines: dict[str, Any] | None = None,
    *,
    at_once: int = 1,
    order: random.Random | None = None,
    stop_after: int = MAX_TASKS,
) -> Run:
    """A whole run: up to `at_once` tasks in a wave, the next roles by `order` or in turn."""
    made = opened(config, engines)
    while made.board.is_open() and len(made.done) < stop_after:
        work_once(made, at_once, order)
        assert len(made.done) + len(made.failed) < MAX_TASKS, "it goes in circles"
    manifest.record_end(made.store, made.components, made.planner)
    return made


def work_once(made: Run, at_once: int = 1, order: random.Random | None = None) -> None:
    """Takes some ready tasks, does them at the same time, and settles them."""
    taken: list[Task] = []
    while len(taken) < at_once:
        owners = [owner for owner, role in made.board.roles.items() if role.ready]
        if not owners:
            break
        taken.append(made.board.take(order.choice(owners) if order else owners[0]))
    for task, outcome in zip(taken, asyncio.run(_together(taken, made.desks)), strict=True):
        settle(made, task, outcome)


async def _together(tasks: list[Task], desks: dict[str, Desk]) -> list[Any]:
    work = (execute(task, desks[task.owner]) for task in tasks)
    return await asyncio.gather(*work, return_exceptions=True)


def settle(made: Run, task: Task, outcome: Report | BaseException) -> None:
    """What the pipeline does with a task that ended."""
    if isinstance(outcome, Report):
        made.done.append((task, outcome))
        made.board.finished(task, outcome)
        return
    if not isinstance(outcome, Exception):
        raise outcome
    made.failed.append((task, outcome))
    if isinstance(outcome, StaleInputError):
        made.board.stale(task, outcome.scores, str(outcome))
    elif isinstance(outcome, EngineError | UsageError):
        made.board.set_aside(task.owner, str(outcome))
    else:
        made.board.failed(task, str(outcome))


def planned(made: Run) -> list[Task]:
    """Every task that is missing, routing in memory as `arbitrage plan` does."""
    missing: list[Task] = []
    _, shards = read_state(made.components, made.store)
    for shard in shards:
        if not shard.rounds:
            task = made.planner.route_task(shard)
            assert task is not None
            missing.append(task)
            table = made.store.read(shard.path, columns=PROMPT_COLUMNS).table
            asked = routes_of(table, made.components).asked
            shard.rounds.append(Round(task.output, asked))
            made.planner.record(task)
        missing += made.planner.tasks(shard)
    return missing


def lost_first(board: Board) -> dict[Task, str]:
    """What was given up for its own sake, and not because it needs something else that was."""
    outputs = {task.output for task in board.given_up}
    return {t: why for t, why in board.given_up.items() if outputs.isdisjoint(t.inputs)}


def imagined(
    teachers: int, *, shards: Iterable[ShardState] = (), unread: bool = True, attempts: int = 3
) -> tuple[Components, Board]:
    """A board of a run that exists in memory only, and its components."""
    pool = {f"t{n}": fake(0.5, options={"voice": f"{n}"}) for n in range(teachers)}
    components = resolve(make_config(Path("/nowhere"), pool))
    planner = Planner(components, Listing(), {})
    known = list(shards)
    planner.listing.files.update(shard.path for shard in known)
    return components, Board(planner, known, unread=unread, attempts=attempts)


def pretend(
    task: Task, components: Components, shards: int, asks: Callable[[int, str], bool] | None = None
) -> Report:
    """The report of a task that was not done. `asks(shard, teacher)` routes; none: everyone."""
    if task.stage == "read":
        path = f"prompts/{task.shard:05d}.0.parquet"
        shard = Shard(task.shard, path, 10) if task.shard < shards else None
        return Report(shard.rows if shard else 0, facts={"shard": shard})
    if task.stage == "route":
        prints = [t.fingerprint for t in components.teachers]
        asked = [owner for owner in prints if asks is None or asks(task.shard, owner)]
        told = dict.fromkeys(asked, (10, f"ids of {task.shard}"))
        return Report(10, facts={"teachers": told})
    return Report(10, spent=Usage(task.requests, 0, 100 if task.stage == "generate" else 0))
