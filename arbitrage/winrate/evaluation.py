"""An evaluation on one page: read the questions, let models answer and judges compare, sum up.

Everything that was made before is kept; killing this at any moment and calling it again gives the
same results as one undisturbed call.

    arbitrage winrate winrate.yaml
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, NamedTuple

from arbitrage import __version__, journal, prompts
from arbitrage.board import Board
from arbitrage.desk import Desk
from arbitrage.errors import UsageError
from arbitrage.identity import fingerprint
from arbitrage.manifest import IDENTITY, pretty
from arbitrage.pipeline import opened, work
from arbitrage.winrate.analysis import analyse
from arbitrage.winrate.caveats import caveats_of
from arbitrage.winrate.config import FromRun
from arbitrage.winrate.contest import Adopted, contest_of
from arbitrage.winrate.gathering import gathered
from arbitrage.winrate.planner import read_contest

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from arbitrage.plan import Task
    from arbitrage.progress import Progress
    from arbitrage.store import Store
    from arbitrage.winrate.contest import Contest
    from arbitrage.winrate.loading import Loaded
    from arbitrage.winrate.planner import ContestPlanner
    from arbitrage.winrate.results import Results

RESULTS = "winrate.json"
PAPERS = "evaluation.json"


class Evaluation(NamedTuple):
    """What came of a call. `results` are none while no game is judged; `stopped`: on request;
    `held`: prompts that the budget did not pay for; the rest as in a run's summary."""

    address: str
    results: Results | None
    stopped: bool
    given_up: dict[Task, str]
    held: int
    set_aside: dict[str, str]
    limits: dict[str, tuple[float, float]]


def run(
    loaded: Loaded,
    progress: Progress,
    stop: threading.Event,
    *,
    again: bool = False,
    known: Mapping[str, str] | None = None,
) -> Evaluation:
    """Makes everything that is missing, with `again` what has failed before too, and sums up.

    `known` holds fingerprints by "kind/name" of models that may be gone. Raises
    UsageError before anything is written, LockedError when another driver is at work.
    """
    config = loaded.config
    contest = contest_of(config, known)
    store = opened(config.evaluation, config)
    if store.exists():
        raise UsageError(f"{store.address()} holds a run; give `evaluation:` a folder of its own")
    prompt_set = prompts.find(config.questions, contest.covered, store)
    prompts.survey(prompt_set)
    with store.lock() as held:
        store.sweep()
        planner, shards = read_contest(contest, store, again=again)
        journal.sweep(store, planner.listing, planner.failures)
        _record(store, loaded, contest, planner)
        unread = bool(prompt_set.unread)
        board = Board(planner, shards, unread=unread, attempts=config.cluster.attempts)
        desk = Desk(store, config, contest, prompt_set=prompt_set, token=held.token)
        budget = work(desk, board, planner, progress, stop, held)
        held.check()
        results = summed_up(planner, store, loaded)
        if results is not None:
            store.write_text(RESULTS, results.as_json())
        store.append_event("evaluation_ended")
        store.flush_events()
    return Evaluation(
        store.address(),
        results,
        board.is_open(),
        board.given_up,
        board.held_prompts(),
        {role.name: role.set_aside for role in board.roles.values() if role.set_aside},
        budget.against(),
    )


def summed_up(planner: ContestPlanner, store: Store, loaded: Loaded) -> Results | None:
    """The results of what is judged so far; none where nothing is."""
    config, contest = loaded.config, planner.contest
    found = gathered(planner, store, config)
    if not len(found.outcomes):
        return None
    return analyse(
        found.outcomes,
        config.analysis,
        contest.baseline,
        failures=found.failures,
        remarks=caveats_of(found, contest, store),
        made_from={**made_from(contest), "questions": _questions(planner)},
    )


def _questions(planner: ContestPlanner) -> str:
    """What names the questions of an evaluation: the content of their shards."""
    return fingerprint([planner.shards[number].path for number in sorted(planner.shards)])


def made_from(contest: Contest) -> dict[str, dict[str, str]]:
    """What each part is, and of answers of a run whose: RUN, or RUN/TEACHER, without its path."""
    told = {}
    for part in (*contest.entrants, *contest.judges, *contest.arbiters):
        told[part.name] = {"kind": part.kind, "fingerprint": part.fingerprint}
        if isinstance(part, Adopted) and isinstance(part.source, FromRun):
            run = part.source.run.rstrip("/").rpartition("/")[2]
            teacher = part.source.teacher
            told[part.name]["run"] = run if teacher is None else f"{run}/{teacher}"
    return told


def _record(store: Store, loaded: Loaded, contest: Contest, planner: ContestPlanner) -> None:
    """Writes the config, and each component's identity, and opens the diary."""
    parts = (*contest.entrants, *contest.judges, *contest.arbiters)
    told = {
        "version": __version__,
        "python": platform.python_version(),
        "fingerprints": {f"{part.kind}/{part.name}": part.fingerprint for part in parts},
        "config": loaded.config.model_dump(mode="json"),
    }
    store.write_text("evaluation.yaml", loaded.text)
    store.write_text(PAPERS, pretty(told))
    for part in parts:
        path = f"{planner.folder_of(part)}{IDENTITY}"
        if not store.has(path):
            store.write_text(path, pretty({"name": part.name, "identity": part.identity}))
    store.append_event("evaluation_started")
