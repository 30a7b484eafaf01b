"""Replicas on Ray: the only module that imports it.

An actor is a `Worker` with one loaded engine. Nothing is decided here. A replica that dies gives
its tasks back as `Failed` with `lost` set; Ray itself never retries or restarts anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.demand import demand_of, misfit
from arbitrage.errors import ArbitrageError, ConfigError, EngineLostError
from arbitrage.options import EngineOptions
from arbitrage.plan import CLERK, READER, Report, Task
from arbitrage.scheduler import Slots
from arbitrage.watch import Watch
from arbitrage.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Hashable
    from types import TracebackType
    from typing import Self

    from arbitrage.config import Served
    from arbitrage.stages import Desk

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Ray reads these settings when it is imported.
import ray
import ray.exceptions

OBJECT_STORE_BYTES = 80 * 2**20
"""Rows never pass through Ray's object store, so it gets the least that Ray allows."""
CONCURRENT_CALLS = 8
PULSE_S = 2.0
"""Busy replicas are asked so often whether they still produce."""
SILENT_S = 120.0
"""The reader and the clerk have no engine: of them it is enough that their process answers."""
LOOK_S = 2.0
"""While nothing happens, whether any node lives is asked so often at most."""


class Loaded(NamedTuple):
    """A replica's engine is ready; `fresh`: the first of its process."""

    replica: str
    owner: str
    fresh: bool


class LoadFailed(NamedTuple):
    """A replica's engine could not be loaded. `lost`: its process died, or was not a fresh one."""

    replica: str
    owner: str
    error: Exception
    lost: bool


class Done(NamedTuple):
    """A task is finished and its file published."""

    replica: str
    task: Task
    report: Report


class Failed(NamedTuple):
    """A task failed. `lost`: because its replica died."""

    replica: str
    task: Task
    error: Exception
    lost: bool


Event = Loaded | LoadFailed | Done | Failed


class _Actor(Worker):
    """A worker that can end its process."""

    async def retire(self) -> None:
        """Frees the engine and ends the process."""
        await self.unload()
        ray.actor.exit_actor()


@dataclass
class Replica:
    """One actor as the driver sees it; `fresh` until it gets its second engine."""

    name: str
    owner: str
    demand: Slots
    handle: Any
    loaded: bool = False
    fresh: bool = True
    tasks: dict[Any, Task] = field(default_factory=dict)


