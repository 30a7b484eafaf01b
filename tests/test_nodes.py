"""Two real Ray nodes on one machine, with accelerators that only Ray believes in."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from ray.cluster_utils import Cluster as RayCluster

from arbitrage.cluster import Cluster
from arbitrage.desk import Desk
from arbitrage.errors import ConfigError
from arbitrage.events import Loaded
from arbitrage.nodes import Nodes, Pace
from arbitrage.placement import Node, Room, Share, Slots
from arbitrage.resolve import resolve
from arbitrage.store import Store
from command_line import cli, digests, running, write_config, write_prompts
from harness import fake, make_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 90.0


@contextlib.contextmanager
def two_nodes(gpus: int) -> Iterator[tuple[RayCluster, Any]]:
    """A cluster of two nodes, and the one that is not the head."""
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": gpus})
    try:
        yield cluster, cluster.add_node(num_cpus=2, num_gpus=gpus)
    finally:
        cluster.shutdown()


def config_for(run: str, **cluster: Any) -> dict[str, Any]:
    resources = {"cpus": 0.1, "gpus": 1, "replicas": 4}
    teachers = {
        name: {
            "engine": "fake",
            "languages": "all",
            "options": {"voice": name, "delay_s": 0.1},
            "resources": resources,
        }
        for name in ("a", "b")
    }
    return {
        "run": run,
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 50},
        "teachers": teachers,
        "arbiter": {"engine": "fake", "resources": {"cpus": 0.1}},
        "cluster": cluster,
    }


@pytest.mark.cluster
def test_a_run_on_two_nodes_of_which_one_is_killed_leaves_the_same_rows(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 1500)
    told = config_for("whole", cpus=2, gpus=4)
    whole = cli("run", write_config(tmp_path, told, "whole.yaml"), "-q")
    assert whole.returncode == 0, whole.stderr
    with two_nodes(gpus=2) as (ray_cluster, node):
        told = config_for("killed", address=ray_cluster.address, attempts=10)
        with running("run", write_config(tmp_path, told, "killed.yaml"), "-q") as process:
            deadline = time.monotonic() + PATIENCE_S
            while len(list((tmp_path / "killed").rglob("candidates/**/*.parquet"))) < 10:
                assert time.monotonic() < deadline, "nothing was made"
                assert process.poll() is None, "it ended too early"
                time.sleep(0.02)
            ray_cluster.remove_node(node, allow_graceful=False)
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    diary = (tmp_path / "killed/events.jsonl").read_text()
    assert "task_failed" in diary, "the node had replicas at work"
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.cluster
def test_a_replica_larger_than_any_node_is_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_nodes(gpus=2) as (ray_cluster, _):
        monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
        resources = {"cpus": 1, "gpus": 4}
        config = make_config(tmp_path, {"a": {**fake(), "resources": resources}})
        components = resolve(config)
        owner = components.teachers[0].fingerprint
        with Cluster(Desk(Store(tmp_path), config, components)) as cluster:
            place = Room(cluster.nodes()).place(cluster.needs.demand(owner))
            assert place is not None
            assert [share.slots.gpus for share in place] == [2, 2]
            cluster.start(owner, place)
            events = cluster.wait(PATIENCE_S)
            assert [type(event) for event in events] == [Loaded]
            assert Room(cluster.nodes()).place(Slots(gpus=1)) is None
            cluster.stop(events[0].replica)
            assert Room(cluster.nodes()).place(cluster.needs.demand(owner)) is not None


@pytest.mark.cluster
def test_a_joined_cluster_gets_environments_their_package_and_too_large_roles_wait_in_vain(
    tmp_path: Path,
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 20)
    seen = tmp_path / "seen"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH" >> {seen}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with two_nodes(gpus=1) as (ray_cluster, _):
        told = config_for("run", address=ray_cluster.address, patience_s=0.5)
        told["teachers"]["a"]["resources"] = {"gpus": 1, "python": "./python"}
        told["teachers"]["b"]["resources"] = {"gpus": 64}
        result = cli("run", write_config(tmp_path, told))
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").open()]
    loaded = {event["role"] for event in events if event["event"] == "replica_loaded"}
    assert "a" in loaded
    assert "b" not in loaded
    words = " ".join((result.stdout + result.stderr).split())
    assert "a replica of 'b' needs" in words


def test_what_a_joined_cluster_has_is_not_set(tmp_path: Path) -> None:
    config = make_config(tmp_path, {"a": fake()}, cluster={"address": "auto", "gpus": 2})
    cluster = Cluster(Desk(Store(tmp_path), config, resolve(config)))
    with pytest.raises(ConfigError, match=r"`cluster\.gpus` cannot be set; remove them"):
        cluster.__enter__()


def test_the_fullest_node_that_holds_a_replica_is_taken() -> None:
    whole = Slots(8, 8)
    nodes = [Node(name, Slots(8, free), whole) for name, free in [("a", 8), ("b", 2), ("c", 5)]]
    room = Room(nodes)
    for gpus, node in [(2, "b"), (2, "c"), (3, "c"), (8, "a")]:
        place = room.place(Slots(1, gpus))
        assert place == (Share(node, Slots(1, gpus)),)
        room.take(place)
    assert room.place(Slots(0, 1)) is None


def test_a_replica_that_is_not_too_large_for_a_node_is_not_spread() -> None:
    nodes = [Node(name, Slots(8, 4), Slots(8, 8)) for name in "ab"]
    assert Room(nodes).place(Slots(1, 8)) is None
    whole = Slots(8, 8, 64)
    place = Room([Node(name, whole, whole) for name in "ab"]).place(Slots(2, 12, 48))
    assert place == (Share("a", Slots(2, 8, 32)), Share("b", Slots(0, 4, 16)))


def test_what_others_hold_is_left_to_them_and_what_is_ours_is_counted_once() -> None:
    nodes = Nodes()
    place = (Share("a", Slots(1, 2)),)
    nodes.take(place)
    nodes.update({"a": Slots(8, 8)}, {"a": Slots(6, 3)})
    assert nodes.free() == [Node("a", Slots(6, 3), Slots(8, 8))]
    nodes.give(place)
    assert nodes.free() == [Node("a", Slots(7, 5), Slots(8, 8))]
    nodes.update({"b": Slots(1, 1)}, {"b": Slots(1, 1)})
    assert [node.name for node in nodes.free()] == ["b"]


def test_tasks_in_flight_share_the_speed_of_their_replica() -> None:
    pace = Pace()
    pace.did(60.0, in_flight=2)
    assert pace.task_s == 30.0
    pace.did(80.0, in_flight=2)
    assert pace.task_s == 32.0
