"""What a replica can have done, as the cluster tells the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from arbitrage.plan import Report, Task


class Loaded(NamedTuple):
    """A replica's engine is ready; `fresh`: the first of its process."""

    replica: str
    owner: str
    fresh: bool


class LoadFailed(NamedTuple):
    """A replica's engine could not be loaded. `lost`: its process died, or was not a fresh one;
    `gone`: its node is no more, which is no fault of the engine."""

    replica: str
    owner: str
    error: Exception
    lost: bool
    gone: bool = False


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
