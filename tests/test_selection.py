"""The choice against a plain loop over prompts that sorts each one's candidates by the rule."""

from __future__ import annotations

import hashlib
import math
import random
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage.selection import SELECTORS, Choice, Field, best

NAN = math.nan


class Candidate(NamedTuple):
    """One row as a person would write it."""

    prompt: str
    teacher: str
    sample: int
    score: float
    eligible: bool


def field_of(rows: list[Candidate], prompts: list[str], teachers: list[str]) -> Field:
    return Field(
        prompts,
        teachers,
        np.array([prompts.index(row.prompt) for row in rows], np.int64),
        np.array([teachers.index(row.teacher) for row in rows], np.int64),
        np.array([row.sample for row in rows], np.int64),
        np.array([row.score for row in rows], np.float64),
        np.array([row.eligible for row in rows], bool),
    )


def lot(row: Candidate) -> bytes:
    """The documented draw among equals."""
    key = f"{row.prompt}/{row.teacher}/{row.sample}"
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def ranked(rows: list[Candidate], prompt: str) -> list[Candidate]:
    """The eligible candidates of a prompt, best first, by the rule and nothing else."""
    mine = [row for row in rows if row.prompt == prompt and row.eligible]
    return sorted(mine, key=lambda row: (-row.score, lot(row)))


def named(field: Field, choice: Choice, prompt: int) -> list[tuple[str, int]]:
    """(teacher, sample) of a prompt's candidates in the order of the choice."""
    order = choice.order[choice.starts[prompt] : choice.starts[prompt + 1]]
    assert all(field.prompt[index] == prompt for index in order)
    return [(field.teachers[int(field.teacher[i])], int(field.sample[i])) for i in order]


def outcome(field: Field) -> dict[str, tuple[bool, str, list[tuple[str, int]]]]:
    """Everything that a choice says, by prompt id."""
    choice = best(field)
    return {
        prompt: (bool(choice.chosen[n]), repr(float(choice.margin[n])), named(field, choice, n))
        for n, prompt in enumerate(field.prompt_ids)
    }


few_scores = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 0.25, 1.0])
any_scores = st.one_of(few_scores, st.floats(-1e12, 1e12), st.floats(-1e-300, 1e-300))


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Candidate], list[str], list[str]]:
    """Prompts with any number of candidates, none included; many ties, gaps and refusals."""
    prompts = [f"{n:032x}" for n in range(draw(st.integers(0, 6)))]
    teachers = [
        hashlib.blake2b(bytes([n])).hexdigest()[:12] for n in range(draw(st.integers(1, 4)))
    ]
    rows = []
    for prompt in prompts:
        for teacher in teachers:
            for sample in range(draw(st.integers(0, 3))):
                score = draw(st.one_of(any_scores, st.just(NAN)))
                eligible = not math.isnan(score) and draw(st.sampled_from([True, True, False]))
                rows.append(Candidate(prompt, teacher, sample, score, eligible))
    return draw(st.permutations(rows)), prompts, teachers


@given(pools())
@settings(max_examples=300, deadline=None)
def test_the_choice_is_that_of_sorting_each_prompt_alone(
    pool: tuple[list[Candidate], list[str], list[str]],
) -> None:
    rows, prompts, teachers = pool
    field = field_of(rows, prompts, teachers)
    choice = best(field)
    assert sorted(choice.order.tolist()) == list(range(len(rows)))
    assert choice.starts.tolist()[0] == 0
    assert choice.starts[-1] == len(rows)
    assert len(choice.starts) == len(prompts) + 1
    for number, prompt in enumerate(prompts):
        wanted = ranked(rows, prompt)
        found = named(field, choice, number)
        assert found[: len(wanted)] == [(row.teacher, row.sample) for row in wanted]
        assert len(found) == sum(row.prompt == prompt for row in rows)
        assert bool(choice.chosen[number]) == bool(wanted)
        if len(wanted) >= 2:
            assert choice.margin[number] == wanted[0].score - wanted[1].score
        else:
            assert math.isnan(choice.margin[number])


@given(pools())
@settings(max_examples=200, deadline=None)
def test_candidates_that_cannot_be_chosen_come_last_and_those_without_score_very_last(
    pool: tuple[list[Candidate], list[str], list[str]],
) -> None:
    rows, prompts, teachers = pool
    field = field_of(rows, prompts, teachers)
    choice = best(field)
    for number in range(len(prompts)):
        order = choice.order[choice.starts[number] : choice.starts[number + 1]]
        refused = [row for row in (rows[i] for i in order) if not row.eligible]
        assert [rows[i].eligible for i in order] == sorted(
            (rows[i].eligible for i in order), reverse=True
        )
        scores = [row.score for row in refused]
        known = [score for score in scores if not math.isnan(score)]
        assert scores[: len(known)] == sorted(known, reverse=True)


