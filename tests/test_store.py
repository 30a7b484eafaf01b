"""The run directory: publication, damage, listings, sweeping, the diary, the lock, readers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from arbitrage.errors import LockedError, StoreError, UsageError
from arbitrage.files import TEMPORARY
from arbitrage.lock import NOTE
from arbitrage.manifest import IDENTITY, MANIFEST
from arbitrage.records import REPEATING, SCHEMAS
from arbitrage.store import DIGEST_HEX, Store, shard_number

HOLD = """
import sys, time
from pathlib import Path
from arbitrage.store import Store
with Store(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def routes(count: int, teacher: str = "aaaaaaaaaaaa") -> pa.Table:
    rows = [{"prompt_id": f"{number:032x}", "teachers": [teacher]} for number in range(count)]
    return pa.Table.from_pylist(rows, SCHEMAS["routes"])


def scores(count: int) -> pa.Table:
    rows = [
        {"prompt_id": f"{n:032x}", "sample": 0, "score": n / 7, "error": None} for n in range(count)
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["scores"])


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


@pytest.fixture
def holder(store: Store) -> Any:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(store.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_publishing_makes_exactly_one_file_that_reads_back(store: Store) -> None:
    table = routes(5)
    published = store.publish("routes/all-f/00003.k.parquet", table, {"key": "k"})
    assert files(store.root) == ["routes/all-f/00003.k.parquet"]
    data = store.path(published.path).read_bytes()
    assert published.path == "routes/all-f/00003.k.parquet"
    assert published.digest == hashlib.sha256(data).hexdigest()
    assert (published.rows, published.size_bytes) == (5, len(data))
    content = store.read(published.path)
    assert content.table.equals(table)
    assert content.digest == published.digest
    assert content.footer == {"kind": "routes", "key": "k"}
    assert store.footer(published.path) == {"kind": "routes", "key": "k", "rows": 5}
    assert shard_number(published.path) == 3


def test_the_digest_in_a_name_is_the_start_of_the_files_sha256(store: Store) -> None:
    published = store.publish("routes/all-f/00000.{digest}.parquet", routes(2), {})
    found = hashlib.sha256(store.path(published.path).read_bytes()).hexdigest()
    assert published.path == f"routes/all-f/00000.{found[:DIGEST_HEX]}.parquet"
    assert files(store.root) == [published.path]


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_every_kind_of_file_keeps_its_schema_even_when_empty(
    tmp_path: Path, kind: str, compression: str
) -> None:
    store = Store(tmp_path, compression)
    path = store.publish(f"{kind}/a-f/00000.k.parquet", SCHEMAS[kind].empty_table(), {}).path
    assert store.read(path).table.schema.equals(SCHEMAS[kind])
    assert pq.read_schema(store.path(path)).names == SCHEMAS[kind].names
    assert store.footer(path)["rows"] == 0


def test_names_of_repeating_columns_exist(store: Store) -> None:
    leaves: set[str] = set()
    for kind, schema in SCHEMAS.items():
        path = store.publish(f"{kind}/a-f/0.parquet", schema.empty_table(), {}).path
        columns = pq.ParquetFile(store.path(path)).schema
        leaves |= {part for n in range(len(columns)) for part in columns.column(n).path.split(".")}
    assert leaves >= REPEATING


@pytest.mark.parametrize(
    "table",
    [
        scores(2),
        routes(2).rename_columns(["id", "teachers"]),
        routes(2).drop_columns(["teachers"]),
        routes(2).append_column("more", pa.array([1, 2])),
        routes(2).select(["teachers", "prompt_id"]),
        pa.table({"prompt_id": ["a"], "teachers": [["b"]]}),
    ],
    ids=["other kind", "renamed", "fewer", "more", "order", "nullable"],
)
def test_another_schema_is_refused_and_nothing_is_written(store: Store, table: pa.Table) -> None:
    with pytest.raises(StoreError, match=r"routes/a-f/0\.parquet.*routes files"):
        store.publish("routes/a-f/0.parquet", table, {})
    assert files(store.root) == []


def test_the_same_table_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    table = scores(500)
    chunked = pa.concat_tables([table.slice(0, 100), table.slice(100)])
    footer = {"b": 1, "a": [1, 2]}
    one = first.publish("scores/a-f/t-f/0.parquet", table, footer)
    two = second.publish("scores/a-f/t-f/0.parquet", table, dict(reversed(footer.items())))
    three = second.publish("scores/a-f/t-f/1.parquet", chunked.combine_chunks(), footer)
    assert one.digest == two.digest == three.digest
    assert first.path(one.path).read_bytes() == second.path(two.path).read_bytes()


def _full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.rename"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = store.publish("routes/all-f/00000.k.parquet", routes(3), {}).path
    store.write_text("run.json", "{}")
    old = store.path(path).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(where, _full)
        with pytest.raises(StoreError, match="No space left on device") as error:
            store.publish(path, routes(4), {})
        assert str(store.path(path)) in str(error.value)
        with pytest.raises(StoreError, match=r"new-f/00000\.k\.parquet"):
            store.publish("routes/new-f/00000.k.parquet", routes(4), {})
        with pytest.raises(StoreError, match=r"run\.json"):
            store.write_text("run.json", "[]")
    assert files(store.root) == [path, "run.json"]
    assert store.path(path).read_bytes() == old
    assert store.path("run.json").read_text() == "{}"
    assert store.publish(path, routes(4), {}).rows == 4


def test_a_place_that_cannot_be_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = Store(tmp_path / "file")
    with pytest.raises(StoreError, match=r"routes/a-f/0\.parquet cannot be written") as error:
        store.publish("routes/a-f/0.parquet", routes(1), {})
    assert "\n" not in str(error.value)
    with pytest.raises(StoreError, match="file"), store.lock():
        pass


def test_publishing_never_shows_a_partial_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.publish("routes/all-f/00000.k.parquet", routes(3), {}).path
    seen: list[list[int]] = []

    def look(handle: int) -> None:
        del handle
        whole = [p for p in files(store.root) if p.endswith(".parquet")]
        seen.append([pq.read_metadata(store.path(name)).num_rows for name in whole])

    monkeypatch.setattr(os, "fsync", look)
    store.publish(path, routes(9), {})
    assert seen[0] == [3], "the old file while the new one is written"
    assert all(rows in ([3], [9]) for rows in seen)
    assert store.footer(path)["rows"] == 9


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "folder", "gone", "tail"])
def test_a_damaged_file_is_a_store_error_that_names_it(store: Store, damage: str) -> None:
    path = store.publish("routes/all-f/00000.k.parquet", routes(300), {}).path
    place = store.path(path)
    data = place.read_bytes()
    place.unlink()
    if damage == "folder":
        place.mkdir()
    elif damage != "gone":
        broken = {
            "cut": data[: len(data) // 2],
            "empty": b"",
            "text": b"not parquet at all",
            "tail": data[:-9] + bytes(9),
        }
        place.write_bytes(broken[damage])
    for look in (store.read, store.footer):
        with pytest.raises(StoreError) as error:
            look(path)
        assert str(place) in str(error.value)
    with pytest.raises(StoreError, match=r"00000\.k\.parquet"):
        store.footers([path])


def test_a_flipped_byte_is_a_store_error_or_does_no_harm(store: Store) -> None:
    table = routes(200)
    path = store.publish("routes/all-f/00000.k.parquet", table, {"teachers": {"a": [1, "b"]}}).path
    good = store.path(path).read_bytes()
    rng = random.Random(0)
    other: dict[str, str] = {}
    for _ in range(600):
        data = bytearray(good)
        place = rng.randrange(len(data))
        data[place] ^= rng.randrange(1, 256)
        store.path(path).write_bytes(data)
        for look in (store.read, store.footer):
            try:
                look(path)
            except StoreError as error:
                assert "00000.k.parquet" in str(error)  # noqa: PT017
            except Exception as error:  # noqa: BLE001
                other[type(error).__name__] = f"byte {place}: {error}"
    assert other == {}


def test_flipped_bytes_in_the_data_do_not_pass_as_rows(store: Store) -> None:
    table = scores(2000)
    path = store.publish("scores/a-f/t-f/0.parquet", table, {}).path
    good = store.path(path).read_bytes()
    pages = pq.read_metadata(store.path(path)).row_group(0)
    end = max(
        column.data_page_offset + column.total_compressed_size
        for column in map(pages.column, range(pages.num_columns))
    )
    rng = random.Random(0)
    wrong = 0
    for _ in range(200):
        data = bytearray(good)
        data[rng.randrange(4, end)] ^= 1 << rng.randrange(8)
        store.path(path).write_bytes(data)
        try:
            wrong += not store.read(path).table.equals(table)
        except StoreError:
            continue
    assert wrong == 0


def test_damaged_json_is_a_store_error_and_missing_json_is_none(store: Store) -> None:
    assert store.read_json("prompts/sources.json") is None
    store.write_text("prompts/sources.json", '{"a": 1}\n')
    assert store.read_json("prompts/sources.json") == {"a": 1}
    store.write_text("prompts/sources.json", '{"a":')
    with pytest.raises(StoreError, match=r"prompts/sources\.json cannot be read"):
        store.read_json("prompts/sources.json")
    store.path("prompts/sources.json").write_bytes(b"\xff")
    with pytest.raises(StoreError, match=r"prompts/sources\.json cannot be read"):
        store.read_json("prompts/sources.json")


def fill(store: Store) -> dict[str, str]:
    return {
        name: store.publish(path, table, {}).path
        for name, path, table in [
            ("prompts", "prompts/00000.{digest}.parquet", SCHEMAS["prompts"].empty_table()),
            ("route", "routes/all-11/00000.k.parquet", routes(1)),
            ("answers", "candidates/my-bot-22/0.k.parquet", SCHEMAS["candidates"].empty_table()),
            ("scores", "scores/arbiter-33/my-bot-22/00000.k.parquet", scores(1)),
            ("product", "selected/best-44/00000.parquet", SCHEMAS["selected"].empty_table()),
            ("refused", "quarantine/read/ab.parquet", SCHEMAS["quarantine"].empty_table()),
            ("lost", "quarantine/select/best-44/0.parquet", SCHEMAS["quarantine"].empty_table()),
        ]
    }


def test_a_listing_of_nothing_is_empty(store: Store) -> None:
    found = store.listing()
    assert (found.files, found.folders) == (set(), {})
    assert store.files_in("prompts") == []
    assert not store.exists()
    assert not store.root.exists()


def test_a_listing_has_every_data_file_and_no_other(store: Store) -> None:
    paths = fill(store)
    store.write_text("prompts/sources.json", "{}")
    store.write_text("candidates/my-bot-22/_identity.json", "{}")
    store.write_text("selected/best-44/_manifest.json", "{}")
    store.point_latest("selected/best-44")
    for folder in {Path(path).parent for path in paths.values()}:
        (store.root / folder / f"{TEMPORARY}0123456789abcdef").write_bytes(b"half a fi")
    found = store.listing()
    assert found.files == set(paths.values())
    assert found.folders == {
        ("routes", "11"): "routes/all-11",
        ("candidates", "22"): "candidates/my-bot-22",
        ("scores", "33"): "scores/arbiter-33",
        ("scores/arbiter-33", "22"): "scores/arbiter-33/my-bot-22",
        ("selected", "44"): "selected/best-44",
    }
    assert store.files_in("routes/all-11") == [paths["route"]]


def test_a_renamed_component_is_found_by_its_fingerprint(store: Store) -> None:
    fill(store)
    (store.root / "candidates/my-bot-22").rename(store.root / "candidates/old-name-22")
    found = store.listing()
    assert found.folder("candidates", "my-bot-22", "22") == "candidates/old-name-22"
    assert "candidates/old-name-22/0.k.parquet" in found.files
    assert found.folder("candidates", "new-55", "55") == "candidates/new-55"
    assert found.folder("candidates", "renamed-55", "55") == "candidates/new-55"


def test_strange_entries_do_not_disturb_a_listing(store: Store) -> None:
    paths = fill(store)
    (store.root / "candidates" / "README.txt").write_text("x")
    (store.root / "candidates" / "nodash").mkdir()
    (store.root / "prompts" / "folder").mkdir()
    (store.root / "lock").write_text("")
    assert store.listing().files == set(paths.values())


def test_sweeping_removes_temporaries_and_nothing_else(store: Store) -> None:
    kept = sorted(fill(store).values())
    store.point_latest("selected/best-44")
    left = ["candidates/my-bot-22", "scores/arbiter-33/my-bot-22", "quarantine/read", "."]
    for folder in left:
        (store.root / folder / f"{TEMPORARY}00ff").write_bytes(b"half")
    assert store.sweep() == len(left)
    assert files(store.root) == kept
    assert (store.root / "selected/latest").is_symlink()
    assert store.sweep() == 0


def test_sweeping_removes_a_link_that_a_kill_left(store: Store) -> None:
    fill(store)
    (store.root / "selected" / f"{TEMPORARY}00ff").symlink_to("best-44")
    assert store.sweep() == 1
    assert sorted(p.name for p in (store.root / "selected").iterdir()) == ["best-44"]


def test_latest_leads_to_the_current_product_and_can_change(store: Store) -> None:
    fill(store)
    store.publish("selected/best-66/00000.parquet", SCHEMAS["selected"].empty_table(), {})
    for folder in ("selected/best-44", "selected/best-44", "selected/best-66", "selected/best-44"):
        store.point_latest(folder)
        link = store.root / "selected" / "latest"
        assert str(link.readlink()) == Path(folder).name, "relative, so that a run can be moved"
        assert len(pd.read_parquet(link)) == 0
    assert len(list((store.root / "selected").iterdir())) == 3


def test_latest_that_cannot_be_set_is_a_store_error(store: Store) -> None:
    fill(store)
    (store.root / "selected" / "latest").mkdir()
    with pytest.raises(StoreError, match="selected/latest"):
        store.point_latest("selected/best-44")
    assert not list((store.root / "selected").glob(f"{TEMPORARY}*"))


def test_events_come_back_in_order(store: Store) -> None:
    assert list(store.events()) == []
    store.root.mkdir()
    store.append_event("run_started", run_fingerprint="ab")
    store.append_event("task_done", rows=3, note="line\nbreak \u2028 and more")
    found = list(store.events())
    assert [event["event"] for event in found] == ["run_started", "task_done"]
    assert found[1]["rows"] == 3
    assert found[1]["note"] == "line\nbreak \u2028 and more"
    assert abs(found[0]["time"] - time.time()) < 60


def test_a_torn_last_line_costs_no_other_event(store: Store) -> None:
    store.root.mkdir()
    store.append_event("run_started")
    store.append_event("task_done", rows=3)
    diary = store.root / "events.jsonl"
    data = diary.read_bytes()
    for length in range(data.index(b"\n") + 1, len(data) + 1):
        diary.write_bytes(data[:length])
        assert [event["event"] for event in store.events()][:1] == ["run_started"]
        store.append_event("next_run")
        assert [event["event"] for event in store.events()][-1] == "next_run", data[:length]


def test_a_driver_is_refused_with_the_holders_name(store: Store, holder: Any) -> None:
    assert store.is_held()
    before = store.path("lock").read_bytes()
    with pytest.raises(LockedError) as error, store.lock():
        pytest.fail("two drivers hold one run directory")
    message = str(error.value)
    assert f"process {holder.pid} on " in message
    assert str(store.root) in message
    assert "\n" not in message
    assert error.value.exit_code == 2
    assert not isinstance(error.value, UsageError)
    assert store.path("lock").read_bytes() == before
    assert store.holder() == message.split(" is in use by ")[1].split(";")[0]


def test_a_killed_driver_holds_nothing(store: Store, holder: Any) -> None:
    assert store.is_held()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not store.is_held()
    with store.lock():
        assert store.is_held()
        assert json.loads(store.path(NOTE).read_text())["pid"] == os.getpid()


def test_asking_who_holds_a_run_makes_nothing(store: Store) -> None:
    assert not store.is_held()
    assert store.holder() is None
    assert not store.root.exists()


def test_a_lock_ends_with_its_block_even_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.lock():
        _ = 1 / (not store.is_held())
    assert not store.is_held()
    with store.lock():
        pass


def test_a_look_at_the_lock_does_not_keep_a_driver_out(store: Store) -> None:
    with store.lock():
        pass
    for _ in range(20):
        assert not store.is_held()
        with store.lock():
            assert store.is_held()


def write_plainly(store: Store, path: str, table: pa.Table) -> str:
    """A file whose columns nobody has checked, as another version may have written it."""
    store.path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, store.path(path))
    return path


