"""What a replica takes, and what this machine has; starts nothing and knows no Ray."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from arbitrage.engines import ENGINES
from arbitrage.placement import Slots

if TYPE_CHECKING:
    from arbitrage.config import Served
    from arbitrage.settings import ClusterConfig

DEVICES = Path("/dev")


def demand_of(config: Served) -> Slots:
    """What one replica takes: what the config says, else what the engine usually needs."""
    resources = config.resources
    cpus = ENGINES[config.engine].cpus if resources.cpus is None else resources.cpus
    return Slots(cpus, resources.gpus, resources.memory_gb or 0.0)


def misfit(name: str, demand: Slots, total: Slots, nodes: int = 1) -> str:
    """What is said of a role that does not fit, but what to do."""
    whole = "all of the machine is" if nodes == 1 else f"all {nodes} nodes together are"
    return f"a replica of {name!r} needs {told(demand)}, but {whole} {told(total)}"


MEND_MISFIT = "lower its `resources:` or use a larger machine"


def told(slots: Slots) -> str:
    """An amount of the cluster in words."""
    words = [f"{slots.cpus:g} CPUs", f"{slots.gpus:g} GPUs"]
    return ", ".join(words + ([f"{slots.memory_gb:.0f} GB"] if slots.memory_gb else []))


def machine_of(cluster: ClusterConfig) -> Slots | None:
    """What a run would find: the config's numbers, else the machine's; none for a joined cluster.

    Memory is all of the machine's; a run can use a little less.
    """
    if (cluster.address or os.environ.get("RAY_ADDRESS") or "local") != "local":
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
