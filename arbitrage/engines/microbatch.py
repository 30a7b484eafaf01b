"""Gathers single requests into batches of one group, and runs them on a thread of its own.

Knows nothing of models: a group is any hashable value, and only requests of one group meet in a
batch. Full batches go first. A part-filled one goes when nothing has arrived for a moment, for then
the callers are waiting too; and so that a rare group is not put off for ever, one that has seen
`patience` batches pass is next. An exception in a batch reaches everyone in it, and the thread goes
on.

    batcher = MicroBatcher(lambda group, items: [group * item for item in items], size=16)
    product = await batcher.submit(6, 7)
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

G = TypeVar("G", bound="Hashable")
T = TypeVar("T")
R = TypeVar("R")

_STEP = 32


def padded_length(tokens: int, limit: int | None = None) -> int:
    """The length that `tokens` are padded to: above them, and a function of them alone.

    Multiples of 32 up to 256, then four steps to the next power of two; never above `limit`.
    """
    step = max(_STEP, (1 << tokens.bit_length()) // 8)
    length = (tokens // step + 1) * step
    return length if limit is None else min(length, limit)


@dataclass(frozen=True)
class _Request(Generic[T, R]):
    item: T
    batches_before: int
    answer: Future[R]


class MicroBatcher(Generic[G, T, R]):
    """Calls `run(group, items)` with 1 to `size` items; it gives each a result or an exception."""

    def __init__(
        self,
        run: Callable[[G, list[T]], Sequence[R | Exception]],
        size: int,
        *,
        quiet_s: float = 0.002,
        patience: int = 64,
    ) -> None:
        self._run = run
        self._size = size
        self._quiet_s = quiet_s
        self._patience = patience
        self._batches = 0
        self._closed = False
        self._waiting: dict[G, deque[_Request[T, R]]] = {}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="microbatch", daemon=True)
        self._thread.start()

    async def submit(self, group: G, item: T) -> R:
        """The result for one item; raises what `run` raised or gave for it."""
        answer: Future[R] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            queue = self._waiting.setdefault(group, deque())
            queue.append(_Request(item, self._batches, answer))
            self._changed.notify()
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Fails what still waits, lets the batch at work end, and stops the thread."""
        with self._changed:
            self._closed = True
            left = [request for queue in self._waiting.values() for request in queue]
            self._waiting.clear()
            self._changed.notify()
        _fail(_claimed(left), RuntimeError("the engine is closed"))
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            group, requests = batch
            if not requests:
                continue
            try:
                results = self._run(group, [request.item for request in requests])
                if len(results) != len(requests):
                    raise RuntimeError(f"{len(results)} results for {len(requests)} requests")
            except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
                _fail(requests, error)
            else:
                for request, result in zip(requests, results, strict=True):
                    _settle(request.answer, result)
            del batch, requests  # else they, and an exception's tensors, live on while it waits

    def _next_batch(self) -> tuple[G, list[_Request[T, R]]] | None:
        """What to do next, claimed for this thread; none when closed. Waits."""
        with self._changed:
            while not self._closed:
                if not self._waiting:
                    self._changed.wait()
                    continue
                group = self._urgent()
                if group is None:
                    if self._changed.wait(self._quiet_s) or not self._waiting:
                        continue
                    group = max(self._waiting, key=lambda one: len(self._waiting[one]))
                return group, self._take(group)
            return None

    def _urgent(self) -> G | None:
        """The group put off for too long, or else the oldest that fills a batch."""
        oldest = min(self._waiting, key=self._age)
        if self._age(oldest) <= self._batches - self._patience:
            return oldest
        full = [group for group, queue in self._waiting.items() if len(queue) >= self._size]
        return min(full, key=self._age, default=None)

    def _age(self, group: G) -> int:
        return self._waiting[group][0].batches_before

    def _take(self, group: G) -> list[_Request[T, R]]:
        queue = self._waiting[group]
        taken = [queue.popleft() for _ in range(min(self._size, len(queue)))]
        if not queue:
            del self._waiting[group]
        self._batches += 1
        return _claimed(taken)


def _claimed(requests: list[_Request[T, R]]) -> list[_Request[T, R]]:
    """Those whose callers have not given up; from here on they cannot."""
    return [request for request in requests if request.answer.set_running_or_notify_cancel()]


def _settle(answer: Future[R], result: R | Exception) -> None:
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _fail(requests: list[_Request[T, R]], error: BaseException) -> None:
    for request in requests:
        request.answer.set_exception(error)
