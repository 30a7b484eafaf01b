"""The run's papers: what `selected/latest` leads to while a run goes on."""

from __future__ import annotations

import json
from pathlib import Path

from arbitrage.manifest import record_task
from arbitrage.plan import CLERK, Report, Task
from arbitrage.records import SELECTED
from arbitrage.store import Store


def finish_shard(store: Store, folder: str, number: int) -> None:
    path = f"{folder}/{number:05d}.parquet"
    store.publish(path, SELECTED.empty_table(), {"key": "k"})
    record_task(store, Task("select", CLERK, number, (), path, "k"), Report(7))


def test_latest_leads_to_a_first_product_from_its_first_shard_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish_shard(store, "selected/best-aaaaaaaaaaaa", 0)
    latest = tmp_path / "selected/latest"
    assert latest.resolve() == tmp_path / "selected/best-aaaaaaaaaaaa"
    assert [path.name for path in latest.iterdir()] == ["00000.parquet"]


def test_a_second_product_takes_over_only_when_the_run_has_ended(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish_shard(store, "selected/best-aaaaaaaaaaaa", 0)
    finish_shard(store, "selected/best-bbbbbbbbbbbb", 0)
    assert (tmp_path / "selected/latest").readlink() == Path("best-aaaaaaaaaaaa")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["rows"] for event in events] == [7, 7]