def candidates(count: int) -> pa.Table:
    usual = {"sample": 0, "sampling": 0, "completion": "x", "finish_reason": "stop", "seed": 1}
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "reasoning": "hm"}
    rows = [{**usual, **counts, "prompt_id": f"{number:032x}"} for number in range(count)]
    return pa.Table.from_pylist(rows, SCHEMAS["candidates"])


def test_a_nullable_column_that_an_earlier_version_did_not_have_is_null(store: Store) -> None:
    whole = candidates(3)
    path = "candidates/a-f/00000.k.parquet"
    write_plainly(store, path, whole.drop_columns(["reasoning", "error"]))
    found = store.read(path).table
    assert found.schema.equals(SCHEMAS["candidates"])
    assert found["reasoning"].to_pylist() == [None] * 3
    assert found.drop_columns(["reasoning"]).equals(whole.drop_columns(["reasoning"]))
    found.validate(full=True)
    some = store.read(path, columns=["seed", "reasoning", "prompt_id", "sample"]).table
    assert some.column_names == ["seed", "reasoning", "prompt_id", "sample"]
    some = store.read(path, columns=["reasoning", "prompt_id"]).table
    assert some.column_names == ["reasoning", "prompt_id"]
    assert some["reasoning"].null_count == 3
    assert store.read(path, columns=["prompt_id"]).table.column_names == ["prompt_id"]
    write_plainly(store, path, whole.drop_columns(["reasoning"]).slice(0, 0))
    assert store.read(path).table.schema.equals(SCHEMAS["candidates"])


