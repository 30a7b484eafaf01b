"""Training the micro-world's models: reproducible, on training examples alone, in usual formats."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import train_micro
from micro_training import (
    Recipe,
    encode,
    make_drafts,
    make_tokenizer,
    new_teacher,
    save,
    train_arbiter,
    train_teacher,
    wrong_pairs,
)
from micro_world import read_lexicons, world
from micro_wrong import WrongAnswers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = Recipe(
    vocabulary=400,
    hidden=32,
    intermediate=48,
    layers=1,
    heads=2,
    batch=8,
    base_steps=2,
    teacher_steps=3,
    arbiter_steps=2,
    arbiter_batch=4,
    rate=0.02,
    drafts_of_base=20,
    drafts_abroad=10,
)
LEXICONS = {code: lexicon for code, lexicon in read_lexicons().items() if code in ("en", "de")}
SPLIT = world(LEXICONS)


def silent(step: int, loss: float) -> None:
    """Hears nothing."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(SPLIT.train, SMALL)


def test_examples_are_told_as_the_chat_template_tells_them(tokenizer: Any) -> None:
    for example in SPLIT.train[:50]:
        row = encode(tokenizer, example.prompt, example.answer)
        question = [{"role": "user", "content": example.prompt}]
        answered = [*question, {"role": "assistant", "content": example.answer}]
        whole = tokenizer.apply_chat_template(answered, return_dict=False)
        asked = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_dict=False
        )
        assert row.tokens == whole
        assert row.tokens[: row.answer] == asked


def test_every_text_comes_back_from_its_tokens(tokenizer: Any) -> None:
    for example in world(read_lexicons()).heldout:
        for text in (example.prompt, example.answer):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(tokens) == text


def teach(tokenizer: Any, seen: Callable[[int, float], None] = silent, steps: int = 30) -> Any:
    model = new_teacher(tokenizer, SMALL)
    train_teacher(model, tokenizer, SPLIT.train, SMALL, steps, random.Random(1), seen)
    return model


def test_a_teacher_learns_and_the_same_seed_makes_the_same_one(tokenizer: Any) -> None:
    losses: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    first = teach(tokenizer, lambda step, loss: losses.append(loss))
    again = teach(tokenizer).state_dict()
    torch.set_num_threads(threads)
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(torch.equal(value, again[name]) for name, value in first.state_dict().items())


def make_judge(tokenizer: Any, recipe: Recipe, seen: Callable[[int, float], None] = silent) -> Any:
    source = random.Random(1)
    wrongs = wrong_pairs(WrongAnswers(LEXICONS, SPLIT.train), {}, source)
    base = new_teacher(tokenizer, recipe)
    return train_arbiter(base, tokenizer, SPLIT.train, wrongs, recipe, source, seen)


def test_an_arbiter_learns_to_prefer_right_answers(tokenizer: Any) -> None:
    recipe = replace(SMALL, arbiter_steps=80, arbiter_batch=8, arbiter_rate=0.01, imitation=0.0)
    losses: list[float] = []
    train_arbiter(
        new_teacher(tokenizer, recipe),
        tokenizer,
        SPLIT.train,
        lambda example: [example.answer[:-1], example.prompt],
        recipe,
        random.Random(1),
        lambda step, loss: losses.append(loss),
    )
    assert sum(losses[-10:]) < 0.5 * 10 * math.log(2)  # half the loss of not knowing


def test_drafts_are_what_the_model_says_where_that_is_wrong(tokenizer: Any) -> None:
    model = teach(tokenizer, steps=5)
    examples = SPLIT.train[:20]
    found = make_drafts(model, tokenizer, examples)
    assert set(found) <= {example.name for example in examples}
    for example in examples[:3]:
        asked = encode(tokenizer, example.prompt, "")
        made = model.generate(
            input_ids=torch.tensor([asked.tokens[: asked.answer]]),
            max_new_tokens=48,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        text = tokenizer.decode(made[0, asked.answer :], skip_special_tokens=True)
        whole = tokenizer.eos_token_id in made[0, asked.answer :]
        assert found.get(example.name) == (text if whole and text != example.answer else None)


def test_wrong_pairs_hold_a_wrong_word_and_half_of_the_others_are_drafts() -> None:
    [example] = [e for e in SPLIT.train if e.name == "en/capital/japan/0"]
    wrong = WrongAnswers(LEXICONS, SPLIT.train)
    draw = wrong_pairs(wrong, {example.name: ["draft"]}, random.Random(0))
    drawn = [draw(example) for _ in range(200)]
    assert all(word.startswith("The capital of Japan is ") for word, _ in drawn)
    assert 60 < sum(other == "draft" for _, other in drawn) < 140
    assert not any(example.answer in pair for pair in drawn)


def test_what_is_saved_loads_like_any_hub_model(tokenizer: Any, tmp_path: Path) -> None:
    teacher = teach(tokenizer, steps=2)
    arbiter = make_judge(tokenizer, SMALL)
    save(teacher, tokenizer, tmp_path / "teacher")
    save(arbiter, tokenizer, tmp_path / "arbiter")
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "teacher", output_loading_info=True, dtype="auto"
    )
    assert loaded.dtype == torch.bfloat16
    assert not report["missing_keys"]
    judge, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "arbiter", output_loading_info=True
    )
    assert judge.config.num_labels == 1
    assert not report["missing_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "teacher").chat_template


def test_the_whole_pool_is_trained_on_training_examples_and_twice_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int, float]] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        train_micro.train(tmp_path / name, SMALL, 2, lambda *news: told.append(news))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    pool = train_micro.read_pool()
    assert {path.parts[0] for path in files} == {*pool, "arbiter", "training.json"}
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    record = json.loads((tmp_path / "one/training.json").read_text())
    assert record["examples"]["digest"] == train_micro.digest(world(read_lexicons()).train)
    done = {(name, steps) for name, step, steps, _ in told if step == steps}
    assert done == {("base", 2), ("arbiter", 2), *((name, 3) for name in pool)}


def test_nothing_but_trained_models_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="holds something else"):
        train_micro.main(["--out", str(tmp_path)])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    train_micro.check_replaceable(tmp_path / "new")
    train_micro.check_replaceable(train_micro.MODELS)


def test_the_pool_is_parted_by_family_and_leaves_no_language_out() -> None:
    pool = train_micro.read_pool()
    everything = set(read_lexicons())
    assert set(pool["generalist"]) == everything
    specialists = [codes for name, codes in pool.items() if name != "generalist"]
    assert len(specialists) >= 5
    assert sorted(code for codes in specialists for code in codes) == sorted(everything)
