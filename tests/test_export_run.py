"""Whole exports of runs: what `datasets` opens is what pandas reads in the run's files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest

from arbitrage.card import Evidence, Outcome, Subject, make
from arbitrage.datafolder import DataFolder
from arbitrage.errors import InputError, StoreError, UsageError
from arbitrage.exporting import Exported, Layout, export
from arbitrage.records import Completion
from arbitrage.sieve import Wanted, lot_of
from harness import Run, fake, frame, make_config, numbered_prompts, run, write_prompts
from harness import opened as resume
from s3_server import address, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROMPTS = 40
POOL = {
    "a": fake(0.5, options={"voice": "a"}, license="Apache-2.0"),
    "b": fake({"sw": 0.9, "default": 0.3}, options={"voice": "b"}, license="Apache-2.0"),
    "c": fake({"ja": 0.9, "default": 0.4}, options={"voice": "c", "truncate": 0.3}),
}
SPLITS = (("train", 0.75), ("validation", 0.25))


def made(folder: Path, teachers: dict[str, Any] | None = None, **blocks: Any) -> Run:
    engines = blocks.pop("engines", None)
    source = write_prompts(folder / "prompts.jsonl", numbered_prompts(PROMPTS))
    return run(make_config(folder, teachers or POOL, source, **blocks), engines)


def exported(found: Run, output: Path, form: str = "sft", **wishes: Any) -> Exported:
    layout = Layout(**{k: wishes.pop(k) for k in list(wishes) if k in LAYOUT})
    return export(found.store.root, output, Wanted(form, **wishes), layout)


LAYOUT = {one.name for one in dataclasses.fields(Layout)}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`load_dataset` that never asks the net, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        import datasets

        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()

        def load(folder: Path, *names: str) -> Any:
            cache = tmp_path_factory.mktemp("cache")
            return datasets.load_dataset(str(folder), *names, cache_dir=str(cache))

        yield load


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(tmp_path_factory.mktemp("pool"))


def files_of(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def adds_up(told: Exported) -> bool:
    left = sum(sum(counts.values()) for counts in told.ledger["left_out"].values())
    rows = sum(one.rows for one in told.files)
    return told.ledger["rows"] == told.ledger["exported"] + left and rows == sum(
        told.splits.values()
    ) == told.ledger["exported"] == sum(told.languages.values())


def plain(turns: Any) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


# What is opened is what the run has


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_sft_holds_every_row_of_the_product(
    tmp_path: Path, pool: Run, opened: Any, kind: str
) -> None:
    told = exported(pool, tmp_path / "out", kind=kind, file_rows=15)
    assert adds_up(told)
    assert len(told.files) == 3
    rows = opened(tmp_path / "out")["train"].to_list()
    product = pool.frame("selected")
    assert len(product) == PROMPTS
    assert [row["prompt_id"] for row in rows] == product["prompt_id"].tolist()
    for mine, theirs in zip(rows, product.to_dict("records"), strict=True):
        assert mine["messages"] == plain(theirs["messages"])
        assert mine["messages"][-1]["content"] == theirs["completion"]
        for name in ("user_id", "language", "family", "teacher", "reward"):
            assert mine[name] == theirs[name]
        assert mine["license"] == (None if mine["teacher"] == "c" else "Apache-2.0")
        assert mine["margin"] == (None if pd.isna(theirs["margin"]) else theirs["margin"])


def test_openai_has_no_other_key(tmp_path: Path, pool: Run, opened: Any) -> None:
    told = exported(pool, tmp_path / "out", "openai")
    lines = (tmp_path / "out" / told.files[0].path).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(set(row) == {"messages"} for row in rows)
    assert all(set(turn) == {"role", "content"} for row in rows for turn in row["messages"])
    assert opened(tmp_path / "out")["train"].to_list() == rows


def test_sharegpt_has_the_same_texts(tmp_path: Path, pool: Run, opened: Any) -> None:
    exported(pool, tmp_path / "out", "sharegpt", columns=("prompt_id", "extra"))
    data = opened(tmp_path / "out")["train"]
    assert data.column_names == ["conversations", "prompt_id", "extra"]
    product = pool.frame("selected").set_index("prompt_id")
    for row in data.to_list():
        theirs = product.loc[row["prompt_id"]]
        values = [turn["value"] for turn in row["conversations"]]
        assert values == [turn["content"] for turn in theirs["messages"]]
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"]
        assert row["extra"] == theirs["extra"]


def lowest(found: Run, key: str, chosen: str) -> tuple[str, str, float] | None:
    """The lowest-scored answer with another text, from candidates and scores alone."""
    others = []
    for name in found.config.teachers:
        texts = frame(found.store.root, f"candidates/{name}-")
        scores = [
            frame(folder.parent, folder.name + "/")
            for folder in found.store.root.glob(f"scores/*/{name}-*")
        ]
        joined = texts.merge(pd.concat(scores), on=["prompt_id", "sample"])
        mine = joined[(joined["prompt_id"] == key) & joined["score"].notna()]
        others += [(s, name, t) for s, t in zip(mine["score"], mine["completion"], strict=True)]
    others = [one for one in others if one[2] != chosen]
    return (lambda one: (one[1], one[2], one[0]))(min(others)) if others else None


def test_dpo_pairs_are_the_best_and_the_lowest(tmp_path: Path, pool: Run, opened: Any) -> None:
    told = exported(pool, tmp_path / "out", "dpo")
    assert adds_up(told)
    product = pool.frame("selected").set_index("prompt_id")
    rows = opened(tmp_path / "out")["train"].to_list()
    assert len(rows) > PROMPTS / 2
    for row in rows:
        theirs = product.loc[row["prompt_id"]]
        assert row["prompt"] == plain(theirs["messages"][:-1])
        assert row["chosen"] == [{"role": "assistant", "content": theirs["completion"]}]
        other = lowest(pool, row["prompt_id"], theirs["completion"])
        assert other is not None
        assert (row["rejected_teacher"], row["rejected_reward"]) == (other[0], other[2])
        assert row["rejected"] == [{"role": "assistant", "content": other[1]}]
        assert row["margin"] == row["reward"] - row["rejected_reward"] > 0


def test_a_run_that_chose_pairs_gives_the_same_pairs(
    tmp_path: Path, pool: Run, opened: Any
) -> None:
    again = made(tmp_path / "pairs", selection={"rule": "pairs"})
    exported(pool, tmp_path / "best-out", "dpo", columns=("prompt_id", "rejected_reward"))
    exported(again, tmp_path / "pairs-out", "dpo", columns=("prompt_id", "rejected_reward"))
    best, pairs = (opened(tmp_path / f"{n}-out")["train"].to_list() for n in ("best", "pairs"))
    assert best == pairs


def test_pairs_that_are_too_close_are_left_out(tmp_path: Path, pool: Run, opened: Any) -> None:
    every = exported(pool, tmp_path / "all", "dpo")
    margins = [row["margin"] for row in opened(tmp_path / "all")["train"].to_list()]
    told = exported(pool, tmp_path / "out", "dpo", min_margin=0.3)
    close = sum(margin < 0.3 for margin in margins)
    assert 0 < close == told.ledger["left_out"]["below_margin"][""]
    assert told.ledger["exported"] == every.ledger["exported"] - close
    assert adds_up(told)


def test_of_several_rows_of_a_prompt_one_makes_a_pair(tmp_path: Path, opened: Any) -> None:
    found = made(tmp_path, selection={"rule": "top_k", "k": 3})
    told = exported(found, tmp_path / "out", "dpo")
    assert adds_up(told)
    assert told.ledger["left_out"]["further_row"][""] > 0
    keys = opened(tmp_path / "out")["train"]["prompt_id"]
    assert len(set(keys)) == len(list(keys))
    every = exported(found, tmp_path / "sft")
    assert every.ledger["exported"] == every.ledger["rows"] > PROMPTS


# Hostile texts


class Says:
    """A teacher that answers with given texts in turn, and an Arbiter that prefers the long."""

    max_in_flight = 4

    def __init__(
        self, texts: Sequence[str], reasoning: str | None = None, finish: str = "stop"
    ) -> None:
        self._texts, self._reasoning, self._finish, self._next = texts, reasoning, finish, 0

    async def generate(self, prompt: Any, sampling: Any, seeds: Sequence[int]) -> list[Completion]:
        text = self._texts[self._next % len(self._texts)]
        self._next += 1
        return [Completion(text, self._finish, 1, 1, self._reasoning) for _ in seeds]

    async def score(self, prompt: Any, completion: str) -> float:
        return float(len(completion))

    def provenance(self) -> dict[str, str]:
        return {"engine": "fake", "version": "0"}


HOSTILE = [
    "x" * 100_000,
    "a\u2028b\u2029c\x85d\x0be\x1cf\x00g\x7fh\x1b[2Ji\rj\nk",
    "---\nlicense: mit\n---",
    "\u202eabc\u202c \u2067x\u2069 \u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469",
    '{"messages": []}\n{"messages": []}',
]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_any_text_arrives_as_it_was(tmp_path: Path, opened: Any, kind: str) -> None:
    off = dict.fromkeys(("repetition", "script", "instruction", "truncated", "empty"), False)
    engines = {"a": Says(HOSTILE, "think\u2028twice"), "arbiter": Says([])}
    found = made(tmp_path, {"a": fake()}, gates=off, engines=engines)
    told = exported(found, tmp_path / "out", kind=kind, reasoning=True)
    data = opened(tmp_path / "out")["train"].to_list()
    assert Counter(row["messages"][-1]["content"] for row in data) == Counter(
        found.frame("selected")["completion"]
    )
    assert {row["messages"][-1]["content"] for row in data} == set(HOSTILE)
    assert {row["messages"][-1]["reasoning_content"] for row in data} == {"think\u2028twice"}
    if kind == "jsonl":
        text = (tmp_path / "out" / told.files[0].path).read_bytes().decode()
        assert len(text.splitlines()) == PROMPTS


def test_reasoning_is_left_out_by_itself(tmp_path: Path, opened: Any) -> None:
    engines = {
        "a": Says(["long answer"], "so"),
        "b": Says(["answer"], "hm"),
        "arbiter": Says([]),
    }
    found = made(tmp_path, {name: POOL[name] for name in "ab"}, engines=engines)
    exported(found, tmp_path / "plain")
    turn = opened(tmp_path / "plain")["train"][0]["messages"][-1]
    assert turn == {"role": "assistant", "content": "long answer"}
    exported(found, tmp_path / "dpo", "dpo", reasoning=True)
    row = opened(tmp_path / "dpo")["train"][0]
    assert row["chosen"][0]["reasoning_content"] == "so"
    assert row["rejected"][0]["reasoning_content"] == "hm"
    for form in ("openai", "sharegpt"):
        with pytest.raises(UsageError, match="no place for reasoning"):
            exported(found, tmp_path / form, form, reasoning=True)


# Licenses


def barred(*names: str, **more: Any) -> dict[str, Any]:
    pool = {**POOL, **more}
    return {k: {**v, "for_training": k not in names} for k, v in pool.items()}


def test_answers_that_are_not_for_training_stand_in_no_row(tmp_path: Path, opened: Any) -> None:
    found = made(tmp_path, barred("b"))
    won = Counter(found.frame("selected")["teacher"])
    told = exported(found, tmp_path / "out")
    assert told.ledger["left_out"] == {"not_for_training": {"b": won["b"]}}
    assert adds_up(told)
    assert set(opened(tmp_path / "out")["train"]["teacher"]) == {"a", "c"}
    pairs = exported(found, tmp_path / "dpo", "dpo")
    assert adds_up(pairs)
    assert pairs.ledger["left_out"]["pair_not_for_training"]["b"] > 0
    for row in opened(tmp_path / "dpo")["train"].to_list():
        assert "b" not in (row["teacher"], row["rejected_teacher"])
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"whose answers are not for training: b {won['b']} | {won['b']} |" in card
    assert "Answers of b are not for training" in card


def test_the_next_best_takes_the_place(tmp_path: Path, opened: Any) -> None:
    found = made(tmp_path, barred("b"))
    product = found.frame("selected").set_index("prompt_id")
    told = exported(found, tmp_path / "out", next_best=True)
    assert adds_up(told)
    rows = {row["prompt_id"]: row for row in opened(tmp_path / "out")["train"].to_list()}
    replaced = 0
    for key, theirs in product.iterrows():
        enforced = set(found.config.gates.enforced())
        able = [
            one
            for one in theirs["candidates"]
            if one["reward"] is not None and one["error"] is None and one["teacher"] != "b"
            if not enforced & set(one["gates"])
        ]
        if not able:
            assert key not in rows
            continue
        best = max(able, key=lambda one: one["reward"])
        assert (rows[key]["teacher"], rows[key]["reward"]) == (best["teacher"], best["reward"])
        texts = frame(found.store.root, f"candidates/{best['teacher']}-").set_index("prompt_id")
        assert rows[key]["messages"][-1]["content"] == texts.loc[key, "completion"]
        replaced += theirs["teacher"] == "b"
    assert told.ledger["next_best"] == {"b": replaced}
    assert replaced > 0


def test_what_was_fused_from_answers_not_for_training_is_left_out(
    tmp_path: Path, opened: Any
) -> None:
    fuser = {"engine": "fake", "options": {"skill": 0.95, "voice": "f"}}
    found = made(tmp_path, barred("c"), fuser=fuser)
    enforced = set(found.config.gates.enforced())
    product = found.frame("selected")
    mine = product[product["teacher"] == "fuser"]
    tainted = sum(
        any(c["teacher"] == "c" and not enforced & set(c["gates"]) for c in row)
        for row in mine["candidates"]
    )
    told = exported(found, tmp_path / "out")
    assert 0 < tainted < len(mine), "c is cut off for some prompts, and was not read there"
    assert told.ledger["left_out"]["fused_not_for_training"] == {"c": tainted}
    kept = Counter(opened(tmp_path / "out")["train"]["teacher"])
    assert kept["fuser"] == len(mine) - tainted
    assert adds_up(told)


def test_a_license_that_was_written_down_later_counts(tmp_path: Path, opened: Any) -> None:
    found = made(tmp_path)
    later = make_config(tmp_path, barred("b", c={**POOL["c"], "license": "MIT"}))
    told = export(found.store.root, tmp_path / "out", Wanted("sft"), now=later)
    assert set(told.ledger["left_out"]) == {"not_for_training"}
    assert told.unlicensed == []
    assert set(opened(tmp_path / "out")["train"]["license"]) == {"Apache-2.0", "MIT"}


def test_who_asked_again_is_the_teacher_itself(tmp_path: Path, opened: Any) -> None:
    teachers = barred("c", c={**fake(0.5, options={"truncate": 0.9, "voice": "c"})})
    found = made(tmp_path, {"c": teachers["c"], "a": POOL["a"]}, retry={})
    told = exported(found, tmp_path / "out")
    assert set(told.ledger["left_out"]["not_for_training"]) == {"c"}
    assert set(opened(tmp_path / "out")["train"]["teacher"]) == {"a"}


def test_a_teacher_that_the_config_has_no_longer_is_known_by_its_model(
    tmp_path: Path, opened: Any
) -> None:
    teachers = {
        "a": fake(0.5, options={"voice": "a"}, model="org/one", license="MIT"),
        "b": fake(0.5, options={"voice": "b"}, model="org/one"),
        "c": fake(0.5, options={"voice": "c"}, model="org/two"),
        "d": fake(0.1, options={"voice": "d"}, model="org/three", license="MIT"),
    }
    whole = made(tmp_path, teachers)
    won = Counter(whole.frame("selected")["teacher"])
    source = tmp_path / "prompts.jsonl"
    resume(make_config(tmp_path, {name: teachers[name] for name in "ad"}, source))
    told = exported(whole, tmp_path / "out")
    assert told.outdated == PROMPTS // 8
    assert told.unlicensed == ["c"]
    assert told.licenses == {"MIT": PROMPTS - won["c"], "not recorded": won["c"]}
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"| c | org/two | not recorded | fake | not recorded | {won['c']} |" in card
    assert "5 shards of its product were not yet as the run's config says" in card
    barring = {"a": {**teachers["a"], "for_training": False}, "d": teachers["d"]}
    now = make_config(tmp_path, barring, source)
    less = export(whole.store.root, tmp_path / "less", Wanted("sft"), now=now)
    assert less.ledger["left_out"] == {
        "not_for_training": {name: won[name] for name in "ab" if won[name]}
    }
    assert set(opened(tmp_path / "less")["train"]["teacher"]) <= {"c", "d"}


def test_the_next_best_of_several_rows_is_none_of_them(tmp_path: Path, opened: Any) -> None:
    found = made(tmp_path, barred("b"), selection={"rule": "top_k", "k": 2, "min_reward": 0.3})
    told = exported(found, tmp_path / "out", next_best=True)
    assert adds_up(told)
    assert told.ledger["next_best"]["b"] > 0
    rows = opened(tmp_path / "out")["train"].to_list()
    said = [(row["prompt_id"], row["messages"][-1]["content"]) for row in rows]
    assert len(set(said)) == len(said)
    assert min(row["reward"] for row in rows) >= 0.3
    assert {row["teacher"] for row in rows} == {"a", "c"}


def test_what_fails_a_gate_is_no_next_best_but_may_be_rejected(tmp_path: Path, opened: Any) -> None:
    engines = {
        "a": Says(["the very longest answer"]),
        "b": Says(["a rather long answer"], finish="length"),
        "c": Says(["a fair answer"]),
        "d": Says(["an answer"], finish="length"),
        "arbiter": Says([]),
    }
    pool = barred("a", d=fake(0.5, options={"voice": "d"}))
    found = made(tmp_path, pool, engines=engines)
    exported(found, tmp_path / "out", "dpo", next_best=True)
    rows = opened(tmp_path / "out")["train"].to_list()
    assert {(row["teacher"], row["rejected_teacher"]) for row in rows} == {("c", "d")}
    assert {row["margin"] for row in rows} == {float(len("a fair") - len("an"))}
    now = make_config(tmp_path, barred("a", "d", d=pool["d"]), tmp_path / "prompts.jsonl")
    with pytest.raises(InputError, match="no_pair 40"):
        export(found.store.root, tmp_path / "x", Wanted("dpo", next_best=True), now=now)
    now = make_config(tmp_path, barred("a", "c", d=pool["d"]), tmp_path / "prompts.jsonl")
    with pytest.raises(InputError, match="not_for_training 40"):
        export(found.store.root, tmp_path / "x", Wanted("sft", next_best=True), now=now)
    now = make_config(tmp_path, barred("d", d=pool["d"]), tmp_path / "prompts.jsonl")
    with pytest.raises(InputError, match="pair_not_for_training 40"):
        export(found.store.root, tmp_path / "x", Wanted("dpo"), now=now)
    export(found.store.root, tmp_path / "out", Wanted("dpo", next_best=True), now=now)
    rows = opened(tmp_path / "out")["train"].to_list()
    assert {(row["teacher"], row["rejected_teacher"]) for row in rows} == {("a", "c")}


def test_who_asked_again_is_known_when_nobody_is_asked_again_any_more(tmp_path: Path) -> None:
    pool = barred("c", c=fake(0.5, options={"truncate": 0.9, "voice": "c"}))
    teachers = {name: pool[name] for name in "ac"}
    found = made(tmp_path, {"c": pool["c"]}, retry={})
    again = int((found.frame("selected")["teacher"] == "c.retry").sum())
    assert again > 0
    resume(make_config(tmp_path, teachers, tmp_path / "prompts.jsonl"))
    with pytest.raises(InputError, match="not_for_training"):
        exported(found, tmp_path / "out")


def test_of_two_with_its_model_the_one_that_is_barred_counts(tmp_path: Path) -> None:
    teachers = {
        name: fake(0.5, options={"voice": name}, model="org/one", for_training=name != "b")
        for name in "abc"
    }
    found = made(tmp_path, teachers)
    won = Counter(found.frame("selected")["teacher"])
    now = {name: teachers[name] for name in "ab"}
    resume(make_config(tmp_path, now, tmp_path / "prompts.jsonl"))
    told = exported(found, tmp_path / "out")
    assert told.ledger["left_out"] == {"not_for_training": {"b": won["b"], "c": won["c"]}}


# Pairs that cannot be


def test_where_the_other_texts_are_gone_there_is_no_pair(tmp_path: Path) -> None:
    found = made(tmp_path)
    for path in found.store.root.glob("candidates/b-*/*.parquet"):
        path.unlink()
    with pytest.raises(InputError, match="text_gone 40"):
        exported(found, tmp_path / "out", "dpo")
    assert exported(found, tmp_path / "out").ledger["exported"] == PROMPTS


def test_texts_that_are_not_those_of_the_product_are_refused(tmp_path: Path) -> None:
    found = made(tmp_path)
    path = next(iter(sorted(found.store.root.glob("candidates/b-*/*.parquet"))))
    relative = path.relative_to(found.store.root).as_posix()
    table, _, footer = found.store.read(relative)
    longer = pa.array([f"{text}!" for text in table["completion"].to_pylist()])
    at = table.column_names.index("completion")
    changed = table.set_column(at, table.schema.field(at), longer)
    note = {key: value for key, value in footer.items() if key != "kind"}
    found.store.publish(relative, changed, note)
    with pytest.raises(StoreError, match="not those that the product was made of"):
        exported(found, tmp_path / "out", "dpo")
    assert not (tmp_path / "out").exists()


def test_where_no_arbiter_is_trusted_there_is_no_pair(tmp_path: Path) -> None:
    outcomes = [
        Outcome(code, None, 1.0 if n < good else -1.0, 0.0, 5 + n, 5)
        for code, good in {"de": 10, "ja": 10, "sw": 4}.items()
        for n in range(10)
    ]
    subject = Subject("first", "0" * 12, None, None, {})
    evidence = Evidence("d" * 32, ("pairs.jsonl",), len(outcomes), len(outcomes), {})
    card = make(subject, evidence, outcomes, [], least=0.7, package="0")
    (tmp_path / "card.json").write_text(card.as_json(), encoding="utf-8")
    trust = {"card": str(tmp_path / "card.json"), "preferred": {"default": ["c", "a", "b"]}}
    found = made(tmp_path, trust=trust)
    told = exported(found, tmp_path / "out", "dpo")
    swahili = int((found.frame("selected")["language"] == "sw").sum())
    assert told.ledger["left_out"]["not_trusted"] == {"": swahili}
    assert set(told.languages) == {"de", "ja"}
    assert "sw" in found.components.judging.remark
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "sw" in text[text.index("## Limits") :]


# Parts of a run


def test_languages_teachers_and_a_limit(tmp_path: Path, pool: Run, opened: Any) -> None:
    product = pool.frame("selected")
    told = exported(pool, tmp_path / "de", languages=("deu", "sw"), teachers=("a", "c"))
    keep = product[product["language"].isin(["de", "sw"]) & product["teacher"].isin(["a", "c"])]
    assert list(opened(tmp_path / "de")["train"]["prompt_id"]) == keep["prompt_id"].tolist()
    assert adds_up(told)
    few = exported(pool, tmp_path / "few", limit=5)
    more = exported(pool, tmp_path / "more", limit=12)
    lots = product["prompt_id"].map(lambda key: lot_of("limit", key))
    mine = list(opened(tmp_path / "few")["train"]["prompt_id"])
    assert mine == product[lots <= lots.nsmallest(5).max()]["prompt_id"].tolist()
    assert set(mine) < set(opened(tmp_path / "more")["train"]["prompt_id"])
    assert (few.ledger["exported"], more.ledger["exported"]) == (5, 12)
    assert few.ledger["left_out"] == {"over_limit": {"": PROMPTS - 5}}


def test_splits_and_languages_have_files_of_their_own(
    tmp_path: Path, pool: Run, opened: Any
) -> None:
    told = exported(pool, tmp_path / "out", splits=SPLITS, per_language=True, kind="jsonl")
    assert adds_up(told)
    data = opened(tmp_path / "out", "default")
    assert set(data) == {"train", "validation"}
    assert {name: len(part) for name, part in data.items()} == told.splits
    keys = {key for part in data.values() for key in part["prompt_id"]}
    assert keys == set(pool.frame("selected")["prompt_id"])
    for code, count in told.languages.items():
        mine = opened(tmp_path / "out", code)
        assert sum(len(part) for part in mine.values()) == count
        assert {c for part in mine.values() for c in part["language"]} == {code}


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"languages": ("fr",)}, "no row of the run is in 'fr'"),
        ({"teachers": ("aa",)}, "no teacher 'aa'; did you mean 'a'"),
        ({"columns": ("rewards",)}, "did you mean 'reward'"),
        ({"min_margin": 1.0}, "a least margin is for pairs"),
        ({"splits": (("train", 0.5), ("test", 0.4))}, "add up to 1"),
        ({"form": "openai", "kind": "parquet"}, "drop `--to parquet`"),
        ({"form": "openai", "columns": ("reward",)}, "no other columns"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_sentence(
    tmp_path: Path, pool: Run, wishes: dict[str, Any], message: str
) -> None:
    form = wishes.get("form", "sft")
    rest = {k: v for k, v in wishes.items() if k != "form"}
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        exported(pool, tmp_path / "out", form, **rest)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_row_to_export_makes_no_folder(tmp_path: Path, pool: Run) -> None:
    with pytest.raises(InputError, match="none of 40 rows is left"):
        exported(pool, tmp_path / "out", "dpo", min_margin=9.0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_progress_says_what_is_missing(tmp_path: Path, opened: Any) -> None:
    source = write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(PROMPTS))
    config = make_config(tmp_path, POOL, source)
    whole = run(config.model_copy(update={"run": str(tmp_path / "whole")}))
    cut = next(n for n, (task, _) in enumerate(whole.done) if task.stage == "select") + 1
    part = run(config, stop_after=cut)
    told = exported(part, tmp_path / "out")
    assert told.unfinished == PROMPTS - told.ledger["exported"] > 0
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"not complete when this was exported: {told.unfinished} of its {PROMPTS}" in card


def test_quarantined_prompts_are_told_of(tmp_path: Path) -> None:
    found = made(tmp_path, {"a": fake(0.5, options={"truncate": 0.5}), "b": POOL["b"]},
                 routing={"router": "fixed", "table": {"default": ["a"]}})  # fmt: skip
    lost = len(found.frame("quarantine"))
    told = exported(found, tmp_path / "out")
    assert 0 < lost == PROMPTS - told.ledger["exported"]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"| without a usable answer (quarantined) | {lost} |" in card
    assert f"| quarantined: gates | {lost} |" in card


# Whole or not at all


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, pool: Run) -> None:
    for name in ("one", "two"):
        exported(pool, tmp_path / name, "dpo", splits=SPLITS, per_language=True, limit=20)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    paper = json.loads((tmp_path / "one" / "export.json").read_text("utf-8"))
    for entry in paper["files"]:
        data = (tmp_path / "one" / entry["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert len(data) == entry["size_bytes"]
    assert sum(entry["rows"] for entry in paper["files"]) == paper["ledger"]["exported"]


def test_only_an_earlier_export_is_replaced(tmp_path: Path, pool: Run) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years", "utf-8")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="no earlier export"):
            exported(pool, mine, overwrite=overwrite)
    assert files_of(mine) == {"thesis.txt": b"years"}
    out = tmp_path / "out"
    out.mkdir()
    exported(pool, out, "dpo")
    exported(pool, out)
    assert set(files_of(out)) == {"README.md", "export.json", "data/train-00000-of-00001.parquet"}
    (out / "README.md").write_text("my own words", "utf-8")
    with pytest.raises(UsageError, match=r"changed since it was exported \(README.md\)"):
        exported(pool, out)
    exported(pool, out, overwrite=True)
    assert "my own words" not in (out / "README.md").read_text("utf-8")
    with pytest.raises(UsageError, match="in the run directory"):
        exported(pool, Path(pool.store.root) / "out")
    with pytest.raises(UsageError, match="is an address"):
        export(pool.store.root, "s3://bucket/x", Wanted("sft"))
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "out"}


def test_an_export_that_fails_leaves_what_was_there(
    tmp_path: Path, pool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(pool, tmp_path / "out")
    before = files_of(tmp_path / "out")

    def full(self: DataFolder) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DataFolder, "finish", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        exported(pool, tmp_path / "out", "dpo")
    assert files_of(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from arbitrage import datafolder, exporting
from arbitrage.sieve import Wanted
whole, calls = getattr(datafolder.DataFolder, sys.argv[3]), []
def dies(self, *args, **more):
    found = whole(self, *args, **more)
    calls.append(1)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return found
setattr(datafolder.DataFolder, sys.argv[3], dies)
exporting.export(sys.argv[1], sys.argv[2], Wanted("sft"), exporting.Layout(file_rows=10))
"""


