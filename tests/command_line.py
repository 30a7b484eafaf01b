"""Helpers for tests that run the command line in processes of its own, as users do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI = [sys.executable, "-m", "arbitrage.cli"]
TIMEOUT_S = 240


def cli(*args: str | Path, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Runs `arbitrage ARGS` to its end."""
    command = [*CLI, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def start(*args: str | Path) -> subprocess.Popen[str]:
    """Starts `arbitrage ARGS`."""
    command = [*CLI, *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@contextlib.contextmanager
def running(*args: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Starts `arbitrage ARGS`; what still runs at the end is killed."""
    process = start(*args)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def write_config(folder: Path, config: dict[str, Any], name: str = "c.yaml") -> Path:
    """Writes a config file."""
    path = folder / name
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def write_prompts(path: Path, count: int, languages: tuple[str, ...] = ("de", "en", "fr")) -> None:
    """Distinct prompts, languages in turn; short enough never to be contradicted."""
    rows = [
        {
            "id": f"u{n}",
            "language": languages[n % len(languages)],
            "prompt": f"q {n}",
            "topic": n % 7,
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of every data file of a run, by relative path."""
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*.parquet"))
        if "latest" not in path.parts
    }


def done_tasks(run: Path) -> list[dict[str, Any]]:
    """Finished tasks in the run's diary, all runs together."""
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if event["event"] == "task_done"]
