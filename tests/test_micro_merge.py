"""The study of merging: what it measures, what it chooses, and what it asks to be merged."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import micro_merge
import train_specialists
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.loading import load_merge
from micro_exact import exact
from micro_world import read_lexicons, world
from train_micro import MODELS, read_pool

if TYPE_CHECKING:
    from pathlib import Path

ROOT = train_specialists.OUT.parents[1]
SPLIT = world(read_lexicons())
GRID = micro_merge.grid(list(micro_merge.families()))
EVERY = [setting for many in GRID.values() for setting in many]


def test_one_forward_pass_says_what_greedy_generation_says() -> None:
    folder = MODELS / "generalist"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    examples = random.Random(3).sample(SPLIT.heldout, 32)
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=48,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    asked = tokenizer.apply_chat_template(
        [[{"role": "user", "content": example.prompt}] for example in examples],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
        padding=True,
    )
    made = model.generate(**asked, generation_config=greedy)[:, asked["input_ids"].shape[1] :]
    said = [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
    right = exact(model, tokenizer, examples)
    assert right == [text == example.answer for text, example in zip(said, examples, strict=True)]
    assert 8 < sum(right) < 32


def test_every_specialist_shares_english_spanish_and_french() -> None:
    pool, taught = read_pool(), train_specialists.specialties()
    assert list(taught) == [name for name in pool if name != "generalist"]
    for name, codes in taught.items():
        assert set(codes) == {*pool[name], "en", "es", "fr"}
    assert {code for codes in taught.values() for code in codes} == set(pool["generalist"])


@pytest.fixture(scope="module")
def specialist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One that was trained for two steps."""
    folder = tmp_path_factory.mktemp("specialists") / "romance"
    recipe = train_specialists.recipe_of(seed=3, steps=2, rate=1e-3)
    own = [example for example in SPLIT.train if example.language in ("it", "ro")][:80]
    record = train_specialists.record_of(recipe, ["it", "ro"], own)
    train_specialists._train_one(folder, own, recipe, record)
    return folder, record


def test_a_specialist_is_a_model_folder_with_card_and_record(
    specialist: tuple[Path, dict[str, Any]],
) -> None:
    folder, record = specialist
    tensors, base = (
        load_file(folder / "model.safetensors"),
        load_file(MODELS / "generalist/model.safetensors"),
    )
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in base.items()
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert any(not torch.equal(tensors[name], base[name]) for name in base)
    assert json.loads((folder / "training.json").read_text("utf-8")) == record
    assert "it, ro" in (folder / "README.md").read_text("utf-8")
    assert [path.name for path in folder.parent.iterdir()] == ["romance"]


def test_the_same_record_is_not_trained_again_and_another_one_is(
    specialist: tuple[Path, dict[str, Any]],
) -> None:
    folder, record = specialist
    assert train_specialists.is_there(folder, record)
    assert not train_specialists.is_there(folder, {**record, "base": "another"})
    assert not train_specialists.is_there(folder.with_name("germanic"), record)


def test_what_the_script_has_not_written_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "romance").mkdir()
    with pytest.raises(SystemExit, match="holds something else than a specialist"):
        train_specialists.is_there(tmp_path / "romance", {})


def test_the_grid_names_each_setting_once_and_begins_with_the_default() -> None:
    names = [setting.name for setting in EVERY]
    assert len(set(names)) == len(names)
    assert all(many[0].told == () for many in GRID.values())
    assert all(setting.method == method for method, many in GRID.items() for setting in many)


@pytest.mark.parametrize("setting", [one for one in EVERY if one.method != "slerp"], ids=str)
def test_every_setting_is_a_config_that_the_command_takes(setting: micro_merge.Setting) -> None:
    models = {name: f"models/{name}" for name in micro_merge.families()}
    config = MergeConfig.model_validate(micro_merge.config_of(setting, models))
    assert list(config.models) == list(models)
    for key, value in setting.told:
        way = key.split(".")
        told = config if len(way) == 1 else config.models[way[1]]
        assert getattr(told, way[-1]) == value


def test_the_example_merges_what_the_script_trains() -> None:
    config = load_merge(ROOT / "configs/merge.yaml")
    assert list(config.models) == list(train_specialists.specialties())
    for name, model in config.models.items():
        assert model.model.endswith(f"runs/specialists/{name}")


