"""Every figure of a run's account, recomputed from its Parquet files by plain pandas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from arbitrage.account import Account, account
from arbitrage.errors import UsageError
from harness import Run, fake, make_config, numbered_prompts, run, write_prompts
from plain_run import candidates_of, lost_of, product_of, stored_of

if TYPE_CHECKING:
    from arbitrage.stats import Moments

Z95 = 1.959964
POOL: dict[str, Any] = {
    "generalist": fake(
        0.5, sampling={"n": 2, "temperature": 0.8}, options={"truncate": 0.3, "voice": "g"}
    ),
    "african": fake(0.8, ["sw"], options={"fail": 0.3, "empty": 0.2}),
    "asian": fake(0.55, ["ja"], sampling=[{"temperature": 0}, {"n": 2, "temperature": 0.7}]),
    "second": fake(0.5, options={"voice": "s", "fail": 0.05}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("account")
    write_prompts(folder / "prompts.jsonl", numbered_prompts(90))
    arbiter = {"engine": "fake", "options": {"fail": 0.1}}
    more = {"retry": {"budget": 2}, "selection": {"min_reward": 0.35}}
    return run(make_config(folder, POOL, arbiter=arbiter, seed=4, **more))


@pytest.fixture(scope="module")
def told(made: Run) -> Account:
    return account(made.store.root)


@pytest.fixture(scope="module")
def product(made: Run) -> pd.DataFrame:
    return product_of(made)


@pytest.fixture(scope="module")
def lost(made: Run) -> pd.DataFrame:
    return lost_of(made)


@pytest.fixture(scope="module")
def candidates(product: pd.DataFrame) -> pd.DataFrame:
    return candidates_of(product)


@pytest.fixture(scope="module")
def alone(candidates: pd.DataFrame) -> pd.DataFrame:
    """(prompts, teachers): the best usable reward of each."""
    usable = candidates[candidates["usable"]]
    table = usable.pivot_table("reward", "prompt_id", "teacher", "max")
    return table.reindex(columns=list(POOL))


@pytest.fixture(scope="module")
def stored(made: Run) -> pd.DataFrame:
    return stored_of(made)


def is_of(moments: Moments, values: Any) -> None:
    known = pd.Series(values, dtype=float).dropna()
    assert moments.count == len(known)
    assert moments.mean == pytest.approx(known.mean(), nan_ok=True)
    if len(known) > 1:
        half = Z95 * known.std(ddof=1) / math.sqrt(len(known))
        assert moments.half_width == pytest.approx(half, abs=1e-7)
        assert moments.deviation == pytest.approx(known.std(ddof=1), abs=1e-7)


def test_the_run_has_all_that_it_should_have(
    made: Run, product: pd.DataFrame, lost: pd.DataFrame, stored: pd.DataFrame
) -> None:
    assert len(product) + len(lost) == 90
    assert len(lost) > 0
    assert set(stored["teacher"]) == set(POOL)
    assert any("retry" in path.name for path in made.store.root.glob("candidates/*"))


def test_the_ledger_is_that_of_the_files(
    told: Account, product: pd.DataFrame, lost: pd.DataFrame
) -> None:
    assert (told.ledger.prompts, told.ledger.selected) == (90, len(product))
    assert told.ledger.quarantined == lost["reason"].value_counts().to_dict()
    by_language = {
        code: rows["reason"].value_counts().to_dict() for code, rows in lost.groupby("language")
    }
    assert told.ledger.by_language == by_language
    is_of(told.reward, product["reward"])


def test_cells_count_every_stored_candidate(told: Account, stored: pd.DataFrame) -> None:
    assert set(told.cells.found) == set(zip(stored["teacher"], stored["language"], strict=True))
    for (name, code), cell in told.cells.found.items():
        mine = stored[(stored["teacher"] == name) & (stored["language"] == code)]
        assert cell.completions == len(mine)
        assert cell.errors == mine["error"].notna().sum()
        assert cell.prompt_tokens == mine["prompt_tokens"].sum()
        assert cell.completion_tokens == mine["completion_tokens"].sum()
        assert cell.rates.candidates == mine["completion"].notna().sum()
        cut = mine["completion"].notna() & (mine["finish_reason"] != "stop")
        assert cell.rates.failed["truncated"] == cut.sum()
        assert cell.rates.failed["empty"] == (mine["completion"].str.strip() == "").sum()
    assert told.cells.of().completions == len(stored)
    assert told.cells.of(language="ja").completions == (stored["language"] == "ja").sum()


def test_the_single_teacher_is_the_best_of_those_that_have_all_languages(
    told: Account, product: pd.DataFrame, alone: pd.DataFrame, stored: pd.DataFrame
) -> None:
    assert told.single is not None
    name = alone[["generalist", "second"]].mean().idxmax()
    assert told.single.name == name
    reward = product.set_index("prompt_id")["reward"]
    gain = reward - alone[name].reindex(reward.index)
    is_of(told.single.reward, alone[name])
    is_of(told.single.gain, gain)
    assert told.single.better == (gain > 0).sum()
    assert told.single.unanswered == gain.isna().sum()
    assert alone[name].mean() > 0
    assert told.single.relative == pytest.approx(gain.mean() / alone[name].mean())
    assert told.single.in_deviations == pytest.approx(gain.mean() / alone[name].std(ddof=1))
    tokens = stored.groupby("teacher")["completion_tokens"].sum()
    assert told.unit == "completion_tokens"
    asked = product["candidates"].map(lambda some: any(one["teacher"] == name for one in some))
    times = tokens.sum() / len(product) / (tokens[name] / asked.sum())
    assert set(told.single.times) == set(told.times_each) == {"requests", "completion_tokens"}
    assert told.single.times["completion_tokens"] == pytest.approx(times)
    rows = stored.groupby("teacher").size()
    each = rows.sum() / len(product) / (rows[name] / asked.sum())
    assert told.single.times["requests"] == pytest.approx(each)
    by_language = stored.groupby(["language", "teacher"])["completion_tokens"].sum()
    language = product.set_index("prompt_id")["language"].reindex(alone.index)
    best = alone.groupby(language).mean().idxmax(axis=1)
    least = sum(by_language[code, teacher] for code, teacher in best.items())
    assert told.times_each["completion_tokens"] == pytest.approx(tokens.sum() / least)


def test_what_is_lost_without_a_teacher(
    told: Account, product: pd.DataFrame, alone: pd.DataFrame
) -> None:
    chosen = product.set_index("prompt_id")
    for name in POOL:
        rest = alone.drop(columns=name).max(axis=1).reindex(chosen.index)
        lost = (chosen["reward"] - rest).where(chosen["teacher"] == name, 0.0)
        nobody = rest.isna() & (chosen["teacher"] == name)
        assert told.losses[name].alone == nobody.sum()
        is_of(told.losses[name].reward, lost[~nobody])
        for code, mine in chosen.groupby("language"):
            found = told.losses_in[str(code)][name]
            assert found.alone == nobody[mine.index].sum()
            is_of(found.reward, lost[mine.index][~nobody[mine.index]])


def test_margins_are_those_with_which_a_teacher_won(told: Account, product: pd.DataFrame) -> None:
    for (name, code), moments in told.margins.items():
        mine = product[(product["teacher"] == name) & (product["language"] == code)]
        is_of(moments, mine["margin"])


def test_histograms_hold_everything_once(
    told: Account, product: pd.DataFrame, alone: pd.DataFrame
) -> None:
    language = product.set_index("prompt_id")["language"]
    edges = np.array(told.spread["edges"])
    for code, counts in told.spread["selected"].items():
        mine = product[product["language"] == code]["reward"].clip(edges[0], edges[-1])
        assert counts == np.histogram(mine, edges)[0].tolist()
    for name, by_language in told.spread["teachers"].items():
        for code, counts in by_language.items():
            mine = alone[name][language.reindex(alone.index) == code].dropna()
            assert sum(counts) == len(mine)


def test_length_effects_are_against_the_prompt_s_own_means(
    told: Account, product: pd.DataFrame, candidates: pd.DataFrame
) -> None:
    usable = candidates[candidates["usable"]].copy()
    first = usable.groupby(["prompt_id", "same_as"]).head(1)
    several = first[first.groupby("prompt_id")["chars"].transform("size") > 1]
    group = several.groupby("prompt_id")
    doublings = np.log2(several["chars"] / group["chars"].transform("mean"))
    above = several["reward"] - group["reward"].transform("mean")
    lengths = told.lengths.as_dict()
    inner = lengths["edges"][1:-1]
    bins = np.digitize(doublings, inner)
    for place, count in enumerate(lengths["candidates"]):
        assert count == (bins == place).sum()
        if count:
            assert lengths["above"][place] == pytest.approx(above[bins == place].mean())
    assert 0 < sum(lengths["chosen"]) <= len(product)


def test_plain_data_has_a_cell_for_every_teacher_that_was_asked(
    told: Account, product: pd.DataFrame, stored: pd.DataFrame
) -> None:
    plain = json.loads(json.dumps(told.as_dict()))
    assert [row["language"] for row in plain["languages"]] == ["de", "ja", "sw"]
    for row in plain["languages"]:
        mine = product[product["language"] == row["language"]]
        asked = set(stored[stored["language"] == row["language"]]["teacher"])
        assert set(row["teachers"]) == asked
        assert row["prompts"] == len(mine)
        assert sum(cell["share"] for cell in row["teachers"].values()) == pytest.approx(1)
        for name, cell in row["teachers"].items():
            assert cell["won"] == pytest.approx((mine["teacher"] == name).sum())
            assert cell["share"] == pytest.approx((mine["teacher"] == name).mean())
    assert plain["facts"]["selector"] == "best"
    assert set(plain["value"]) == set(POOL)
    assert plain["rates"]["second"]["errors"] > 0


def test_a_run_without_a_product_has_an_account_too(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(6))
    pool = {"mute": fake(0.5, options={"empty": 1.0}), "dumb": fake(0.4, options={"fail": 1.0})}
    empty = account(run(make_config(tmp_path, pool)).store.root)
    assert (empty.languages, empty.single, empty.drawn, empty.thinned) == ([], None, [], [])
    assert empty.ledger.quarantined == {"gates_and_errors": 6}
    assert empty.cells.of(teacher="dumb").errors == 6
    assert json.loads(json.dumps(empty.as_dict()))["ledger"]["selected"] == 0


def test_a_fuser_is_no_single_teacher(tmp_path: Path) -> None:
    """It is there only where others answer, whatever its rewards."""
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(30))
    pool = {"a": fake(0.4, options={"voice": "a"}), "b": fake(0.5, options={"voice": "b"})}
    fuser = {"engine": "fake", "options": {"skill": 0.95, "voice": "f"}}
    found = account(run(make_config(tmp_path, pool, fuser=fuser)).store.root)
    assert found.teachers == ["a", "b", "fuser"]
    assert found.losses["fuser"].reward.mean > 0
    assert found.single is not None
    assert found.single.name == "b"
    for row in found.languages:
        assert row.teachers["fuser"].wins > 0
        assert {row.best_alone, row.fixed} <= {"a", "b"}


def test_where_there_is_no_run_a_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run directory"):
        account(tmp_path / "nothing")
