"""What the end of a run says, against pandas on the files; and that a terminal can show it."""

from __future__ import annotations

import io
import json
import math
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.cells import cell_len
from rich.console import Console

from arbitrage import baselines, records, summary, tables, verify
from arbitrage.baselines import Baseline
from arbitrage.choices import SelectionConfig
from arbitrage.lineup import Choosing, Part
from arbitrage.product import build
from arbitrage.records import CANDIDATES, SCORES, SELECTED
from arbitrage.resolve import resolve
from arbitrage.results import Results, beside
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
    from arbitrage.components import Components
    from arbitrage.results import LanguageResult
    from arbitrage.summary import Summary

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


def _failed(facts: pd.DataFrame) -> list[list[str]]:
    """Fakes fail these two gates alone."""
    names = ("truncated", "empty")
    rows = facts[list(names)].to_dict("records")
    return [[name for name in names if row[name]] for row in rows]


@pytest.fixture(scope="module")
def judged(made: Run) -> pd.DataFrame:
    """Every candidate with its score, gates, language and teacher, from the files alone."""
    languages = made.frame("prompts").set_index("prompt_id")["language"]
    parts = []
    arbiter = made.planner.folder_of(made.components.arbiter)
    gates = made.planner.folder_of(made.components.gates)
    for teacher in made.components.teachers:
        scores = frame(made.store.root, made.planner.folder_of(teacher, arbiter) + "/")
        facts = frame(made.store.root, made.planner.folder_of(teacher, gates) + "/")
        assert facts[["prompt_id", "sample"]].equals(scores[["prompt_id", "sample"]])
        parts.append(scores.assign(teacher=teacher.name, gates=_failed(facts)))
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


# What other ways to choose would have given


Lengthy = tuple["Components", "Summary", pd.DataFrame]


@pytest.fixture(scope="module")
def lengthy(told: Summary) -> Lengthy:
    """A product of its own making: 300 prompts in four languages of two families, answers of all
    lengths, twins, gates, errors; and the same as a plain table of candidates."""
    pool = {
        "a": fake(0.5, sampling={"n": 2, "temperature": 1}),
        "b": fake(0.6),
        "c": fake(0.7, ["de", "nl"]),
    }
    components = resolve(make_config(Path("/nowhere"), pool))
    rng = random.Random(3)
    asked, plain = [], []
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in pool}
    for number in range(300):
        key, language = f"{number:032x}", rng.choice(["de", "nl", "ja", "ko"])
        turns = [{"role": "user", "content": str(number)}]
        where = {"language_source": "declared", "source": "s", "line": number}
        asked.append({"prompt_id": key, "language": language, "messages": turns, **where})
        for teacher, sample in (("a", 0), ("a", 1), ("b", 0), ("c", 0)):
            if teacher == "c" and language in ("ja", "ko"):
                continue
            text = rng.choice(["same", "alike", "x" * rng.randrange(1, 40)])
            score = None if rng.random() < 0.05 else round(len(text) / 60 + rng.random(), 3)
            score = 0.25 if text == "same" and score is not None else score
            gates = ["empty"] if rng.random() < 0.1 else []
            row = {"prompt": key, "language": language, "teacher": teacher, "sample": sample}
            plain.append({**row, "text": text, "score": score, "gated": bool(gates)})
            parts[teacher].append(
                {"prompt_id": key, "sample": sample, "completion": text, "gates": gates}
                | {"score": score, "error": None if score is not None else "no score"}
                | {"sampling": 0, "finish_reason": "stop", "prompt_tokens": 1}
                | {"completion_tokens": 1, "seed": 1}
            )
    judged = []
    for teacher in components.teachers:
        rows = parts[teacher.name]
        answers = pa.Table.from_pylist([{**row, "error": None} for row in rows], CANDIDATES)
        scores = pa.Table.from_pylist(rows, SCORES)
        gates = pa.array([row["gates"] for row in rows], pa.list_(pa.string()))
        judged.append(Part(teacher, answers, gates, (scores,)))
    table = pa.Table.from_pylist(asked, records.PROMPTS)
    choosing = Choosing(SelectionConfig(), ("truncated", "empty"))
    product = build(table, judged, components, choosing).selected
    results = Results(components, ("truncated", "empty"))
    for start in (0, 100, 200):
        results.add(product.slice(start, 100))
    results.settle()
    languages = sorted(results.languages.values(), key=lambda row: row.language)
    candidates = pd.DataFrame(plain)
    usable = candidates[candidates["score"].notna() & ~candidates["gated"]]
    chosen = product.to_pandas().set_index("prompt_id")
    usable = usable.assign(
        chosen=usable["prompt"].map(chosen["reward"]),
        taken=usable["prompt"].map(chosen["completion"]),
        chars=usable["text"].str.len(),
    )
    return components, replace(told, languages=languages, teachers=list(pool)), usable


