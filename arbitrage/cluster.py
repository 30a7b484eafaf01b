"""Replicas on Ray: with `ray_metrics` the only module that imports it.

An actor is a `Worker` with one loaded engine, pinned to the node that was decided on; a spread one
lives in a placement group. Nothing is decided here. A replica that dies, alone or with its node,
gives its tasks back as `Failed` with `lost` set; Ray itself never retries or restarts anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from arbitrage.demand import MEND_MISFIT, misfit
from arbitrage.errors import ArbitrageError, ConfigError, EngineLostError
from arbitrage.events import Done, Event, Failed, Loaded, LoadFailed
from arbitrage.needs import Needs
from arbitrage.nodes import Nodes, Pace, resources_of, slots_of
from arbitrage.placement import Node, Place, Room, bundles_of
from arbitrage.replica import PACKAGE, Lending, Replica
from arbitrage.watch import Watch
from arbitrage.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from arbitrage.desk import Desk
    from arbitrage.plan import Task

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Ray reads these settings when it is imported.
import ray
import ray.exceptions
from ray._private.state import available_resources_per_node
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

OBJECT_STORE_BYTES = 80 * 2**20
"""Rows never pass through Ray's object store, so it gets the least that Ray allows."""
CONCURRENT_CALLS = 8
REFRESH_S = 5.0
"""So often a joined cluster is asked for its nodes."""
LOOK_S = 2.0
"""While nothing happens, whether any node lives is asked so often at most."""
PULSE_S = 2.0
"""Busy replicas are asked at most so often whether they still produce."""


class _Actor(Worker):
    """A worker that can end its process."""

    async def retire(self) -> None:
        """Frees the engine and ends the process."""
        await self.unload()
        ray.actor.exit_actor()


