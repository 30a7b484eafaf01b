"""An evaluation without Ray: the real planner, board and stages, in this process.

`play` does what `winrate.evaluation.run` does, one wave of tasks after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage import journal, prompts
from arbitrage.board import Board
from arbitrage.components import Arbiter
from arbitrage.desk import Desk
from arbitrage.engines import build_generator, build_scorer
from arbitrage.plan import CLERK, READER
from arbitrage.store import Store
from arbitrage.winrate.config import WinrateConfig
from arbitrage.winrate.contest import contest_of
from arbitrage.winrate.planner import ContestPlanner, read_contest
from harness import MAX_TASKS, Recorded, Run, work_once

if TYPE_CHECKING:
    import random

    from arbitrage.winrate.contest import Contest

LANGUAGES = ("de", "en", "fr")


def model(voice: str, skill: Any = 0.5, **options: Any) -> dict[str, Any]:
    """A fake model that answers."""
    return {"engine": "fake", "options": {"voice": voice, "skill": skill, **options}}


def questions(count: int, languages: tuple[str, ...] = LANGUAGES) -> list[dict[str, Any]]:
    """Each question in all of the languages, with its id and a category."""
    return [
        {
            "question_id": f"q{n}",
            "category": ("code", "math")[n % 2],
            "language": code,
            "prompt": f"question {n} in {code}, of a few words only",
        }
        for n in range(count)
        for code in languages
    ]


def make_contest(
    folder: Path, models: dict[str, Any], judges: dict[str, Any] | None = None, **blocks: Any
) -> WinrateConfig:
    """An evaluation in `folder`."""
    asked = {"sources": [{"path": str(folder / "questions.jsonl")}], "shard_size": 16}
    asked |= blocks.pop("questions", {})
    told = {"evaluation": str(folder / "evaluation"), "questions": asked, "models": models}
    told["judges"] = {"judge": {"engine": "fake"}} if judges is None else judges
    return WinrateConfig.model_validate(told | blocks)


def open_contest(
    config: WinrateConfig, engines: dict[str, Any] | None = None, *, again: bool = False
) -> Run:
    """Opens the store and plans; `engines` by component name."""
    contest = contest_of(config)
    store = Store(Path(config.evaluation))
    prompt_set = prompts.find(config.questions, contest.covered, store)
    prompts.survey(prompt_set)
    store.root.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
    store.sweep()
    planner, shards = read_contest(contest, store, again=again)
    journal.sweep(store, planner.listing, planner.failures)
    board = Board(planner, shards, unread=bool(prompt_set.unread), attempts=3)
    desks = {CLERK: Desk(store, config, contest)}
    desks[READER] = Desk(store, config, contest, prompt_set=prompt_set)
    for part in contest.served:
        build = build_scorer if isinstance(part, Arbiter) else build_generator
        engine = (engines or {}).get(part.name) or build(part)  # type: ignore[operator]
        desks[part.fingerprint] = Desk(store, config, contest, Recorded(engine))
    return Run(config, contest, store, planner, board, desks)  # type: ignore[arg-type]


def play(
    config: WinrateConfig,
    engines: dict[str, Any] | None = None,
    *,
    again: bool = False,
    at_once: int = 1,
    order: random.Random | None = None,
    stop_after: int = MAX_TASKS,
) -> Run:
    """A whole evaluation, without its summary."""
    made = open_contest(config, engines, again=again)
    while made.board.is_open() and len(made.done) < stop_after:
        work_once(made, at_once, order)
        assert len(made.done) + len(made.failed) < MAX_TASKS, "it goes in circles"
    return made


def contest_in(made: Run) -> Contest:
    """Its parts, as what they are."""
    planner = made.planner
    assert isinstance(planner, ContestPlanner)
    return planner.contest
