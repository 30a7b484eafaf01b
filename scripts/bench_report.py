"""What the report of a large run takes: many prompts, three fake teachers, then `arbitrage report`.

Prints the seconds and the peak memory of the report's own process, and the size of its file.

    python scripts/bench_report.py --prompts 20000 200000
    python scripts/bench_report.py --run runs/large
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench_overhead import write_config, write_prompts

CLI = [sys.executable, "-m", "arbitrage.cli"]


class Result(NamedTuple):
    """What one report took, and how large it is."""

    seconds: float
    peak_mb: float
    file_mb: float


def made(folder: Path, prompts: int) -> Path:
    """Makes a run of so many prompts by the command line."""
    write_prompts(folder / "prompts.jsonl", prompts)
    config = write_config(folder)
    subprocess.run([*CLI, "run", str(config), "--quiet"], check=True)  # noqa: S603 - our command
    return folder / "run"


def measure(run: Path, output: Path) -> Result:
    """Writes the report in a process of its own; exits where that fails."""
    start = time.perf_counter()
    command = [*CLI, "report", str(run), "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - our command
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the report failed with exit code {process.returncode}")
    size = output.stat().st_size
    return Result(time.perf_counter() - start, usage.ru_maxrss / 1000, size / 1e6)


def main() -> None:
    """Measures every size asked for, or one run that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--run", type=Path, help="measure this run instead")
    args = parser.parse_args()
    print(f"{'prompts':>12} {'seconds':>8} {'peak MB':>8} {'file MB':>8}")
    for count in [None] if args.run else args.prompts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run = args.run if count is None else made(folder, count)
            found = measure(run, folder / "report.html")
            told = "as they are" if count is None else f"{count:,}"
            print(f"{told:>12} {found.seconds:8.1f} {found.peak_mb:8.0f} {found.file_mb:8.1f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
