"""kill -9 of the driver at random moments: nothing lost, nothing twice, the same bytes."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from command_line import cli, digests, start, write_config, write_prompts

pytestmark = pytest.mark.cluster

KILLS = 20
PROMPTS = 3000
MOST_FILES_BETWEEN = 3
PATIENCE_S = 60.0


def config_for(run: str) -> dict[str, Any]:
    return {
        "run": run,
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 100},
        "teachers": {
            "a": {
                "engine": "fake",
                "languages": "all",
                "options": {"voice": "a", "delay_s": 0.1},
                "sampling": [{"temperature": 0}, {"n": 2}],
            },
            "b": {
                "engine": "fake",
                "languages": ["de", "fr"],
                "options": {"voice": "b", "delay_s": 0.1, "fail": 0.05, "truncate": 0.1},
            },
        },
        "arbiter": {"engine": "fake", "options": {"delay_s": 0.01}},
    }


def data_files(run: Path) -> int:
    return sum(1 for _ in run.rglob("*.parquet"))


def wait_for_files(run: Path, more: int) -> None:
    """Until so many more data files are there: a kill then is in the middle of the work."""
    wanted = data_files(run) + more
    deadline = time.monotonic() + PATIENCE_S
    while data_files(run) < wanted:
        assert time.monotonic() < deadline, "nothing was made in a minute"
        time.sleep(0.01)


def test_twenty_kills_leave_the_same_files_as_an_undisturbed_run(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    whole = cli("run", write_config(tmp_path, config_for("whole"), "whole.yaml"), "-q")
    assert whole.returncode == 0, whole.stderr
    config = write_config(tmp_path, config_for("killed"), "killed.yaml")
    draw = random.Random(20)
    for _ in range(KILLS):
        process = start("run", config, "-q")
        wait_for_files(tmp_path / "killed", draw.randint(0, MOST_FILES_BETWEEN))
        time.sleep(draw.uniform(0, 0.3))
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
    last = cli("run", config, "-q")
    assert last.returncode == 0, last.stderr
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    rows = pd.read_parquet(tmp_path / "killed/selected/latest")
    assert rows.prompt_id.is_unique
    folder = tmp_path / "killed/quarantine/select"
    lost = sum(len(pd.read_parquet(path)) for path in folder.rglob("*.parquet"))
    assert len(rows) + lost == PROMPTS
    leftovers = list((tmp_path / "killed").rglob(".tmp-*"))
    assert leftovers == []
