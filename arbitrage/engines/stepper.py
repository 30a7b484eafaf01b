"""Runs an engine that is stepped on the thread that built it, for callers on any event loop.

Some engines bind themselves to the thread that builds them and make progress only while somebody
calls `step()`. Requests are taken in between two steps; what `add` raises is the request's own
error, what `step` raises is the end of the engine and reaches everyone who waits. A caller who
gives up takes its request out of the engine.

    stepper = Stepper(MyEngine)
    output = await stepper.submit("a request")
"""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from arbitrage.errors import EngineLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Q = TypeVar("Q")
A = TypeVar("A")
Q_in = TypeVar("Q_in", contravariant=True)
A_out = TypeVar("A_out", covariant=True)


class Stepped(Protocol[Q_in, A_out]):
    """What the thread needs of an engine; keys are the thread's own."""

    def add(self, key: str, request: Q_in) -> None:
        """Takes in a request. What it raises concerns this request alone."""
        ...

    def step(self) -> Iterable[tuple[str, A_out]]:
        """Makes progress and gives what is finished. What it raises is the engine's end."""
        ...

    def abort(self, keys: Sequence[str]) -> None:
        """Drops requests that nobody waits for."""
        ...

    def close(self) -> None:
        """Frees the device."""
        ...


class _Asked(NamedTuple, Generic[Q, A]):
    request: Q
    answer: Future[A]


class Stepper(Generic[Q, A]):
    """Builds an engine on a thread of its own and steps it there; raises what `build` raises."""

    def __init__(self, build: Callable[[], Stepped[Q, A]]) -> None:
        self._inbox: queue.SimpleQueue[_Asked[Q, A] | str | None] = queue.SimpleQueue()
        self._open: dict[str, Future[A]] = {}
        self._count = 0
        self._end: Exception | None = None
        self._lock = threading.Lock()
        built: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._work, args=(build, built), name="stepper", daemon=True
        )
        self._thread.start()
        built.result()

    async def submit(self, request: Q) -> A:
        """The engine's answer. Raises what `add` raised, EngineLostError where the engine died."""
        answer: Future[A] = Future()
        with self._lock:
            if self._end is not None:
                raise type(self._end)(*self._end.args)
            self._inbox.put(_Asked(request, answer))
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Fails what still waits, ends the thread and frees the device."""
        self._finish(RuntimeError("the engine is closed"))
        self._inbox.put(None)
        self._thread.join()

    def _work(self, build: Callable[[], Stepped[Q, A]], built: Future[None]) -> None:
        try:
            engine = build()
        except BaseException as error:  # noqa: BLE001 - whoever builds must hear of it
            built.set_exception(error)
            return
        built.set_result(None)
        try:
            while self._take_in(engine):
                for key, output in engine.step():
                    self._deliver(key, output)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            cause = str(error).strip().split("\n", 1)[0] or type(error).__name__
            self._finish(EngineLostError(f"the engine died: {cause}"))
        self._fail_all()
        engine.close()

    def _take_in(self, engine: Stepped[Q, A]) -> bool:
        """Takes what was asked since the last step, waiting where there is nothing else to do."""
        while not self._inbox.empty() or not self._open:
            asked = self._inbox.get()
            if asked is None:
                return False
            if isinstance(asked, _Asked):
                self._add(engine, asked)
            elif self._open.pop(asked, None) is not None:
                engine.abort([asked])
        return True

    def _add(self, engine: Stepped[Q, A], asked: _Asked[Q, A]) -> None:
        self._count += 1
        key = str(self._count)
        try:
            engine.add(key, asked.request)
        except Exception as error:  # noqa: BLE001 - it is this caller's
            _fail(asked.answer, error)
            return
        self._open[key] = asked.answer

        def given_up(done: Future[A]) -> None:
            if done.cancelled():
                self._inbox.put(key)

        asked.answer.add_done_callback(given_up)

    def _deliver(self, key: str, output: A) -> None:
        answer = self._open.pop(key, None)
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result(output)

    def _finish(self, end: Exception) -> None:
        with self._lock:
            self._end = self._end or end

    def _fail_all(self) -> None:
        """Nothing is asked any more once `_end` is set, so nobody is left waiting."""
        end = self._end or RuntimeError("the engine is closed")
        waiting = [*self._open.values()]
        self._open.clear()
        while not self._inbox.empty():
            asked = self._inbox.get()
            waiting += [asked.answer] if isinstance(asked, _Asked) else []
        for answer in waiting:
            _fail(answer, type(end)(*end.args))


def _fail(answer: Future[A], error: Exception) -> None:
    if answer.set_running_or_notify_cancel():
        answer.set_exception(error)