def test_the_command_averages_and_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    models = {name: str(MODELS / name) for name in ("germanic", "romance", "east-asian")}
    setting = micro_merge.Setting("linear", (("models.romance.weight", 2.0),))
    folder = micro_merge.merged(setting, models, tmp_path)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert micro_merge.merged(setting, models, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    parts = [load_file(MODELS / name / "model.safetensors") for name in models]
    for name, tensor in load_file(folder / "model.safetensors").items():
        german, romance, asian = (part[name].double() for part in parts)
        wanted = (german + 2 * romance + asian) / 4
        assert torch.allclose(tensor.double(), wanted, rtol=2**-8, atol=1e-6)


def test_slerp_takes_models_in_one_by_one_with_equal_shares(tmp_path: Path) -> None:
    models = {name: str(MODELS / name) for name in ("germanic", "romance", "east-asian")}
    whole = micro_merge.merged(micro_merge.Setting("slerp"), models, tmp_path)
    steps = [load_merge(tmp_path / f"slerp-of-{number}.yaml") for number in (2, 3)]
    assert [step.t for step in steps] == pytest.approx([1 / 2, 1 / 3])
    assert whole == tmp_path / "slerp-of-3"
    listed = [model.model for step in steps for model in step.models.values()]
    first, second, third = models.values()
    assert listed == [first, second, str(tmp_path / "slerp-of-2"), third]


def frame(right: list[list[float]]) -> pd.DataFrame:
    """One column per setting, questions as rows."""
    names = [f"de/sum/{number}+1/0" for number in range(len(right))]
    return pd.DataFrame(right, index=names, columns=[f"s{at}" for at in range(len(right[0]))])


def test_the_halves_are_fixed_and_about_equal() -> None:
    names = [example.name for example in SPLIT.heldout]
    first = micro_merge.halves(names)
    assert first == micro_merge.halves(names)
    assert 0.45 < np.mean(first) < 0.55


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=24, max_size=24))
def test_no_question_has_a_part_in_choosing_what_it_is_reported_on(drawn: list[list[bool]]) -> None:
    right = frame([[float(value) for value in row] for row in drawn])
    first = np.array(micro_merge.halves(list(right.index)))
    found, (by_first, by_second) = micro_merge.chosen(right, list(right))
    assert found[first].equals(right.loc[first, by_second].rename(None))
    assert found[~first].equals(right.loc[~first, by_first].rename(None))
    other = right.copy()
    other[first] = 1 - other[first]
    assert micro_merge.chosen(other, list(right))[1][1] == by_second
    means = right[~first].mean()
    assert means[by_second] == means.max()


def test_an_interval_is_that_of_a_plain_bootstrap() -> None:
    draw = random.Random(5)
    values = [draw.choice([0.0, 1.0, 1.0]) for _ in range(200)]
    found = micro_merge.estimate(pd.Series(values))
    means = sorted(sum(draw.choices(values, k=200)) / 200 for _ in range(4000))
    assert found.mean == pytest.approx(100 * sum(values) / 200)
    assert found.low == pytest.approx(100 * means[100], abs=1)
    assert found.high == pytest.approx(100 * means[3899], abs=1)


def test_steadiness_is_over_settings_and_seeds() -> None:
    frames = [frame([[1, 0], [1, 1]]), frame([[1, 0], [0, 0]])]
    found = micro_merge.steadiness(frames, ["s0", "s1"])
    assert (found.lowest, found.highest) == (0, 100)
    assert found.deviation == pytest.approx(np.std([100, 50, 50, 0]))
    assert found.seeds == pytest.approx(np.std([100, 50], ddof=1))


def outcomes(seed: int) -> pd.DataFrame:
    """A made-up study: specialists are right in half of all, merges in nine of ten."""
    draw = random.Random(seed)
    chance = {"base": 0.6, **dict.fromkeys(micro_merge.families(), 0.5)}
    chance |= {setting.name: 0.9 for setting in EVERY} | {"task_arithmetic": 0.0}
    names = [example.name for example in SPLIT.heldout]
    made = {name: [draw.random() < share for _ in names] for name, share in chance.items()}
    return pd.DataFrame(made, index=names)


def test_the_tables_and_sentences_say_what_was_measured() -> None:
    frames = [outcomes(1), outcomes(2)]
    written = io.StringIO()
    micro_merge.show(frames, Console(width=200, file=written))
    lines = written.getvalue().splitlines()
    base = np.mean([one["base"] for one in frames]) * 100
    german = np.mean([one["germanic"][one.index.str.startswith("de/")] for one in frames]) * 100
    row = next(line for line in lines if line.startswith("germanic")).split()
    heads = lines[0].replace("exact match, %", "model").split()
    assert next(line for line in lines if line.startswith("base")).split()[1] == f"{base:.1f}"
    assert row[-23:][heads[-23:].index("de")] == f"*{german:.0f}"
    assert sum(cell.startswith("*") for cell in row) == len(read_pool()["germanic"])
    home = next(line for line in lines if line.startswith("each at home")).split()
    assert home[-23:][heads[-23:].index("de")] == f"{german:.0f}"
    [better] = [line for line in lines if line.startswith("better than every single")]
    [worse] = [line for line in lines if line.startswith("worse than the best")]
    assert "linear, default" in better
    assert "ties, best" in better
    assert worse.endswith("task_arithmetic, default")
