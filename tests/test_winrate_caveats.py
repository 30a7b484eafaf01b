"""What is said of an evaluation's questions: rows that are none, and questions of before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arbitrage.stats.simulation import World, simulate
from arbitrage.winrate.analysis import analyse
from arbitrage.winrate.caveats import caveats_of
from arbitrage.winrate.choices import AnalysisConfig
from arbitrage.winrate.gathering import gathered
from contest_harness import contest_in, make_contest, model, play, questions
from harness import write_prompts

if TYPE_CHECKING:
    from pathlib import Path

MODELS = {"a": model("a"), "b": model("b")}


def told(folder: Path) -> list[str]:
    """All caveats of an evaluation of what the questions are now."""
    made = play(make_contest(folder, MODELS, baseline="b"))
    found = gathered(made.planner, made.store, made.config)  # type: ignore[arg-type]
    return caveats_of(found, contest_in(made), made.store)


def test_nothing_is_said_where_every_row_is_a_question(tmp_path: Path) -> None:
    write_prompts(tmp_path / "questions.jsonl", questions(3))
    assert told(tmp_path) == []


def test_rows_that_are_refused_are_counted_by_reason(tmp_path: Path) -> None:
    rows = questions(6)
    twice = [{**rows[n], "language": "it"} for n in (0, 1)]
    write_prompts(tmp_path / "questions.jsonl", [*rows, *twice, {**rows[0], "prompt": None}])
    assert told(tmp_path) == [
        "3 of 21 rows of the questions were refused and take no part (duplicate 2, null_prompt 1); "
        "the same text in two languages counts once, in the first"
    ]
    write_prompts(tmp_path / "questions.jsonl", [*rows, {**rows[0], "prompt": None}])
    assert told(tmp_path) == [
        "1 of 19 rows of the questions was refused and takes no part (null_prompt 1)"
    ]


def test_questions_of_sources_as_they_were_are_counted(tmp_path: Path) -> None:
    rows = questions(6)
    write_prompts(tmp_path / "questions.jsonl", rows)
    assert told(tmp_path) == []
    write_prompts(tmp_path / "questions.jsonl", [*rows[1:], *questions(8)[18:]])
    one = "1 question is of sources as they were before, and counts too; for the present ones alone"
    assert told(tmp_path) == [f"{one} give `evaluation:` a new folder"]
    write_prompts(tmp_path / "questions.jsonl", rows[:15])
    assert told(tmp_path)[0].startswith("9 questions are of sources as they were before, and count")


def test_verdicts_that_are_missing_in_one_order_are_told() -> None:
    world = World(
        strengths={"a": 0.3, "base": 0.0}, baseline="base", questions=200, first_shown=0.5
    )
    choices = AnalysisConfig(resamples=0)

    def told(**lost: float) -> list[str]:
        outcomes = simulate(replace(world, **lost), seed=1)  # type: ignore[arg-type]
        remarks = analyse(outcomes, choices, "base").remarks
        return [one for one in remarks if "missing in one order" in one]

    assert told(missing=0.3) == []
    assert len(told(missing_second=0.4)) == 1
