"""What a replica's end and its environment mean to the driver."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from arbitrage import cluster as cluster_module
from arbitrage import driver
from arbitrage.cluster import Cluster, Replica
from arbitrage.desk import Desk
from arbitrage.errors import ArbitrageError, EngineError, EngineLostError
from arbitrage.events import Failed, LoadFailed
from arbitrage.placement import Share, Slots
from arbitrage.plan import CLERK, READER, ShardState, Task
from arbitrage.resolve import resolve
from arbitrage.store import Store
from command_line import cli, write_config, write_prompts
from harness import fake, imagined, make_config, pretend, read_rows

TASK = Task("generate", "owner", 0, (), "out")


class Raised(cluster_module.ray.exceptions.RayTaskError):  # type: ignore[misc,name-defined]
    """An exception of a replica, as Ray hands it over."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


def cluster_that_raises(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> tuple[Cluster, list[Any]]:
    """A cluster whose replicas' calls all end with `cause`; and the handles that it kills."""
    killed: list[Any] = []

    def get(_: Any) -> None:
        raise Raised(cause)

    monkeypatch.setattr(cluster_module.ray, "get", get)
    monkeypatch.setattr(cluster_module.ray, "kill", killed.append)
    config = make_config(folder, {"a": fake()})
    return Cluster(Desk(Store(folder), config, resolve(config))), killed


@pytest.mark.parametrize(
    ("cause", "lost"), [(EngineLostError("the engine died"), True), (ValueError("a fault"), False)]
)
def test_a_replica_whose_engine_died_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, lost: bool
) -> None:
    cluster, killed = cluster_that_raises(tmp_path, monkeypatch, cause)
    replica = Replica("a/1", "owner", Slots(), "handle", loaded=True)
    replica.tasks = {"ref 1": TASK, "ref 2": TASK}
    cluster._replicas["a/1"] = replica
    for ref in ("ref 1", "ref 2"):
        assert cluster._settle(ref, replica) == Failed("a/1", TASK, cause, lost=lost)
        assert replica.loaded is not lost
    assert killed == (["handle"] if lost else [])
    assert list(cluster._replicas) == ([] if lost else ["a/1"])


@pytest.mark.parametrize("fresh", [True, False])
def test_an_engine_that_does_not_load_in_a_used_process_gets_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    cause = EngineError("no memory is left")
    cluster, killed = cluster_that_raises(tmp_path, monkeypatch, cause)
    replica = Replica("a/2", "owner", Slots(), "handle", fresh=fresh)
    cluster._replicas["a/2"] = replica
    cluster._loading["ref"] = replica
    event = cluster._settle("ref", replica)
    assert event == LoadFailed("a/2", "owner", cause, lost=not fresh)
    assert killed == ["handle"]
    assert not cluster._replicas


class Handle:
    """An actor that remembers what it was told to prepare."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @property
    def prepare(self) -> Handle:
        return self

    def remote(self, owner: str) -> None:
        self.told.append(owner)


def test_a_replica_is_told_once_to_prepare_a_role_and_only_while_it_works(tmp_path: Path) -> None:
    config = make_config(tmp_path, {"a": fake()})
    cluster = Cluster(Desk(Store(tmp_path), config, resolve(config)))
    handle = Handle()
    replica = Replica("a/1", "a", Slots(), handle)
    cluster._replicas["a/1"] = replica
    cluster.prepare("a/1", "b")
    assert handle.told == [], "it has yet to load"
    replica.tasks = {"ref": TASK}
    for owner in ("b", "b", "c", "b"):
        cluster.prepare("a/1", owner)
    assert handle.told == ["b", "c"]


def test_the_driver_prepares_who_waits_while_the_last_tasks_of_a_turn_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real board, scheduler and cluster with one slot; only the actors are not there."""
    components, board = imagined(
        2, shards=[ShardState(n, f"{n}", 10) for n in range(2)], unread=False
    )
    for _ in range(2):
        task = board.take(CLERK)
        board.finished(task, pretend(task, components, 2))
    one, other = (teacher.fingerprint for teacher in components.teachers)
    config = make_config(tmp_path, {"a": fake()})
    cluster = Cluster(Desk(Store(tmp_path), config, components))
    whole = cluster.needs.demand(one)
    cluster._nodes.update({"n": whole})
    place = (Share("n", whole),)
    cluster._nodes.take(place)
    handle = Handle()
    replica = Replica("a/1", one, whole, handle, loaded=True, place=place)
    cluster._replicas["a/1"] = replica
    cluster._owned[one] = {"a/1": replica}
    monkeypatch.setattr(cluster, "start", lambda owner, place: started.append(owner))
    started: list[str] = []
    replica.tasks = {"first": board.take(one)}
    driver.apply_decisions(board, cluster)
    assert handle.told == [], "its second task is still to come"
    replica.tasks["second"] = board.take(one)
    driver.apply_decisions(board, cluster)
    driver.apply_decisions(board, cluster)
    assert handle.told == [other]
    assert set(started) == {CLERK}, "there is no place for an engine"


