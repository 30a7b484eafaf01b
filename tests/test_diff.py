"""What differs between two runs, against plain pandas over the same files."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arbitrage import differences, tables_diff
from arbitrage.config import RunConfig
from arbitrage.differences import Answer, Row, diff
from arbitrage.engines.fake import FakeScorer
from arbitrage.errors import UsageError
from arbitrage.fields import NOT_TOLD, differing
from arbitrage.options import FakeOptions
from arbitrage.sides import packed, unpacked
from command_line import cli
from harness import fake, frame, make_config, numbered_prompts, run, write_prompts

if TYPE_CHECKING:
    from rich.console import RenderableType

SILENT = lambda done, total: None  # noqa: E731
COUNT = 90
ARBITER = Path(__file__).resolve().parents[1] / "data" / "micro" / "models" / "arbiter"


def teachers(**european: Any) -> dict[str, Any]:
    return {
        "one": fake(0.5, sampling={"n": 2, "temperature": 0.9}, options={"empty": 0.5}),
        "two": fake(0.5, options={"voice": "two", **european}),
    }


def made(folder: Path, pool: dict[str, Any], count: int = COUNT, **blocks: Any) -> Path:
    write_prompts(folder / "prompts.jsonl", numbered_prompts(count))
    return Path(run(make_config(folder, pool, **blocks)).config.run)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """B has more prompts, shards of another size, a better teacher, and one that is often empty."""
    base = tmp_path_factory.mktemp("diff")
    first = made(base / "a", teachers(empty=0.3), gates={"empty": True})
    pool = teachers(skill=0.7, empty=0.4)
    pool["one"]["options"] |= {"empty": 0.6}
    second = made(base / "b", pool, COUNT + 10, prompts={"shard_size": 13}, cluster={"clerks": 3})
    return first, second


def products(pair: tuple[Path, Path]) -> list[pd.DataFrame]:
    return [frame(run, "selected/").set_index("prompt_id") for run in pair]


def lost(run: Path) -> set[str]:
    rows = frame(run, "quarantine/select")
    return set(rows["prompt_id"]) if len(rows) else set()


def test_rewards_are_paired_by_prompt_as_pandas_does_it(pair: tuple[Path, Path]) -> None:
    found = diff(*pair, SILENT)
    a, b = products(pair)
    both = a.join(b, how="inner", lsuffix="_a", rsuffix="_b")
    assert not found.incomparable
    for code, rows in [*both.groupby("language_a"), ("all", both)]:
        one = found.overall if code == "all" else found.languages[str(code)]
        gap = rows["reward_b"] - rows["reward_a"]
        assert one.selected == one.difference.count == len(rows)
        assert one.difference.mean == pytest.approx(gap.mean())
        half = 1.959964 * gap.std(ddof=1) / math.sqrt(len(gap))
        assert one.difference.half_width == pytest.approx(half)
        assert one.rewards[0].mean == pytest.approx(rows["reward_a"].mean())
        assert one.rewards[1].mean == pytest.approx(rows["reward_b"].mean())
        same = rows["completion_a"] == rows["completion_b"]
        teacher = rows["teacher_a"] == rows["teacher_b"]
        assert one.same == same.sum()
        assert one.reworded == (~same & teacher).sum()
        assert one.other == (~same & ~teacher).sum()
    assert found.overall.reworded > 0
    assert found.overall.other > 0


def test_prompts_and_what_was_lost_and_found_are_those_of_the_files(
    pair: tuple[Path, Path],
) -> None:
    found = diff(*pair, SILENT)
    prompts = [frame(run, "prompts/") for run in pair]
    ids = [set(rows["prompt_id"]) for rows in prompts]
    assert found.prompts == (COUNT, COUNT + 10)
    assert found.only == (len(ids[0] - ids[1]), len(ids[1] - ids[0])) == (0, 10)
    assert found.overall.prompts == len(ids[0] & ids[1])
    a, b = (set(rows.index) for rows in products(pair))
    assert found.overall.lost == len(a & lost(pair[1])) > 0
    assert found.overall.found == len(lost(pair[0]) & b) > 0
    assert sum(found.reasons[0].values()) == found.overall.found
    assert sum(found.reasons[1].values()) == found.overall.lost


def test_wins_are_shared_by_equal_answers(pair: tuple[Path, Path]) -> None:
    found = diff(*pair, SILENT)
    shared = set(frame(pair[0], "prompts/")["prompt_id"])
    for place, rows in enumerate(products(pair)):
        mine = rows[rows.index.isin(shared)]
        won = {"one": 0.0, "two": 0.0}
        for row in mine.itertuples():
            told = list(row.candidates)
            chosen = next(
                c["same_as"]
                for c in told
                if (c["teacher"], c["sample"]) == (row.teacher, row.sample)
            )
            twins = {c["teacher"] for c in told if c["same_as"] == chosen}
            for name in twins:
                won[name] += 1 / len(twins)
        assert found.overall.each[place] == len(mine)
        for name, amount in won.items():
            assert found.overall.shares(name)[place] == pytest.approx(amount / len(mine))


def test_gates_and_costs_stand_side_by_side(pair: tuple[Path, Path]) -> None:
    found = diff(*pair, SILENT)
    for place, folder in enumerate(pair):
        candidates, gates = frame(folder, "candidates/"), frame(folder, "gates/")
        assert found.candidates[place] == gates["truncated"].notna().sum()
        empty = (gates["empty"] == True).mean()  # noqa: E712 - nulls are no failures
        assert found.gates["empty"][place] == pytest.approx(empty)
        cost = found.costs["two", "generate"][place]
        assert cost is not None
        assert cost.usage.requests == COUNT + 10 * place
        total = sum(p[place].usage.completion_tokens for p in found.costs.values() if p[place])
        assert total == candidates["completion_tokens"].sum()


def test_the_config_tells_what_changes_the_output_first(pair: tuple[Path, Path]) -> None:
    found = diff(*pair, SILENT)
    told = {one.field: (one.first, one.second) for one in found.changes}
    assert told["prompts.shard_size"] == (8, 13)
    assert told["teachers.two.options.empty"] == (0.3, 0.4)
    assert told["teachers.one.options.empty"] == (0.5, 0.6)
    assert told["cluster.clerks"] == (1, 3)
    kinds = [one.identity for one in found.changes]
    assert kinds == sorted(kinds, reverse=True)
    assert not next(one for one in found.changes if one.field == "cluster.clerks").identity
    assert "run" not in told
    assert set(found.parts) >= {"candidates/one", "candidates/two"}
    assert "scores/arbiter" not in found.parts


def test_a_model_in_another_folder_with_the_same_files_changes_nothing(tmp_path: Path) -> None:
    runs = []
    for name, skill in (("a", 0.4), ("b", 0.6)):
        home = tmp_path / name
        copied = shutil.copytree(ARBITER, home / "arbiter")
        pool = {"one": fake(skill)}
        write_prompts(home / "prompts.jsonl", numbered_prompts(6))
        config = make_config(home, pool, arbiter={"engine": "transformers", "model": str(copied)})
        runs.append(Path(run(config, {"arbiter": FakeScorer(FakeOptions())}).config.run))
    found = diff(*runs, SILENT)
    known = {one.field: one.identity for one in found.changes}
    assert "scores/arbiter" not in found.parts
    assert known["arbiter.model"] is False
    assert known["teachers.one.options.skill"] is True
    assert not found.incomparable


def test_the_order_of_the_runs_only_turns_the_signs(pair: tuple[Path, Path]) -> None:
    there, back = diff(*pair, SILENT), diff(*reversed(pair), SILENT)
    assert there.overall.difference.mean == pytest.approx(-back.overall.difference.mean)
    assert (there.overall.lost, there.overall.found) == (back.overall.found, back.overall.lost)
    assert there.only == back.only[::-1]
    assert there.gates == {name: pair[::-1] for name, pair in back.gates.items()}
    for name in ("same", "reworded", "other", "selected"):
        assert getattr(there.overall, name) == getattr(back.overall, name)


def test_rewards_of_two_arbiters_are_not_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    arbiter = {"engine": "fake", "model": "another"}
    other = made(tmp_path, teachers(empty=0.3), gates={"empty": True}, arbiter=arbiter)
    found = diff(pair[0], other, SILENT, rows=2)
    assert found.incomparable == "the two runs have other Arbiters"
    assert found.overall.difference.count == 0
    assert found.as_dict()["overall"]["difference"] is None
    assert found.overall.same == found.overall.selected > 0
    assert "rewards are not compared: the two runs have other Arbiters" in shown(
        tables_diff.of_differences(found)
    )


def test_a_renamed_teacher_is_the_same_and_a_taken_name_is_marked(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pool = {"renamed": teachers(empty=0.3)["two"], "two": teachers()["one"]}
    pool["two"]["options"]["voice"] = "third"
    other = made(tmp_path, pool, gates={"empty": True})
    found = diff(pair[0], other, SILENT)
    assert set(found.overall.won) == {"one", "two", "two (second)"}
    assert found.overall.shares("one")[1] == 0
    assert found.overall.shares("two (second)")[0] == 0
    a, b = products((pair[0], other))
    both = a.join(b, how="inner", lsuffix="_a", rsuffix="_b")
    same = both["completion_a"] == both["completion_b"]
    kept = (both["teacher_a"] == "two") & (both["teacher_b"] == "renamed")
    assert found.overall.reworded == (~same & kept).sum()


def test_rows_are_those_that_differ_most_with_both_answers(pair: tuple[Path, Path]) -> None:
    found = diff(*pair, SILENT, rows=5)
    a, b = products(pair)
    both = a.join(b, how="inner", lsuffix="_a", rsuffix="_b")
    both = both[both["completion_a"] != both["completion_b"]]
    gap = (both["reward_b"] - both["reward_a"]).abs()
    assert len(found.rows) == 5
    assert sorted(abs(row.difference or 0) for row in found.rows) == pytest.approx(
        sorted(gap.nlargest(5))
    )
    prompts = frame(pair[0], "prompts/").set_index("prompt_id")
    for row in found.rows:
        truth = both.loc[row.prompt_id]
        assert row.first == (truth["teacher_a"], truth["reward_a"], truth["completion_a"])
        assert row.second == (truth["teacher_b"], truth["reward_b"], truth["completion_b"])
        assert row.prompt == prompts.loc[row.prompt_id, "messages"][-1]["content"]


def test_no_prompt_in_both_is_told_and_configs_are_compared_all_the_same(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", [{"prompt": "quite another one", "language": "sw"}])
    run(make_config(tmp_path, teachers()))
    found = diff(pair[0], tmp_path / "run", SILENT, rows=3)
    assert found.overall.prompts == 0
    assert found.only == (COUNT, 1)
    assert found.rows == []
    told = shown(tables_diff.of_differences(found))
    assert "there is nothing to compare" in told
    assert "teachers.two.options.empty" in told
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_run_that_is_not_finished_is_compared_as_far_as_it_is(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(pair[1], half, symlinks=True)
    gone = sorted(half.glob("selected/best-*/*.parquet"))[-3:]
    for path in gone:
        path.unlink()
    found = diff(pair[0], half, SILENT)
    a, b = products((pair[0], half))
    assert found.overall.selected == len(a.index.intersection(b.index))
    assert 0 < found.overall.each[1] < found.overall.prompts


def test_of_top_k_the_best_counts_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    choice = {"rule": "top_k", "k": 2}
    other = made(tmp_path, teachers(empty=0.3), gates={"empty": True}, selection=choice)
    found = diff(pair[0], other, SILENT)
    assert found.overall.same == found.overall.selected > 0
    assert found.overall.difference.mean == 0


def test_one_run_twice_and_no_run_are_one_sentence(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are one run; give two"):
        diff(pair[0], pair[0], SILENT)
    with pytest.raises(UsageError, match="is no run directory"):
        diff(pair[0], tmp_path / "nowhere", SILENT)


def shown(content: RenderableType) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as caught:
        console.print(content, soft_wrap=True)
    return caught.get()


def test_it_fits_80_columns_and_obeys_no_model_text(pair: tuple[Path, Path]) -> None:
    found = diff(*pair, SILENT, rows=2)
    evil = "\x1b[2Jgone [red]not red[/] " + "\u6f22" * 90 + "\n\u202ex" + "w" * 200
    row = Row("0" * 32, "de", evil, Answer(evil, -1.5, evil), Answer("b", 2.0, "short"), 3.5)
    told = shown(tables_diff.of_rows([row, *found.rows], ""))
    text = shown(tables_diff.of_differences(found))
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert "[red]not red[/]" in told
    assert "\\x1b[2Jgone" in told
    from rich.cells import cell_len

    assert max(cell_len(line) for line in [*told.split("\n"), *text.split("\n")]) <= 80


def test_the_command_tells_both_ways_and_refuses_in_one_sentence(pair: tuple[Path, Path]) -> None:
    plain = cli("diff", *pair, "--rows", "1")
    assert plain.returncode == 0, plain.stderr
    assert "prompts: 90 in both, 0 only in A, 10 only in B" in plain.stdout
    told = json.loads(cli("diff", *pair, "--json").stdout)
    found = diff(*pair, SILENT)
    assert told == json.loads(json.dumps(found.as_dict()))
    assert told["overall"]["compared"] == found.overall.difference.count
    wrong = cli("diff", pair[0], pair[0])
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


def test_secrets_that_are_handed_on_are_not_told(tmp_path: Path) -> None:
    def config(secret: str, plain: int) -> RunConfig:
        options = {"base_url": "http://h/v1", "extra_body": {"x": {"api_key": secret, "n": plain}}}
        pool = {"t": {"engine": "endpoint", "model": "m", "languages": "all", "options": options}}
        return make_config(tmp_path, pool)

    found = differing(config("hush-1", 1), config("hush-2", 2))
    told = {one.field: (one.first, one.second) for one in found}
    assert told == {
        "teachers.t.options.extra_body.x.api_key": (NOT_TOLD, NOT_TOLD),
        "teachers.t.options.extra_body.x.n": (1, 2),
    }
    added = make_config(tmp_path, {**config("hush-3", 1).model_dump()["teachers"], "u": fake()})
    changes = differing(added, make_config(tmp_path, {"u": fake()}))
    assert [one.field for one in changes] == ["teachers.t"]
    assert "hush" not in str(changes)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20, unique=True))
def test_ids_are_packed_without_loss_and_in_order(ids: list[bytes]) -> None:
    told = sorted(one.hex() for one in ids)
    assert [unpacked(one) for one in packed(told)] == told
    assert np.array_equal(np.sort(packed(told)), packed(told))


def test_constants_name_the_columns_that_are_there() -> None:
    from arbitrage.records import SELECTED
    from arbitrage.sides import READ

    assert set(READ) <= set(SELECTED.names)
    assert differences.diff.__doc__
