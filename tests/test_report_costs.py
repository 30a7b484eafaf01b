"""The report's hours, money, planted faults and other ways to choose, by plain pandas."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest

from arbitrage import report
from faulty import HAN, QUESTIONS, Scripted
from harness import Run, fake, make_config, run, write_prompts
from page_reader import Reader
from plain_run import candidates_of, product_of, stored_of

PRICES = {"a": 3.6, "b": 7.2}
"""Money per replica and hour."""
GPUS = {"a": 2.0, "b": 0.5}
SPANS = {"a": [(0, 600), (300, 900), (2000, 2100)], "b": [(0, 50)]}
"""Seconds at which tasks of a replica began and ended; two of the first overlap."""
BUSY_S = {"a": 1000.0, "b": 50.0}


def priced(name: str, skill: float, *languages: Any) -> dict[str, Any]:
    own = {"gpus": GPUS[name], "cpus": 1, "price_per_hour": PRICES[name]}
    return fake(skill, *languages, resources=own)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("costs")
    rows = [
        {"prompt": f"{QUESTIONS[code]} {n}", "language": code}
        for n in range(20)
        for code in QUESTIONS
    ]
    source = write_prompts(folder / "prompts.jsonl", rows)
    teachers = {"a": priced("a", 0.5), "b": priced("b", 0.4, ["de", "vi"])}
    config = make_config(folder, teachers, source, gates={"language": True})
    made = run(config, {"a": Scripted(3), "b": Scripted(4)})
    made.store.append_event("run_started")
    for teacher in made.components.teachers:
        for start, end in SPANS[teacher.name]:
            told = {"owner": teacher.fingerprint, "replica": f"{teacher.name}/1", "requests": 10}
            made.store.append_event("task_done", seconds=end - start, time=end, **told)
    return made


@pytest.fixture(scope="module")
def page_of(made: Run) -> Reader:
    return Reader(report.rendered(str(made.store.root)))


@pytest.fixture(scope="module")
def stored(made: Run) -> pd.DataFrame:
    return stored_of(made)


@pytest.fixture(scope="module")
def product(made: Run) -> pd.DataFrame:
    return product_of(made)


def money(name: str) -> float:
    return BUSY_S[name] / 3600 * PRICES[name]


def test_hours_and_money_are_those_of_the_diary(
    page_of: Reader, stored: pd.DataFrame, made: Run
) -> None:
    lines = (made.store.root / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum("requests" in line and "/1" in line for line in lines) >= 4
    tokens = stored.groupby("teacher")["completion_tokens"].sum()
    rows = stored.groupby("teacher").size()
    for name in ("a", "b"):
        hours = BUSY_S[name] / 3600
        assert page_of.value(f"teacher/gpu_hours:{name}") == pytest.approx(hours * GPUS[name])
        assert page_of.value(f"teacher/cpu_hours:{name}") == pytest.approx(hours)
        assert page_of.value(f"teacher/money:{name}") == pytest.approx(money(name))
        share = money(name) / (money("a") + money("b"))
        assert page_of.value(f"teacher/cost_share:{name}") == pytest.approx(share)
        speed = 10 * len(SPANS[name]) / BUSY_S[name] * tokens[name] / rows[name]
        assert page_of.value(f"teacher/speed:{name}") == pytest.approx(speed)
    hours = sum(BUSY_S[name] / 3600 * GPUS[name] for name in GPUS)
    assert page_of.value("hours") == pytest.approx(hours)
    assert page_of.value("money") == pytest.approx(money("a") + money("b"))


def test_a_language_costs_its_part_of_each_teacher_s_tokens(
    page_of: Reader, stored: pd.DataFrame
) -> None:
    whole = stored.groupby("teacher")["completion_tokens"].sum()
    for code, mine in stored.groupby("language"):
        tokens = mine.groupby("teacher")["completion_tokens"].sum()
        expected = sum(money(name) * tokens[name] / whole[name] for name in tokens.index)
        assert page_of.value(f"language/money:{code}") == pytest.approx(expected)
        assert page_of.value(f"language/tokens:{code}") == tokens.sum()
    for name, code, cell in page_of.cells("money"):
        if name and code and cell[1] is not None:
            mine = stored[(stored["teacher"] == name) & (stored["language"] == code)]
            part = mine["completion_tokens"].sum() / whole[name]
            assert cell[1] == pytest.approx(money(name) * part)


def test_how_many_times_the_single_teacher_s_money(page_of: Reader, product: pd.DataFrame) -> None:
    """Only `a` has all languages; it was asked about every prompt."""
    assert page_of.figures["single"]["text"] == "a"
    assert page_of.value("times") == pytest.approx((money("a") + money("b")) / money("a"))
    assert page_of.value("times_gpu_hours") == pytest.approx(
        sum(BUSY_S[name] * GPUS[name] for name in GPUS) / (BUSY_S["a"] * GPUS["a"])
    )
    assert len(product) == page_of.value("selected")


def test_planted_faults_are_counted_by_teacher_and_language(
    page_of: Reader, stored: pd.DataFrame
) -> None:
    text = stored["completion"]
    table = stored.assign(
        wrong=text.str.startswith("The answer"),
        foreign=text.str.contains(HAN),
        other=(text == "").astype(int) + text.str.startswith("oui") + text.str.contains(HAN),
    )
    for name, mine in table.groupby("teacher"):
        right = mine[~mine["wrong"]]
        assert page_of.value(f"teacher/wrong:{name}") == pytest.approx(mine["wrong"].mean())
        assert page_of.value(f"teacher/lines:{name}") == pytest.approx(1 - mine["wrong"].mean())
        assert page_of.value(f"teacher/words:{name}") == pytest.approx(1 - right["foreign"].mean())
        assert page_of.value(f"teacher/gates:{name}") == pytest.approx(mine["other"].mean())
    assert table["wrong"].any()
    assert page_of.value("all_language") == pytest.approx(table["wrong"].mean())
    assert table["foreign"].any()
    for name, code, cell in page_of.cells("language"):
        mine = table if name is None else table[table["teacher"] == name]
        mine = mine if code is None else mine[mine["language"] == code]
        if len(mine):
            assert cell[1] == pytest.approx(mine["wrong"].mean()), (name, code)


def test_other_ways_to_choose(page_of: Reader, product: pd.DataFrame, made: Run) -> None:
    told = candidates_of(product)
    usable = told[told["usable"]]
    alone = usable.pivot_table("reward", "prompt_id", "teacher", "max")
    chosen = product.set_index("prompt_id")
    families = made.components.families
    for code, mine in chosen.groupby("language"):
        own = alone.reindex(mine.index)
        family = chosen[chosen["language"].map(families) == families[str(code)]]
        able = [
            name
            for name in alone
            if all(
                alone[name].reindex(rows.index).notna().any()
                for _, rows in family.groupby("language")
            )
        ]
        fixed = alone.reindex(family.index)[able].mean().idxmax()
        gain = mine["reward"] - own[fixed]
        assert page_of.value(f"language/gain_family:{code}") == pytest.approx(gain.mean(), abs=1e-9)
        longest, taken, differ, chance = [], 0, 0, 0.0
        for key, some in usable[usable["language"] == code].groupby("prompt_id"):
            each = some.drop_duplicates("same_as")
            top = each[each["chars"] == each["chars"].max()]
            longest.append(mine["reward"][key] - top["reward"].mean())
            if len(top) < len(each):
                differ += 1
                chance += len(top) / len(each)
                won = each[each["same_as"] == _chosen_twin(some, mine.loc[key])]
                taken += bool((won["chars"] == each["chars"].max()).all())
        assert page_of.value(f"language/gain_longest:{code}") == pytest.approx(
            sum(longest) / len(longest), abs=1e-9
        )
        if differ:
            assert page_of.value(f"language/longest:{code}") == pytest.approx(taken / differ)
            assert page_of.value(f"language/chance:{code}") == pytest.approx(chance / differ)
        else:
            assert math.isnan(page_of.value(f"language/longest:{code}"))


def _chosen_twin(some: pd.DataFrame, row: pd.Series) -> int:
    mine = some[(some["teacher"] == row["teacher"]) & (some["sample"] == row["sample"])]
    return int(mine["same_as"].iloc[0])


def test_the_matrix_s_modes_hold_what_the_tables_hold(page_of: Reader) -> None:
    modes = set(page_of.data["matrix"])
    assert {"share", "money", "gpu_hours", "language", "truncated"} <= modes, sorted(modes)
    assert json.dumps(page_of.data["matrix"])
