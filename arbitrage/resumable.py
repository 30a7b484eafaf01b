"""Does the items of one task, many at once, so that little is lost whatever dies.

* What is finished goes into the task's journal every few seconds; the next attempt takes it up.
* A task that is asked to stop begins no new item, waits for those that it has begun, and says so.
* A task under which the engine keeps dying is done warily: a few items at a time, each such trial
  noted beforehand. What dies with a trial is halved, until one item that was alone in it, more than
  once, is known to kill its engine; that item gets an error, and the others go on. An engine that
  does not do any other item before is broken, and no item is to blame.

Knows no stage: items are anything, results whatever the stage's codec turns into plain data.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from arbitrage.errors import Stopped, StoreError
from arbitrage.usage import Meter, Usage, metered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arbitrage.journal import Journal

T = TypeVar("T")
R = TypeVar("R")

FLUSH_S = 2.0
"""What is finished is on the disk so soon: all that a kill can cost."""
TRIES_ALONE = 2
"""One death may be chance; nobody else was there at the second."""


@dataclass(frozen=True)
class Work(Generic[T, R]):
    """How a stage does an item: `encode` and `decode` turn results into plain data and back.

    `deadly` is the result of an item that kills its engine, and `kin` what such items have in
    common with others that need not be tried.
    """

    do: Callable[[T], Awaitable[R]]
    encode: Callable[[R], Any]
    decode: Callable[[Any], R]
    deadly: Callable[[T, str], R]
    kin: Callable[[T], Any]


class Resumable(Generic[T, R]):
    """The items of one task, by key and in order, and what has become of them."""

    def __init__(
        self,
        items: Mapping[str, T],
        work: Work[T, R],
        journal: Journal,
        limit: int,
        halted: Callable[[], bool],
    ) -> None:
        self._items = items
        self._work = work
        self._journal = journal
        self._limit = limit
        self._halted = halted
        self._fresh: list[str] = []
        self._flushing = asyncio.Lock()
        self._told = Usage()
        self._works = False
        self.results: dict[str, R] = {}

    async def finish(self, *, wary: bool) -> Usage:
        """Does what is missing; gives what it cost beyond what the results tell.

        Raises Stopped where it was asked to stop before all was done, and what an item raises.
        """
        await asyncio.to_thread(self._journal.read)
        found = self._journal.found
        self.results = {k: self._work.decode(v) for k, v in found.items() if k in self._items}
        missing = [key for key in self._items if key not in self.results]
        with metered() as meter:
            await self._do_all(missing, meter, wary=wary or bool(self._journal.trial))
        return self._journal.spent.plus(meter.total)

    async def _do_all(self, missing: list[str], meter: Meter, *, wary: bool) -> None:
        flusher = asyncio.create_task(self._flush_now_and_then(meter))
        try:
            await (self._do_warily(missing, meter) if wary else self._do(missing))
            if len(self.results) < len(self._items):
                raise Stopped(f"stopped with {len(self.results)} of {len(self._items)} done")
        except BaseException:
            with contextlib.suppress(StoreError):
                await self._flush(meter)
            raise
        finally:
            async with self._flushing:  # a thread that still writes would outlive the journal
                flusher.cancel()

    async def _do(self, keys: Sequence[str]) -> None:
        """A few workers take items in turn, so that an engine that answers at once costs no asyncio
        task per item. The first exception ends the others and is raised as it is."""
        queue = iter(keys)

        async def worker() -> None:
            for key in queue:
                if self._halted():
                    return
                self.results[key] = await self._work.do(self._items[key])
                self._fresh.append(key)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._limit, len(keys))):
                    group.create_task(worker())
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from error

    async def _do_warily(self, missing: list[str], meter: Meter) -> None:
        journal = self._journal
        suspects = [key for key in journal.trial if key in self._items]
        while missing and not self._halted():
            if len(suspects) == 1 and journal.alone[suspects[0]] >= TRIES_ALONE:
                self._condemn(suspects.pop(), missing)
            else:
                await self._try(self._next_trial(missing, suspects), meter)
            await self._flush(meter)
            missing = [key for key in missing if key not in self.results]
            suspects = [key for key in suspects if key not in self.results]

    def _next_trial(self, missing: list[str], suspects: list[str]) -> list[str]:
        """Half of the suspects; before one is alone, another item shows that the engine works."""
        if len(suspects) == 1 and not self._works:
            return self._witnesses(missing, suspects)[:1] or suspects
        return suspects[: -(-len(suspects) // 2)] or missing[: self._limit]

    def _witnesses(self, missing: list[str], suspects: list[str]) -> list[str]:
        """What went well before, to be done once more; else what was not tried yet."""
        kin = {self._work.kin(self._items[key]) for key in suspects}
        done = [key for key in self.results if key not in self._journal.deadly]
        others = sorted(missing, key=lambda key: self._journal.tried[key])
        return [k for k in (*done[:1], *others) if self._work.kin(self._items[k]) not in kin]

    async def _try(self, trial: list[str], meter: Meter) -> None:
        """Does a few items and nothing else; what is on the disk tells if this is the end."""
        self._journal.note_trial(trial, works=self._works)
        await self._flush(meter)
        await self._do(trial)
        self._works = True

    def _condemn(self, key: str, missing: Iterable[str]) -> None:
        """Gives an item up, and its kin with it."""
        work = self._work
        told = f"its engine died {self._journal.alone[key]} times with nothing else to do"
        kin = work.kin(self._items[key])
        for other in missing:
            if work.kin(self._items[other]) == kin and other not in self.results:
                self.results[other] = work.deadly(self._items[other], told)
                self._journal.note_deadly(other)
                self._fresh.append(other)

    async def _flush_now_and_then(self, meter: Meter) -> None:
        """While the store takes nothing it is noted further, and the task's own file is what its
        failure shows at."""
        while True:
            await asyncio.sleep(FLUSH_S)
            with contextlib.suppress(StoreError):
                await self._flush(meter)

    async def _flush(self, meter: Meter) -> None:
        async with self._flushing:
            fresh, self._fresh = self._fresh, []
            for key in fresh:
                self._journal.add(key, self._work.encode(self.results[key]))
            spent = meter.total.minus(self._told)
            if spent != Usage():
                self._journal.note_spent(spent)
                self._told = meter.total
            await asyncio.to_thread(self._journal.flush)