@pytest.mark.parametrize(("method", "call"), [("add", 25), ("finish", 1), ("write_papers", 1)])
def test_a_killed_export_leaves_no_half_made_folder(
    tmp_path: Path, pool: Run, method: str, call: int
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(pool.store.root), str(out)]
    died = subprocess.run([*command, method, str(call)], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1, "what it was at lies beside"
    exported(pool, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_put_aside_comes_back(tmp_path: Path, pool: Run) -> None:
    import socket

    exported(pool, tmp_path / "out")
    before = files_of(tmp_path / "out")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    aside = tmp_path / f".out.old-{socket.gethostname()}-{gone.pid}"
    os.rename(tmp_path / "out", aside)  # noqa: PTH104
    with pytest.raises(InputError):
        exported(pool, tmp_path / "out", "dpo", min_margin=9.0)
    assert files_of(tmp_path / "out") == before


# Elsewhere


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3_server() as found:
        yield found


def test_a_run_at_an_address_gives_the_same_folder(
    tmp_path: Path, pool: Run, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import fs

    there = address(port, "run")
    system, place = fs.FileSystem.from_uri(there)
    root = str(pool.store.root)
    fs.copy_files(
        root, place, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system
    )
    told = export(there, tmp_path / "far", Wanted("dpo", splits=SPLITS))
    near = exported(pool, tmp_path / "near", "dpo", splits=SPLITS)
    assert told.ledger == near.ledger
    far, here = files_of(tmp_path / "far"), files_of(tmp_path / "near")
    data = {key for key in here if key.startswith("data/")}
    assert {key: far[key] for key in data} == {key: here[key] for key in data}
    assert b"127.0.0.1" not in b"".join(far.values())
