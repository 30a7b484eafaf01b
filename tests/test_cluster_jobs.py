"""The examples for schedulers: manifests by their structure, the Slurm script by running it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "cluster"
SCRIPT = FOLDER / "arbitrage.sbatch"
FAKES = {
    "srun": 'echo "srun" >> "$LOG"; exec sleep 60',
    "ray": 'until grep -q srun "$LOG"; do :; done; echo "ray $*" >> "$LOG"',
    "scontrol": 'echo "scontrol $*" >> "$LOG"; [ "$1" != show ] || printf "n1\\nn2\\n"',
    "arbitrage": 'echo "arbitrage $*" >> "$LOG"; exit "$CODE"',
}


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """A pod's containers, whose volumes must all be there."""
    there = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert container["name"]
        assert container["image"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= there
    return list(pod["containers"])


def test_the_ray_job_runs_the_driver_with_an_end_and_leaves_no_cluster() -> None:
    (job,) = manifests("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("arbitrage run /config/arbitrage.yaml")
    assert "--stop-before" in spec["entrypoint"]
    assert spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = containers(group["template"]["spec"])
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/runs", "/config"}
    for group in workers:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_cron_job_makes_one_ray_job_at_a_time_and_may() -> None:
    cron, account, role, binding = manifests("cronjob.yaml")
    assert (cron["apiVersion"], cron["kind"]) == ("batch/v1", "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert len(cron["spec"]["schedule"].split()) == 5
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    (container,) = containers(pod)
    done = subprocess.run(["sh", "-n", "-c", container["command"][-1]], check=False)
    assert done.returncode == 0
    assert {"get", "create", "delete"} <= set(role["rules"][0]["verbs"])
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


@pytest.mark.parametrize(
    ("status", "made"), [("", True), ("a/Complete", True), ("a/Failed", True), ("a/Running", False)]
)
def test_the_cron_job_replaces_only_a_job_that_has_ended(
    tmp_path: Path, status: str, made: bool
) -> None:
    command = manifests("cronjob.yaml")[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    script = command["containers"][0]["command"][-1]
    told = f'[ "$1" != get ] || printf "%s" "{status}"; echo "$1" >> "$LOG"'
    environment = with_fakes(tmp_path, {"kubectl": told})
    subprocess.run(["sh", "-euc", script], env=environment, check=True, capture_output=True)
    verbs = (tmp_path / "log").read_text(encoding="utf-8").split()
    assert verbs == (["get", "delete", "create"] if made else ["get"])


def with_fakes(folder: Path, fakes: dict[str, str], **more: str) -> dict[str, str]:
    """An environment in which these commands are scripts."""
    tools = folder / "bin"
    tools.mkdir()
    for name, text in fakes.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "LOG": str(folder / "log"), **more}


def slurm(folder: Path, fakes: dict[str, str], **more: str) -> dict[str, str]:
    job = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "77"}
    return with_fakes(folder, fakes, **job, **more)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 75])
def test_slurm_takes_the_job_up_again_only_after_75(tmp_path: Path, code: int) -> None:
    done = subprocess.run(
        ["bash", SCRIPT], env=slurm(tmp_path, FAKES, CODE=str(code)), check=False, timeout=60
    )
    assert done.returncode == code
    log = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert "srun" in log
    assert "ray health-check --address n1:6379" in log
    assert "arbitrage run arbitrage.yaml --quiet" in log
    assert ("scontrol requeue 77" in log) == (code == 75)


def test_slurm_s_signal_reaches_the_driver_which_is_waited_for(tmp_path: Path) -> None:
    driver = (
        "trap 'echo told >> \"$LOG\"; sleep 0.2; exit 75' USR1\n"
        'echo started >> "$LOG"\nwhile :; do sleep 0.05; done'
    )
    environment = slurm(tmp_path, {**FAKES, "arbitrage": driver})
    process = subprocess.Popen(["bash", SCRIPT], env=environment)
    log = tmp_path / "log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "started" in log.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, "the driver did not start in a minute"
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    assert log.read_text(encoding="utf-8").split("\n")[-3:] == ["told", "scontrol requeue 77", ""]


def test_slurm_s_job_fails_where_ray_does_not_start(tmp_path: Path) -> None:
    fakes = {**FAKES, "srun": "exit 1", "ray": "exit 1"}
    done = subprocess.run(
        ["bash", SCRIPT], env=slurm(tmp_path, fakes, CODE="0"), check=False, capture_output=True
    )
    assert done.returncode == 1
    assert b"Ray did not start" in done.stderr


def test_the_crontab_is_one_line_that_logs() -> None:
    lines = (FOLDER / "crontab").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line and not line.startswith("#")]
    assert line.split()[5] == "cd"
    assert line.endswith(">> nightly.log 2>&1")
    assert "%" not in line, "cron takes it for the end of the line"
