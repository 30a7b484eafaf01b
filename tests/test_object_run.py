"""Whole runs over the command line: on S3, killed, with faults in between; and on a full disk."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from arbitrage.store import Store
from command_line import cli, digests, running, write_config, write_prompts
from s3_server import Faults, address, proxy, s3_server

pytestmark = pytest.mark.cluster

PROMPTS = 300
PATIENCE_S = 60.0
FULL_DISK = """
import errno, os
_sync = os.fsync
def fsync(handle):
    if os.path.exists(os.environ["FULL_DISK_FLAG"]):
        open(os.environ["FULL_DISK_FLAG"] + ".met", "w").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return _sync(handle)
os.fsync = fsync
"""


def config_for(run: str) -> dict[str, Any]:
    return {
        "run": run,
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 50},
        "teachers": {
            "a": {"engine": "fake", "languages": "all", "options": {"delay_s": 0.1}},
            "b": {"engine": "fake", "languages": ["de"], "options": {"voice": "b"}},
        },
        "arbiter": {"engine": "fake"},
    }


def stored(store: Store) -> dict[str, str]:
    """SHA-256 of every data file."""
    files = sorted(store.listing().files)
    return {path: hashlib.sha256(store.read_bytes(path)).hexdigest() for path in files}


def wait_for_files(store: Store, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(store.listing().files) < count:
        assert time.monotonic() < deadline, "nothing was made in a minute"


def test_a_run_on_s3_that_is_killed_amid_faults_is_the_local_run(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    local = cli("run", write_config(tmp_path, config_for("whole"), "whole.yaml"), "-q")
    assert local.returncode == 0, local.stderr
    with s3_server() as direct, proxy(direct, Faults(0.02, 0.05, 0.1)) as port:
        place = address(port, "runs/killed")
        config = write_config(tmp_path, config_for(place), "killed.yaml")
        store = Store(address(direct, "runs/killed"))
        with running("run", config, "-q") as process:
            wait_for_files(store, 6)
            assert process.poll() is None, process.communicate()
        last = cli("run", config)
        assert last.returncode == 0, last.stderr
        assert stored(store) == digests(tmp_path / "whole")
        product = next(line for line in last.stdout.splitlines() if line.startswith("product: "))
        told = pd.read_parquet(product.removeprefix("product: "))
        whole = pd.read_parquet(tmp_path / "whole/selected/latest")
        for column in ("prompt_id", "completion", "reward"):
            assert told[column].tolist() == whole[column].tolist()
        state = cli("status", place)
        assert "not running" in state.stdout, state.stderr


def test_a_full_disk_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    whole = cli("run", write_config(tmp_path, config_for("whole"), "whole.yaml"), "-q")
    assert whole.returncode == 0, whole.stderr
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(FULL_DISK)
    flag = tmp_path / "full"
    monkeypatch.setenv("FULL_DISK_FLAG", str(flag))
    monkeypatch.setenv("PYTHONPATH", f"{patch}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    store = Store(tmp_path / "full-run")
    config = write_config(tmp_path, config_for("full-run"), "full.yaml")
    with running("run", config, "-q") as process:
        wait_for_files(store, 3)
        flag.touch()
        deadline = time.monotonic() + PATIENCE_S
        while not flag.with_name("full.met").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "nothing was written in a minute"
        flag.unlink()
        assert process.wait(120) == 0
    assert digests(tmp_path / "full-run") == digests(tmp_path / "whole")
