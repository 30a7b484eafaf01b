"""The thread of a stepped engine: hand-written engines, and callers on several event loops."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from arbitrage.engines.stepper import Stepper
from arbitrage.errors import EngineLostError, ItemError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Doubler:
    """Doubles a number in as many steps as the number says; can refuse, hold and die."""

    def __init__(self, slots: int = 4) -> None:
        self.thread = threading.get_ident()
        self.slots = slots
        self.left: dict[str, int] = {}
        self.asked: dict[str, int] = {}
        self.aborted: list[str] = []
        self.most = 0
        self.closed = False
        self.added = threading.Event()

    def add(self, key: str, request: int) -> None:
        assert threading.get_ident() == self.thread
        if request < 0:
            raise ItemError(f"{request} is below zero")
        self.left[key] = self.asked[key] = request
        self.added.set()

    def step(self) -> Iterable[tuple[str, int]]:
        assert threading.get_ident() == self.thread
        self.most = max(self.most, len(self.left))
        for key in list(self.left)[: self.slots]:
            if self.asked[key] == 13:
                raise MemoryError("no room\nfor a cache")
            self.left[key] -= 1
        done = [key for key, steps in self.left.items() if steps <= 0]
        for key in done:
            del self.left[key]
        return [(key, 2 * self.asked[key]) for key in done]

    def abort(self, keys: Sequence[str]) -> None:
        self.aborted += keys
        for key in keys:
            self.left.pop(key, None)

    def close(self) -> None:
        assert threading.get_ident() == self.thread
        self.closed = True


def started(slots: int = 4) -> tuple[Stepper[int, int], Doubler]:
    made: list[Doubler] = []

    def build() -> Doubler:
        made.append(Doubler(slots))
        return made[0]

    return Stepper(build), made[0]


def test_everyone_gets_the_own_answer_and_all_are_in_the_engine_together() -> None:
    stepper, engine = started(slots=100)

    async def everyone() -> list[int]:
        return await asyncio.gather(*(stepper.submit(n) for n in range(1000, 1040)))

    for _ in range(2):  # a second event loop
        assert asyncio.run(asyncio.wait_for(everyone(), 20)) == [2 * n for n in range(1000, 1040)]
    assert engine.most > 20
    stepper.close()
    assert engine.closed
    assert not stepper._thread.is_alive()


def test_what_build_raises_is_raised() -> None:
    def build() -> Doubler:
        raise OSError("no weights")

    with pytest.raises(OSError, match="no weights"):
        Stepper(build)


def test_a_refused_request_concerns_nobody_else() -> None:
    stepper, _ = started()

    async def everyone() -> list[object]:
        requests = (stepper.submit(n) for n in (3, -1, 5))
        return await asyncio.gather(*requests, return_exceptions=True)

    first, second, third = asyncio.run(asyncio.wait_for(everyone(), 20))
    assert (first, third) == (6, 10)
    assert isinstance(second, ItemError)
    stepper.close()


def test_the_engines_death_reaches_everyone_and_later_callers() -> None:
    stepper, engine = started(slots=100)

    async def everyone() -> list[object]:
        requests = (stepper.submit(n) for n in (1000, 13, 2000))
        return await asyncio.gather(*requests, return_exceptions=True)

    outcomes = asyncio.run(asyncio.wait_for(everyone(), 20))
    assert [type(outcome) for outcome in outcomes] == [EngineLostError] * 3
    assert {str(outcome) for outcome in outcomes} == {"the engine died: no room"}
    with pytest.raises(EngineLostError):
        asyncio.run(stepper.submit(1))
    stepper.close()
    assert engine.closed


def test_a_caller_who_gives_up_frees_its_place() -> None:
    stepper, engine = started(slots=1)

    async def impatient() -> int:
        slow = asyncio.create_task(stepper.submit(10**9))
        await asyncio.to_thread(engine.added.wait)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        return await stepper.submit(1)

    assert asyncio.run(asyncio.wait_for(impatient(), 20)) == 2
    assert engine.aborted == ["1"]
    stepper.close()


def test_closing_fails_what_waits() -> None:
    stepper, engine = started(slots=1)

    async def cut_off() -> None:
        slow = asyncio.create_task(stepper.submit(10**9))
        await asyncio.to_thread(engine.added.wait)
        await asyncio.to_thread(stepper.close)
        with pytest.raises(RuntimeError, match="closed"):
            await slow
        with pytest.raises(RuntimeError, match="closed"):
            await stepper.submit(1)

    asyncio.run(asyncio.wait_for(cut_off(), 20))
    assert engine.closed
