"""Replicas that hang, freeze or die of a prompt, teachers that keep failing, and stops on request:
over the command line, on a real cluster, with the files looked at afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil
import pytest

from command_line import cli, digests, running, start, write_config, write_prompts

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.cluster, pytest.mark.engine("fake")]

PROMPTS = 120
PATIENCE_S = 90.0


def config_of(run: str, *, resources: dict[str, Any] | None = None, **options: Any) -> Any:
    """Two teachers, the first with these options."""
    told = {"engine": "fake", "languages": "all", "sampling": [{"temperature": 0}, {"n": 2}]}
    return {
        "run": run,
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 40},
        "teachers": {
            "frail": {**told, "options": {"voice": "f", **options}, "resources": resources or {}},
            "sound": {"engine": "fake", "languages": "all", "options": {"voice": "s"}},
        },
        "arbiter": {"engine": "fake"},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    return tmp_path


def undisturbed(folder: Path, **options: Any) -> dict[str, str]:
    """The data files of a run in which nothing happens."""
    result = cli("run", write_config(folder, config_of("whole", **options), "whole.yaml"), "-q")
    assert result.returncode == 0, result.stderr
    return digests(folder / "whole")


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.05)
    return found


def events(run: Path, name: str) -> list[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def journals(run: Path) -> list[Path]:
    return list(run.rglob(".journal-*"))


def test_an_engine_that_hangs_is_replaced_and_nothing_is_asked_twice(folder: Path) -> None:
    whole = undisturbed(folder)
    resources = {"hang_s": 4}
    config = write_config(folder, config_of("run", resources=resources, hang_after=150))
    result = cli("run", config)
    assert result.returncode == 0, result.stderr
    assert "made nothing for 4 s" in result.stderr
    assert digests(folder / "run") == whole
    assert journals(folder / "run") == []


def test_a_replica_that_is_frozen_is_replaced(folder: Path) -> None:
    whole = undisturbed(folder)
    resources = {"hang_s": 4, "python": sys.executable}
    config = write_config(folder, config_of("run", resources=resources, delay_s=1))
    with running("run", config) as process:
        wait_until(lambda: journals(folder / "run"), process)
        wait_until(lambda: lent(process.pid), process).send_signal(signal.SIGSTOP)
        _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert "made nothing for" in told
    assert digests(folder / "run") == whole


def lent(driver: int) -> psutil.Process | None:
    """The replica that runs in an environment of its own, which the package is lent to."""
    for one in psutil.Process(driver).children(recursive=True):
        try:
            if "/arbitrage-" in one.environ().get("PYTHONPATH", ""):
                return one
        except psutil.Error:
            continue
    return None


def test_a_prompt_that_kills_its_engine_is_found_and_the_others_are_answered(folder: Path) -> None:
    deadly = 0.012
    config = write_config(folder, config_of("run", deadly=deadly))
    result = cli("run", config)
    assert result.returncode == 0, result.stderr
    rows = candidates(folder / "run", "frail")
    failed = rows[rows.error.notna()]
    assert 1 <= failed.prompt_id.nunique() <= 3
    assert set(failed.error) == {"its engine died 2 times with nothing else to do"}
    assert len(failed) == 3 * failed.prompt_id.nunique(), "all samples of the prompt"
    assert len(rows) == 3 * PROMPTS
    sound = undisturbed(folder)
    others = candidates(folder / "whole", "frail").merge(rows, on=["prompt_id", "sample"])
    fine = others[others.error_y.isna()]
    assert fine.completion_x.str.len().min() > 0
    assert sound


def candidates(run: Path, teacher: str) -> pd.DataFrame:
    paths = sorted(run.glob(f"candidates/{teacher}-*/*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def test_a_teacher_that_always_dies_is_set_aside_the_rest_is_finished_and_a_later_run_mends_it(
    folder: Path,
) -> None:
    whole = undisturbed(folder)
    config = write_config(folder, config_of("run", crash_after=0))
    result = cli("run", config)
    assert result.returncode == 1
    assert "frail is set aside in this run" in result.stderr
    rows = pd.read_parquet(folder / "run/selected/latest")
    assert len(rows) == PROMPTS
    assert set(rows.teacher) == {"sound"}
    told = json.loads(cli("status", folder / "run", "--json").stdout)
    assert list(told["set_aside"]) == ["frail"]
    assert "times in a row" in told["set_aside"]["frail"]
    assert "set aside: frail" in cli("status", folder / "run").stdout
    healed = cli("run", write_config(folder, config_of("run")), "-q")
    assert healed.returncode == 0, healed.stderr
    assert digests(folder / "run") == whole
    assert not json.loads(cli("status", folder / "run", "--json").stdout)["set_aside"]


@pytest.mark.parametrize("sign", ["SIGTERM", "SIGUSR1", "--stop-before"])
def test_a_stop_keeps_what_is_finished_in_the_middle_of_a_shard(folder: Path, sign: str) -> None:
    whole = undisturbed(folder)
    more = ["--stop-before", "12s"] if sign.startswith("-") else []
    slow = config_of("run", delay_s=12 if more else 1.5)
    slow["prompts"]["shard_size"] = PROMPTS
    slow["cluster"] = {"grace_s": 10}
    config = write_config(folder, slow)
    process = start("run", config, *more)
    if not more:
        wait_until(lambda: journals(folder / "run"), process)
        process.send_signal(getattr(signal, sign))
    _, told = process.communicate(timeout=100)
    assert process.returncode == 75, told
    assert "the same command goes on" in told
    kept = [path.read_bytes().count(b'{"done"') for path in journals(folder / "run")]
    assert more or 0 < sum(kept) < 2 * PROMPTS
    assert not list(folder.glob("run/candidates/frail-*/*.parquet"))
    fast = config_of("run")
    fast["prompts"]["shard_size"] = PROMPTS
    assert cli("run", write_config(folder, fast), "-q").returncode == 0
    assert journals(folder / "run") == []
    again = config_of("again")
    again["prompts"]["shard_size"] = PROMPTS
    assert cli("run", write_config(folder, again, "again.yaml"), "-q").returncode == 0
    assert digests(folder / "run") == digests(folder / "again")
    assert len(whole) > len(digests(folder / "run"))


def test_a_kill_of_the_driver_costs_seconds_and_not_the_shard(folder: Path) -> None:
    slow = config_of("run", delay_s=1.0)
    slow["prompts"]["shard_size"] = PROMPTS
    config = write_config(folder, slow)
    process = start("run", config)
    (journal,) = wait_until(lambda: journals(folder / "run"), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = journal.read_bytes().count(b'{"done"')
    assert kept > 0
    result = cli("run", config, "--json")
    assert result.returncode == 0, result.stderr
    rows = candidates(folder / "run", "frail")
    assert len(rows) == 3 * PROMPTS
    spent = json.loads(result.stdout)["spent"]
    frail = next(one for one in spent if one["name"] == "frail")
    assert frail["usage"]["requests"] == 3 * PROMPTS
