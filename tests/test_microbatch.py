"""The batcher alone: groups, sizes, order, failures and the end, with arithmetic for a model."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import closing
from itertools import pairwise

import pytest

from arbitrage.engines.microbatch import MicroBatcher, padded_length


def test_padded_length_is_above_its_tokens_and_wastes_little() -> None:
    for tokens in range(1, 5000):
        length = padded_length(tokens)
        assert tokens < length <= max(tokens + 32, tokens * 1.25)
    lengths = sorted({padded_length(tokens) for tokens in range(5000)})
    assert lengths[:11] == [32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448]
    assert all(padded_length(length - 1) == length for length in lengths)
    assert all(padded_length(a) == b for a, b in pairwise(lengths))


def test_padded_length_keeps_to_the_limit() -> None:
    assert padded_length(1000, 1010) == 1010
    assert padded_length(1010, 1010) == 1010
    assert padded_length(10, 1010) == 32


class Recorder:
    """Multiplies items by their group, and keeps every batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def run(self, group: int, items: list[int]) -> list[int | Exception]:
        self.gate.wait(10)
        self.batches.append((group, items))
        return [group * item for item in items]


def test_every_caller_gets_its_own_result_from_batches_of_one_group() -> None:
    recorder = Recorder()
    rng = random.Random(0)
    requests = [(rng.randrange(5), number) for number in range(500)]

    async def one(group: int, item: int) -> int:
        await asyncio.sleep(rng.random() * 0.05)
        return await batcher.submit(group, item)

    async def everything() -> list[int]:
        return await asyncio.gather(*(one(*request) for request in requests))

    with closing(MicroBatcher(recorder.run, 8)) as batcher:
        assert asyncio.run(everything()) == [group * item for group, item in requests]
    assert all(1 <= len(items) <= 8 for _, items in recorder.batches)
    done = sorted((group, item) for group, items in recorder.batches for item in items)
    assert done == sorted(requests)


def test_full_batches_go_first_and_the_fullest_of_the_others_next() -> None:
    recorder = Recorder()
    recorder.gate.clear()

    async def everything() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(batcher.submit(9, 0))  # occupies the thread
            await asyncio.sleep(0.05)
            for group, count in ((1, 1), (2, 3), (3, 5)):
                for number in range(count):
                    tasks.create_task(batcher.submit(group, number))
            await asyncio.sleep(0)
            recorder.gate.set()

    with closing(MicroBatcher(recorder.run, 4)) as batcher:
        asyncio.run(everything())
    sizes = [(group, len(items)) for group, items in recorder.batches]
    assert sizes == [(9, 1), (3, 4), (2, 3), (1, 1), (3, 1)]


def test_a_rare_group_is_not_put_off_for_ever() -> None:
    recorder = Recorder()

    async def crowd(rare: asyncio.Task[int]) -> None:
        while not rare.done():
            await asyncio.gather(*(batcher.submit(1, number) for number in range(4)))

    async def everything() -> None:
        rare = asyncio.create_task(batcher.submit(7, 6))
        await asyncio.gather(*(crowd(rare) for _ in range(3)))

    with closing(MicroBatcher(recorder.run, 4, quiet_s=60, patience=10)) as batcher:
        asyncio.run(asyncio.wait_for(everything(), 10))
    at = next(number for number, (group, _) in enumerate(recorder.batches) if group == 7)
    assert at == 10


def test_an_exception_reaches_everyone_in_its_batch_and_no_one_else() -> None:
    def run(group: str, items: list[int]) -> list[int | Exception]:
        if group == "bad":
            raise MemoryError("out of memory")
        return [ValueError("odd") if item % 2 else item for item in items]

    async def everything() -> list[object]:
        requests = [batcher.submit("bad", number) for number in range(3)]
        requests += [batcher.submit("good", number) for number in range(4)]
        return await asyncio.gather(*requests, return_exceptions=True)

    with closing(MicroBatcher(run, 4)) as batcher:
        outcomes = asyncio.run(asyncio.wait_for(everything(), 10))
        assert asyncio.run(batcher.submit("good", 8)) == 8
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [MemoryError] * 3 + [int, ValueError, int, ValueError]


def test_a_wrong_number_of_results_is_an_error_of_all() -> None:
    with (
        closing(MicroBatcher(lambda group, items: items[1:], 4)) as batcher,
        pytest.raises(RuntimeError, match="0 results for 1 requests"),
    ):
        asyncio.run(asyncio.wait_for(batcher.submit("any", 1), 10))


def test_who_gives_up_is_left_out() -> None:
    recorder = Recorder()
    recorder.gate.clear()

    async def everything() -> int:
        first = asyncio.create_task(batcher.submit(1, 1))
        await asyncio.sleep(0.05)
        second, third = (asyncio.create_task(batcher.submit(1, number)) for number in (2, 3))
        await asyncio.sleep(0)
        second.cancel()
        recorder.gate.set()
        return await first + await third

    with closing(MicroBatcher(recorder.run, 4)) as batcher:
        assert asyncio.run(everything()) == 4
    assert recorder.batches == [(1, [1]), (1, [3])]


def test_close_fails_what_waits_and_stops_the_thread() -> None:
    recorder = Recorder()
    recorder.gate.clear()

    async def everything() -> list[object]:
        first = asyncio.create_task(batcher.submit(1, 1))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.submit(2, 2))
        await asyncio.sleep(0)
        threading.Timer(0.1, recorder.gate.set).start()
        await asyncio.to_thread(batcher.close)
        late = batcher.submit(1, 3)
        return await asyncio.gather(first, second, late, return_exceptions=True)

    before = threading.active_count()
    batcher = MicroBatcher(recorder.run, 4)
    done, waiting, late = asyncio.run(asyncio.wait_for(everything(), 10))
    assert done == 1
    assert isinstance(waiting, RuntimeError)
    assert isinstance(late, RuntimeError)
    assert threading.active_count() == before


def test_the_event_loop_goes_on_during_a_batch() -> None:
    """The batch ends only when the loop says so; a loop that waits for it never gets there."""
    told = threading.Event()

    def run(group: int, items: list[int]) -> list[int | Exception]:
        del group
        assert told.wait(30), "the event loop stood still"
        return [*items]

    async def everything() -> int:
        slow = asyncio.create_task(batcher.submit(1, 1))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not slow.done()
        told.set()
        return await slow

    with closing(MicroBatcher(run, 4)) as batcher:
        assert asyncio.run(everything()) == 1