class Cluster:
    """A local Ray cluster for the time of a `with` block."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._replicas: dict[str, Replica] = {}
        self._loading: dict[Any, Replica] = {}
        self._watch = Watch()
        self._pulses: dict[Any, str] = {}
        self._felt_s = 0.0
        self._count = 0
        self._total = Slots()
        self._looked = 0.0
        self._lent: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        settings = self._desk.config.cluster
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address="local",
                num_cpus=settings.cpus,
                num_gpus=settings.gpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except Exception as error:  # a start that takes too long is raised as just this
            raise ArbitrageError(f"Ray could not be started: {error}") from error
        finally:
            _listen_again(handler)
        found = ray.cluster_resources()
        memory_gb = found.get("memory", 0.0) / 1e9
        self._total = Slots(found.get("CPU", 0.0), found.get("GPU", 0.0), memory_gb)
        self._refuse_what_never_fits()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ray.shutdown()
        if self._lent is not None:
            self._lent.cleanup()

    def _refuse_what_never_fits(self) -> None:
        components = self._desk.components
        configs: dict[str, Served] = {t.name: t.config for t in components.teachers}
        configs[components.arbiter.name] = components.arbiter.config
        for name, config in configs.items():
            demand = demand_of(config)
            if not self._total.holds(demand):
                ray.shutdown()
                raise ConfigError(misfit(name, demand, self._total))

    @property
    def free(self) -> Slots:
        """What no replica holds."""
        free = self._total
        for replica in self._replicas.values():
            free = free.minus(replica.demand)
        return free

    def demand(self, owner: str) -> Slots:
        """What one replica of a role takes."""
        config = self._config_of(owner)
        return Slots() if config is None else demand_of(config)

    def most(self, owner: str) -> int:
        """How many replicas of a role there may be."""
        config = self._config_of(owner)
        return 1 if config is None else config.resources.replicas

    def _config_of(self, owner: str) -> Served | None:
        components = self._desk.components
        if owner in (READER, CLERK):
            return None
        if owner == components.arbiter.fingerprint:
            return components.arbiter.config
        return components.teacher(owner).config

    def replicas(self, owner: str) -> list[Replica]:
        """The live and loading replicas of a role."""
        return [replica for replica in self._replicas.values() if replica.owner == owner]

    def kind(self, owner: str) -> Hashable:
        """What two roles have in common if a process can serve one after the other."""
        config = self._config_of(owner)
        if config is None:
            return owner
        return config.engine, config.resources.python, demand_of(config)

    def start(self, owner: str) -> None:
        """Starts one more replica; a `Loaded` or `LoadFailed` event follows."""
        demand = self.demand(owner)
        options: dict[str, Any] = {"num_cpus": demand.cpus, "num_gpus": demand.gpus}
        if demand.memory_gb:
            options["memory"] = int(demand.memory_gb * 1e9)
        config = self._config_of(owner)
        if config is not None and config.resources.python is not None:
            options["runtime_env"] = self._environment(config.resources.python)
        actor = ray.remote(_Actor).options(
            max_concurrency=CONCURRENT_CALLS, max_restarts=0, max_task_retries=0, **options
        )
        self._load(owner, demand, actor.remote(self._desk), fresh=True)

    def swap(self, name: str, owner: str) -> None:
        """Lets an idle replica go and gives its process, warm, to another role of its kind."""
        used = self._replicas.pop(name)
        self._load(owner, used.demand, used.handle, fresh=False)

    def _load(self, owner: str, demand: Slots, handle: Any, *, fresh: bool) -> None:
        self._count += 1
        replica = Replica(f"{owner}/{self._count}", owner, demand, handle, fresh=fresh)
        self._replicas[replica.name] = replica
        self._loading[handle.load.remote(owner)] = replica
        config = self._config_of(owner)
        if config is not None:
            self._watch.begin(replica.name, config.resources.load_timeout_s, time.monotonic())

    def _environment(self, python: str) -> dict[str, Any]:
        """Another environment for a replica, with this package and nothing else of the driver's.

        The folder that the package lies in may be the driver's site-packages, whose libraries
        would come before the other environment's own: so it is lent through a folder of its own.
        """
        if self._lent is None:
            self._lent = TemporaryDirectory(prefix="arbitrage-")
            package = Path(__file__).resolve().parent
            (Path(self._lent.name) / package.name).symlink_to(package)
        return {"py_executable": python, "env_vars": {"PYTHONPATH": self._lent.name}}

    def stop(self, name: str) -> None:
        """Lets an idle replica go."""
        replica = self._replicas.pop(name)
        replica.handle.retire.remote()

    def submit(self, name: str, task: Task) -> None:
        """Gives a loaded replica a task; a `Done` or `Failed` event follows."""
        replica = self._replicas[name]
        replica.tasks[replica.handle.execute.remote(task)] = task
        self._watch.begin(name, self._hang_s(replica.owner), time.monotonic())

    def halt(self) -> None:
        """Lets replicas begin nothing new; their tasks end with Stopped, or are done after all."""
        for replica in self._replicas.values():
            replica.handle.halt.remote()

    def wait(self, timeout_s: float) -> list[Event]:
        """Everything that has happened, waiting for the first of it at most so long."""
        if hanging := self._feel():
            return hanging
        owners = {ref: r for r in self._replicas.values() for ref in r.tasks} | self._loading
        if not owners:
            time.sleep(timeout_s)
            return []
        try:
            ready, _ = ray.wait(list(owners), num_returns=1, timeout=timeout_s)
            if ready:
                ready, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
            else:
                self._look_at_nodes()
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise ArbitrageError(
                f"the Ray cluster was lost ({error}); run again, all that was made is kept"
            ) from error
        return [self._settle(ref, owners[ref]) for ref in ready]

    def _feel(self) -> list[Event]:
        """Asks busy replicas for their pulse now and then, and ends those without one."""
        now_s = time.monotonic()
        if now_s - self._felt_s < PULSE_S:
            return []
        self._felt_s = now_s
        asked = list(self._pulses)
        told = ray.wait(asked, num_returns=len(asked), timeout=0)[0] if asked else []
        for ref in told:
            name = self._pulses.pop(ref)
            with contextlib.suppress(ray.exceptions.RayError):
                self._watch.heard(name, ray.get(ref), now_s)
        silent = set(self._pulses.values())
        for name, replica in self._replicas.items():
            if replica.tasks and name not in silent:
                self._pulses[replica.handle.pulse.remote()] = name
        return [e for name in self._watch.hanging(now_s) for e in self._end(self._replicas[name])]

    def _end(self, replica: Replica) -> list[Event]:
        """Kills a hanging replica; everything that it has is lost with it."""
        self._watch.end(replica.name)
        ray.kill(replica.handle)
        del self._replicas[replica.name]
        if replica.tasks:
            after = f"{self._hang_s(replica.owner):g} s"
            error = EngineLostError(f"its replica made nothing for {after} and was ended")
            return [Failed(replica.name, task, error, lost=True) for task in replica.tasks.values()]
        self._loading = {ref: other for ref, other in self._loading.items() if other is not replica}
        error = EngineLostError("it took longer than `resources.load_timeout_s`")
        return [LoadFailed(replica.name, replica.owner, error, lost=True)]

    def _hang_s(self, owner: str) -> float:
        """How long a replica at work may produce nothing: a server's own limits come first."""
        config = self._config_of(owner)
        if config is None:
            return SILENT_S
        slowest_s = config.options.slowest_s if isinstance(config.options, EngineOptions) else 0.0
        return max(config.resources.hang_s, 2 * slowest_s)

    def _look_at_nodes(self) -> None:
        """Raises ConnectionError when no node lives: what is waited for would never come."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            if not any(node["Alive"] for node in ray.nodes()):
                raise ConnectionError("no node of it lives")

    def _settle(self, ref: Any, replica: Replica) -> Event:
        if ref in self._loading:
            return self._settle_load(ref, replica)
        task = replica.tasks.pop(ref)
        if not replica.tasks:
            self._watch.end(replica.name)
        try:
            return Done(replica.name, task, ray.get(ref))
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
            return LoadFailed(replica.name, replica.owner, error, lost=True)
        replica.loaded = True
        return Loaded(replica.name, replica.owner, replica.fresh)

    def _bury(self, replica: Replica) -> None:
        """Forgets a dead replica once it owes nothing more."""
        self._watch.end(replica.name)
        replica.loaded = False
        if not replica.tasks and self._replicas.pop(replica.name, None) is not None:
            ray.kill(replica.handle)


def _listen_again(handler: Any) -> None:
    """Takes SIGTERM back from Ray, which would end the driver at once."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _cause(error: ray.exceptions.RayTaskError) -> Exception:
    """What was raised in the replica."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
