"""The main job on one page. Read this first.

Open the store, plan what is missing, start the cluster, do it, summarise. Everything that was made
before, by this or any earlier call, is kept: killing this at any moment and calling it again gives
the same files as one undisturbed run.

    arbitrage run arbitrage.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arbitrage import manifest, prompts, summary
from arbitrage.board import Board, RoleWork
from arbitrage.cluster import Cluster, Done, Event, Failed, LoadFailed
from arbitrage.components import resolve
from arbitrage.engines import require
from arbitrage.errors import EngineError, StaleInputError, UsageError
from arbitrage.plan import read_state
from arbitrage.progress import RoleProgress
from arbitrage.scheduler import RoleView, Start, assign, decide
from arbitrage.stages import Desk
from arbitrage.store import Store

if TYPE_CHECKING:
    import threading

    from arbitrage.configfile import Loaded
    from arbitrage.progress import Progress
    from arbitrage.summary import Summary

WAIT_S = 0.2


def run(loaded: Loaded, progress: Progress, stop: threading.Event, *, strict: bool) -> Summary:
    """Makes everything that is missing and says what there is now.

    `stop`, once set, ends the run cleanly after the shards in flight. Raises UsageError before
    anything is written, LockedError when another driver is at work.
    """
    config = loaded.config
    components = resolve(config)
    for engine in {config.arbiter.engine, *(t.engine for t in config.teachers.values())}:
        require(engine)
    store = Store(Path(config.run), config.output.compression)
    prompt_set = prompts.find(config.prompts, components.covered, store)
    prompts.survey(prompt_set, strict=strict)
    with store.lock() as token:
        store.sweep()
        planner, shards = read_state(components, store)
        manifest.record_start(store, loaded, components, planner)
        unread = bool(prompt_set.unread)
        board = Board(planner, shards, unread=unread, attempts=config.cluster.attempts)
        if board.is_open():
            desk = Desk(store, config, components, prompt_set=prompt_set, token=token)
            with progress, Cluster(desk) as cluster:
                drive(board, cluster, store, progress, stop)
        manifest.record_end(store, components, planner)
    return summary.of_run(store, components, planner, board.given_up, stopped=board.is_open())


def drive(
    board: Board, cluster: Cluster, store: Store, progress: Progress, stop: threading.Event
) -> None:
    """Decide, hand out, settle, show; until nothing is left that can be done."""
    while (board.is_open() and not stop.is_set()) or board.in_flight():
        if not stop.is_set():
            apply_decisions(board, cluster)
            hand_out(board, cluster)
        for event in cluster.wait(WAIT_S):
            settle(event, board, store, progress)
        progress.show([_progress_of(role, cluster) for role in board.roles.values()])


def apply_decisions(board: Board, cluster: Cluster) -> None:
    """Starts and stops replicas as the scheduler says."""
    views = [_view_of(role, board, cluster) for role in board.roles.values()]
    for decision in decide(views, cluster.free):
        if isinstance(decision, Start):
            cluster.start(decision.role)
        else:
            cluster.stop(decision.replica)


def hand_out(board: Board, cluster: Cluster) -> None:
    """Gives ready tasks to loaded replicas that have room."""
    for owner, role in board.roles.items():
        load = {r.name: len(r.tasks) for r in cluster.replicas(owner) if r.loaded}
        for replica in assign(len(role.ready), load):
            cluster.submit(replica, board.take(owner))


def settle(event: Event, board: Board, store: Store, progress: Progress) -> None:
    """Takes in one event and writes it to the run's diary."""
    if isinstance(event, Done):
        board.finished(event.task, event.report)
        manifest.record_task(store, event.task, event.report)
    elif isinstance(event, Failed):
        _take_back(event, board, store, progress)
    elif isinstance(event, LoadFailed):
        name = board.roles[event.owner].name
        if not event.lost or board.load_lost(event.owner):
            board.set_aside(event.owner, _sentence(event.error))
        store.append_event("load_failed", role=name, error=_sentence(event.error))
        progress.say(f"{name} could not be loaded: {_sentence(event.error)}")


def _take_back(event: Failed, board: Board, store: Store, progress: Progress) -> None:
    task, reason = event.task, _sentence(event.error)
    if isinstance(event.error, StaleInputError):
        again = board.stale(task, event.error.scores, reason)
    elif isinstance(event.error, EngineError | UsageError):
        board.set_aside(task.owner, reason)
        again = False
    else:
        again = board.failed(task, reason)
    name = board.roles[task.owner].name
    outcome = "it is tried again" if again else "it is given up in this run"
    store.append_event("task_failed", role=name, output=task.output, error=reason, again=again)
    progress.say(f"{name}, {task.stage} of shard {task.shard} failed ({reason}); {outcome}")


def _sentence(error: Exception) -> str:
    """The first line of an error, short."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].strip()[:300]


def _view_of(role: RoleWork, board: Board, cluster: Cluster) -> RoleView:
    replicas = cluster.replicas(role.owner)
    idle = tuple(r.name for r in replicas if r.loaded and not r.tasks)
    return RoleView(
        role.owner,
        cluster.demand(role.owner),
        len(role.ready),
        board.expects_more(role.owner),
        len(replicas),
        idle,
        cluster.most(role.owner),
    )


def _progress_of(role: RoleWork, cluster: Cluster) -> RoleProgress:
    replicas = cluster.replicas(role.owner)
    loading = bool(replicas) and not any(replica.loaded for replica in replicas)
    total = role.done + role.left
    return RoleProgress(
        role.name,
        role.done,
        total,
        role.rows,
        role.completion_tokens,
        len(replicas),
        loading,
        role.set_aside,
    )
