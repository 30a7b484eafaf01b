"""What `arbitrage gates` says, recounted from the Parquet files by plain pandas."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from arbitrage import tables_gates
from arbitrage.errors import UsageError
from arbitrage.failures import Failures, failures
from faulty import ANSWERS, HAN, QUESTIONS, Scripted
from harness import Run, fake, make_config, opened, run, work_once, write_prompts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("gates")
    rows = [
        {"prompt": f"{QUESTIONS[code]} {n}", "language": code}
        for n in range(20)
        for code in QUESTIONS
    ]
    source = write_prompts(folder / "prompts.jsonl", rows)
    teachers = {"a": fake(0.5), "b": fake(0.4, ["de", "vi"])}
    config = make_config(folder, teachers, source, gates={"language": True, "refusal": True})
    return run(config, {"a": Scripted(3), "b": Scripted(4)})


@pytest.fixture(scope="module")
def found(made: Run) -> Failures:
    return failures(made.store.root)


@pytest.fixture(scope="module")
def candidates(made: Run) -> pd.DataFrame:
    """One row per candidate, by what was scripted and not by what the gates said."""
    root = made.store.root
    prompts = made.frame("prompts").set_index("prompt_id")["language"]
    tables = []
    for name in ("a", "b"):
        files = sorted(root.glob(f"candidates/{name}-*/*.parquet"))
        tables.append(pd.concat(map(pd.read_parquet, files)).assign(teacher=name))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(language=table["prompt_id"].map(prompts))


def test_every_share_is_what_was_planted(found: Failures, candidates: pd.DataFrame) -> None:
    told = candidates["completion"]
    planted = {
        "truncated": candidates["finish_reason"] == "length",
        "empty": told == "",
        "language": told.str.startswith("The answer"),
        "script": told.str.contains(HAN),
        "repetition": told.str.startswith("oui"),
    }
    keys = [candidates["teacher"], candidates["language"]]
    counts = {name: rows.groupby(keys).sum() for name, rows in planted.items()}
    sizes = candidates.groupby(keys).size()
    assert set(found.rates) == set(sizes.index)
    for key, rates in found.rates.items():
        assert rates.candidates == sizes[key]
        wanted = {name: int(count[key]) for name, count in counts.items() if count[key]}
        assert dict(rates.failed) == wanted
        assert rates.line_level == 1 - counts["language"][key] / sizes[key]
        right = sizes[key] - counts["language"][key]
        assert rates.word_level == (right - counts["script"][key]) / right
    assert sum(rates.candidates for rates in found.teachers.values()) == len(candidates)
    assert found.languages["vi"].failed["script"] == int(planted["script"].sum())
    assert found.missing == 0


def test_none_that_fails_is_chosen_and_reasons_are_told(
    made: Run, candidates: pd.DataFrame
) -> None:
    rows = made.frame("selected")
    good = {texts[0] for texts in ANSWERS.values()}
    assert set(rows["completion"]) <= good
    sound = candidates["completion"].isin(good) & (candidates["finish_reason"] == "stop")
    able = set(candidates[sound]["prompt_id"])
    assert set(rows["prompt_id"]) == able
    lost = made.frame("quarantine")
    assert set(lost["prompt_id"]) == set(candidates["prompt_id"]) - able
    assert set(lost["reason"]) == {"gates"}
    assert lost["detail"].str.contains("#0: ").all()


def test_the_terminal_says_the_same(found: Failures) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables_gates.of_failures(found))
    text = console.export_text()
    for name, rates in {**found.teachers, **found.languages}.items():
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert f"{rates.candidates:,}" in line
        assert f"{rates.line_level:.1%}" in line
    assert "script*" in text
    told = json.loads(json.dumps(found.as_dict()))
    assert {(row["teacher"], row["language"]) for row in told["rates"]} == set(found.rates)


def test_what_was_not_looked_at_is_counted(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "p.jsonl", [{"prompt": "Was? 1", "language": "de"}])
    half = opened(make_config(tmp_path, {"a": fake(0.5)}, source))
    while "generate" not in half.stages:
        work_once(half)
    told = failures(half.store.root)
    assert (told.rates, told.missing) == ({}, 1)
    with pytest.raises(UsageError, match="is no run directory"):
        failures(tmp_path / "nowhere")
