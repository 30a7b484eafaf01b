"""The main job on one page. Read this first.

Open the store, plan what is missing, start the cluster, do it, summarise. Everything that was made
before, by this or any earlier call, is kept: killing this at any moment and calling it again gives
the same files as one undisturbed run.

    arbitrage run arbitrage.yaml
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arbitrage import journal, manifest, prompts, summary
from arbitrage.advice import advice
from arbitrage.board import Board
from arbitrage.budget import open_budget
from arbitrage.cluster import Cluster
from arbitrage.desk import Desk
from arbitrage.driver import drive, ration
from arbitrage.engines import require, require_variables
from arbitrage.errors import UsageError
from arbitrage.metrics import Metrics
from arbitrage.plan import read_state
from arbitrage.ray_metrics import RayMeter, require_port
from arbitrage.resolve import resolve
from arbitrage.spending import paid
from arbitrage.store import Store

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from arbitrage.budget import Budget
    from arbitrage.config import RunConfig
    from arbitrage.configfile import Loaded
    from arbitrage.lock import Held
    from arbitrage.plan import Planner
    from arbitrage.progress import Progress
    from arbitrage.summary import Summary
    from arbitrage.winrate.config import WinrateConfig


def run(
    loaded: Loaded,
    progress: Progress,
    stop: threading.Event,
    *,
    strict: bool,
    known: Mapping[str, str] | None = None,
) -> Summary:
    """Makes everything that is missing and says what there is now.

    `stop`, once set, ends the run cleanly after the answers in flight. `known` holds fingerprints
    by "kind/name" of parts whose model may be gone. Raises UsageError before anything is written,
    LockedError when another driver is at work.
    """
    config = loaded.config
    components = resolve(config, known)
    store = opened(config.run, config)
    if store.has("evaluation.json"):
        raise UsageError(f"{store.address()} holds win rates; give `run:` a folder of its own")
    prompt_set = prompts.find(config.prompts, components.covered, store)
    prompts.survey(prompt_set, strict=strict)
    with store.lock() as held:
        for sentence in (*advice(config), *components.remarks):
            progress.say(f"warning: {sentence}")
        store.sweep()
        planner, shards = read_state(components, store)
        journal.sweep(store, planner.listing)
        manifest.record_start(store, loaded, components, planner)
        unread = bool(prompt_set.unread)
        board = Board(planner, shards, unread=unread, attempts=config.cluster.attempts)
        desk = Desk(store, config, components, prompt_set=prompt_set, token=held.token)
        budget = work(desk, board, planner, progress, stop, held)
        held.check()
        manifest.record_end(store, components, planner)
    return summary.of_run(
        store,
        components,
        planner,
        board.given_up,
        stopped=board.is_open(),
        held=board.held_prompts(),
        set_aside={role.name: role.set_aside for role in board.roles.values() if role.set_aside},
        limits=budget.limits,
    )


def opened(place: str, config: RunConfig | WinrateConfig) -> Store:
    """The store at a place, once everything is there that the config's engines need. Raises
    UsageError for what is not; writes nothing."""
    for one in config.served:
        require_variables(one.options)
    for engine, python in {(one.engine, one.resources.python) for one in config.served}:
        require(engine, python)
    require_port(config.cluster.metrics_port)
    return Store(place, config.output.compression, config.output.patience_s)


def work(
    desk: Desk,
    board: Board,
    planner: Planner,
    progress: Progress,
    stop: threading.Event,
    held: Held,
) -> Budget:
    """Does what stands on the board, as far as the budget pays for it."""
    store, config = desk.store, desk.config
    earlier = paid(store, planner.listing) if config.budget.limits() else {}
    budget = open_budget(config.budget, desk.components, earlier)
    ration(board, budget)
    if board.is_open():
        with progress, Cluster(desk) as cluster:
            metrics = Metrics(RayMeter(), store.address(), board.names)
            grace_s = config.cluster.grace_s
            drive(board, budget, cluster, store, progress, metrics, stop, grace_s, held)
        held.check()
        store.sweep()  # replicas that were ended may have left something half-written
    return budget