def product_without(*names: str) -> pa.Table:
    """A row of the product whose candidates lack some fields."""
    kind = SCHEMAS["selected"].field("candidates").type.value_type
    one = {"teacher": "t", "sample": 1, "reward": 0.5, "gates": ["empty"], "chars": 7}
    parts = pa.struct([part for part in kind if part.name not in names])
    listed = pa.array([[{k: v for k, v in one.items() if k not in names}, None], []])
    row = {"sample": 0, "prompt_tokens": 1, "completion_tokens": 1, "seed": 1, "reward": 0.5}
    usual = dict.fromkeys(SCHEMAS["selected"].names, "x") | row
    usual |= {"messages": [{"role": "user", "content": "q"}], "margin": None, "rank": 1}
    usual |= {"candidates": [], "rejected_reward": None}
    table = pa.Table.from_pylist([usual, usual], SCHEMAS["selected"])
    place = table.column_names.index("candidates")
    field = pa.field("candidates", pa.list_(parts), nullable=False)
    return table.set_column(place, field, listed.cast(pa.list_(parts)))


def test_a_nested_field_that_an_earlier_version_did_not_have_is_null(store: Store) -> None:
    path = "selected/best-f/00000.parquet"
    write_plainly(store, path, product_without("chars", "duplicate", "same_as"))
    found = store.read(path, columns=["candidates", "reward"]).table
    assert found["candidates"].type == SCHEMAS["selected"].field("candidates").type
    first, none = found["candidates"].to_pylist()[0]
    assert none is None
    assert (first["reward"], first["gates"], first["chars"]) == (0.5, ["empty"], None)
    assert store.read(path).table.schema.equals(SCHEMAS["selected"])
    write_plainly(store, path, product_without())
    assert store.read(path).table["candidates"].to_pylist()[0][0]["chars"] == 7


