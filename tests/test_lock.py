"""The lease: with files in memory and a clock of its own, so that no test waits."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage import lock
from arbitrage.errors import LockedError, StoreError
from arbitrage.files import Entry
from arbitrage.lock import NOTE, Held, Lock, Times

BEATS = 4


class Memory:
    """Files in memory, as an object store has them; `before` is called ahead of each operation."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.before: Any = lambda: None

    def address(self, relative: str) -> str:
        return f"mem://{relative}"

    def write(self, relative: str, data: bytes) -> None:
        self.before()
        self.data[relative] = data

    def read(self, relative: str) -> bytes:
        self.before()
        if relative not in self.data:
            raise FileNotFoundError(2, relative)
        return self.data[relative]

    def remove(self, relative: str) -> None:
        self.before()
        self.data.pop(relative, None)

    def entries(self, folder: str) -> list[Entry]:
        self.before()
        names = (name for name in self.data if name.startswith(f"{folder}/"))
        return [Entry(name.rpartition("/")[2], is_folder=False) for name in names]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.at_pause: Any = lambda: None

    def times(self) -> Times:
        return Times(clock=lambda: self.now, pause=self.pause)

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.at_pause()


@pytest.fixture
def other_hosts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets who this process is for the drivers that follow."""

    def become(host: str) -> None:
        me = {"host": host, "pid": 7, "boot": host, "space": host, "start": "1"}
        monkeypatch.setattr(lock, "_me", lambda: me)

    become("here")
    return become


def test_a_released_lease_is_taken_at_once(other_hosts: Any) -> None:
    files, clock = Memory(), Clock()
    first = Lock(files, clock.times())
    first.release(first.acquire(alone=False))
    other_hosts("there")
    Lock(files, clock.times()).acquire(alone=False)
    assert clock.now == 0
    assert list(files.data) == [NOTE]


def test_a_holder_that_beats_is_named_as_soon_as_its_note_changes(other_hosts: Any) -> None:
    files, clock = Memory(), Clock()
    first = Lock(files, clock.times())
    held = first.acquire(alone=False)
    other_hosts("there")
    clock.at_pause = lambda: first.beat(held, int(clock.now))
    with pytest.raises(LockedError, match="process 7 on "):
        Lock(files, clock.times()).acquire(alone=False)
    assert clock.now < 5
    assert list(files.data) == [NOTE]


def test_a_silent_holder_is_taken_over_after_the_time_of_a_lease(other_hosts: Any) -> None:
    files, clock = Memory(), Clock()
    first = Lock(files, clock.times())
    held = first.acquire(alone=False)
    other_hosts("there")
    second = Lock(files, clock.times()).acquire(alone=False)
    assert 30 <= clock.now < 33
    other_hosts("here")
    first.beat(held, 9)
    assert held.lost.is_set()
    with pytest.raises(StoreError, match="another driver has taken over"):
        held.check()
    first.release(held)
    assert Lock(files).note()["token"] == second.token
    second.check()


def test_flock_decides_among_drivers_of_one_host(other_hosts: Any) -> None:
    files, clock = Memory(), Clock()
    Lock(files, clock.times()).acquire(alone=True)
    Lock(files, clock.times()).acquire(alone=True)
    assert clock.now == 0


def test_the_claim_of_a_dead_driver_is_waited_out(other_hosts: Any) -> None:
    files, clock = Memory(), Clock()
    files.data["claims/zz"] = b"{}"
    Lock(files, clock.times()).acquire(alone=False)
    assert 30 <= clock.now < 33


@settings(max_examples=150, deadline=None)
@given(turns=st.lists(st.integers(0, 2), max_size=60), old=st.booleans())
def test_never_two_hold_it(turns: list[int], old: bool) -> None:
    """Three drivers, each step of each in any order: never two at once, and none is lost. A holder
    beats on; a driver that is not given a turn for the time of a lease would count as dead, so the
    clock stands still while there is a holder."""
    files, clock = Memory(), Clock()
    if old:
        files.data[NOTE] = b'{"token": "gone", "host": "far", "pid": 1}'
    gates = [threading.Semaphore(0) for _ in range(3)]
    arrived = [threading.Semaphore(0) for _ in range(3)]
    mine = threading.local()
    clock.pause = lambda seconds: None if holding else Clock.pause(clock, seconds)  # type: ignore

    def step() -> None:
        arrived[mine.n].release()
        gates[mine.n].acquire()

    files.before = step
    got: list[Held] = []
    holding: list[Held] = []
    refused: list[int] = []
    done = [False] * 3

    def drive(n: int) -> None:
        mine.n = n
        me = {"host": f"h{n}", "pid": n, "boot": "", "space": "", "start": ""}
        one = Lock(files, clock.times())  # type: ignore[arg-type]
        one._me = me
        try:
            held = one.acquire(alone=False)
            holding.append(held)
            for count in range(BEATS):
                one.beat(held, count + 1)
            one.release(held)
            holding.remove(held)
            got.append(held)
        except LockedError:
            refused.append(n)
        finally:
            done[n] = True
            arrived[n].release()

    threads = [threading.Thread(target=drive, args=(n,), daemon=True) for n in range(3)]
    for n, thread in enumerate(threads):
        thread.start()
        arrived[n].acquire()
    order = iter(turns)
    number = 0
    while not all(done):
        number += 1
        n = next(order, number % 3)
        if not done[n]:
            gates[n].release()
            arrived[n].acquire()
        assert len(holding) <= 1
    files.before = lambda: None
    final = Lock(files)  # type: ignore[arg-type]
    assert len(got) + len(refused) == 3
    assert not any(held.lost.is_set() for held in got)
    assert final.note().get("released", False) is bool(got)
