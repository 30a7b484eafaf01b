"""The shipped models: that they are what they say, and that choosing among them is worth it."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import bench_micro
import micro_winrate
import train_micro
import train_second
from arbitrage.configfile import load
from arbitrage.resolve import resolve
from command_line import cli, write_config
from micro_world import HELDOUT, read_lexicons, world

if TYPE_CHECKING:
    from pathlib import Path

MODELS = train_micro.MODELS
NAMES = [*train_micro.read_pool(), train_micro.ARBITER]
MEGABYTE = 10**6


@cache
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MODELS / "training.json").read_text())
    return found


def test_the_weights_come_from_todays_training_examples_and_no_held_out_one_is_among_them() -> None:
    """The digest covers every text that was trained on, in order."""
    split = world(read_lexicons())
    assert record()["examples"]["digest"] == train_micro.digest(split.train)
    assert record()["examples"]["count"] == len(split.train)
    assert record()["languages"] == train_micro.read_pool()
    asked = {json.loads(line)["prompt"] for line in (HELDOUT / "prompts.jsonl").open()}
    assert not asked & {example.prompt for example in split.train}


def test_every_teacher_had_the_same_steps() -> None:
    cards = {name: (MODELS / name / "README.md").read_text("utf-8") for name in NAMES}
    recipe = record()["recipe"]
    seen = f"{(recipe['base_steps'] + recipe['teacher_steps']) * recipe['batch']:,} examples"
    assert all(seen in card for name, card in cards.items() if name != train_micro.ARBITER)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_small_and_of_safetensors_in_bfloat16(name: str) -> None:
    files = list((MODELS / name).iterdir())
    assert {path.suffix for path in files} == {".json", ".safetensors", ".jinja", ".md"}
    assert sum(path.stat().st_size for path in files) <= 5 * MEGABYTE
    with safe_open(MODELS / name / "model.safetensors", "pt") as weights:
        kinds = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert kinds == {torch.bfloat16}


def test_all_of_them_are_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*.*")) <= 40 * MEGABYTE


def test_a_teacher_answers_in_plain_transformers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "germanic")
    model = AutoModelForCausalLM.from_pretrained(MODELS / "germanic", dtype="float32")
    right = 0
    examples = [e for e in world(read_lexicons()).heldout if e.language == "de"]
    for example in examples:
        messages = [{"role": "user", "content": example.prompt}]
        asked = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt"
        )
        made = model.generate(**asked, max_new_tokens=48, do_sample=False)
        text = tokenizer.decode(made[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        right += text == example.answer
    assert right >= 0.85 * len(examples)


def test_the_arbiter_judges_in_plain_transformers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "arbiter")
    model = AutoModelForSequenceClassification.from_pretrained(MODELS / "arbiter", dtype="float32")

    def reward(prompt: str, answer: str) -> float:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        tokens = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            return float(model(**tokens).logits[0, 0])

    examples = [e for e in world(read_lexicons()).heldout if e.language == "ja"]
    others = examples[1:] + examples[:1]
    right = [
        reward(e.prompt, e.answer) > reward(e.prompt, o.answer)
        for e, o in zip(examples, others, strict=True)
    ]
    cut = [reward(e.prompt, e.answer) > reward(e.prompt, e.answer[:-3]) for e in examples]
    assert sum(right) >= 0.9 * len(examples)
    assert sum(cut) >= 0.9 * len(examples)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart, finished."""
    folder = tmp_path_factory.mktemp("pool") / "run"
    result = cli("run", bench_micro.CONFIG, "--set", f"run={folder}", timeout_s=900)
    assert result.returncode == 0, result.stderr
    assert "1,012 prompts = 1,012 selected + 0 quarantined" in result.stdout
    return folder


@pytest.fixture(scope="module")
def outcomes(run: Path) -> bench_micro.Outcomes:
    """What of it is right."""
    return bench_micro.read_outcomes(run, resolve(load(bench_micro.CONFIG).config))


@pytest.mark.cluster
def test_choosing_per_prompt_beats_the_best_teacher_by_twenty_points(
    outcomes: bench_micro.Outcomes,
) -> None:
    report = bench_micro.summarise(outcomes)
    assert report["prompts"] == 1012
    assert report["gain"].mean >= 0.20
    assert report["share_of_oracle"].mean >= 0.95
    every = report["all"]
    assert every["oracle"].mean >= every["arbitrage"].mean >= every["best single teacher"].mean
    assert report["gain"].low <= report["gain"].mean <= report["gain"].high