@pytest.mark.parametrize("gone", [True, False])
def test_a_load_that_dies_with_its_node_is_no_fault_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    died = cluster_module.ray.exceptions.ActorUnschedulableError("the node is no more")

    def get(_: Any) -> None:
        raise died

    alive = {"Alive": True, "NodeID": "other" if gone else "here", "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(cluster_module.ray, "get", get)
    monkeypatch.setattr(cluster_module.ray, "kill", lambda _: None)
    monkeypatch.setattr(cluster_module.ray, "nodes", lambda: [alive])
    config = make_config(tmp_path, {"a": fake()})
    cluster = Cluster(Desk(Store(tmp_path), config, resolve(config)))
    place = (Share("here", Slots(cpus=1.0)),)
    cluster._nodes.take(place)
    replica = Replica("a/1", "owner", Slots(cpus=1.0), "handle", place=place)
    cluster._replicas["a/1"] = replica
    cluster._loading["ref"] = replica
    event = cluster._settle("ref", replica)
    assert event == LoadFailed("a/1", "owner", died, lost=True, gone=gone)
    assert [node.name for node in cluster.nodes()] == [alive["NodeID"]]


@pytest.mark.cluster
def test_roles_that_take_turns_share_a_process(tmp_path: Path) -> None:
    """Answers take a while, so that each turn's last tasks are in flight when the next role is
    prepared beside them."""
    write_prompts(tmp_path / "prompts.jsonl", 60)
    whole = {"cpus": 1}
    teachers = {
        name: {
            "engine": "fake",
            "languages": "all",
            "options": {"voice": name, "delay_s": 0.3},
            "resources": whole,
        }
        for name in ("a", "b", "c")
    }
    told = {
        "run": "run",
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 20},
        "teachers": teachers,
        "arbiter": {"engine": "fake", "resources": whole},
        "cluster": {"cpus": 1},
    }
    result = cli("run", write_config(tmp_path, told))
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "run", "selected")
    assert len(rows) == 60
    assert all(len(row["candidates"]) == 3 for row in rows)
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").open()]
    loaded = [event for event in events if event["event"] == "replica_loaded"]
    turns = [event["fresh"] for event in loaded if event["role"] not in (READER, CLERK)]
    assert len(turns) >= 4
    assert sum(turns) == 1


def test_a_ray_that_does_not_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(cluster_module.ray, "init", init)
    config = make_config(tmp_path, {"a": fake()})
    cluster = Cluster(Desk(Store(tmp_path), config, resolve(config)))
    with pytest.raises(ArbitrageError, match=r"Ray could not be started: .* timed out"):
        cluster.__enter__()


def test_a_cluster_without_a_living_node_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill of the raylet while replicas load: the next actor would wait for ever."""
    config = make_config(tmp_path, {"a": fake()})
    cluster = Cluster(Desk(Store(tmp_path), config, resolve(config)))
    replica = Replica("a/1", "owner", Slots(), "handle")
    cluster._replicas["a/1"] = replica
    cluster._loading["ref"] = replica
    nodes = [{"Alive": False}, {"Alive": True, "NodeID": "n", "Resources": {"CPU": 2.0}}]
    monkeypatch.setattr(cluster_module, "LOOK_S", 0.0)
    monkeypatch.setattr(cluster_module.ray, "wait", lambda refs, **_: ([], refs))
    monkeypatch.setattr(cluster_module.ray, "nodes", lambda: nodes)
    assert cluster.wait(0.0) == []
    nodes.pop()
    with pytest.raises(ArbitrageError, match=r"was lost \(no node of it lives\); run again"):
        cluster.wait(0.0)


@pytest.mark.cluster
def test_replicas_run_in_the_environment_that_they_are_given(tmp_path: Path) -> None:
    """Another environment that lacks this package: the driver lends it, and nothing else."""
    write_prompts(tmp_path / "prompts.jsonl", 20)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$PYTHONPATH" >> {tmp_path}/seen\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    told = {
        "run": "run",
        "prompts": "prompts.jsonl",
        "teachers": {
            "here": {"engine": "fake", "languages": "all", "options": {"voice": "h"}},
            "there": {"engine": "fake", "languages": "all", "resources": {"python": "./python"}},
        },
        "arbiter": {"engine": "fake"},
    }
    result = cli("run", write_config(tmp_path, told))
    assert result.returncode == 0, result.stderr
    assert len(read_rows(tmp_path / "run", "selected")) == 20
    # The first line is of the look into the environment, before the run, with what is set there.
    lent = {Path(line) for line in (tmp_path / "seen").read_text().splitlines()[1:]}
    assert len(lent) == 1
    assert not lent.pop().exists(), "it is gone with the run"
