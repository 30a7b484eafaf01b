"""The simulation of a large run, in a small form."""

from __future__ import annotations

import simulate
from hypothesis import given, settings
from hypothesis import strategies as st


def test_a_small_cluster_is_kept_busy_without_moving_replicas_in_circles() -> None:
    told = ["--nodes", "4", "--prompts", "400000", "--failures-per-hour", "0"]
    run = simulate.Run(simulate.options([*told, "--node-losses-per-hour", "0"])).go()
    found = run.measured()
    assert run.board.roles[simulate.CLERK].done == (2 + 9) * run.shards
    assert found["utilisation"] >= 0.9
    assert found["makespan_s"] <= 1.15 * found["bound_s"]
    assert run.drains < 50


@given(st.integers(1, 5), st.integers(10_000, 80_000), st.integers(0, 2**16), st.booleans())
@settings(max_examples=15, deadline=None)
def test_every_task_is_finished_no_role_starves_and_replicas_do_not_move_in_circles(
    nodes: int, prompts: int, seed: int, faults: bool
) -> None:
    told = ["--nodes", str(nodes), "--prompts", str(prompts), "--seed", str(seed)]
    rate = "4" if faults else "0"
    told += ["--failures-per-hour", rate, "--node-losses-per-hour", rate]
    run = simulate.Run(simulate.options(told)).go()
    board = run.board
    assert not board.is_open()
    assert not board.given_up
    assert board.roles[simulate.CLERK].done == (2 + 9) * run.shards
    assert all(not role.left for role in board.roles.values())
    accidents = run.failures + 8 * run.losses
    assert sum(run.starts.values()) <= 4 * (8 * nodes + len(board.roles)) + 2 * accidents
