"""The loop of the driver: decide, hand out, settle what came back, show.

Brings together the board (what is to do), the scheduler (who does it) and the cluster (who is
there); each of them knows nothing of the others. Only tasks and small reports pass through here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from arbitrage import manifest
from arbitrage.errors import EngineError, StaleInputError, Stopped, UsageError
from arbitrage.events import Done, Event, Failed, Loaded
from arbitrage.metrics import RoleState, RunState
from arbitrage.progress import RoleProgress
from arbitrage.scheduler import Drain, RoleView, Start, assign, decide
from arbitrage.turns import Swap, preparations, with_swaps

if TYPE_CHECKING:
    import threading

    from arbitrage.board import Board, RoleWork
    from arbitrage.budget import Budget
    from arbitrage.cluster import Cluster
    from arbitrage.lock import Held
    from arbitrage.metrics import Metrics
    from arbitrage.plan import Task
    from arbitrage.progress import Progress
    from arbitrage.store import Store

WAIT_S = 0.2
UNTOLD = (
    "the server does not tell all the tokens that it takes, and what it does not tell cannot be "
    "counted; set `budget.requests` to limit what it may be asked"
)


def drive(
    board: Board,
    budget: Budget,
    cluster: Cluster,
    store: Store,
    progress: Progress,
    metrics: Metrics,
    stop: threading.Event,
    grace_s: float,
    held: Held,
) -> None:
    """Works until nothing is left that can be done and paid. Before it, `ration` says what is open
    at all.

    Once `stop` is set nothing new is begun: replicas keep what is finished, for which, and for the
    answers that are begun, there are `grace_s` seconds. Raises StoreError when another driver has
    taken over.
    """
    halted_s: float | None = None
    patience = Patience(board, cluster, progress)
    while (board.is_open() and not stop.is_set()) or board.in_flight():
        held.check()
        if halted_s is not None:
            if time.monotonic() - halted_s > grace_s:
                return
        elif stop.is_set():
            halted_s = time.monotonic()
            cluster.halt()
        else:
            hand_out(board, budget, cluster)  # first: what is handed out needs no further replica
            apply_decisions(board, cluster)
            patience.spend()
        for event in cluster.wait(WAIT_S):
            settle(event, board, budget, store, progress)
            metrics.note(event, board.given_up)
        ration(board, budget)
        progress.show([_progress_of(role, cluster) for role in board.roles.values()])
        ended = not (board.is_open() or board.in_flight())
        metrics.show(lambda: _state_of(board, budget, cluster), last=ended)


def apply_decisions(board: Board, cluster: Cluster) -> None:
    """Starts, stops, swaps and prepares replicas as the scheduler says."""
    views = [_view_of(role, board, cluster) for role in board.roles.values()]
    kinds = {owner: cluster.needs.kind(owner) for owner in board.roles}
    at = {name: place for view in views for name, place in view.at.items()}
    nodes = cluster.nodes()
    decisions = decide(views, nodes)
    for decision in with_swaps(decisions, kinds, at):
        if isinstance(decision, Start):
            cluster.start(decision.role, decision.place)
        elif isinstance(decision, Drain):
            cluster.drain(decision.replica)
        elif isinstance(decision, Swap):
            cluster.swap(decision.replica, decision.role)
        else:
            cluster.stop(decision.replica)
    for role, replica in preparations(views, nodes, decisions):
        cluster.prepare(replica, role)


class Patience:
    """How long roles have waited for room that is not there, on a cluster that may grow."""

    def __init__(self, board: Board, cluster: Cluster, progress: Progress) -> None:
        self._board, self._cluster, self._progress = board, cluster, progress
        self._since: float | None = None

    def spend(self) -> None:
        """Sets the roles that wait aside when nothing else has been at work for too long."""
        waiting = [role.owner for role in self._board.roles.values() if role.ready]
        if self._board.in_flight() or self._cluster.is_loading() or not waiting:
            self._since = None
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < self._cluster.patience_s:
            return
        for owner in waiting:
            reason = f"{self._cluster.wanted(owner)}, and no room came; add nodes and run again"
            self._board.set_aside(owner, reason)
            self._progress.say(f"{self._board.roles[owner].name} is set aside: {reason}")
        self._since = None


def ration(board: Board, budget: Budget) -> None:
    """Holds back what the budget does not pay for now."""
    if budget.limits:
        board.hold_back(budget.too_dear)


def hand_out(board: Board, budget: Budget, cluster: Cluster) -> None:
    """Gives ready tasks to loaded replicas that have room."""
    for owner, role in board.roles.items():
        replicas = [r for r in cluster.replicas(owner) if r.loaded and not r.draining]
        wary = {r.name for r in replicas if any(task.wary for task in r.tasks.values())}
        load = {r.name: len(r.tasks) for r in replicas if r.name not in wary}
        waiting = board.wary(owner)
        for replica in sorted(load, key=lambda name: (load[name], name))[:waiting]:
            if not load.pop(replica):  # else it is kept free until it has nothing else to do
                waiting -= 1
                _give(board.take(owner, wary=True), replica, budget, cluster)
        for replica in assign(len(role.ready) - waiting, load):
            _give(board.take(owner), replica, budget, cluster)


def _give(task: Task, replica: str, budget: Budget, cluster: Cluster) -> None:
    budget.reserve(task)
    cluster.submit(replica, task)


def settle(event: Event, board: Board, budget: Budget, store: Store, progress: Progress) -> None:
    """Takes in one event and writes it to the run's diary."""
    if isinstance(event, Done):
        board.finished(event.task, event.report)
        if budget.settle(event.task, event.report.spent):
            progress.say(f"{board.roles[event.task.owner].name}: {UNTOLD}")
        manifest.record_task(store, event.task, event.report, event.replica)
    elif isinstance(event, Loaded):
        board.loaded(event.owner)
        name = board.roles[event.owner].name
        store.append_event("replica_loaded", role=name, fresh=event.fresh)
    elif isinstance(event, Failed):
        budget.fail(event.task)
        _take_back(event, board, store, progress)
    else:
        name = board.roles[event.owner].name
        if not event.lost or (not event.gone and board.load_lost(event.owner)):
            board.set_aside(event.owner, _sentence(event.error))
        store.append_event("load_failed", role=name, error=_sentence(event.error))
        progress.say(f"{name} could not be loaded: {_sentence(event.error)}")
    for role in board.roles.values():
        if role.set_aside and not role.told:
            role.told = True
            store.append_event("set_aside", role=role.name, reason=role.set_aside)
            progress.say(f"{role.name} is set aside in this run: {role.set_aside}")


