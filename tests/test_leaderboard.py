"""Every figure of the leaderboard, recomputed by pandas from the files of a run."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from arbitrage import leaderboard, tables_leaderboard
from arbitrage.costs import Cost
from arbitrage.errors import UsageError
from arbitrage.standings import BY_NAME, COLUMNS, Cell, Entry, Leaderboard, standing
from arbitrage.usage import Usage
from command_line import cli
from harness import Run, fake, make_config, numbered_prompts, read_rows, run, write_prompts
from weight_files import write

Z95 = 1.959964
LANGUAGES = ("de", "sw", "ja", "fr")
POOL: dict[str, Any] = {
    "generalist": fake(
        0.5,
        sampling={"n": 2, "temperature": 0.8},
        options={"truncate": 0.2, "voice": "g"},
        license="Apache-2.0",
        parameters=8_000_000_000,
    ),
    "african": fake(0.8, ["sw"], options={"fail": 0.3}),
    "european": fake(0.6, ["de", "fr"], sampling=[{"temperature": 0}, {"temperature": 0.7}]),
    "useless": fake(0.5, ["ja"], options={"fail": 1.0}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("board")
    write_prompts(folder / "prompts.jsonl", numbered_prompts(60, LANGUAGES))
    return run(make_config(folder, POOL, gates={"language": True}))


@pytest.fixture(scope="module")
def board(made: Run) -> Leaderboard:
    return leaderboard.leaderboard([made.config.run])


def alone(made: Run) -> pd.DataFrame:
    """The best usable reward of each (prompt, teacher), with what was chosen."""
    rows = made.rows("selected")
    enforced = set(made.config.gates.enforced())
    told = [
        {
            "prompt": row["prompt_id"],
            "language": row["language"],
            "teacher": candidate["teacher"],
            "reward": candidate["reward"],
            "chosen": row["reward"],
        }
        for row in rows
        for candidate in row["candidates"]
        if candidate["reward"] is not None
        and candidate["error"] is None
        and not enforced & set(candidate["gates"])
    ]
    found = pd.DataFrame(told)
    return found.sort_values("reward").groupby(["prompt", "teacher"], as_index=False).last()


def entry_of(board: Leaderboard, name: str) -> Entry:
    return next(entry for entry in board.entries if entry.name == name)


def half(values: pd.Series[float]) -> float:
    return Z95 * values.std(ddof=1) / math.sqrt(len(values))


def test_rewards_and_what_is_behind_are_those_of_the_files(made: Run, board: Leaderboard) -> None:
    best = alone(made)
    best["gap"] = best["chosen"] - best["reward"]
    seen = 0
    for (teacher, code), rows in best.groupby(["teacher", "language"]):
        cell = entry_of(board, str(teacher)).languages[str(code)].values()
        assert cell["reward"] == pytest.approx(rows["reward"].mean())
        assert cell["interval"] == pytest.approx(half(rows["reward"]))
        assert cell["gap"] == pytest.approx(rows["gap"].mean())
        assert cell["gap_interval"] == pytest.approx(half(rows["gap"]), abs=1e-9)
        seen += 1
    covered = {(entry.name, code) for entry in board.entries for code in entry.covered}
    assert len([key for key in covered if key[0] != "selected"]) == seen >= 7


def test_an_average_is_the_plain_mean_of_languages(made: Run, board: Leaderboard) -> None:
    best = alone(made)
    means = best.groupby(["teacher", "language"])["reward"].mean().groupby("teacher").mean()
    halves = best.groupby(["teacher", "language"])["reward"].apply(half)
    rows = {row.entry.name: row for row in standing(board).rows}
    for name, mean in means.items():
        told = rows[str(name)].values
        assert told["reward"] == pytest.approx(mean)
        mine = halves[name]
        assert told["interval"] == pytest.approx(math.sqrt((mine**2).sum()) / len(mine))
        assert told["languages"] == len(mine)
    assert rows["generalist"].complete
    assert not rows["african"].complete


def test_the_selected_data_is_an_entry_with_the_cost_of_all(made: Run, board: Leaderboard) -> None:
    product = made.frame("selected")
    told = next(row for row in standing(board).rows if row.entry.kind == "arbitrage")
    by_language = product.groupby("language")["reward"]
    assert told.values["reward"] == pytest.approx(by_language.mean().mean())
    assert told.values["tokens"] == pytest.approx(product["completion_tokens"].mean())
    cut = (product["finish_reason"] != "stop").groupby(product["language"]).mean()
    assert told.values["truncated"] == pytest.approx(cut.mean())
    assert told.values["gap"] == 0
    assert told.values["wins"] == 1
    assert told.complete


def winners(row: dict[str, Any], enforced: set[str]) -> set[str]:
    """All who gave the very answer that was chosen, and could have been chosen for it."""
    mine = (row["teacher"], row["sample"])
    [chosen] = [c for c in row["candidates"] if (c["teacher"], c["sample"]) == mine]
    return {
        candidate["teacher"]
        for candidate in row["candidates"]
        if candidate["same_as"] == chosen["same_as"]
        and candidate["reward"] is not None
        and not enforced & set(candidate["gates"])
    }


def test_wins_are_shared_by_those_who_gave_the_chosen_answer(made: Run, board: Leaderboard) -> None:
    enforced = set(made.config.gates.enforced())
    told = [
        (row["language"], name, 1 / len(found))
        for row in made.rows("selected")
        for found in [winners(row, enforced)]
        for name in found
    ]
    wins = pd.DataFrame(told, columns=["language", "teacher", "part"])
    sums = wins.groupby(["language", "teacher"])["part"].sum()
    counts = made.frame("selected")["language"].value_counts()
    for one in board.entries[:-1]:
        for code, cell in one.languages.items():
            assert cell.prompts == counts[code]
            assert cell.wins == pytest.approx(sums.get((code, one.name), 0.0))


def test_rates_of_failures_are_of_all_candidates(made: Run, board: Leaderboard) -> None:
    root = Path(made.config.run)
    prompts = {row["prompt_id"]: row["language"] for row in read_rows(root, "prompts/")}
    for entry in board.entries[:-1]:
        rows = pd.DataFrame(read_rows(root, f"candidates/{entry.name}-"))
        rows = rows[rows["completion"].notna()]
        if rows.empty:
            assert standing(board, pattern=entry.name).rows[0].values["truncated"] is None
            continue
        cut = (rows["finish_reason"] != "stop").groupby(rows["prompt_id"].map(prompts)).mean()
        told = standing(board, pattern=entry.name).rows[0].values
        assert told["truncated"] == pytest.approx(cut.mean())


def test_costs_are_what_the_files_say(made: Run, board: Leaderboard) -> None:
    root = Path(made.config.run)
    for entry in board.entries[:-1]:
        rows = pd.DataFrame(read_rows(root, f"candidates/{entry.name}-"))
        tokens = rows["completion_tokens"].sum() / len(rows)
        assert entry.figures["tokens"] == pytest.approx(tokens)
        # This run has no diary: hours are not known, which is not the same as none.
        assert entry.figures["gpu_hours"] is None
        assert entry.figures["money"] is None


def test_hours_and_money_are_of_replicas_and_prices_and_unknown_without_them() -> None:
    usage = Usage(requests=200, prompt_tokens=10, completion_tokens=5000, cost=1.5)
    cost = Cost("t", "generate", usage, busy_s=7200, timed=100, gpus=4, cpus=8, hourly=3.0)
    told = leaderboard.figures_of(cost, samples=2)
    assert told["gpu_hours"] == 8
    assert told["cpu_hours"] == 16
    assert told["money"] == 7.5
    assert told["gpu_hours_per_1000"] == 80  # of 100 prompts, each asked for two answers
    assert told["money_per_1000"] == 75
    assert told["tokens"] == 25
    assert told["requests_per_s"] == pytest.approx(100 / 7200)
    assert told["tokens_per_s"] == pytest.approx(25 * 100 / 7200)
    unknown = leaderboard.spent(Cost("t", "generate", Usage(requests=3)))
    assert unknown == {"gpu_hours": None, "cpu_hours": None, "money": None}
    free = leaderboard.spent(Cost("t", "generate", usage, busy_s=1.0, hourly=0.0))
    assert free["money"] == 1.5


def test_a_teacher_without_a_usable_answer_is_there_and_has_no_reward(board: Leaderboard) -> None:
    row = next(row for row in standing(board).rows if row.entry.name == "useless")
    assert row.values["reward"] is None
    assert row.values["languages"] == 0
    assert not row.complete
    assert standing(board).rows[-1].entry.name == "useless"


def test_what_a_model_is(board: Leaderboard) -> None:
    entry = entry_of(board, "generalist")
    assert (entry.kind, entry.engine, entry.license) == ("teacher", "fake", "Apache-2.0")
    assert entry.parameters == 8_000_000_000
    assert entry_of(board, "african").parameters is None


def test_sizes_come_from_the_config_or_the_engine_or_the_headers(tmp_path: Path, made: Run) -> None:
    write(tmp_path / "model.safetensors", {"a": (7, 3)})
    teacher = made.components.teachers[1]

    def sized(**changes: Any) -> Any:
        from dataclasses import replace

        return replace(teacher, config=teacher.config.model_copy(update=changes))

    notes: list[str] = []
    local = {"model": str(tmp_path)}
    assert leaderboard.parameters_of(sized(**local), {}, notes) == 21
    assert leaderboard.parameters_of(sized(**local), {"parameters": "99"}, notes) == 99
    assert leaderboard.parameters_of(sized(**local, parameters=5), {"parameters": "9"}, notes) == 5
    assert leaderboard.parameters_of(sized(model="org/name"), {}, notes) is None
    assert notes == []
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert leaderboard.parameters_of(sized(**local), {}, notes) is None
    assert len(notes) == 1
    assert "cut off" in notes[0]
    assert leaderboard.model_of(str(tmp_path)) == tmp_path.name
    assert leaderboard.model_of("org/name") == "org/name"


# ---- What is written ----


def test_csv_is_read_back_in_full_precision(board: Leaderboard) -> None:
    found = standing(board)
    rows = list(csv.DictReader(io.StringIO(tables_leaderboard.of_csv(board, found))))
    assert [row["name"] for row in rows] == [row.entry.name for row in found.rows]
    for told, row in zip(rows, found.rows, strict=True):
        for column in COLUMNS:
            value = row.values[column.name]
            if isinstance(value, float | int):
                assert float(told[column.name]) == value
            else:
                assert told[column.name] == (value or "")
        for code in board.languages:
            value = row.entry.languages.get(code, Cell()).values()["reward"]
            assert told[code] == ("" if value is None else repr(value))
    assert set(rows[0]) == {*BY_NAME, "complete", "front", *board.languages}


def test_the_page_carries_the_same_figures(board: Leaderboard) -> None:
    text = tables_leaderboard.of_page(board, {"pattern": ""})
    start = text.index('id="data">') + len('id="data">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert [one["name"] for one in data["entries"]] == [e.name for e in board.entries]
    for told, mine in zip(data["entries"], board.entries, strict=True):
        for code, cell in mine.languages.items():
            have = dict(zip(data["cell"], told["languages"][code], strict=True))
            assert have["reward"] == pytest.approx(cell.values()["reward"])
            assert have["answers"] == cell.reward.count
    assert data["axes"] == list(board.axes)


# ---- Several runs ----


def test_runs_with_another_arbiter_or_other_prompts_say_so(made: Run, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(20, LANGUAGES))
    other = {"arbiter": {"engine": "fake", "options": {"voice": "other"}}}
    second = run(make_config(tmp_path, {"generalist": POOL["generalist"]}, **other))
    board = leaderboard.leaderboard([made.config.run, second.config.run])
    assert not [note for note in board.notes if "not finished" in note]
    assert {entry.run for entry in board.entries} == {made.config.run, second.config.run}
    assert len(board.notes) >= 2
    assert "Another Arbiter judged" in " ".join(board.notes)
    assert "The selected prompts of" in " ".join(board.notes)


def test_a_copy_of_a_run_compares_with_it(made: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made.config.run, copy, symlinks=True)
    board = leaderboard.leaderboard([made.config.run, str(copy)])
    assert [entry.run for entry in board.entries[-5:]] == ["copy"] * 5
    assert not [note for note in board.notes if "Another" in note or "not those" in note]


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(40, LANGUAGES))
    pool = {name: POOL[name] for name in ("generalist", "european")}
    begun = run(make_config(tmp_path, pool), stop_after=43)
    board = leaderboard.leaderboard([begun.config.run])
    selected = len(begun.rows("selected"))
    assert 0 < selected < 40
    assert f"{40 - selected} of 40 prompts of run have no selected answer" in board.notes[0]
    assert "is not finished" in board.notes[1]


def test_a_run_given_twice_or_without_a_product_is_refused(made: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="given twice"):
        leaderboard.leaderboard([made.config.run, made.config.run])
    copy = tmp_path / "copy"
    shutil.copytree(made.config.run, copy, symlinks=True)
    shutil.rmtree(copy / "selected")
    with pytest.raises(UsageError, match="has no selected answers yet"):
        leaderboard.leaderboard([str(copy)])


# ---- The command ----


def test_the_command_prints_writes_and_refuses(made: Run, tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(made.config.run, place, symlinks=True)
    printed = cli("leaderboard", place, "--format", "csv", "--sort", "name", "--filter", "afr*")
    assert printed.returncode == 0, printed.stderr
    assert [row["name"] for row in csv.DictReader(io.StringIO(printed.stdout))] == ["african"]
    written = cli("leaderboard", place)
    assert written.returncode == 0, written.stderr
    assert (place / "leaderboard.html").read_text("utf-8").startswith("<!doctype html>")
    assert cli("verify", place).returncode == 0
    wrong = cli("leaderboard", place, "--filter", "re:(", "--format", "md")
    assert wrong.returncode == 2
    assert "is no regular expression" in wrong.stderr
    assert wrong.stdout == ""
    nowhere = cli("leaderboard", place, made.config.run)
    assert nowhere.returncode == 2
    assert "say where the page goes: -o leaderboard.html" in nowhere.stderr
    assert cli("gc", place).stdout.strip() == "nothing to remove"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--languages", "klingon"], "'klingon' in --languages is no language tag"),
        (["--languages", "it"], "there is no language 'it' here"),
        (["--sort", "beauty"], "there is no column 'beauty' to sort by"),
        (["-o", "/nowhere/at/all.html"], "is in no folder that is there"),
    ],
)
def test_mistakes_are_one_sentence(made: Run, options: list[str], said: str) -> None:
    found = cli("leaderboard", made.config.run, *options)
    assert found.returncode == 2
    assert said in found.stderr
    assert found.stderr.count("\n") == 1
    assert not (Path(made.config.run) / "leaderboard.html").exists()