def test_the_ways_beside_agree_with_pandas(lengthy: Lengthy) -> None:
    _, told, usable = lengthy
    for row in told.languages:
        mine = usable[usable["language"] == row.language]
        reward = mine.groupby("prompt")["chosen"].first()
        alone = mine.groupby(["prompt", "teacher"])["score"].max()
        drawn = alone.groupby("prompt").mean()
        assert_is_mean_of(row.random.reward, drawn)
        assert_is_mean_of(row.random.gain, reward - drawn)
    everything = beside(told.languages)
    assert list(everything) == [
        "best single teacher",
        "one teacher per family",
        "random teacher",
        "longest answer",
    ]
    drawn = usable.groupby(["prompt", "teacher"])["score"].max().groupby("prompt").mean()
    gain = usable.groupby("prompt")["chosen"].first() - drawn
    assert_is_mean_of(everything["random teacher"].gain, gain)


def test_the_longest_answer_is_that_of_a_plain_loop(lengthy: Lengthy) -> None:
    _, told, usable = lengthy
    for row in told.languages:
        rewards, gains, longest, chance = [], [], [], []
        for _, mine in usable[usable["language"] == row.language].groupby("prompt"):
            ranked = mine.sort_values("score", ascending=False).drop_duplicates("text")
            long = ranked[ranked["chars"] == ranked["chars"].max()]
            rewards.append(long["score"].mean())
            gains.append(mine["chosen"].iloc[0] - rewards[-1])
            if ranked["chars"].nunique() > 1:
                longest.append(mine["taken"].iloc[0] in set(long["text"]))
                chance.append(len(long) / len(ranked))
        assert_is_mean_of(row.longest.reward, pd.Series(rewards))
        assert_is_mean_of(row.longest.gain, pd.Series(gains))
        assert (row.lengths.prompts, row.lengths.longest) == (len(longest), sum(longest))
        assert row.lengths.chance == pytest.approx(sum(chance))
        assert 0 < sum(longest) < len(longest)


def test_one_teacher_per_family_is_the_best_of_those_who_answer_in_all_of_it(
    lengthy: Lengthy,
) -> None:
    components, told, usable = lengthy
    family = usable["language"].map(components.families)
    alone = usable.assign(family=family).groupby(["family", "language", "prompt", "teacher"])
    best = alone["score"].max().reset_index()
    for name, mine in best.groupby("family"):
        everywhere = mine.groupby("teacher")["language"].nunique()
        able = everywhere[everywhere == mine["language"].nunique()].index
        means = mine[mine["teacher"].isin(able)].groupby("teacher")["score"].mean()
        rows = [row for row in told.languages if row.family == name]
        assert {row.fixed for row in rows} == {means.idxmax()}
        for row in rows:
            own = mine[(mine["teacher"] == row.fixed) & (mine["language"] == row.language)]
            assert_is_mean_of(row.of_teacher(row.fixed).reward, own["score"])


def test_a_win_is_shared_by_the_teachers_that_gave_the_very_same_answer(lengthy: Lengthy) -> None:
    _, told, usable = lengthy
    givers = usable[usable["text"] == usable["taken"]].groupby(["language", "prompt"])["teacher"]
    wins: Counter[tuple[str, str]] = Counter()
    for (language, _), teachers in givers:
        names = set(teachers)
        wins.update({(language, name): 1 / len(names) for name in names})  # type: ignore[dict-item]
    found = {
        (row.language, name): result.wins
        for row in told.languages
        for name, result in row.teachers.items()
    }
    assert found == pytest.approx(wins)
    assert any(count % 1 for count in found.values())
    for row in told.languages:
        assert sum(result.wins for result in row.teachers.values()) == pytest.approx(row.prompts)


def test_rows_after_the_first_of_a_prompt_count_for_nothing(lengthy: Lengthy) -> None:
    components, _, _ = lengthy
    table = SELECTED.empty_table()
    for rank in (None, 2, 1):
        row = dict.fromkeys(SELECTED.names, "x") | {"rank": rank, "messages": [], "candidates": []}
        row |= dict.fromkeys(("reward", "margin", "rejected_reward"), 0.5)
        row |= dict.fromkeys(("sample", "prompt_tokens", "completion_tokens", "seed"), 1)
        row["language"] = "de"
        table = pa.concat_tables([table, pa.Table.from_pylist([row], SELECTED)])
    results = Results(components, ())
    results.add(table)
    assert results.languages["de"].prompts == 2


