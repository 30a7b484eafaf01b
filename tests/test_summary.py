"""What the end of a run says, against pandas on the files; and that a terminal can show it."""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from arbitrage import summary, tables
from arbitrage.stats import Moments
from harness import (
    Run,
    fake,
    frame,
    lost_first,
    make_config,
    numbered_prompts,
    opened,
    read_rows,
    run,
    write_prompts,
)

if TYPE_CHECKING:
    from pathlib import Path

    from arbitrage.summary import LanguageResult, Summary

Z95 = 1.959964
POOL: dict[str, Any] = {
    "generalist": fake(
        0.5, sampling={"n": 2, "temperature": 0.8}, options={"truncate": 0.3, "voice": "g"}
    ),
    "african": fake(0.8, ["sw"], options={"fail": 0.3, "empty": 0.2}),
    "asian": fake(0.55, ["ja"], sampling=[{"temperature": 0}, {"n": 2, "temperature": 0.7}]),
    "narrow": fake(0.6, ["de"], options={"fail": 0.9, "voice": "n"}),
}
PROMPTS = 60
BAD_ROWS = [
    {"prompt": "prompt number 0 asks for a few words", "language": "de"},
    {"prompt": "   ", "language": "de"},
    {"prompt": 7, "language": "de"},
    {"prompt": "no such tongue", "language": "qqq"},
    {"language": "de"},
]


