"""What a task has spent, in its file's footer and nowhere twice."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from arbitrage import summary, tables
from arbitrage.errors import ItemError
from arbitrage.records import Completion
from arbitrage.spending import paid
from arbitrage.usage import Usage, metered, note, total_of
from harness import Run, fake, make_config, numbered_prompts, opened, run, write_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from arbitrage.config import Sampling
    from arbitrage.records import Prompt

PRICE = {"price_per_million_input": 2.0, "price_per_million_output": 10.0}


# --- adding up ------------------------------------------------------------------------------------


def test_usages_add_up_and_have_a_price() -> None:
    one, two = Usage(1, 10, 3, 0.5, 1), Usage(2, 5, 4)
    assert total_of([one, two]) == one.plus(two) == Usage(3, 15, 7, 0.5, 1)
    assert (one.tokens, two.priced(None)) == (13, two)
    assert Usage(1, 500_000, 100_000).priced((2.0, 10.0)).cost == 2.0
    assert one.measured() == {"requests": 1, "tokens": 13, "money": 0.5}


def test_two_meters_at_once_know_nothing_of_each_other() -> None:
    async def spend(amount: int) -> None:
        await asyncio.sleep(0)
        note(Usage(0, amount))

    async def task(amount: int) -> Usage:
        with metered() as meter:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(spend(amount))
        note(Usage(0, 1000))
        return meter.total

    async def both() -> list[Usage]:
        return await asyncio.gather(task(1), task(10))

    assert asyncio.run(both()) == [Usage(0, 3), Usage(0, 30)]


# --- files ----------------------------------------------------------------------------------------


class Hired:
    """A teacher and judge that takes its time, and notes what it spends on nobody's completion."""

    max_in_flight = 4

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion | ItemError]:
        await asyncio.sleep(0)
        if prompt.language == "sw":
            note(Usage(0, 100, 0))
            raise ItemError("refused")
        return [Completion("fine", "stop", 10, 2) for _ in seeds]

    async def score(self, prompt: Prompt, completion: str) -> float:
        await asyncio.sleep(0)
        note(Usage(0, 30, 4))
        return 0.5

    def provenance(self) -> dict[str, str]:
        return {"engine": "hired"}


def endpoint(**options: Any) -> dict[str, Any]:
    told = {"base_url": "http://nowhere.example/v1", **PRICE, **options}
    return {"engine": "endpoint", "model": "m", "options": told}


def hired(folder: Path, languages: Any = "all") -> Run:
    teacher = {**endpoint(), "languages": languages, "sampling": {"n": 2}}
    arbiter = endpoint(score_api="judge")
    pool = {"base": fake(0.5), "hired": teacher}
    config = make_config(folder, pool, arbiter=arbiter)
    engines = {"hired": Hired(), "arbiter": Hired()}
    return run(config, engines, at_once=7)


def spent_by(made: Run) -> dict[str, Usage]:
    usages = paid(made.store, made.store.listing())
    parts = (*made.components.teachers, made.components.arbiter)
    return {part.name: usages[part.fingerprint] for part in parts}


def test_each_file_tells_what_its_task_has_spent(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(30))
    made = hired(tmp_path)
    for task, report in made.done:
        if task.stage in ("generate", "score"):
            assert Usage(**made.store.footer(task.output)["spent"]) == report.spent
            assert report.spent.requests <= task.requests
        else:
            assert (report.spent, task.requests) == (Usage(), 0)
    spent = spent_by(made)
    assert spent["base"].requests == 30
    assert spent["base"].cost == 0
    assert replace(spent["hired"], cost=0.0) == Usage(60, 20 * 20 + 10 * 100, 20 * 4)
    assert spent["hired"].cost == pytest.approx((1400 * 2 + 80 * 10) / 1e6)
    assert replace(spent["arbiter"], cost=0.0) == Usage(70, 70 * 30, 70 * 4), "30 + 40 completions"


def test_what_was_answered_before_is_not_spent_again(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(30))
    narrow = spent_by(hired(tmp_path, ["ja"]))
    assert replace(narrow["hired"], cost=0.0) == Usage(20, 200, 40)
    wide = spent_by(hired(tmp_path, ["de", "ja"]))
    assert replace(wide["hired"], cost=0.0) == Usage(40, 400, 80)
    assert wide["base"] == narrow["base"]
    back = hired(tmp_path, ["ja"])
    assert spent_by(back) == wide
    assert not [report for task, report in back.done if report.spent.requests]


# --- what is shown --------------------------------------------------------------------------------


def shown(told: summary.Summary) -> list[str]:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(tables.of_summary(told), soft_wrap=True)
    return console.export_text().splitlines()


def told_of(made: Run, **more: Any) -> summary.Summary:
    return summary.of_run(made.store, made.components, made.planner, {}, stopped=False, **more)


def test_the_summary_shows_what_the_whole_run_directory_has_cost(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(30))
    hired(tmp_path)
    config = make_config(tmp_path, {"base": fake(0.5)}, arbiter=endpoint(score_api="judge"))
    made = run(config, {"arbiter": Hired()})
    told = told_of(made, limits={"requests": 1000, "money": 2})
    assert [(one.name, one.stage, one.usage.requests) for one in told.spent] == [
        ("base", "generate", 30),
        ("arbiter", "score", 70),
        ("no longer in the config", "", 60),
    ]
    cost = sum(one.usage.cost for one in told.spent)
    assert told.budget == {"requests": (160, 1000), "money": (pytest.approx(cost), 2)}
    lines = shown(told)
    (start,) = [n for n, line in enumerate(lines) if line.startswith("spent by")]
    table = [line.split() for line in lines[start : start + 5]]
    assert " ".join(table[0]) == "spent by requests prompt tokens completion tokens cost"
    assert table[2] == ["arbiter", "70", "2,100", "280", f"{70 * (60 + 40) / 1e6:.4f}"]
    assert table[4][:2] == ["all", "160"]
    assert any(line.startswith("budget: 160 of 1,000 requests, 0.0") for line in lines)
    row = told.as_dict()["spent"][1]
    assert row["usage"] | {"cost": 0} == {
        "requests": 70,
        "prompt_tokens": 2100,
        "completion_tokens": 280,
        "cost": 0,
        "untold": 0,
    }


def test_a_pool_without_prices_has_no_column_for_them(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(6))
    lines = shown(told_of(run(make_config(tmp_path, {"x" * 64: fake(0.5)}))))
    (header,) = [line for line in lines if line.startswith("spent by")]
    assert "cost" not in header
    assert not any(line.startswith("budget") for line in lines)
    made = opened(make_config(tmp_path / "new", {"a": fake(0.5)}, tmp_path / "prompts.jsonl"))
    assert not any(line.startswith("spent by") for line in shown(told_of(made)))


def test_a_budget_is_told_in_its_own_units() -> None:
    told = tables.of_budget({"tokens": (1234.0, 5000), "money": (0.00012, 1.5)})
    assert told == "1,234 of 5,000 tokens, 0.0001 of 1.5000 in money"