@given(pools(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_choice_depends_on_no_order(
    pool: tuple[list[Candidate], list[str], list[str]], rng: random.Random
) -> None:
    """Neither of candidates, nor of teachers, nor of prompts."""
    rows, prompts, teachers = pool
    wanted = outcome(field_of(rows, prompts, teachers))
    for shuffled in (rows, prompts, teachers):
        rng.shuffle(shuffled)
    assert outcome(field_of(rows, prompts, teachers)) == wanted


def test_ties_are_won_by_the_lot_and_by_every_teacher_about_as_often() -> None:
    prompts = [f"{n:032x}" for n in range(400)]
    teachers = ["aaaaaaaaaaaa", "mmmmmmmmmmmm", "zzzzzzzzzzzz"]
    rows = [Candidate(p, t, 0, 0.5, True) for p in prompts for t in teachers]
    field = field_of(rows, prompts, teachers)
    choice = best(field)
    winners = [named(field, choice, n)[0][0] for n in range(len(prompts))]
    assert winners == [ranked(rows, prompt)[0].teacher for prompt in prompts]
    assert all(100 < winners.count(teacher) < 170 for teacher in teachers)
    assert np.all(choice.margin == 0.0)


def test_a_run_of_ties_is_ordered_whole_and_stops_at_the_next_score() -> None:
    scores = [0.9, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1]
    rows = [Candidate("p", "t", n, score, True) for n, score in enumerate(scores)]
    rows += [Candidate("q", "t", n, 0.1, True) for n in range(3)]
    field = field_of(rows, ["p", "q"], ["t"])
    choice = best(field)
    for number, prompt in enumerate(("p", "q")):
        wanted = [("t", row.sample) for row in ranked(rows, prompt)]
        assert named(field, choice, number) == wanted
    assert choice.margin[0] == pytest.approx(0.4)


def test_an_equal_score_that_cannot_be_chosen_takes_no_part_in_the_lot() -> None:
    rows = [Candidate("p", "t", n, 0.5, n == 3) for n in range(6)]
    field = field_of(rows, ["p"], ["t"])
    choice = best(field)
    assert named(field, choice, 0)[0] == ("t", 3)
    assert math.isnan(choice.margin[0])


def test_prompts_without_candidates_are_not_chosen_wherever_they_stand() -> None:
    rows = [Candidate("b", "t", 0, 1.0, True), Candidate("d", "t", 0, NAN, False)]
    choice = best(field_of(rows, ["a", "b", "c", "d", "e"], ["t"]))
    assert choice.chosen.tolist() == [False, True, False, False, False]
    assert choice.starts.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.isnan(choice.margin).all()


def test_nothing_at_all_is_a_valid_choice() -> None:
    choice = best(field_of([], [], []))
    assert len(choice.order) == 0
    assert choice.starts.tolist() == [0]
    assert len(choice.margin) == len(choice.chosen) == 0


def test_the_input_is_left_as_it_is() -> None:
    rows = [Candidate("p", "t", n, 0.5, True) for n in range(5)]
    field = field_of(rows, ["p"], ["t"])
    before = [getattr(field, name).copy() for name in ("prompt", "teacher", "sample", "score")]
    best(field)
    after = [getattr(field, name) for name in ("prompt", "teacher", "sample", "score")]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_two_hundred_thousand_candidates_agree_with_a_groupby() -> None:
    prompts, candidates = 20_000, 200_000
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "prompt": rng.integers(0, prompts, candidates),
            "teacher": rng.integers(0, 8, candidates),
            "score": np.where(rng.random(candidates) < 0.05, np.nan, rng.random(candidates)),
            "gated": rng.random(candidates) < 0.1,
        }
    )
    table["sample"] = table.groupby(["prompt", "teacher"]).cumcount()
    eligible = table["score"].notna() & ~table["gated"]
    field = Field(
        [f"{n:032x}" for n in range(prompts)],
        [f"{n:012x}" for n in range(8)],
        table["prompt"].to_numpy(),
        table["teacher"].to_numpy(),
        table["sample"].to_numpy(),
        table["score"].to_numpy(),
        eligible.to_numpy(),
    )
    choice = best(field)
    usable = table[eligible].sort_values("score", ascending=False).groupby("prompt")
    top = usable.head(1).set_index("prompt")["score"]
    winner = choice.order[choice.starts[:-1][choice.chosen]]
    assert int(choice.chosen.sum()) == len(top)
    assert np.array_equal(np.flatnonzero(choice.chosen), np.sort(top.index))
    assert np.array_equal(field.score[winner], top.sort_index().to_numpy())
    second = usable.nth(1).set_index("prompt")["score"]
    margin = (top.loc[second.index] - second).sort_index()
    assert np.array_equal(np.flatnonzero(~np.isnan(choice.margin)), margin.index)
    assert np.array_equal(choice.margin[margin.index], margin.to_numpy())


def test_every_rule_in_the_table_is_a_function_of_a_field() -> None:
    field = field_of([Candidate("p", "t", 0, 1.0, True)], ["p"], ["t"])
    assert SELECTORS["best"] is best
    assert all(isinstance(rule(field), Choice) for rule in SELECTORS.values())
