"""Files in a folder and in an object store: one list of behaviours for both, and the back-off."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest

from arbitrage.diary import Diary
from arbitrage.errors import StoreError, UsageError
from arbitrage.files import (
    LocalFiles,
    ObjectFiles,
    files_of,
    is_transient,
    patiently,
)
from arbitrage.records import SCHEMAS
from arbitrage.store import Store
from s3_server import Faults, address, proxy, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3_server() as found:
        yield found


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "local":
        return tmp_path / "run"
    return address(request.getfixturevalue("port"), tmp_path.name)


@pytest.fixture
def store(place: Path | str) -> Store:
    return Store(place)


def routes(count: int) -> pa.Table:
    rows = [{"prompt_id": f"{n:032x}", "teachers": ["aaaaaaaaaaaa"]} for n in range(count)]
    return pa.Table.from_pylist(rows, SCHEMAS["routes"])


def test_what_is_written_is_read_and_replaced_and_removed(store: Store) -> None:
    assert not store.has("a/b.txt")
    assert store.size("a/b.txt") is None
    store.write_text("a/b.txt", "one")
    store.write_text("a/b.txt", "three")
    assert store.read_bytes("a/b.txt") == b"three"
    assert (store.has("a/b.txt"), store.size("a/b.txt")) == (True, 5)
    assert store.files.tail("a/b.txt", 3) == b"ree"
    assert store.files.tail("a/b.txt", 9) == b"three"
    store.remove("a/b.txt")
    store.remove("a/b.txt")
    assert not store.has("a/b.txt")
    with pytest.raises(StoreError, match=r"a/b\.txt.* cannot be read"):
        store.read_bytes("a/b.txt")
    assert store.read_json("a/b.txt") is None


def test_a_folder_is_no_file(store: Store) -> None:
    store.write_text("a/b/c", "x")
    assert store.names("a") == ["b"]
    assert store.files.entries("a")[0].is_folder


def test_names_are_all_that_is_directly_in_a_folder(store: Store) -> None:
    assert store.names("journals") == []
    store.write_text("journals/b", "x")
    store.write_text("journals/.hidden", "x")
    store.append("journals/j", b"x")
    store.write_text("journals/deep/er", "x")
    assert sorted(store.names("journals")) == [".hidden", "b", "deep", "j"]


def test_appending_adds_in_order_and_goes_on_in_another_process(store: Store) -> None:
    assert store.appended("journals/j") == b""
    for n in range(12):
        store.append("journals/j", f"{n},".encode())
    again: Store = pickle.loads(pickle.dumps(store))
    again.append("journals/j", b"end")
    assert store.appended("journals/j") == b"0,1,2,3,4,5,6,7,8,9,10,11,end"
    store.remove("journals/j")
    assert store.appended("journals/j") == b""
    assert store.names("journals") == []
    store.append("journals/j", b"new")
    assert store.appended("journals/j") == b"new"


def test_a_published_file_reads_back_with_its_footer_and_listing(store: Store) -> None:
    big = {"note": "x" * 100_000}
    for number, footer in enumerate([{"key": "k"}, big]):
        store.publish(f"routes/all-f/{number:05d}.k.parquet", routes(50), footer)
    found = store.listing()
    assert found.files == {"routes/all-f/00000.k.parquet", "routes/all-f/00001.k.parquet"}
    assert found.folders == {("routes", "f"): "routes/all-f"}
    notes = store.footers(sorted(found.files))
    assert [note["rows"] for note in notes.values()] == [50, 50]
    assert notes["routes/all-f/00001.k.parquet"]["note"] == big["note"]
    assert store.read("routes/all-f/00000.k.parquet").table.equals(routes(50))
    assert sorted(store.files_in("routes/all-f")) == sorted(found.files)


def test_a_damaged_or_missing_file_is_one_sentence(store: Store) -> None:
    store.write_text("routes/all-f/0.parquet", "no parquet")
    for path in ("routes/all-f/0.parquet", "routes/all-f/1.parquet"):
        for look in (store.read, store.footer):
            with pytest.raises(StoreError, match=r"parquet.* cannot be read") as error:
                look(path)
            assert "\n" not in str(error.value)


def test_latest_leads_to_the_product(store: Store) -> None:
    assert store.latest() is None
    for name in ("best-1", "best-2"):
        store.publish(f"selected/{name}/00000.parquet", SCHEMAS["selected"].empty_table(), {})
        store.point_latest(f"selected/{name}")
        assert store.latest() == f"selected/{name}"
    assert {path.rpartition("/")[0] for path in store.listing().files} == {
        "selected/best-1",
        "selected/best-2",
    }


def test_pandas_reads_the_address_that_is_told(store: Store) -> None:
    for number in range(2):
        store.publish(f"routes/all-f/{number:05d}.k.parquet", routes(3), {})
    assert len(pd.read_parquet(store.address("routes/all-f"))) == 6


def test_events_come_back_and_a_new_process_goes_on(store: Store) -> None:
    store.append_event("one", n=1)
    store.append_event("two")
    store.flush_events()
    again: Store = pickle.loads(pickle.dumps(store))
    again.append_event("three")
    again.flush_events()
    assert [event["event"] for event in store.events()] == ["one", "two", "three"]


def test_events_of_an_object_store_are_gathered(port: int, tmp_path: Path) -> None:
    store = Store(address(port, tmp_path.name))
    for number in range(100):
        store.append_event("task_done", number=number)
    assert store.names("events.jsonl.segments") == []
    store.flush_events()
    assert [name.split("-")[0] for name in store.names("events.jsonl.segments")] == ["0000000000"]
    assert [event["number"] for event in store.events()] == list(range(100))


def test_events_that_cannot_be_written_are_counted_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(LocalFiles, "append", full)
        store.append_event("lost")
        store.append_event("lost")
    store.append_event("kept")
    assert [(e["event"], e.get("dropped")) for e in store.events()] == [("kept", 2)]
    assert isinstance(pickle.loads(pickle.dumps(store))._diary, Diary)


def test_a_failed_append_is_not_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, patience_s=30)
    calls: list[int] = []
    sync = os.fsync

    def fails_once(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.EIO, "once")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fails_once)
    store.append("j", b"a")
    store.append("j", b"b")
    assert len(calls) == 3
    assert store.appended("j") == b"ab"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://name:hunter2@bucket/run",
        "s3://name@bucket/run",
        "s3://bucket/run?access_key=hunter2",
        "s3://bucket/run?region=x&secret_key=hunter2",
        "abfs://name:hunter2@host/run",
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(UsageError, match="environment") as error:
        Store(uri)
    assert "hunter2" not in str(error.value)
    assert "bucket" not in str(error.value)


def test_addresses(tmp_path: Path) -> None:
    assert files_of(f"file://{tmp_path}") == LocalFiles(tmp_path)
    assert files_of(str(tmp_path)) == LocalFiles(tmp_path)
    found = files_of("s3://bucket/run/?region=x")
    assert isinstance(found, ObjectFiles)
    assert found.address("a/b") == "s3://bucket/run/a/b?region=x"
    assert found.address("") == "s3://bucket/run?region=x"
    with pytest.raises(UsageError, match="hdfs://"):
        files_of("hdfs://host/run")


class Clock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def failing(times: int, error: OSError) -> Any:
    left = [error] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    return action


def test_what_may_pass_is_tried_again_with_growing_pauses() -> None:
    clock = Clock()
    found = patiently(
        failing(8, OSError(errno.EIO, "x")), 120, clock=lambda: clock.now, pause=clock.pause
    )
    assert found == "done"
    assert len(clock.pauses) == 8
    assert clock.pauses[0] <= 0.2 < clock.pauses[-1] <= 10


def test_patience_ends_at_its_time() -> None:
    clock = Clock()
    action = failing(1000, OSError(errno.ENOSPC, "full"))
    with pytest.raises(OSError, match="full"):
        patiently(action, 120, clock=lambda: clock.now, pause=clock.pause)
    assert clock.now == pytest.approx(120)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), False),
        (PermissionError(errno.EACCES, "x"), False),
        (IsADirectoryError(errno.EISDIR, "x"), False),
        (OSError(errno.ESTALE, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (ConnectionResetError(errno.ECONNRESET, "x"), True),
        (TimeoutError("x"), True),
        (OSError("AWS Error NETWORK_CONNECTION during HeadObject"), True),
        (OSError("AWS Error SLOW_DOWN during PutObject operation"), True),
        (OSError("AWS Error ACCESS_DENIED during HeadObject"), False),
        (OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: OSError, passes: bool) -> None:
    assert is_transient(error) is passes
    clock = Clock()
    action = failing(1, error)
    if passes:
        assert patiently(action, 9, clock=lambda: clock.now, pause=clock.pause) == "done"
    else:
        with pytest.raises(OSError):
            patiently(action, 9, clock=lambda: clock.now, pause=clock.pause)
        assert clock.pauses == []


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="free some space and run again; all that was made is"):
        Store(tmp_path).write_text("x", "y")


def test_a_missing_bucket_is_told_at_once(port: int) -> None:
    place = address(port, "run").replace("s3://bucket", "s3://missing")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(place, patience_s=600).write_text("x", "y")


def test_a_store_that_fails_and_dawdles_loses_nothing(port: int, tmp_path: Path) -> None:
    faults = Faults(fail=0.3, slow=0.1, slow_s=0.05)
    with proxy(port, faults) as between:
        store = Store(address(between, tmp_path.name), patience_s=20)
        for number in range(4):
            store.publish(f"routes/all-f/{number:05d}.k.parquet", routes(number), {"key": "k"})
            store.append("j", b"x")
        found = sorted(store.listing().files)
        assert [note["rows"] for note in store.footers(found).values()] == list(range(4))
        assert store.appended("j") == b"x" * 4
    assert faults.failed > 0