def test_a_nested_field_of_another_type_is_refused(store: Store) -> None:
    whole = product_without("chars")
    kind = whole.schema.field("candidates").type.value_type
    other = pa.struct([(p.name, pa.int64() if p.name == "sample" else p.type) for p in kind])
    place = whole.column_names.index("candidates")
    field = pa.field("candidates", pa.list_(other), nullable=False)
    table = whole.set_column(place, field, whole["candidates"].cast(pa.list_(other)))
    path = write_plainly(store, "selected/best-f/00000.parquet", table)
    with pytest.raises(StoreError, match="another version"):
        store.read(path)


@pytest.mark.parametrize(
    "table",
    [
        candidates(2).drop_columns(["seed"]),
        candidates(2).drop_columns(["prompt_id", "reasoning"]),
        candidates(2).append_column("more", pa.array([1, 2])),
        candidates(2).rename_columns({"reasoning": "thoughts"}),
        candidates(2).set_column(4, "reasoning", pa.array([1, 2])),
        candidates(2).select([1, 0, *range(2, 10)]),
        scores(2),
    ],
    ids=["seed", "prompt_id", "more", "renamed", "type", "order", "other kind"],
)
def test_a_file_with_any_other_columns_is_refused_in_one_sentence(
    store: Store, table: pa.Table
) -> None:
    path = write_plainly(store, "candidates/a-f/00000.k.parquet", table)
    with pytest.raises(StoreError, match=r"a-f/00000\.k\.parquet .*candidates files") as error:
        store.read(path)
    assert "\n" not in str(error.value)


