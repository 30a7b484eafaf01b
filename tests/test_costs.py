"""What roles have cost: tokens from files, hours from the diary, money from both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arbitrage.costs import OTHERS, Cost, amount_of, costs_of, unit_of
from arbitrage.spending import paid
from arbitrage.usage import Usage
from harness import Run, fake, make_config, numbered_prompts, opened, run, write_prompts


def costs(made: Run) -> dict[str, Cost]:
    found = costs_of(made.store, made.components, paid(made.store, made.store.listing()))
    return {cost.name: cost for cost in found}


def test_hours_are_those_in_which_replicas_had_work_and_money_follows(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(9))
    own = {"resources": {"gpus": 2, "cpus": 4, "price_per_hour": 3.0}}
    made = run(make_config(tmp_path, {"own": fake(0.5, **own), "other": fake(0.6)}))
    owner = made.components.teachers[0].fingerprint
    made.store.append_event("run_started")
    for replica, start, end in ((1, 0, 1000), (1, 500, 1500), (2, 0, 300)):
        told = {"replica": f"{owner}/{replica}", "owner": owner, "requests": 3}
        made.store.append_event("task_done", seconds=end - start, time=end, **told)
    found = costs(made)
    tokens = made.frame("candidates")
    assert found["own"].busy_s == 1800
    assert (found["own"].gpu_hours, found["own"].cpu_hours) == (1.0, 2.0)
    assert found["own"].money == 1.5
    assert found["own"].requests_per_s == 9 / 1800
    each = found["own"].usage.completion_tokens / 9
    assert found["own"].tokens_per_s == pytest.approx(each * 9 / 1800)
    assert (found["other"].busy_s, found["other"].tokens_per_s) == (0.0, None)
    both = found["own"].usage.completion_tokens + found["other"].usage.completion_tokens
    assert both == tokens["completion_tokens"].sum()
    assert (found["own"].stage, found["arbiter"].stage) == ("generate", "score")
    assert found["arbiter"].usage.requests == 18


def test_what_the_config_has_no_longer_stands_apart(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(6))
    run(make_config(tmp_path, {"kept": fake(0.5), "gone": fake(0.6)}))
    found = costs(opened(make_config(tmp_path, {"kept": fake(0.5)})))
    assert found[OTHERS].usage.requests == 6
    assert found[OTHERS].stage == ""


def cost(stage: str = "generate", tokens: int = 5, **more: Any) -> Cost:
    return Cost("t", stage, Usage(1, 0, tokens, more.pop("money", 0.0)), **more)


def test_costs_are_compared_by_what_all_have() -> None:
    priced, timed = cost(money=2.0, busy_s=9.0, gpus=1.0), cost(busy_s=9.0, gpus=1.0)
    assert unit_of([priced, priced]) == "money"
    assert unit_of([priced, timed]) == "gpu_hours"
    assert unit_of([priced, cost()]) == "completion_tokens"
    assert unit_of([cost(tokens=0)]) == "requests"
    assert amount_of(priced, "money") == 2.0
    assert amount_of(timed, "gpu_hours") == pytest.approx(9 / 3600)
