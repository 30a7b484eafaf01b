"""The same command every night over a folder that grows: only new prompts are done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from command_line import cli, digests, done_tasks, write_config

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cluster


def add(path: Path, first: int, count: int, refused: int = 0) -> None:
    """Appends prompts of their own, and rows that are none."""
    rows = [
        {"id": f"u{n}", "language": "de", "prompt": f"q {n}"} for n in range(first, first + count)
    ]
    rows += [{"language": "de", "prompt": ""}] * refused
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def night(folder: Path, config: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One night's ledger and the tasks that it did; each ledger adds up, the run is sound."""
    diary = folder / "run/events.jsonl"
    before = len(done_tasks(folder / "run")) if diary.exists() else 0
    done = cli("run", config, "--json")
    assert done.returncode == 0, done.stderr
    ledger = json.loads(done.stdout)["ledger"]
    assert ledger["prompts"] == ledger["selected"] + sum(ledger["quarantined"].values())
    assert ledger["rows_read"] == ledger["prompts"] + sum(ledger["refused"].values())
    rows = pd.read_parquet(folder / "run/selected/latest")
    assert len(rows) == ledger["selected"]
    assert rows.prompt_id.is_unique
    return ledger, done_tasks(folder / "run")[before:]


def asked(tasks: list[dict[str, Any]]) -> int:
    """Completions that were asked for."""
    return sum(task["requests"] for task in tasks if task["stage"] == "generate")


def test_every_night_only_what_is_new_is_done(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        {
            "run": "run",
            "prompts": {"sources": [{"path": "inbox"}], "shard_size": 10},
            "teachers": {
                "a": {"engine": "fake", "languages": "all", "options": {"voice": "a", "fail": 0.1}},
                "b": {"engine": "fake", "languages": "all", "options": {"voice": "b"}},
            },
            "arbiter": {"engine": "fake"},
        },
    )
    add(tmp_path / "inbox/monday.jsonl", 0, 25, refused=1)
    ledger, tasks = night(tmp_path, config)
    assert (ledger["rows_read"], ledger["prompts"], asked(tasks)) == (26, 25, 50)
    first = digests(tmp_path / "run")

    add(tmp_path / "inbox/tuesday.jsonl", 25, 12)
    add(tmp_path / "inbox/monday.jsonl", 37, 3)
    ledger, tasks = night(tmp_path, config)
    assert (ledger["rows_read"], ledger["prompts"], asked(tasks)) == (41, 40, 30)
    assert {task["shard"] for task in tasks if task["stage"] != "read"} == {3, 4}

    ledger, tasks = night(tmp_path, config)
    assert (ledger["prompts"], tasks) == (40, [])

    add(tmp_path / "inbox/thursday.jsonl", 20, 8, refused=2)
    add(tmp_path / "inbox/thursday.jsonl", 40, 2)
    ledger, tasks = night(tmp_path, config)
    assert (ledger["rows_read"], ledger["prompts"], asked(tasks)) == (53, 42, 4)
    assert ledger["refused"]["duplicate"] == 8

    last = digests(tmp_path / "run")
    kept = {name for name in first if not name.startswith("quarantine/read/")}
    assert all(last[name] == first[name] for name in kept)
    sound = cli("verify", config)
    assert sound.returncode == 0, sound.stdout
    spare = cli("gc", config)
    assert (spare.returncode, spare.stdout.strip()) == (0, "nothing to remove")