def product(count: int, language: str = "de") -> pa.Table:
    row = {
        "prompt_id": "0" * 32,
        "user_id": None,
        "language": language,
        "family": "germanic",
        "messages": [{"role": "user", "content": "\u00fc"}, {"role": "assistant", "content": "x"}],
        "completion": "x",
        "reasoning": "hm",
        "teacher": "a",
        "model": None,
        "revision": None,
        "reward": 0.5,
        "margin": None,
        "sample": 0,
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "sampling": "{}",
        "seed": 1,
        "candidates": [],
        "extra": None,
        "teacher_fingerprint": "a",
        "arbiter_fingerprint": "b",
        "selector_fingerprint": "c",
        "run_fingerprint": "d",
    }
    rows = [{**row, "prompt_id": f"{number:032x}"} for number in range(count)]
    return pa.Table.from_pylist(rows, SCHEMAS["selected"])


@pytest.fixture
def folder(store: Store) -> Path:
    """A product folder with everything that may lie in it, and a half-written file."""
    store.publish("selected/best-44/00000.parquet", product(3), {"key": "k"})
    store.publish("selected/best-44/00001.parquet", product(2), {"key": "l"})
    store.publish("selected/best-44/00002.parquet", product(0), {"key": "m"})
    store.write_text(f"selected/best-44/{MANIFEST}", '{"rows": 5}')
    store.write_text(f"selected/best-44/{IDENTITY}", "{}")
    (store.root / "selected/best-44" / f"{TEMPORARY}00ff").write_bytes(b"PAR1 half")
    store.point_latest("selected/best-44")
    return store.root / "selected/latest"