@pytest.mark.cluster
def test_every_specialist_beats_the_generalist_at_home(outcomes: bench_micro.Outcomes) -> None:
    for name, codes in train_micro.read_pool().items():
        rows = outcomes.right[outcomes.right.index.isin(codes)]
        assert name == "generalist" or rows[name].mean() > rows["generalist"].mean()


@pytest.mark.cluster
def test_the_pipeline_saw_no_answer(run: Path) -> None:
    prompts = pd.concat(map(pd.read_parquet, sorted((run / "prompts").glob("*.parquet"))))
    assert len(prompts) == 1012
    assert prompts["extra"].isna().all()
    assert all([turn["role"] for turn in turns] == ["user"] for turns in prompts["messages"])


@pytest.mark.cluster
def test_outcomes_are_what_a_reader_of_the_files_would_count(
    run: Path, outcomes: bench_micro.Outcomes
) -> None:
    answers = {
        row["id"]: row["answer"] for row in map(json.loads, (HELDOUT / "answers.jsonl").open())
    }
    rows = pd.read_parquet(run / "selected/latest")
    right = sum(row.completion == answers[row.user_id] for row in rows.itertuples())
    assert outcomes.right["arbitrage"].sum() == right


def test_intervals_hold_their_means_and_shrink_to_nothing_where_all_is_sure() -> None:
    names = ["one", *bench_micro.STRATEGIES]
    right = pd.DataFrame([[1.0] * len(names)] * 9 + [[0.0] * len(names)], columns=names)
    right.index = pd.Index(["de"] * 10, name="language")
    sure = right.iloc[:9].set_index(pd.Index(["fr"] * 9, name="language"))
    report = bench_micro.summarise(bench_micro.Outcomes(pd.concat([right, sure]), ["one"]))
    german, french = (report["languages"][code]["oracle"] for code in ("de", "fr"))
    assert german.mean == pytest.approx(0.9)
    assert german.low < german.mean < german.high
    assert (french.low, french.mean, french.high) == (1.0, 1.0, 1.0)
    assert report["all"]["oracle"].mean == pytest.approx(0.95)


def test_the_arbiter_tells_right_from_wrong_in_every_language() -> None:
    found = bench_micro.pair_accuracy(resolve(load(bench_micro.CONFIG).config))
    assert len(found) == 24
    assert min(row["all kinds"] for row in found.values()) >= 0.90, found


@pytest.mark.cluster
def test_win_rates_agree_with_the_truth(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a judge that knows it to the digit, those of another Arbiter in nearly all cases."""
    monkeypatch.setenv("PYTHONPATH", str(micro_winrate.ROOT / "scripts"))
    said = {"run": str(run)}
    config = {
        "evaluation": "evaluation",
        "questions": {"sources": [{"path": str(HELDOUT / "prompts.jsonl")}]},
        "models": {
            micro_winrate.OURS: said,
            **{name: {**said, "teacher": name} for name in train_micro.read_pool()},
        },
        "arbiters": {
            micro_winrate.OTHER: {
                "engine": "transformers",
                "model": str(train_second.OUT),
                "options": {"dtype": "float32"},
            },
            micro_winrate.TRUTH: yaml.safe_load(micro_winrate.RULE),
        },
        "analysis": {"resamples": 100},
    }
    made = cli("winrate", write_config(tmp_path, config), "-q")
    assert made.returncode == 0, made.stderr
    compared = list(micro_winrate.compare(tmp_path / "evaluation"))
    assert {one.teacher for one in compared} == set(train_micro.read_pool())
    everywhere = [one for one in compared if one.teacher == "generalist"]
    assert all(one.is_exact for one in everywhere)
    at_home = [one for one in compared if one.language and one not in everywhere]
    assert all(one.is_exact for one in at_home)
    sure = micro_winrate.sure_of(compared)
    assert len(sure) >= 20
    assert all(one.agrees(micro_winrate.TRUTH) for one in sure)
    assert sum(one.agrees(micro_winrate.OTHER) for one in sure) >= len(sure) - 1