def summed_up(made: Run, *, stopped: bool = False) -> Summary:
    return summary.of_run(
        made.store, made.components, made.planner, made.board.given_up, stopped=stopped
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("summary")
    write_prompts(folder / "prompts.jsonl", [*numbered_prompts(PROMPTS), *BAD_ROWS])
    arbiter = {"engine": "fake", "options": {"fail": 0.1}}
    return run(make_config(folder, POOL, arbiter=arbiter, seed=4))


@pytest.fixture(scope="module")
def told(made: Run) -> Summary:
    return summed_up(made)


@pytest.fixture(scope="module")
def judged(made: Run) -> pd.DataFrame:
    """Every candidate with its score, gates, language and teacher, from the files alone."""
    languages = made.frame("prompts").set_index("prompt_id")["language"]
    parts = []
    arbiter = made.planner.folder_of(made.components.arbiter)
    for teacher in made.components.teachers:
        scores = frame(made.store.root, made.planner.folder_of(teacher, arbiter) + "/")
        parts.append(scores.assign(teacher=teacher.name))
    table = pd.concat(parts, ignore_index=True)
    gated = table["gates"].map(len) > 0
    return table.assign(
        language=table["prompt_id"].map(languages), usable=~gated & table["score"].notna()
    )


def alone(judged: pd.DataFrame, product: pd.DataFrame) -> pd.DataFrame:
    """Per selected prompt and teacher: the teacher's best usable score."""
    usable = judged[judged["usable"] & judged["prompt_id"].isin(product["prompt_id"])]
    return usable.groupby(["language", "prompt_id", "teacher"])["score"].max().reset_index()


def assert_is_mean_of(moments: Moments, values: pd.Series) -> None:
    assert moments.count == len(values)
    assert moments.mean == pytest.approx(values.mean())
    if len(values) > 1:
        wanted = Z95 * values.std(ddof=1) / math.sqrt(len(values))
        assert moments.half_width == pytest.approx(wanted, abs=1e-7)
    else:
        assert math.isnan(moments.half_width)


def test_wins_and_rewards_are_those_of_the_product(made: Run, told: Summary) -> None:
    product = made.frame("selected")
    assert [row.language for row in told.languages] == sorted(set(product["language"]))
    for row in told.languages:
        mine = product[product["language"] == row.language]
        assert row.prompts == len(mine)
        assert row.family == made.components.families[row.language]
        assert_is_mean_of(row.reward, mine["reward"])
        wins = {name: result.wins for name, result in row.teachers.items() if result.wins}
        assert wins == mine["teacher"].value_counts().to_dict()
        assert sum(wins.values()) == row.prompts
    assert told.teachers == list(POOL)


def test_each_teacher_alone_and_its_paired_gain_agree_with_pandas(
    made: Run, told: Summary, judged: pd.DataFrame
) -> None:
    product = made.frame("selected")
    reward = product.set_index("prompt_id")["reward"]
    best = alone(judged, product)
    seen = 0
    for (language, teacher), own in best.groupby(["language", "teacher"]):
        row = next(row for row in told.languages if row.language == language)
        result = row.teachers[teacher]
        assert_is_mean_of(result.alone, own["score"])
        gain = own["prompt_id"].map(reward) - own["score"]
        assert (gain >= 0).all()
        assert_is_mean_of(result.gain, gain)
        seen += 1
    assert seen == sum(len(row.teachers) for row in told.languages)
    assert seen > len(told.languages)


def test_the_best_teacher_alone_is_the_one_with_the_highest_mean(
    made: Run, told: Summary, judged: pd.DataFrame
) -> None:
    best = alone(judged, made.frame("selected"))
    for row in told.languages:
        means = best[best["language"] == row.language].groupby("teacher")["score"].mean()
        assert row.best_alone == means.idxmax()


def test_a_pool_of_one_gains_nothing_over_itself(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(12))
    told = summed_up(run(make_config(tmp_path, {"only": fake(0.5)})))
    for row in told.languages:
        assert row.best_alone == "only"
        assert row.teachers["only"].gain.mean == 0.0
        assert row.teachers["only"].wins == row.prompts
        assert row.teachers["only"].alone.mean == row.reward.mean


def test_failed_gates_are_counted_per_teacher_whether_or_not_they_won(
    made: Run, told: Summary, judged: pd.DataFrame
) -> None:
    mine = judged[judged["prompt_id"].isin(made.frame("selected")["prompt_id"])]
    exploded = mine.explode("gates").dropna(subset="gates")
    wanted = exploded.groupby("teacher")["gates"].value_counts()
    assert {
        (name, gate): n for name, counts in told.gates.items() for gate, n in counts.items()
    } == {key: int(count) for key, count in wanted.items()}
    assert sum(wanted) > 0


def test_the_ledger_adds_up_with_refused_and_quarantined(made: Run, told: Summary) -> None:
    ledger = told.ledger
    lost = Counter(row["reason"] for row in made.rows("quarantine"))
    refused = Counter(row["reason"] for row in read_rows(made.store.root, "quarantine/read/"))
    assert ledger.rows_read == PROMPTS + len(BAD_ROWS)
    assert ledger.refused == refused
    assert sum(refused.values()) == len(BAD_ROWS)
    assert ledger.prompts == PROMPTS == ledger.rows_read - sum(ledger.refused.values())
    assert ledger.selected == len(made.rows("selected"))
    assert ledger.quarantined == lost
    assert sum(lost.values()) > 0
    assert ledger.unfinished == 0
    assert ledger.prompts == ledger.selected + sum(ledger.quarantined.values())
    assert ledger.lost == len(BAD_ROWS) + sum(lost.values())


@pytest.mark.parametrize("tasks", [0, 3, 9, 14, 25])
def test_the_ledger_adds_up_wherever_a_run_stops(tmp_path: Path, tasks: int) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(20))
    made = run(make_config(tmp_path, POOL), stop_after=tasks)
    ledger = summed_up(made, stopped=True).ledger
    assert ledger.prompts == len(made.rows("prompts"))
    done = ledger.selected + sum(ledger.quarantined.values())
    assert ledger.unfinished == ledger.prompts - done
    assert ledger.selected == len(made.rows("selected"))
    assert ledger.unfinished >= 0


def test_a_teacher_that_saves_lost_prompts_takes_them_out_of_the_ledger(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(20))
    weak = {"weak": fake(0.9, options={"fail": 0.5})}
    before = summed_up(run(make_config(tmp_path, weak)))
    assert sum(before.ledger.quarantined.values()) > 0
    both = run(make_config(tmp_path, {**weak, "steady": fake(0.1, options={"voice": "s"})}))
    after = summed_up(both)
    assert after.ledger.quarantined == {}
    assert after.ledger.selected == after.ledger.prompts == 20
    assert both.rows("quarantine") == []