def test_pandas_reads_a_product_folder(folder: Path) -> None:
    rows = pd.read_parquet(folder)
    assert len(rows) == 5
    assert list(rows.columns) == SCHEMAS["selected"].names
    assert rows["messages"][0][0]["content"] == "\u00fc"


@pytest.mark.parametrize("way", ["data_dir", "data_files", "path"])
def test_datasets_reads_a_product_folder(folder: Path, tmp_path: Path, way: str) -> None:
    datasets.disable_progress_bars()
    how = {
        "data_dir": {"path": "parquet", "data_dir": str(folder)},
        "data_files": {"path": "parquet", "data_files": str(folder / "*.parquet")},
        "path": {"path": str(folder)},
    }
    rows = datasets.load_dataset(split="train", cache_dir=str(tmp_path / "cache"), **how[way])
    assert rows.num_rows == 5
    assert rows.column_names == SCHEMAS["selected"].names
    assert rows[0]["messages"][1] == {"role": "assistant", "content": "x"}


def test_pyarrow_reads_a_product_folder(folder: Path) -> None:
    assert pq.read_table(folder).num_rows == 5


@pytest.mark.parametrize("older", ["00000", "00001"])
def test_a_product_of_two_versions_is_read_together(store: Store, older: str) -> None:
    folder = store.root / "selected/best-44"
    for name, rows in {"00000": 3, "00001": 2}.items():
        table, path = product(rows), f"selected/best-44/{name}.parquet"
        if name == older:
            write_plainly(store, path, table.drop_columns(["reasoning"]))
        else:
            store.publish(path, table, {})
    assert len(pd.read_parquet(folder)) == 5
    assert ds.dataset(folder).count_rows() == 5
    whole = ds.dataset(folder, schema=SCHEMAS["selected"]).to_table()
    assert whole["reasoning"].null_count == {"00000": 3, "00001": 2}[older]
    assert set(pd.read_parquet(folder, schema=SCHEMAS["selected"])["reasoning"].dropna()) == {"hm"}
