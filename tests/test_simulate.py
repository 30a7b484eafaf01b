"""The simulation of a large run, in a small form."""

from __future__ import annotations

import simulate


def test_a_small_cluster_is_kept_busy_without_moving_replicas_in_circles() -> None:
    told = ["--nodes", "4", "--prompts", "400000", "--failures-per-hour", "0"]
    run = simulate.Run(simulate.options([*told, "--node-losses-per-hour", "0"])).go()
    found = run.measured()
    assert run.board.roles[simulate.CLERK].done == 2 * run.shards
    assert found["utilisation"] >= 0.9
    assert found["makespan_s"] <= 1.15 * found["bound_s"]
    assert run.drains < 50