def _take_back(event: Failed, board: Board, store: Store, progress: Progress) -> None:
    task, reason = event.task, _sentence(event.error)
    if isinstance(event.error, Stopped):
        board.put_back(task)
        return
    if isinstance(event.error, StaleInputError):
        again = board.stale(task, event.error.scores, reason)
    elif isinstance(event.error, EngineError | UsageError):
        board.set_aside(task.owner, reason)
        again = False
    else:
        again = board.failed(task, reason, lost=event.lost)
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
    expected = board.expects_more(role.owner)
    if role.held and not role.ready:  # they may go out if what is in flight costs less
        expected = bool(replicas) and board.in_flight()
    pace = cluster.pace(role.owner)
    return RoleView(
        role.owner,
        cluster.needs.demand(role.owner),
        len(role.ready),
        expected,
        len(replicas),
        idle,
        cluster.needs.most(role.owner),
        cluster.needs.least(role.owner),
        role.left,
        pace.task_s,
        pace.load_s,
        {replica.name: replica.place for replica in replicas},
        frozenset(replica.name for replica in replicas if replica.draining),
        board.is_ending(role.owner),
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


def _state_of(board: Board, budget: Budget, cluster: Cluster) -> RunState:
    roles = []
    for owner, role in board.roles.items():
        replicas = cluster.replicas(owner)
        loaded = sum(replica.loaded for replica in replicas)
        tasks = (len(role.ready), len(role.held), len(role.in_flight), len(role.waiting))
        counts = (*tasks, loaded, len(replicas) - loaded)
        roles.append(RoleState(owner, *counts, bool(role.set_aside)))
    return RunState(tuple(roles), board.prompts, budget.against())
