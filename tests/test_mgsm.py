"""The main job over 2,750 real prompts with real (microscopic) transformers models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from command_line import cli, done_tasks
from micro_models import make_arbiter, make_teacher

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[1]
MGSM = ROOT.parent / "shared/data/mgsm"
TEACHERS = ("generalist", "european", "asian-african")
EUROPEAN = {"de", "en", "es", "fr", "ru"}


def questions() -> list[tuple[str, int, str, str]]:
    """(language, line, question, answer) straight from the files."""
    return [
        (path.stem[-2:], number, *line.rstrip("\n").split("\t"))
        for path in sorted(MGSM.glob("mgsm_*.tsv"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    ]


@pytest.fixture(scope="module")
def mgsm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models and the finished run over all of MGSM."""
    if not MGSM.is_dir():
        pytest.skip(f"the MGSM test set is not beside the checkout ({MGSM.parent.name}/mgsm)")
    folder = tmp_path_factory.mktemp("mgsm")
    texts = [question for _, _, question, _ in questions()]
    for seed, name in enumerate(TEACHERS):
        make_teacher(folder / name, texts, seed)
    make_arbiter(folder / "arbiter", texts, seed=9)
    settings = [f"teachers.{name}.model={folder / name}" for name in TEACHERS]
    settings += [f"arbiter.model={folder / 'arbiter'}", f"run={folder / 'run'}"]
    settings += [f"prompts.sources.0.path={MGSM}/mgsm_{{language}}.tsv"]
    # Random weights seldom end an answer by themselves, and write letters of all scripts.
    settings += [
        f"gates.{name}=false" for name in ("truncated", "repetition", "script", "language")
    ]
    options = [part for setting in settings for part in ("--set", setting)]
    result = cli("run", ROOT / "configs/mgsm.yaml", *options, timeout_s=900)
    assert result.returncode == 0, result.stderr
    return folder


def table(folder: Path, pattern: str) -> pd.DataFrame:
    frames = [
        pd.read_parquet(path).assign(owner=path.parent.name.rpartition("-")[2])
        for path in sorted((folder / "run").glob(pattern))
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@pytest.fixture(scope="module")
def judged(mgsm: Path) -> pd.DataFrame:
    """Every candidate with its score, from the stage files."""
    candidates = table(mgsm, "candidates/*/*.parquet")
    scores = table(mgsm, "scores/*/*/*.parquet").rename(columns={"error": "score_error"})
    both = candidates.merge(
        scores, on=["prompt_id", "sample", "owner"], how="outer", validate="one_to_one"
    )
    assert len(both) == len(candidates) == len(scores)
    return both


def lot(row: pd.Series) -> str:
    key = f"{row.prompt_id}/{row.owner}/{row['sample']}"
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def test_every_question_is_selected_or_quarantined_once(mgsm: Path) -> None:
    rows = pd.read_parquet(mgsm / "run/selected/latest")
    lost = table(mgsm, "quarantine/select/*/*.parquet")
    refused = table(mgsm, "quarantine/read/*.parquet")
    assert rows.prompt_id.is_unique
    assert len(rows) + len(lost) + len(refused) == 2750
    assert len(rows) > 2700
    asked = {(language, question): answer for language, _, question, answer in questions()}
    for row in rows.itertuples():
        assert json.loads(row.extra) == {"answer": asked[row.language, row.messages[0]["content"]]}
    assert len(refused) == 2750 - len(asked), refused.reason.value_counts()


def test_each_teacher_answered_its_languages(mgsm: Path, judged: pd.DataFrame) -> None:
    prompts = table(mgsm, "prompts/*.parquet").set_index("prompt_id").language
    names = {path.name.rpartition("-")[2]: path.name.rpartition("-")[0]
             for path in (mgsm / "run/candidates").iterdir()}  # fmt: skip
    judged = judged.assign(language=judged.prompt_id.map(prompts), teacher=judged.owner.map(names))
    counts = judged.groupby("teacher").size().to_dict()
    european = int(prompts.isin(EUROPEAN).sum())
    assert counts == {
        "generalist": len(prompts),
        "european": 2 * european,
        "asian-african": 2 * (len(prompts) - european),
    }


def test_every_row_is_the_argmax(mgsm: Path, judged: pd.DataFrame) -> None:
    usable = judged[judged.score.notna() & (judged.completion.fillna("").str.strip() != "")]
    rows = pd.read_parquet(mgsm / "run/selected/latest").set_index("prompt_id")
    assert set(rows.index) == set(usable.prompt_id)
    for key, group in usable.groupby("prompt_id"):
        best = group[group.score == group.score.max()]
        expected = min((row for _, row in best.iterrows()), key=lot)
        row = rows.loc[key]
        assert row.reward == expected.score
        assert row.completion == expected.completion
        assert (row.teacher_fingerprint, row["sample"]) == (expected.owner, expected["sample"])
        others = sorted(group.score, reverse=True)
        assert row.margin == others[0] - others[1] if len(others) > 1 else pd.isna(row.margin)


def test_scores_are_those_of_the_bare_reward_model(mgsm: Path) -> None:
    rows = pd.read_parquet(mgsm / "run/selected/latest").sample(60, random_state=0)
    tokenizer = AutoTokenizer.from_pretrained(mgsm / "arbiter")
    model = AutoModelForSequenceClassification.from_pretrained(mgsm / "arbiter").float().eval()
    for row in rows.itertuples():
        text = tokenizer.apply_chat_template(list(row.messages), tokenize=False)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            logit = model(**inputs).logits.item()
        assert row.reward == pytest.approx(logit, abs=1e-4)


def test_greedy_answers_are_those_of_the_bare_model(mgsm: Path, judged: pd.DataFrame) -> None:
    prompts = table(mgsm, "prompts/*.parquet").set_index("prompt_id")
    owner = next((mgsm / "run/candidates").glob("generalist-*")).name.rpartition("-")[2]
    mine = judged[(judged.owner == owner) & judged.completion.notna()].sample(40, random_state=0)
    tokenizer = AutoTokenizer.from_pretrained(mgsm / "generalist")
    model = AutoModelForCausalLM.from_pretrained(mgsm / "generalist").eval()
    equal = 0
    for row in mine.itertuples():
        inputs = tokenizer.apply_chat_template(
            list(prompts.loc[row.prompt_id].messages),
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        made = model.generate(**inputs, do_sample=False, max_new_tokens=16, pad_token_id=0)
        text = tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        equal += text == row.completion
    assert equal >= 39


def test_teachers_took_turns_on_two_cores_without_doing_anything_twice(mgsm: Path) -> None:
    tasks = done_tasks(mgsm / "run")
    keys = [task["output"] for task in tasks]
    assert len(keys) == len(set(keys))
    assert sum(task["stage"] == "generate" for task in tasks) == len(
        list((mgsm / "run/candidates").glob("*/*.parquet"))
    )