def test_what_was_given_up_is_named(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(10))
    liar = fake(0.5, options={"lie": "drop"})
    made = run(make_config(tmp_path, {"liar": liar, "sound": fake(0.6)}))
    told = summed_up(made)
    assert (told.ledger.selected, told.ledger.unfinished) == (10, 0), "done without it"
    for task, why in lost_first(made.board).items():
        assert task.output.startswith("candidates/liar-")
        assert "completions where" in why
        assert told.given_up[f"generate {task.output}"] == why
    assert len(told.given_up) == len(made.board.given_up) >= 2
    assert {name for row in told.languages for name in row.teachers} == {"sound"}
    assert told.unusable == [], "nobody knows yet"


def test_a_run_that_has_just_begun_sums_up_to_nothing(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(10))
    told = summed_up(opened(make_config(tmp_path, POOL)))
    assert (told.ledger.prompts, told.ledger.selected, told.languages) == (0, 0, [])
    assert shown(told)


def test_the_summary_is_plain_json_without_nan(told: Summary) -> None:
    text = json.dumps(told.as_dict(), allow_nan=False)
    back = json.loads(text)
    assert [row["language"] for row in back["languages"]] == [
        row.language for row in told.languages
    ]
    for row, result in zip(back["languages"], told.languages, strict=True):
        assert row["reward"] == pytest.approx(result.reward.mean)
        assert row["best_alone"] == result.best_alone
        for name, values in row["teachers"].items():
            assert values["wins"] == result.teachers[name].wins
            assert values["gain"] == pytest.approx(result.teachers[name].gain.mean)
    assert back["ledger"]["selected"] == told.ledger.selected


# What a terminal shows


def shown(told: Summary, width: int = 80, *, soft_wrap: bool = False) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    short = replace(told, product="/runs/a/selected/best-0123456789ab")
    console.print(tables.of_summary(short), soft_wrap=soft_wrap)
    return console.export_text().splitlines()


def table_lines(lines: list[str]) -> dict[str, list[str]]:
    """The winners' table by first word, cells split at two spaces or more; no line goes on."""
    end = next(number for number, line in enumerate(lines) if not line.strip())
    assert lines[0].startswith("lang  ")
    table = lines[1:end]
    assert [line for line in table if not re.match(r"[a-z]{2,3} ", line)] == [], "a cell wraps"
    return {line.split()[0]: re.split(r"\s{2,}", line.strip()) for line in table}


def assert_row_is_whole(cells: list[str], row: LanguageResult) -> None:
    """Every number of a row stands there in full; the winner at least is named."""
    best = row.teachers[row.best_alone or ""]
    half = best.gain.half_width
    gain = f"{best.gain.mean:+.3f}" + ("" if math.isnan(half) else f" \u00b1{half:.3f}")
    wanted = [row.language, f"{row.prompts:,}", f"{row.reward.mean:.3f}", f"{best.alone.mean:.3f}"]
    assert cells[:5] == [*wanted, gain]


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_the_table_shows_every_language_on_one_whole_line(told: Summary, soft_wrap: bool) -> None:
    lines = shown(told, soft_wrap=soft_wrap)
    found = table_lines(lines)
    assert set(found) == {*(row.language for row in told.languages), "all"}
    for row in told.languages:
        assert_row_is_whole(found[row.language], row)
        ranked = sorted(row.teachers.items(), key=lambda item: (-item[1].wins, item[0]))
        shares = [f"{name} {result.wins / row.prompts:.0%}" for name, result in ranked]
        assert found[row.language][5] == ", ".join(shares)
    assert not any("\u2026" in line for line in lines)


def test_the_last_line_of_the_table_is_the_mean_over_all_prompts(
    made: Run, told: Summary, judged: pd.DataFrame
) -> None:
    product = made.frame("selected")
    best = alone(judged, product)
    by_itself = {row.language: row.best_alone for row in told.languages}
    mine = best[best["teacher"] == best["language"].map(by_itself)]
    gain = mine["prompt_id"].map(product.set_index("prompt_id")["reward"]) - mine["score"]
    half = Z95 * gain.std(ddof=1) / math.sqrt(len(gain))
    cells = table_lines(shown(told))["all"]
    assert cells[1:3] == [str(len(product)), f"{product['reward'].mean():.3f}"]
    assert cells[4] == f"{gain.mean():+.3f} \u00b1{half:.3f}"


