"""The items of one task: in order, kept as they finish, and the one that kills its engine found."""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage import resumable
from arbitrage.errors import EngineError, EngineLostError, Stopped, StoreError
from arbitrage.journal import Journal, journal_of, sweep
from arbitrage.resumable import TRIES_ALONE, Resumable, Work
from arbitrage.store import Store
from arbitrage.usage import Usage, note

OUTPUT = "candidates/t-1/00000.abc.parquet"
LIMIT = 4


def work_of(do: Any, kin: Any = lambda item: item) -> Work[Any, Any]:
    return Work(do, lambda result: result, lambda told: told, lambda _, why: why, kin)


def items_of(keys: Any) -> dict[str, int]:
    return {str(key): key for key in keys}


def attempt(
    folder: Path,
    items: dict[str, int],
    do: Any,
    *,
    wary: bool = False,
    limit: int = LIMIT,
    halted: Any = lambda: False,
    basis: str = "b",
    kin: Any = lambda item: item,
) -> tuple[dict[str, Any], Usage]:
    """One attempt at a task: results and what they cost besides."""
    journal = Journal(Store(folder), OUTPUT, basis)
    task = Resumable(items, work_of(do, kin), journal, limit, halted)
    spent = asyncio.run(asyncio.wait_for(task.finish(wary=wary), 20))
    return task.results, spent


async def square(item: int) -> int:
    return item * item


# doing


@given(st.integers(0, 30), st.integers(1, 8), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_every_item_is_done_and_never_more_at_once_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory, count: int, limit: int, seed: int
) -> None:
    rng = random.Random(seed)
    now = peak = 0

    async def work(item: int) -> int:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        now -= 1
        return item * item

    folder = tmp_path_factory.mktemp("run")
    results, _ = attempt(folder, items_of(range(count)), work, limit=limit)
    assert results == {str(n): n * n for n in range(count)}
    assert peak <= min(limit, count)
    assert now == 0


def test_the_first_exception_ends_the_others_and_comes_out_as_it_is(tmp_path: Path) -> None:
    finished: list[int] = []

    async def work(item: int) -> None:
        if item == 3:
            raise EngineError("broken")
        await asyncio.sleep(10 if item < 3 else 0)
        finished.append(item)

    with pytest.raises(EngineError, match="broken"):
        attempt(tmp_path, items_of(range(50)), work)
    assert finished == []


def test_a_task_that_finishes_fast_has_no_journal(tmp_path: Path) -> None:
    attempt(tmp_path, items_of(range(50)), square)
    assert list(tmp_path.rglob("*")) == []


# going on


def test_what_was_done_before_a_death_is_not_done_again(tmp_path: Path) -> None:
    asked: list[int] = []

    async def work(item: int) -> int:
        asked.append(item)
        if item == 7 and asked.count(7) == 1:
            raise EngineLostError("it died")
        return item * item

    with pytest.raises(EngineLostError):
        attempt(tmp_path, items_of(range(10)), work, limit=1)
    results, _ = attempt(tmp_path, items_of(range(10)), work, limit=1)
    assert results == {str(n): n * n for n in range(10)}
    assert asked == [*range(8), *range(7, 10)]


