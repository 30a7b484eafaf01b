"""A sweep without Ray: real points, merges, planner and stages, in this process.

`install` puts the harnesses in the place of `pipeline.run` and of an evaluation's `run`; what they
were asked is counted.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import merge_models as models
from arbitrage import manifest, prompts
from arbitrage.board import Board
from arbitrage.components import Teacher
from arbitrage.desk import Desk
from arbitrage.engines import build_generator, build_scorer
from arbitrage.merging import evaluating, merge, sweep
from arbitrage.merging.sweep_config import load_sweep
from arbitrage.plan import CLERK, READER, read_state
from arbitrage.progress import Progress
from arbitrage.resolve import resolve
from arbitrage.store import Store
from arbitrage.winrate import evaluation
from command_line import write_config
from contest_harness import play
from harness import Recorded, Run, numbered_prompts, work_once, write_prompts

if TYPE_CHECKING:
    import pytest

    from arbitrage.merging.outcome import Swept

FAKE = {"engine": "fake", "sampling": {"temperature": 0}}
LANGUAGES = ("de", "sw", "ja")
GRID: list[dict[str, Any]] = [
    {"method": "linear"},
    {"method": ["ties", "dare_ties"], "density": [0.2, 0.5]},
    {"method": "task_arithmetic", "models.germanic.weight": [0.5, 1.0]},
]
NAMES = [
    "linear",
    *("ties-density0.2", "ties-density0.5", "dare_ties-density0.2", "dare_ties-density0.5"),
    *("task_arithmetic-germanic.weight0.5", "task_arithmetic-germanic.weight1"),
]


@dataclass
class Asked:
    """What was merged, and what every evaluation's tasks were."""

    merged: list[str] = field(default_factory=list)
    tasks: list[list[str]] = field(default_factory=list)


def pool(folder: Path) -> Path:
    """A base, two specialists of it, prompts, and the configs of a run and of an evaluation."""
    base = models.tensors(0)
    models.save(folder / "models/base", base)
    for number, name in enumerate(("germanic", "romance"), 1):
        told = models.tensors(number)
        models.save(folder / "models" / name, {key: base[key] + told[key] * 0.1 for key in base})
    write_prompts(folder / "prompts.jsonl", numbered_prompts(36, LANGUAGES))
    asked = {"sources": [{"path": "prompts.jsonl"}], "shard_size": 16, "detect": False}
    run = {
        "run": "run",
        "prompts": {**asked, "contradiction": "ignore"},
        "teachers": {"own": {"engine": "fake", "languages": ["de", "sw"]}},
        "arbiter": {"engine": "fake"},
        "gates": {"language": False},
    }
    write_config(folder, run, "run.yaml")
    winrate = {
        "evaluation": "winrate",
        "questions": asked,
        "models": {},
        "baseline": "base",
        "judges": {"judge": {"engine": "fake"}},
        "analysis": {"resamples": 200},
    }
    write_config(folder, winrate, "winrate.yaml")
    return folder


def config_of(grid: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """A sweep over the pool."""
    evaluate = {"run": "run.yaml", "as": FAKE, **more.pop("evaluate", {})}
    evaluate = {key: value for key, value in evaluate.items() if value is not None}
    merged = {"base": "models/base", "models": {n: f"models/{n}" for n in ("germanic", "romance")}}
    merged |= more.pop("merge", {})
    return {
        "sweep": "merges",
        "merge": merged,
        "grid": GRID if grid is None else grid,
        "evaluate": evaluate,
        **more,
    }


def install(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Evaluations are made in this process from here on."""
    asked = Asked()

    def run(loaded: Any, progress: Any, stop: Any, *, strict: bool, known: Any = None) -> Any:
        del progress, strict
        made = _opened(loaded, known)
        while made.board.is_open() and not stop.is_set():
            work_once(made, 4)
        manifest.record_end(made.store, made.components, made.planner)
        asked.tasks.append([task.output for task, report in made.done if report.rows])
        return _told(made, stopped=made.board.is_open())

    def contest(loaded: Any, progress: Any, stop: Any, *, known: Any = None) -> Any:
        del progress, stop, known
        made = play(loaded.config, at_once=4)
        asked.tasks.append([task.output for task, report in made.done if report.rows])
        results = evaluation.summed_up(made.planner, made.store, loaded)  # type: ignore[arg-type]
        told = _told(made, stopped=False)
        told.results = results
        return told

    monkeypatch.setattr(evaluating.pipeline, "run", run)
    monkeypatch.setattr(evaluating.evaluation, "run", contest)
    return asked


def _told(made: Run, *, stopped: bool) -> Any:
    aside = {role.name: role.set_aside for role in made.board.roles.values() if role.set_aside}
    given_up = {task.output: why for task, why in made.board.given_up.items()}
    return SimpleNamespace(stopped=stopped, held=0, set_aside=aside, given_up=given_up)


def _opened(loaded: Any, known: Any) -> Run:
    """As `harness.opened`, with parts whose models may be gone."""
    config = loaded.config
    components = resolve(config, known)
    store = Store(Path(config.run))
    prompt_set = prompts.find(config.prompts, components.covered, store)
    prompts.survey(prompt_set)
    Path(config.run).mkdir(parents=True, exist_ok=True)
    store.sweep()
    planner, shards = read_state(components, store)
    manifest.record_start(store, loaded, components, planner)
    board = Board(planner, shards, unread=bool(prompt_set.unread), attempts=3)
    desks = {CLERK: Desk(store, config, components)}
    desks[READER] = Desk(store, config, components, prompt_set=prompt_set)
    for part in components.served:
        build = build_generator if isinstance(part, Teacher) else build_scorer
        desks[part.fingerprint] = Desk(store, config, components, Recorded(build(part)))  # type: ignore[operator]
    return Run(config, components, store, planner, board, desks)


def swept(
    folder: Path,
    asked: Asked,
    config: dict[str, Any] | None = None,
    *,
    merger: Any = None,
    stop: threading.Event | None = None,
) -> Swept:
    """A whole sweep, as the command makes it."""
    path = write_config(folder, config_of() if config is None else config, "sweep.yaml")

    def merge_one(config: Any, target: Path, tell: Any, stop: Any = None) -> Any:
        asked.merged.append(target.name.rpartition("-")[0])
        return (merger or merge.merge)(config, target, tell, stop)

    @contextlib.contextmanager
    def counted(what: str) -> Any:
        yield lambda done, total: None

    plan = sweep.planned(load_sweep(path))
    progress = Progress(quiet=True)
    return sweep.sweep(plan, merge_one, progress, stop or threading.Event(), counted)