class Cluster:
    """A Ray cluster, of its own or joined, for the time of a `with` block."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.needs = Needs(desk.components, desk.config.cluster.clerks)
        self._replicas: dict[str, Replica] = {}
        self._loading: dict[Any, Replica] = {}
        self._count = 0
        self._owned: dict[str, dict[str, Replica]] = {}
        self._paces: dict[str, Pace] = {}
        self._nodes = Nodes()
        self._seen = 0.0
        self._leaving: dict[Any, Any] = {}
        self._watch = Watch()
        self._pulses: dict[Any, str] = {}
        self._felt = 0.0
        self.joined = False
        self._lending = Lending()

    def __enter__(self) -> Self:
        settings = self._desk.config.cluster
        address = settings.address or os.environ.get("RAY_ADDRESS") or "local"
        self.joined = address != "local"
        if self.joined and settings.of_its_own:
            raise ConfigError(
                f"the cluster at {address} is there already, so {settings.of_its_own} cannot be "
                "set; remove them, or set `cluster.address: local`"
            )
        own = {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "include_dashboard": False}
        own |= {"_metrics_export_port": settings.metrics_port}
        own |= {"object_store_memory": OBJECT_STORE_BYTES}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                **(self._lends() if self.joined else own),
            )
        except Exception as error:  # a start that takes too long is raised as just this
            told = f"the cluster at {address} could not be joined" if self.joined else ""
            raise ArbitrageError(f"{told or 'Ray could not be started'}: {error}") from error
        finally:
            _listen_again(handler)
        self._look()
        if not self.joined:
            self._refuse_what_never_fits()
        return self

    def _lends(self) -> dict[str, Any]:
        """This package for other environments, uploaded, as other nodes do not see its folder."""
        return {"runtime_env": {"py_modules": [str(PACKAGE)]}} if self.needs.elsewhere else {}

    def _look(self) -> None:
        """Sees which nodes there are, and on a joined cluster what others hold of them."""
        available = None
        with _lost_if_unreachable():
            alive = {n["NodeID"]: slots_of(n["Resources"]) for n in ray.nodes() if n["Alive"]}
            if self.joined:
                available = {n: slots_of(r) for n, r in available_resources_per_node().items()}
            if not alive:
                raise ConnectionError("no node of it lives")
        self._nodes.update(alive, available)
        self._seen = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ray.shutdown()
        self._lending.end()

    def _refuse_what_never_fits(self) -> None:
        for owner in self.needs.owners:
            if not self.ever_fits(owner):
                ray.shutdown()
                raise ConfigError(f"{self.wanted(owner)}; {MEND_MISFIT}")

    def ever_fits(self, owner: str) -> bool:
        """Whether a replica of a role would fit on the empty cluster as it is now."""
        return Room(self._nodes.empty()).place(self.needs.demand(owner)) is not None

    def wanted(self, owner: str) -> str:
        """What a replica of a role needs, beside what there is, in words."""
        name, demand = self.needs.name(owner), self.needs.demand(owner)
        return misfit(name, demand, self._nodes.total, len(self._nodes.empty()))

    @property
    def patience_s(self) -> float:
        """How many seconds to wait for room that is not there."""
        return self._desk.config.cluster.patience_s

    def is_loading(self) -> bool:
        """Whether any replica is being loaded."""
        return bool(self._loading)

    def nodes(self) -> list[Node]:
        """The nodes that are alive, with what is free on them; seen a few seconds ago at most."""
        if self.joined and time.monotonic() - self._seen > REFRESH_S:
            self._look()
        return self._nodes.free()

    def pace(self, owner: str) -> Pace:
        """How fast a role's replicas were so far."""
        return self._paces.setdefault(owner, Pace())

    def replicas(self, owner: str) -> list[Replica]:
        """The live and loading replicas of a role."""
        return list(self._owned.get(owner, {}).values())

    def start(self, owner: str, place: Place) -> None:
        """Starts one more replica at a place; a `Loaded` or `LoadFailed` event follows."""
        demand = self.needs.demand(owner)
        spread = len(place) > 1
        group = _group_of(place) if spread else None
        options: dict[str, Any] = {**resources_of(demand, spread=spread)}
        options["scheduling_strategy"] = _strategy_of(place, group)
        config = self.needs.config(owner)
        if config is not None and config.resources.python is not None:
            options["runtime_env"] = self._lending.environment(
                config.resources.python, joined=self.joined
            )
        actor = ray.remote(_Actor).options(
            max_concurrency=CONCURRENT_CALLS, max_restarts=0, max_task_retries=0, **options
        )
        handle = actor.remote(self._desk, spread=spread)
        self._nodes.take(place)
        self._load(Replica(self._name(owner), owner, demand, handle, place=place, group=group))

    def swap(self, name: str, owner: str) -> None:
        """Lets an idle replica go and gives its process, warm, to another role of its kind."""
        used = self._forget(self._replicas[name])
        told = {"fresh": False, "place": used.place, "group": used.group}
        self._load(Replica(self._name(owner), owner, used.demand, used.handle, **told))

    def _name(self, owner: str) -> str:
        self._count += 1
        return f"{owner}/{self._count}"

    def _load(self, replica: Replica) -> None:
        replica.since = time.monotonic()
        self._replicas[replica.name] = replica
        self._owned.setdefault(replica.owner, {})[replica.name] = replica
        self._loading[replica.handle.load.remote(replica.owner)] = replica
        self._watch.begin(replica.name, self.needs.load_s(replica.owner), replica.since)

    def _forget(self, replica: Replica) -> Replica:
        self._watch.end(replica.name)
        del self._replicas[replica.name]
        self._owned.get(replica.owner, {}).pop(replica.name, None)
        return replica

    def drain(self, name: str) -> None:
        """Marks a replica that gets no further task and is stopped when it is idle."""
        self._replicas[name].draining = True

    def prepare(self, name: str, owner: str) -> None:
        """Lets a busy replica's process make ready, once, for a role that gets its place."""
        replica = self._replicas[name]
        if replica.tasks and owner not in replica.prepared:
            replica.prepared.add(owner)
            replica.handle.prepare.remote(owner)

    def stop(self, name: str) -> None:
        """Lets an idle replica go."""
        replica = self._forget(self._replicas[name])
        self._nodes.give(replica.place)
        left = replica.handle.retire.remote()
        if replica.group is not None:
            self._leaving[left] = replica.group

    def _remove_groups(self) -> None:
        """Removes the placement groups of spread replicas that have retired."""
        if self._leaving:
            gone, _ = ray.wait(list(self._leaving), num_returns=len(self._leaving), timeout=0)
            for ref in gone:
                remove_placement_group(self._leaving.pop(ref))

    def submit(self, name: str, task: Task) -> None:
        """Gives a loaded replica a task; a `Done` or `Failed` event follows."""
        replica = self._replicas[name]
        ref = replica.handle.execute.remote(task)
        replica.tasks[ref] = task
        replica.given[ref] = time.monotonic()
        self._watch.begin(name, self.needs.hang_s(replica.owner), replica.given[ref])

    def halt(self) -> None:
        """Lets replicas begin nothing new; their tasks end with Stopped, or are done after all."""
        for replica in self._replicas.values():
            replica.handle.halt.remote()

    def wait(self, timeout_s: float) -> list[Event]:
        """Everything that has happened, waiting for the first of it at most so long."""
        self._remove_groups()
        if ended := self._feel():
            return ended
        owners = {ref: r for r in self._replicas.values() for ref in r.tasks} | self._loading
        if not owners:
            time.sleep(timeout_s)
            return []
        with _lost_if_unreachable():
            ready, _ = ray.wait(list(owners), num_returns=1, timeout=timeout_s)
            if ready:
                ready, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        if not ready and time.monotonic() - self._seen > LOOK_S:
            self._look()  # what is gone with its cluster would be waited for for ever
        return [self._settle(ref, owners[ref]) for ref in ready]

    def _feel(self) -> list[Event]:
        """Asks busy replicas for their pulse now and then, and ends those without one."""
        now = time.monotonic()
        if now - self._felt < PULSE_S:
            return []
        self._felt = now
        asked = list(self._pulses)
        with _lost_if_unreachable():
            told = ray.wait(asked, num_returns=len(asked), timeout=0)[0] if asked else []
        for ref in told:
            name = self._pulses.pop(ref)
            with contextlib.suppress(ray.exceptions.RayError):
                self._watch.heard(name, ray.get(ref), now)
        silent = set(self._pulses.values())
        for name in self._watch.due(now):
            if self._replicas[name].tasks and name not in silent:
                self._pulses[self._replicas[name].handle.pulse.remote()] = name
        return [e for name in self._watch.hanging(now) for e in self._end(self._replicas[name])]

    def _end(self, replica: Replica) -> list[Event]:
        """Kills a hanging replica; everything that it has is lost with it."""
        tasks, replica.tasks = replica.tasks, {}
        self._loading = {ref: other for ref, other in self._loading.items() if other is not replica}
        self._bury(replica)
        if not tasks:
            error = EngineLostError("it took longer than `resources.load_timeout_s`")
            return [LoadFailed(replica.name, replica.owner, error, lost=True)]
        after = f"{self.needs.hang_s(replica.owner):g} s"
        error = EngineLostError(f"its replica made nothing for {after} and was ended")
        return [Failed(replica.name, task, error, lost=True) for task in tasks.values()]

    def _settle(self, ref: Any, replica: Replica) -> Event:
        if ref in self._loading:
            return self._settle_load(ref, replica)
        shared = len(replica.tasks)
        task, given = replica.tasks.pop(ref), replica.given.pop(ref, 0.0)
        if not replica.tasks:
            self._watch.end(replica.name)
        try:
            report = ray.get(ref)
            self.pace(replica.owner).did(time.monotonic() - given, shared)
            return Done(replica.name, task, report)
        except ray.exceptions.RayTaskError as error:
            cause = _cause(error)
            lost = isinstance(cause, EngineLostError)
            if lost:
                self._bury(replica)
            return Failed(replica.name, task, cause, lost=lost)
        except ray.exceptions.RayError as error:
            self._bury(replica)
            return Failed(replica.name, task, error, lost=True)

    def _settle_load(self, ref: Any, replica: Replica) -> Event:
        del self._loading[ref]
        self._watch.end(replica.name)
        try:
            ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            self._bury(replica)
            # What an earlier engine left behind may be to blame: so it is tried afresh.
            return LoadFailed(replica.name, replica.owner, _cause(error), lost=not replica.fresh)
        except ray.exceptions.RayError as error:
            self._bury(replica)
            self._look()
            gone = not self._nodes.has(replica.place)
            return LoadFailed(replica.name, replica.owner, error, lost=True, gone=gone)
        replica.loaded = True
        self.pace(replica.owner).loaded(time.monotonic() - replica.since)
        return Loaded(replica.name, replica.owner, replica.fresh)

    def _bury(self, replica: Replica) -> None:
        """Forgets a dead replica once it owes nothing more."""
        replica.loaded = False
        if not replica.tasks and replica.name in self._replicas:
            self._forget(replica)
            self._nodes.give(replica.place)
            ray.kill(replica.handle)
            if replica.group is not None:
                remove_placement_group(replica.group)


@contextlib.contextmanager
def _lost_if_unreachable() -> Iterator[None]:
    """Raises ArbitrageError where Ray itself cannot be asked."""
    try:
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ArbitrageError(
            f"the Ray cluster was lost ({error}); run again, all that was made is kept"
        ) from error


def _listen_again(handler: Any) -> None:
    """Takes SIGTERM back from Ray, which would end the driver at once."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _cause(error: ray.exceptions.RayTaskError) -> Exception:
    """What was raised in the replica."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def _group_of(place: Place) -> Any:
    bundles, nodes = bundles_of(place)
    labels = [{"ray.io/node-id": node} for node in nodes]
    return placement_group(bundles, strategy="PACK", bundle_label_selector=labels)


def _strategy_of(place: Place, group: Any) -> Any:
    """Where Ray puts an actor; one that needs nothing is beside the driver."""
    if group is not None:
        return PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
    node = place[0].node if place else ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(node, soft=False)
