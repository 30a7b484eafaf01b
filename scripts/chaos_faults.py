"""The disturbances that `chaos.py` knows, in one table: a name, how often, and a function.

A function disturbs the run of a `Scene` and says whether it could: a replica cannot be killed
before there is one. It returns once its disturbance is over (the store works again, what was frozen
goes on). Only processes below the run's own driver are touched, never those of another Ray.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from arbitrage.store import Store

if TYPE_CHECKING:
    from chaos_workload import Workload

REPLICA = "ray::_Actor"
FREEZE_S = (0.5, 4.0)
FAULT_S = (0.2, 2.0)
LOOK_S = 0.05
FAILED, REFUSED, STOPPED = 1, 2, 75
SECOND_S = 120.0


@dataclass
class Scene:
    """One start of a run and what is known of it; `remarks` are things that should not be."""

    workload: Workload
    run: str
    process: subprocess.Popen[str]
    draw: random.Random
    log: Path
    frozen: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether the driver runs."""
        return self.process.poll() is None

    def kill(self, pid: int, number: int = signal.SIGKILL) -> bool:
        """Sends a signal; false if there is no such process any more."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def below(self, name: str) -> list[int]:
        """Processes of the driver's tree whose name begins so."""
        return [pid for pid, told in tree(self.process.pid).items() if told.startswith(name)]

    def pick(self, name: str) -> int | None:
        """One of them by chance, or none."""
        pids = self.below(name)
        return self.draw.choice(sorted(pids)) if pids else None


def tree(root: int) -> dict[int, str]:
    """The processes below one, with their names: a title that was set, or the program's."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state = (entry / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, IndexError):
            continue
        parents[int(entry.name)] = int(state[1])
        names[int(entry.name)] = words[0].rsplit("/", 1)[-1]
    inside = {root}
    while grown := {pid for pid, parent in parents.items() if parent in inside} - inside:
        inside |= grown
    return {pid: names[pid] for pid in inside - {root} if pid in names}


def kill_driver(scene: Scene) -> bool:
    """kill -9 of the driver."""
    return scene.kill(scene.process.pid)


def kill_below(name: str) -> Callable[[Scene], bool]:
    """kill -9 of a process of the run, by its name."""

    def kill(scene: Scene) -> bool:
        pid = scene.pick(name)
        return pid is not None and scene.kill(pid)

    return kill


def freeze_replica(scene: Scene) -> bool:
    """SIGSTOP of a replica, for a while."""
    pid = scene.pick(REPLICA)
    return pid is not None and _freeze(scene, pid)


def freeze_driver(scene: Scene) -> bool:
    """SIGSTOP of the driver, for a while."""
    return _freeze(scene, scene.process.pid)


def _freeze(scene: Scene, pid: int) -> bool:
    if not scene.kill(pid, signal.SIGSTOP):
        return False
    time.sleep(scene.draw.uniform(*FREEZE_S))
    scene.kill(pid, signal.SIGCONT)
    return True


def hang_replica(scene: Scene) -> bool:
    """SIGSTOP of a replica for good: only a watchdog (`resources.hang_s`) sees that."""
    pid = scene.pick(REPLICA)
    if pid is None or not scene.kill(pid, signal.SIGSTOP):
        return False
    scene.frozen.append(pid)
    return True


def fail_store(error: str, share: float) -> Callable[[Scene], bool]:
    """Writing fails for a while, with some chance each time."""

    def fail(scene: Scene) -> bool:
        below = str(scene.workload.runs)
        told = {"error": error, "share": share, "below": below, "seed": scene.draw.random()}
        fault = scene.workload.fault
        draft = fault.with_suffix(".draft")
        draft.write_text(json.dumps(told), encoding="utf-8")
        draft.rename(fault)
        time.sleep(scene.draw.uniform(*FAULT_S))
        fault.unlink()
        return True

    return fail


def ask_to_stop(number: int) -> Callable[[Scene], bool]:
    """A signal that asks the driver to stop; it is waited for by whoever runs the scene."""

    def ask(scene: Scene) -> bool:
        return scene.kill(scene.process.pid, number)

    return ask


def second_driver(scene: Scene) -> bool:
    """A second driver on the same run directory must be refused, and change nothing."""
    store = Store(scene.workload.runs / scene.run)
    while not store.is_held():
        if not scene.alive:
            return False
        time.sleep(LOOK_S)
    with scene.log.open("a", encoding="utf-8") as log:
        second = scene.workload.start(scene.run, log, None)
    try:
        code = second.wait(SECOND_S)
    except subprocess.TimeoutExpired:
        second.kill()
        code = second.wait()
    if scene.alive and code != REFUSED:
        scene.remarks.append(f"a second driver ended with {code} while the first was at work")
    return True


class Kind(NamedTuple):
    """A disturbance; of `weight` parts in all it takes one, `usual` ones without being named.
    `codes`: where the driver must end of it, with one of these exit codes."""

    disturb: Callable[[Scene], bool]
    weight: int = 1
    usual: bool = True
    codes: tuple[int, ...] = ()


def _stops(number: int, *codes: int) -> Kind:
    """0: it was just complete; minus the signal: it came before the driver listened."""
    return Kind(ask_to_stop(number), 1, codes=(STOPPED, 0, -number, 128 + number, *codes))


KINDS = {
    "kill driver": Kind(kill_driver, 2),
    "kill replica": Kind(kill_below(REPLICA), 6),
    "kill raylet": Kind(kill_below("raylet"), codes=(FAILED, 0)),
    "kill gcs_server": Kind(kill_below("gcs_server"), codes=(FAILED, 0)),
    "freeze replica": Kind(freeze_replica, 3),
    "freeze driver": Kind(freeze_driver, 2),
    "hang replica": Kind(hang_replica),
    "disk full": Kind(fail_store("ENOSPC", 1.0), 2),
    "store errors": Kind(fail_store("EIO", 0.3), 2),
    "SIGTERM": _stops(signal.SIGTERM),
    "SIGINT": _stops(signal.SIGINT),
    "SIGUSR1": _stops(signal.SIGUSR1),
    "second driver": Kind(second_driver),
}
"""A run on several nodes gets its own kind, `kill node`, here: a function that kills the raylet of
one node that is not the driver's own."""