def test_it_is_written_while_the_task_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "FLUSH_S", 0.01)
    store = Store(tmp_path)

    async def work(item: int) -> int:
        while item == 5 and b'"4"' not in store.appended(journal_of(OUTPUT)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return item

    results, _ = attempt(tmp_path, items_of(range(6)), work, limit=1)
    assert len(results) == 6
    journal = Journal(store, OUTPUT, "b")
    journal.read()
    assert set(journal.found) >= {str(n) for n in range(5)}
    journal.remove()
    assert store.appended(journal_of(OUTPUT)) == b""


def test_a_store_that_takes_nothing_for_a_while_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "FLUSH_S", 0.01)
    store, append, refused = Store(tmp_path), Store.append, []

    def broken(self: Store, relative: str, data: bytes) -> None:
        if len(refused) < 3:
            refused.append(data)
            raise StoreError("the disk is full")
        append(self, relative, data)

    monkeypatch.setattr(Store, "append", broken)

    async def work(item: int) -> int:
        while item == 5 and b'"4"' not in store.appended(journal_of(OUTPUT)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return item

    attempt(tmp_path, items_of(range(6)), work, limit=1)
    journal = Journal(store, OUTPUT, "b")
    journal.read()
    assert set(journal.found) >= {str(n) for n in range(5)}
    assert len(refused) == 3


def test_a_task_that_is_halted_ends_what_it_has_begun_and_keeps_it(tmp_path: Path) -> None:
    begun: list[int] = []

    async def work(item: int) -> int:
        begun.append(item)
        await asyncio.sleep(0)
        return item

    def halted() -> bool:
        return len(begun) >= 5

    with pytest.raises(Stopped, match="of 20 done"):
        attempt(tmp_path, items_of(range(20)), work, limit=2, halted=halted)
    first = len(begun)
    assert 5 <= first < 20
    results, _ = attempt(tmp_path, items_of(range(20)), work)
    assert len(results) == len(begun) == 20, "each was asked for once"


def test_a_task_that_is_halted_after_its_last_item_is_simply_done(tmp_path: Path) -> None:
    done: list[int] = []

    async def work(item: int) -> int:
        done.append(item)
        return item

    results, _ = attempt(tmp_path, items_of(range(3)), work, halted=lambda: len(done) == 3)
    assert len(results) == 3


def test_what_was_spent_besides_is_kept_over_a_death(tmp_path: Path) -> None:
    asked: list[int] = []

    async def work(item: int) -> int:
        asked.append(item)
        note(Usage(prompt_tokens=1))
        if item == 6 and asked.count(6) == 1:
            raise EngineLostError("it died")
        return item

    with pytest.raises(EngineLostError):
        attempt(tmp_path, items_of(range(8)), work, limit=1)
    _, spent = attempt(tmp_path, items_of(range(8)), work, limit=1)
    assert spent == Usage(prompt_tokens=9), "the item that died was paid for twice"


# the journal

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), plain, max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_a_journal_torn_anywhere_holds_only_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run")
    store = Store(folder)
    journal = Journal(store, OUTPUT, "b")
    for key, value in told.items():
        journal.add(key, value)
        journal.flush()
    path = folder / journal_of(OUTPUT)
    whole = path.read_bytes() if told else b""
    cut = data.draw(st.integers(0, len(whole)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole[:cut])
    later = Journal(store, OUTPUT, "b")
    later.read()
    assert later.found.items() <= told.items()
    begun = sum(bool(line) for line in whole[:cut].split(b"\n"))
    assert later.torn == begun - len(later.found)
    later.add("new", 1)
    later.flush()
    again = Journal(store, OUTPUT, "b")
    again.read()
    assert again.found == {**later.found, "new": 1}, "a torn line harms none that follows"


def test_a_flipped_byte_costs_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    journal = Journal(store, OUTPUT, "b")
    for n in range(5):
        journal.add(str(n), n)
    journal.flush()
    path = tmp_path / journal_of(OUTPUT)
    path.write_bytes(path.read_bytes().replace(b'["2",2]', b'["2",3]'))
    later = Journal(store, OUTPUT, "b")
    later.read()
    assert later.found == {str(n): n for n in (0, 1, 3, 4)}
    assert later.torn == 1


def test_a_journal_about_other_inputs_is_passed_over(tmp_path: Path) -> None:
    attempts = []
    for basis in ("one", "other"):
        asked: list[int] = []

        async def work(item: int, asked: list[int] = asked) -> int:
            asked.append(item)
            if item == 9:
                raise EngineLostError("it died")
            return item

        with pytest.raises(EngineLostError):
            attempt(tmp_path, items_of(range(10)), work, limit=1, basis=basis)
        attempts.append(len(asked))
    assert attempts == [10, 10]


def test_the_journal_of_a_file_that_is_there_is_swept_and_others_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    outputs = [f"scores/a-1/t-2/0000{n}.abc.parquet" for n in range(3)]
    for output in outputs:
        journal = Journal(store, output, "b")
        journal.add("1", 1)
        journal.flush()
    (tmp_path / outputs[1]).touch()
    listing = store.listing()
    assert listing.journals == {journal_of(output) for output in outputs}
    assert sweep(store, listing) == 1
    assert store.listing().journals == {journal_of(outputs[0]), journal_of(outputs[2])}


# what kills an engine


def tries_until_done(folder: Path, items: dict[str, int], deadly: set[int], **more: Any) -> Any:
    """Attempts as the driver makes them: wary from the third on. Results and deaths."""

    async def work(item: int) -> str:
        await asyncio.sleep(0)
        if item in deadly:
            raise EngineLostError("it died")
        await asyncio.sleep(0)
        return "fine"

    for deaths in range(200):
        try:
            results, _ = attempt(folder, items, work, wary=deaths >= 2, limit=16, **more)
        except EngineLostError:
            continue
        return results, deaths
    raise AssertionError("it never came to an end")


@given(st.integers(1, 80), st.data())
@settings(max_examples=40, deadline=None)
def test_exactly_the_items_that_kill_their_engine_are_given_up(
    tmp_path_factory: pytest.TempPathFactory, count: int, data: st.DataObject
) -> None:
    deadly = data.draw(st.sets(st.integers(0, count - 1), max_size=min(3, count - 1)))
    folder = tmp_path_factory.mktemp("run")
    results, deaths = tries_until_done(folder, items_of(range(count)), deadly)
    assert {int(key) for key, told in results.items() if told != "fine"} == deadly
    assert len(results) == count
    each = math.ceil(math.log2(16)) + TRIES_ALONE
    assert deaths <= 2 + len(deadly) * (each + len(deadly))


def test_the_kin_of_what_kills_its_engine_need_not_be_tried(tmp_path: Path) -> None:
    items = items_of(range(40))
    kin = {"kin": lambda item: item // 4}
    results, deaths = tries_until_done(tmp_path, items, {20, 21, 22, 23}, **kin)
    given_up = {int(key) for key, told in results.items() if told != "fine"}
    assert given_up == {20, 21, 22, 23}
    assert deaths <= 2 + math.ceil(math.log2(16)) + TRIES_ALONE + 1, "one was isolated, not each"


def test_an_engine_that_always_dies_is_no_items_fault(tmp_path: Path) -> None:
    async def work(_: int) -> None:
        raise EngineLostError("it died")

    for _ in range(40):
        with pytest.raises(EngineLostError):
            attempt(tmp_path, items_of(range(20)), work, wary=True)
    results, _ = attempt(tmp_path, items_of(range(20)), square)
    assert results == {str(n): n * n for n in range(20)}


def test_an_attempt_goes_on_warily_after_the_driver_was_started_anew(tmp_path: Path) -> None:
    """The trial is in the journal: nobody has to remember how often the task has died."""

    async def work(item: int) -> str:
        if item == 3:
            raise EngineLostError("it died")
        return "fine"

    deaths = 0
    for wary in (True, *[False] * 20):
        try:
            results, _ = attempt(tmp_path, items_of(range(8)), work, wary=wary)
            break
        except EngineLostError:
            deaths += 1
    assert [key for key, told in results.items() if told != "fine"] == ["3"]
    assert deaths <= 5
