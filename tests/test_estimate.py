"""What a run will take, purely: costs, speeds from a diary, and a run played in thought."""

from __future__ import annotations

from typing import Any

import pytest

from arbitrage.config import Sampling
from arbitrage.estimate import (
    Figures,
    Forecast,
    Role,
    Unit,
    add_up,
    at_most,
    cost_of,
    forecast,
)
from arbitrage.scheduler import Slots
from arbitrage.speeds import speeds

GPU = Slots(1, 1)


def test_costs_are_requests_times_figures() -> None:
    figures = Figures("earlier", 10.0, 20.5, 0.5, 100.0, 3.0)
    costs = cost_of(200, figures, (1.0, 2.0))
    assert (costs.source, costs.prompt_tokens, costs.completion_tokens) == ("earlier", 2000, 4100)
    assert (costs.time_s, costs.bytes) == (100.0, 20_000)
    assert costs.money == pytest.approx((2000 * 1.0 + 4100 * 2.0) / 1e6)


def test_a_bound_is_max_tokens_over_all_groups_and_nothing_else_is_known() -> None:
    groups = (Sampling(temperature=0, max_tokens=100), Sampling(n=3, max_tokens=20))
    costs = cost_of(8, at_most(groups), (0.0, 1e6))
    assert (costs.source, costs.completion_tokens) == ("bound", 2 * (100 + 3 * 20))
    assert (costs.prompt_tokens, costs.time_s, costs.bytes) == (None, None, None)
    assert costs.money == 320


def test_no_requests_cost_nothing_and_no_price_is_no_money() -> None:
    assert cost_of(0, Figures(""), (1.0, 1.0)).money == 0.0
    assert cost_of(5, Figures("probe", 1.0, 1.0), None).money is None


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    assert add_up([1.0, 2.5]) == 3.5
    assert add_up([1.0, None]) is None


def done(time: float, seconds: float, replica: str = "a/1", **more: Any) -> dict[str, Any]:
    told = {"event": "task_done", "stage": "generate", "owner": "a", "requests": 10}
    return {**told, "time": time, "seconds": seconds, "replica": replica, **more}


def test_tasks_that_overlap_on_a_replica_are_no_time_twice() -> None:
    events = [{"event": "run_started", "time": 0}, done(10, 10), done(12, 10), done(30, 5)]
    (speed,) = speeds(events, {"a": "teacher"}).values()
    assert speed.request_s == pytest.approx((12 + 5) / 30)


def test_replicas_work_beside_each_other_and_runs_are_told_apart() -> None:
    events = [
        {"event": "run_started", "time": 0},
        done(10, 10, "a/1"),
        done(10, 10, "a/2"),
        {"event": "run_started", "time": 100},
        done(110, 10, "a/1"),
    ]
    assert speeds(events, {"a": "teacher"})["a"].request_s == pytest.approx(30 / 30)


def test_a_task_longer_than_a_gap_fills_it() -> None:
    events = [done(1, 1), done(3, 1), done(4, 3.5)]
    assert speeds(events, {"a": "teacher"})["a"].request_s == pytest.approx(4 / 30)


def test_many_short_spans_add_up() -> None:
    events = [done(2.0 * n + 1, 1) for n in range(1000)]
    assert speeds(events, {"a": "teacher"})["a"].request_s == pytest.approx(0.1)


def test_a_diary_without_replicas_tells_no_speed() -> None:
    assert speeds([done(10, 10, "")], {"a": "teacher"})["a"].request_s is None


def test_loading_is_told_from_what_kept_the_slots_before() -> None:
    events = [
        {"event": "run_started", "time": 0},
        {"event": "replica_loaded", "time": 7, "role": "first"},
        done(50, 40, "first/1"),
        {"event": "replica_loaded", "time": 53, "role": "second"},
        done(60, 4, "second/2"),
    ]
    told = speeds(events, {"f": "first", "s": "second", "t": "third"})
    assert [told[owner].load_s for owner in "fst"] == [7, 3, None]


def test_a_replica_that_works_on_gives_no_slots_to_one_that_is_loading() -> None:
    events = [
        {"event": "run_started", "time": 0},
        {"event": "replica_loaded", "time": 5, "role": "first"},
        done(11, 6, "first/1"),
        {"event": "replica_loaded", "time": 12, "role": "second"},
        done(20, 9, "first/1"),
    ]
    assert speeds(events, {"s": "second"})["s"].load_s == 12


def role(owner: str, demand: Slots = GPU, most: int = 1, load_s: float | None = 10.0) -> Role:
    return Role(owner, f"model {owner}", demand, most, 1, owner, 1.0, load_s)


def played(total: Slots, *roles: Role, shards: int = 4, requests: int = 100) -> Forecast:
    teachers = [one.owner for one in roles[:-1]]
    judged = {roles[-1].owner: requests}
    units = [Unit(t, n, requests, judged) for n in range(shards) for t in teachers]
    return forecast(roles, units, total)


def test_a_pool_that_does_not_fit_takes_turns_in_a_told_order() -> None:
    found = played(Slots(8, 1), role("a"), role("b"), role("judge"))
    assert [part.turn for part in found.parts] == [1, 2, 3]
    assert found.parts[-1].name == "model judge"
    assert found.time_s == pytest.approx(3 * 10 + 400 + 400 + 800)
    assert found.bottleneck == "model judge"


def test_roles_that_fit_together_are_loaded_together() -> None:
    found = played(Slots(8, 3), role("a"), role("b"), role("judge"))
    assert [part.turn for part in found.parts] == [1, 1, 1]
    assert [part.start_s for part in found.parts] == [0, 0, 0]
    assert found.time_s == pytest.approx(10 + 100 + 800)


def test_more_replicas_make_it_shorter_up_to_their_number() -> None:
    judge = role("judge")._replace(request_s=0.01)
    one = played(Slots(8, 4), role("a"), judge, shards=40)
    two = played(Slots(8, 4), role("a", most=3), judge, shards=40)
    assert [part.replicas for part in two.parts] == [3, 1]
    assert one.time_s is not None
    assert two.time_s is not None
    assert two.time_s < one.time_s / 2.5
    assert (one.bottleneck, two.bottleneck) == ("model a", "model a")


def test_without_times_the_order_is_told_and_no_time() -> None:
    unknown = role("a", load_s=None)._replace(request_s=None)
    found = played(Slots(8, 1), unknown, role("judge"))
    assert (found.time_s, found.bottleneck) == (None, None)
    assert [(part.turn, part.start_s) for part in found.parts] == [(1, None), (2, None)]


def test_a_long_run_is_played_in_blocks_and_takes_as_long() -> None:
    found = played(Slots(8, 2), role("a"), role("judge"), shards=9_000, requests=10)
    assert found.time_s == pytest.approx(90_000, rel=0.01)


def test_only_scores_are_missing() -> None:
    units = [Unit("a", n, 0, {"judge": 10}) for n in range(3)]
    found = forecast([role("a"), role("judge")], units, Slots(1, 1))
    assert [(part.name, part.replicas) for part in found.parts] == [("model judge", 1)]
    assert found.time_s == pytest.approx(40)
