"""The three answers, against what the run was made to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arbitrage.account import Account, account
from arbitrage.shown import interval
from arbitrage.verdicts import Verdict, verdicts_of
from harness import fake, make_config, numbered_prompts, run, write_prompts


def made(folder: Path, pool: dict[str, Any], prompts: int = 60, **more: Any) -> Account:
    write_prompts(folder / "prompts.jsonl", numbered_prompts(prompts))
    return account(run(make_config(folder, pool, **more)).store.root)


def told(found: Account) -> dict[str, Verdict]:
    return {verdict.question: verdict for verdict in verdicts_of(found)}


def test_a_gain_that_was_worth_it_is_told_with_its_price(tmp_path: Path) -> None:
    pool = {"even": fake(0.5, options={"voice": "e"}), "rival": fake(0.5, options={"voice": "r"})}
    found = made(tmp_path, pool)
    worth = told(found)["Was it worth it?"]
    assert found.single is not None
    assert worth.tone == "good"
    assert interval(found.single.gain, sign="+") in worth.detail
    assert f"{found.single.better} of 60 prompts got a better answer" in worth.detail
    assert worth.answer.endswith("reward for 2.0\u00d7 the tokens")
    assert told(found)["Which teacher could go?"].answer.startswith("None for free")


def test_a_teacher_that_never_wins_could_go_for_nothing(tmp_path: Path) -> None:
    pool = {"good": fake(0.9), "idle": fake(0.05, sampling={"n": 3, "temperature": 0.9})}
    found = made(tmp_path, pool)
    verdict = told(found)["Which teacher could go?"]
    assert found.losses["idle"].reward.total == 0
    assert verdict.answer == "idle: no loss to be seen"
    assert "75\u00a0% of the tokens saved" in verdict.detail
    assert told(found)["Was it worth it?"].tone == "bad"
    assert "Not shown" in told(found)["Was it worth it?"].answer


def test_prompts_that_one_teacher_alone_answers_keep_it(tmp_path: Path) -> None:
    pool = {"german": fake(0.3, ["de"]), "others": fake(0.6, ["sw", "ja"])}
    found = made(tmp_path, pool)
    assert found.single is None
    verdict = told(found)["Which teacher could go?"]
    assert "20 prompts without any answer" in verdict.detail or "40 prompts" in verdict.detail
    assert not verdict.answer.endswith("no loss to be seen")


def test_the_weak_language_is_the_one_that_was_made_weak(tmp_path: Path) -> None:
    skill = {"default": 0.8, "sw": 0.3}
    pool = {"a": fake(skill, options={"voice": "a"}), "b": fake(skill, options={"voice": "b"})}
    verdict = told(made(tmp_path, pool))["Which language is weak?"]
    assert (verdict.answer, verdict.tone) == ("Swahili (sw)", "bad")


def test_where_languages_are_alike_none_is_called_weak(tmp_path: Path) -> None:
    pool = {"a": fake(0.5, options={"voice": "a"}), "b": fake(0.5, options={"voice": "b"})}
    found = made(tmp_path, pool, prompts=30)
    verdict = told(found)["Which language is weak?"]
    worst = min(found.languages, key=lambda row: row.reward.mean)
    is_weak = worst.reward.mean + worst.reward.half_width < found.reward.mean
    assert verdict.tone == ("bad" if is_weak else "plain")
    assert worst.language in verdict.answer


def test_one_teacher_one_language_and_nothing_have_an_answer(tmp_path: Path) -> None:
    alone = made(tmp_path / "one", {"alone": fake(0.5)}, prompts=6)
    assert [verdict.tone for verdict in verdicts_of(alone)][:2] == ["plain", "plain"]
    nothing = made(tmp_path / "none", {"mute": fake(0.5, options={"empty": 1.0})}, prompts=6)
    assert verdicts_of(nothing) == []


def test_what_is_lost_on_one_prompt_is_not_called_nothing(tmp_path: Path) -> None:
    pool = {"a": fake(0.2, options={"voice": "a"}), "b": fake(0.9, options={"voice": "b"})}
    found = made(tmp_path, pool, prompts=1)
    winner = max(found.losses, key=lambda name: found.losses[name].reward.total)
    loser = min(found.losses, key=lambda name: found.losses[name].reward.total)
    verdict = told(found)["Which teacher could go?"]
    assert found.losses[winner].reward.total > 0
    assert verdict.answer == f"{loser}: no loss to be seen"
    assert winner not in verdict.detail