def test_no_line_is_wider_than_the_terminal(told: Summary) -> None:
    for width in (80, 100, 200):
        lines = shown(told, width)
        assert max(cell_len(line) for line in lines) <= width


CROWDS = {
    "six of them": ["generalist", "european", "east-asian", "south-asian", "semitic", "bantu"],
    "long names": ["meta-llama-3.1-70b-instruct-fp8", "qwen2.5-72b-instruct-awq-int4"],
    "the longest name": ["x" * 64, "y" * 64],
}


@pytest.mark.parametrize("names", CROWDS.values(), ids=CROWDS)
@pytest.mark.parametrize("soft_wrap", [False, True])
def test_many_or_long_named_teachers_do_not_push_the_numbers_out(
    tmp_path: Path, names: list[str], soft_wrap: bool
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(30))
    pool = {name: fake(0.5, options={"voice": name}) for name in names}
    told = summed_up(run(make_config(tmp_path, pool)))
    lines = shown(told, soft_wrap=soft_wrap)
    found = table_lines(lines)
    assert set(found) == {"de", "ja", "sw", "all"}
    for row in told.languages:
        assert_row_is_whole(found[row.language], row)
        winner = min(row.teachers, key=lambda name: (-row.teachers[name].wins, name))
        assert found[row.language][5].startswith(winner[:20])
    table = [line for line in lines if re.match(r"^(lang|de|ja|sw|all) ", line)]
    assert max(map(cell_len, table)) <= 80


def test_names_of_teachers_and_reasons_are_shown_as_text_and_not_as_markup(told: Summary) -> None:
    ledger = replace(told.ledger, quarantined={"[bold]reason[/bold]": 3})
    lines = shown(replace(told, ledger=ledger))
    assert any("[bold]reason[/bold] 3" in line for line in lines)


def test_the_ledger_line_tells_all_numbers(told: Summary) -> None:
    (line,) = [line for line in shown(told, 200) if line.startswith("ledger: ")]
    ledger = told.ledger
    numbers = [int(number) for number in re.findall(r"\d+", line)]
    assert numbers == [
        ledger.rows_read,
        sum(ledger.refused.values()),
        ledger.prompts,
        ledger.selected,
        sum(ledger.quarantined.values()),
    ]


def test_unfinished_prompts_and_an_empty_product_are_told(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(10))
    liar = fake(0.5, options={"lie": "drop"})
    told = summed_up(run(make_config(tmp_path, {"liar": liar})))
    lines = shown(told, 200)
    assert any(
        line.endswith("10 prompts = 0 selected + 0 quarantined + 10 unfinished") for line in lines
    )
    assert not any("pd.read_parquet" in line for line in lines)


def test_candidates_with_an_error_are_counted_by_teacher(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(60))
    pool = {"sound": fake(0.5), "frail": fake(0.6, options={"voice": "f", "fail": 0.4})}
    made = run(make_config(tmp_path, pool))
    failed = read_rows(made.store.root, "candidates/frail")
    count = sum(row["error"] is not None for row in failed)
    assert count > 5
    assert summed_up(made).errors == {"frail": count}
    assert f"candidates with an error on selected prompts: frail {count}" in "\n".join(
        shown(summed_up(made), 200)
    )


def test_a_teacher_none_of_whose_answers_could_be_selected_is_named(tmp_path: Path) -> None:
    """Also where it alone was asked, so that nothing of it is in the product."""
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(30))
    empty = {"options": {"empty": 1.0, "voice": "e"}}
    pool = {"sound": fake(0.5, ["de", "sw"]), "mute": fake(0.6, ["sw", "ja"], **empty)}
    made = run(make_config(tmp_path, pool))
    told = summed_up(made)
    assert told.unusable == ["mute"]
    assert told.ledger.selected == told.ledger.prompts - 10
    assert "no answer could be selected from: mute" in shown(told, 200)
    assert summed_up(made, stopped=True).unusable == []


def test_it_is_not_said_of_a_teacher_whose_prompts_are_unfinished(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(10))
    pool = {"sound": fake(0.6), "liar": fake(0.5, options={"lie": "drop"})}
    assert summed_up(run(make_config(tmp_path, pool))).unusable == []
