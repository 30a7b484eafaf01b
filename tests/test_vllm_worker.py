"""What ends vLLM's processes when their replica is killed; without vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
WORKER = "import arbitrage.engines.vllm_worker, time; print('w', flush=True); time.sleep(60)"
CORE = f"""
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}])
print(worker.pid, flush=True)
time.sleep(60)
"""
REPLICA = f"""
import os, subprocess, sys, time
os.environ["ARBITRAGE_REPLICA_PID"] = str(os.getpid())
core = subprocess.Popen([sys.executable, "-c", {CORE!r}])
print(core.pid, flush=True)
time.sleep(60)
"""


def ended(pid: int) -> None:
    """Returns once a process is gone; the test's own time limit is the bound."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    assert select.select([handle], [], [], 30)[0], f"{pid} lives on"


def test_a_killed_replica_takes_core_and_worker_along() -> None:
    environment = {**os.environ, "PYTHONPATH": ROOT}
    replica = subprocess.Popen(
        [sys.executable, "-c", REPLICA], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert replica.stdout is not None
    core, worker = (int(replica.stdout.readline()) for _ in range(2))
    assert replica.stdout.readline() == "w\n"
    replica.kill()
    replica.wait()
    ended(worker)
    ended(core)


def test_a_worker_whose_replica_is_gone_already_ends_alone() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = {**os.environ, "PYTHONPATH": ROOT, "ARBITRAGE_REPLICA_PID": str(gone.pid)}
    done = subprocess.run([sys.executable, "-c", WORKER], env=environment, timeout=60)
    assert done.returncode == -9  # and this process, its parent, is still here


def test_importing_it_in_the_replica_itself_does_nothing() -> None:
    code = (
        "import os; os.environ['ARBITRAGE_REPLICA_PID'] = str(os.getpid())\n"
        "import arbitrage.engines.vllm_worker, threading; print(threading.active_count())"
    )
    environment = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout == b"1\n"