def test_a_product_of_an_older_version_tells_no_lengths_and_no_twins() -> None:
    kind = pa.list_(records.CANDIDATE_SUMMARY)
    rows = [
        [{"teacher_fingerprint": "t", "sample": n, "reward": n / 4, "gates": []} for n in (1, 0)],
        [{"teacher_fingerprint": "u", "sample": 0, "reward": 0.5, "gates": ["empty"]}],
    ]
    answers = baselines.answers_of(pa.array(rows, kind), ["t", "u"], ["truncated"])
    chosen = baselines.is_chosen(answers, np.array([0, 1]), np.array([1, 0]))
    assert answers.distinct.tolist() == [True, True, True]
    assert chosen.tolist() == [True, False, True]
    assert np.isnan(baselines.longest_answer(answers, 2)).all()
    differ, taken, _ = baselines.lengths_of(answers, chosen, 2)
    assert not differ.any()
    assert not taken.any()
    assert baselines.shares_of_win(answers, chosen, 2, 2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    alone = baselines.best_alone(answers, 2, 2)
    assert baselines.random_teacher(alone).tolist() == [0.25, 0.5]
    gated = baselines.answers_of(pa.array(rows, kind), ["t"], ["empty"])
    assert gated.prompt.tolist() == [0, 0]
    assert np.isnan(baselines.random_teacher(baselines.best_alone(gated, 1, 2))).tolist() == [
        False,
        True,
    ]


def test_the_block_beside_tells_every_way_and_the_share_of_longest(lengthy: Lengthy) -> None:
    _, told, _ = lengthy
    lines = shown(told)
    start = next(n for n, line in enumerate(lines) if line.startswith("beside"))
    for line, (name, way) in zip(lines[start + 1 :], beside(told.languages).items(), strict=False):
        half = way.gain.half_width
        numbers = [f"{way.reward.mean:.3f}", f"{way.gain.mean:+.3f}", f"\u00b1{half:.3f}"]
        assert line.split() == [*name.split(), *numbers, f"{way.gain.count:,}"]
    text = " ".join(" ".join(lines).split())
    long = sum(row.lengths.longest for row in told.languages)
    count = sum(row.lengths.prompts for row in told.languages)
    chance = sum(row.lengths.chance for row in told.languages) / count
    assert (
        f"the longest answer was chosen for {long / count:.0%} of {count} prompts whose answers "
        f"differ in length; by lot it would be {chance:.0%}"
    ) in text
    assert "not shown to be better" not in text
    assert max(map(cell_len, lines)) <= 80
    plain = json.loads(json.dumps(told.as_dict(), allow_nan=False))
    assert plain["lengths"] == {"prompts": count, "longest": long, "chance": chance * count}
    for row, result in zip(plain["languages"], told.languages, strict=True):
        assert row["beside"]["longest answer"] == {
            "reward": pytest.approx(result.longest.reward.mean),
            "gain": pytest.approx(result.longest.gain.mean),
            "interval": pytest.approx(result.longest.gain.half_width),
            "prompts": result.prompts,
        }


def test_where_choosing_does_not_beat_the_longest_answer_it_is_said(lengthy: Lengthy) -> None:
    _, told, _ = lengthy
    sentence = "choosing is not shown to be better than taking the longest answer"
    nothing = Baseline(Moments(9, 9.0, 9.0), Moments(9, 0.0, 0.0))
    first, *others = told.languages
    one = replace(told, languages=[replace(first, longest=nothing), *others])
    assert f"{sentence} in {first.language}" in " ".join(" ".join(shown(one)).split())
    none = replace(told, languages=[replace(row, longest=nothing) for row in told.languages])
    assert f"{sentence} over all languages" in " ".join(" ".join(shown(none)).split())
    single = Baseline(Moments(1, 0.5, 0.25), Moments(1, 0.5, 0.25))
    assert not single.is_beaten, "one prompt shows nothing"


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


@pytest.mark.parametrize("rule", ["top_k", "pairs"])
def test_the_ledger_counts_prompts_where_a_rule_gives_other_rows(tmp_path: Path, rule: str) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(40))
    made = run(make_config(tmp_path, POOL, selection={"rule": rule}))
    rows = made.rows("selected")
    prompts = {row["prompt_id"] for row in rows}
    ledger = summed_up(made).ledger
    assert (len(rows) > len(prompts)) == (rule == "top_k")
    assert ledger.selected == len(prompts)
    assert ledger.prompts == ledger.selected + sum(ledger.quarantined.values()) == 40
    assert sum(row.prompts for row in summed_up(made).languages) == len(prompts)
    assert (ledger.quarantined.get("no_pair", 0) > 0) == (rule == "pairs")
    found = verify.check(made.store, made.components, made.config)
    assert found.faults == []


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
