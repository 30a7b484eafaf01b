"""What a replica takes, and what this machine has; starts nothing and knows no Ray."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from arbitrage.engines import ENGINES
from arbitrage.scheduler import Slots

if TYPE_CHECKING:
    from arbitrage.config import ClusterConfig, Served

DEVICES = Path("/dev")


def demand_of(config: Served) -> Slots:
    """What one replica takes: what the config says, else what the engine usually needs."""
    resources = config.resources
    cpus = ENGINES[config.engine].cpus if resources.cpus is None else resources.cpus
    return Slots(cpus, resources.gpus, resources.memory_gb or 0.0)


def misfit(name: str, demand: Slots, total: Slots) -> str:
    """The sentence for a role that never fits."""
    return (
        f"a replica of {name!r} needs {told(demand)}, but all of the machine is "
        f"{told(total)}; lower its `resources:` or use a larger machine"
    )


def told(slots: Slots) -> str:
    """An amount of the cluster in words."""
    words = [f"{slots.cpus:g} CPUs", f"{slots.gpus:g} GPUs"]
    return ", ".join(words + ([f"{slots.memory_gb:.0f} GB"] if slots.memory_gb else []))


def machine_of(cluster: ClusterConfig) -> Slots | None:
    """What a run would find: the config's numbers, else the machine's; none for a joined cluster.

    Memory is all of the machine's; a run can use a little less.
    """
    address = getattr(cluster, "address", None) or os.environ.get("RAY_ADDRESS")
    if hasattr(cluster, "address") and address not in (None, "local"):
        return None
    cpus = os.cpu_count() or 1 if cluster.cpus is None else cluster.cpus
    gpus = _accelerators() if cluster.gpus is None else cluster.gpus
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Slots(cpus, gpus, memory / 1e9)


def _accelerators() -> int:
    """Device files of NVIDIA's driver, as far as CUDA_VISIBLE_DEVICES lets them be seen."""
    try:
        names = [entry.name for entry in DEVICES.iterdir()]
    except OSError:
        return 0
    there = sum(re.fullmatch(r"nvidia\d+", name) is not None for name in names)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    return min(there, len([one for one in visible.split(",") if one.strip() not in ("", "-1")]))
