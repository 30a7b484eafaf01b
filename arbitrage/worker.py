"""What lives in a replica's process: one loaded engine, and the tasks that it does.

Knows no Ray; `cluster` makes an actor of it. A task reads and writes the store itself, so only
tasks and small reports travel.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from arbitrage.components import Arbiter
from arbitrage.engines import ENGINES, build_generator, build_scorer
from arbitrage.plan import CLERK, READER
from arbitrage.pulse import beats
from arbitrage.readahead import read_ahead
from arbitrage.stages import execute

if TYPE_CHECKING:
    from typing import Any

    from arbitrage.components import Teacher
    from arbitrage.config import Served
    from arbitrage.desk import Desk
    from arbitrage.plan import Report, Task

GC_THRESHOLD = 50_000
"""Rows, and what libraries bring, are many small objects without cycles; looking for some all the
time costs a tenth, and a second of each load."""


class Worker:
    """One engine at a time, for one role at a time."""

    def __init__(self, desk: Desk, *, spread: bool = False) -> None:
        self._desk = desk
        self._asked = 0
        self._spread = spread
        gc.set_threshold(GC_THRESHOLD)

    async def load(self, owner: str) -> None:
        """Builds a role's engine in place of the one that is there, if any; the reader and the
        clerk have none."""
        await self.unload()
        if owner not in (READER, CLERK):
            served = self._told(self._served(owner))
            build = build_scorer if isinstance(served, Arbiter) else build_generator
            self._desk.engine = await asyncio.to_thread(build, served)
        gc.freeze()

    def _told(self, served: Any) -> Any:
        """A component as it is; spread over nodes, vLLM is told to find its devices by Ray."""
        if not self._spread or served.config.engine != "vllm":
            return served
        options = served.config.options
        told = {"distributed_executor_backend": "ray"} | options.engine_args
        options = options.model_copy(update={"engine_args": told})
        return replace(served, config=served.config.model_copy(update={"options": options}))

    async def prepare(self, owner: str) -> int:
        """Reads a role's model, where it is in local folders, into the page cache while the engine
        that is here works on; gives the bytes that were read."""
        engine, served = self._desk.engine, self._served(owner)

        def goes_on() -> bool:
            return self._desk.engine is engine and not self._desk.halted

        with contextlib.suppress(OSError):  # loading will tell what is wrong with a file
            return await asyncio.to_thread(read_ahead, _folders(served.config), goes_on)
        return 0

    def _served(self, owner: str) -> Teacher | Arbiter:
        return next(p for p in self._desk.components.served if p.fingerprint == owner)

    async def unload(self) -> None:
        """Frees the engine's device."""
        engine, self._desk.engine = self._desk.engine, None
        if engine is not None:
            await asyncio.to_thread(engine.close)
            gc.freeze()

    async def pulse(self) -> int:
        """A number that stands still when the engine does; without one it never does."""
        self._asked += 1
        return self._asked if self._desk.engine is None else beats()

    async def halt(self) -> None:
        """Begins nothing new: tasks keep what they have and end with Stopped."""
        self._desk.halted = True

    async def execute(self, task: Task) -> Report:
        """Does one task."""
        return await execute(task, self._desk)


def _folders(config: Served) -> list[Path]:
    """Where a model and its adapter are, if the engine loads them here and they are in folders."""
    if not ENGINES[config.engine].libraries:
        return []
    names = (config.model, getattr(config.options, "lora", None))
    return [Path(name) for name in names if name is not None and Path(name).is_dir()]
