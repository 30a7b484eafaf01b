"""The choice against plain loops over prompts that sort each one's candidates by the rule."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from arbitrage.choices import SelectionConfig
from arbitrage.identity import canonical
from arbitrage.quotas import nothing, share_of
from arbitrage.selection import REASONS, SELECTORS, Choice, Field, Picks, choose, ranked

NAN = math.nan
BEST = SelectionConfig()
LANGUAGES = ["de", "sw"]


class Candidate(NamedTuple):
    """One row as a person would write it; an empty text is none."""

    prompt: str
    teacher: str
    sample: int
    score: float
    eligible: bool
    text: str = ""


def language_of(prompt: str) -> str:
    return LANGUAGES[int(prompt[-1], 16) % 2] if prompt[-1] in "0123456789abcdef" else "de"


def field_of(
    rows: list[Candidate],
    prompts: list[str],
    teachers: list[str],
    standing: dict[str, float] | None = None,
) -> Field:
    """`standing`: of the candidates of prompts in Swahili, by teacher."""
    texts = sorted({row.text for row in rows if row.text})
    orders = [
        standing[row.teacher] if standing and language_of(row.prompt) == "sw" else NAN
        for row in rows
    ]
    return Field(
        prompts,
        teachers,
        LANGUAGES,
        np.array([prompts.index(row.prompt) for row in rows], np.int64),
        np.array([teachers.index(row.teacher) for row in rows], np.int64),
        np.array([row.sample for row in rows], np.int64),
        np.array([row.score for row in rows], np.float64),
        np.array([row.eligible for row in rows], bool),
        np.array([texts.index(row.text) if row.text else -1 for row in rows], np.int64),
        np.array([LANGUAGES.index(language_of(prompt)) for prompt in prompts], np.int64),
        None if standing is None else np.array(orders, np.float64),
    )


def lot(row: Candidate) -> bytes:
    """The documented draw among equals."""
    return drawn(f"{row.prompt}/{row.teacher}/{row.sample}")


def drawn(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def sorted_by_rule(
    rows: list[Candidate], prompt: str, standing: dict[str, float] | None = None
) -> list[Candidate]:
    """The eligible candidates of a prompt, best first, each text once, by the rule alone."""
    mine = [row for row in rows if row.prompt == prompt and row.eligible]
    if standing and language_of(prompt) == "sw":
        mine.sort(key=lambda row: (-standing[row.teacher], lot(row)))
    else:
        mine.sort(key=lambda row: (-row.score, lot(row)))
    seen: set[str] = set()
    return [row for row in mine if not row.text or not (row.text in seen or seen.add(row.text))]  # type: ignore[func-returns-value]


def in_order(choice: Choice, number: int) -> list[int]:
    ranking = choice.ranking
    order = ranking.order[ranking.starts[number] : ranking.starts[number + 1]]
    assert all(ranking.field.prompt[index] == number for index in order)
    return [int(index) for index in order]


def named(field: Field, index: int) -> tuple[str, int]:
    return field.teachers[int(field.teacher[index])], int(field.sample[index])


def outcome(field: Field, config: SelectionConfig = BEST, earlier: Any = None) -> dict[str, Any]:
    """Everything that a choice says, by prompt id."""
    choice = choose(field, config, earlier)
    margin, twin = choice.ranking.margin, choice.ranking.same_as
    found: dict[str, Any] = {}
    for number, prompt in enumerate(field.prompt_ids):
        at = np.flatnonzero(choice.prompt == number)
        rows = [
            (named(field, int(choice.candidate[n])), repr(float(margin[choice.candidate[n]])))
            for n in at
        ]
        against = [named(field, int(i)) for i in choice.rejected[at] if i >= 0]
        order = [(named(field, i), named(field, int(twin[i]))) for i in in_order(choice, number)]
        found[prompt] = (REASONS[choice.reason[number]], rows, against, order)
    return {**found, "tally": choice.tally}


few_scores = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 0.25, 1.0])
any_scores = st.one_of(few_scores, st.floats(-1e12, 1e12), st.floats(-1e-300, 1e-300))
Pool = tuple[list[Candidate], list[str], list[str]]


@st.composite
def pools(draw: st.DrawFn, most: int = 6) -> Pool:
    """Prompts with any number of candidates, none included; many ties, twins, gaps, refusals."""
    prompts = [drawn(str(n)).hex() for n in range(draw(st.integers(0, most)))]
    teachers = [drawn(f"t{n}").hex()[:12] for n in range(draw(st.integers(1, 4)))]
    rows = []
    for prompt in prompts:
        for teacher in teachers:
            for sample in range(draw(st.integers(0, 3))):
                score = draw(st.one_of(any_scores, st.just(NAN)))
                eligible = not math.isnan(score) and draw(st.sampled_from([True, True, False]))
                text = draw(st.sampled_from(["x", "y", f"{teacher}{sample}"]))
                rows.append(Candidate(prompt, teacher, sample, score, eligible, text))
    return draw(st.permutations(rows)), prompts, teachers


# The order of the candidates of one prompt


@given(pools())
@settings(max_examples=300, deadline=None)
def test_the_order_is_that_of_sorting_each_prompt_alone(pool: Pool) -> None:
    rows, prompts, teachers = pool
    field = field_of(rows, prompts, teachers)
    choice = choose(field, BEST)
    ranking = choice.ranking
    assert sorted(ranking.order.tolist()) == list(range(len(rows)))
    assert ranking.starts.tolist()[0] == 0
    assert ranking.starts[-1] == len(rows)
    assert len(ranking.starts) == len(prompts) + 1
    for number, prompt in enumerate(prompts):
        wanted = sorted_by_rule(rows, prompt)
        order = in_order(choice, number)
        assert [rows[i] for i in order][: len(wanted)] == wanted
        assert len(order) == sum(row.prompt == prompt for row in rows)
        assert [bool(ranking.eligible[i]) for i in order].count(True) == len(wanted)
        best = int(ranking.best[number])
        assert (best >= 0) == bool(wanted)
        assert not wanted or rows[best] == wanted[0]
        for place, row in enumerate(wanted):
            after = wanted[place + 1 : place + 2]
            gap = row.score - after[0].score if after else NAN
            assert float(ranking.margin[order[place]]) == pytest.approx(gap, nan_ok=True)


@given(pools())
@settings(max_examples=200, deadline=None)
def test_candidates_that_cannot_be_chosen_come_last_and_those_without_score_very_last(
    pool: Pool,
) -> None:
    rows, prompts, teachers = pool
    choice = choose(field_of(rows, prompts, teachers), BEST)
    for number in range(len(prompts)):
        order = in_order(choice, number)
        able = [bool(choice.ranking.eligible[i]) for i in order]
        assert able == sorted(able, reverse=True)
        scores = [rows[i].score for i in order[sum(able) :]]
        known = [score for score in scores if not math.isnan(score)]
        assert scores[: len(known)] == sorted(known, reverse=True)


@given(pools())
@settings(max_examples=200, deadline=None)
def test_a_candidate_is_the_same_as_the_first_with_its_text_in_its_prompt(pool: Pool) -> None:
    rows, prompts, teachers = pool
    choice = choose(field_of(rows, prompts, teachers), BEST)
    for number in range(len(prompts)):
        seen: dict[str, int] = {}
        for index in in_order(choice, number):
            seen.setdefault(rows[index].text, index)
            assert choice.ranking.same_as[index] == seen[rows[index].text]


def test_what_has_no_text_is_no_duplicate() -> None:
    rows = [Candidate("a", "t", n, 0.5, True) for n in range(3)]
    choice = choose(field_of(rows, ["a"], ["t"]), BEST)
    assert choice.ranking.same_as.tolist() == list(range(len(rows)))


def test_the_same_text_in_another_prompt_is_no_duplicate() -> None:
    rows = [Candidate(name, "t", 0, 0.5, True, "same") for name in ("a", "b")]
    choice = choose(field_of(rows, ["a", "b"], ["t"]), BEST)
    assert choice.ranking.same_as.tolist() == list(range(len(rows)))
    assert choice.ranking.eligible.all()


def test_of_identical_candidates_the_lot_decides_and_the_margin_is_to_another_text() -> None:
    prompts = [f"{n:032x}" for n in range(60)]
    rows = [Candidate(p, t, 0, 0.75, True, "same") for p in prompts for t in ("u", "v")]
    rows += [Candidate(p, "w", 0, 0.5, True, "other") for p in prompts]
    field = field_of(rows, prompts, ["u", "v", "w"])
    choice = choose(field, BEST)
    for number, prompt in enumerate(prompts):
        wanted = min((row for row in rows[:120] if row.prompt == prompt), key=lot)
        assert named(field, int(choice.candidate[number])) == (wanted.teacher, 0)
    assert choice.ranking.margin[choice.candidate].tolist() == [0.25] * len(prompts)
    assert (choice.ranking.same_as != np.arange(len(rows))).sum() == len(prompts)


def test_ties_are_won_by_the_lot_and_by_every_teacher_about_as_often() -> None:
    prompts = [f"{n:032x}" for n in range(400)]
    teachers = ["aaaaaaaaaaaa", "mmmmmmmmmmmm", "zzzzzzzzzzzz"]
    rows = [Candidate(p, t, 0, 0.5, True, t) for p in prompts for t in teachers]
    field = field_of(rows, prompts, teachers)
    choice = choose(field, BEST)
    winners = [named(field, int(index))[0] for index in choice.candidate]
    assert winners == [sorted_by_rule(rows, prompt)[0].teacher for prompt in prompts]
    assert all(100 < winners.count(teacher) < 170 for teacher in teachers)
    assert np.all(choice.ranking.margin[choice.candidate] == 0.0)


def test_a_run_of_ties_is_ordered_whole_and_stops_at_the_next_score() -> None:
    scores = [0.9, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1]
    rows = [Candidate("a", "t", n, score, True) for n, score in enumerate(scores)]
    rows += [Candidate("b", "t", n, 0.1, True) for n in range(3)]
    field = field_of(rows, ["a", "b"], ["t"])
    choice = choose(field, BEST)
    for number, prompt in enumerate(("a", "b")):
        assert [rows[i] for i in in_order(choice, number)] == sorted_by_rule(rows, prompt)
    assert choice.ranking.margin[choice.candidate[0]] == pytest.approx(0.4)


def test_an_equal_score_that_cannot_be_chosen_takes_no_part_in_the_lot() -> None:
    rows = [Candidate("a", "t", n, 0.5, n == 3) for n in range(6)]
    field = field_of(rows, ["a"], ["t"])
    choice = choose(field, BEST)
    assert named(field, int(choice.candidate[0])) == ("t", 3)
    assert math.isnan(choice.ranking.margin[3])


# Every rule with everything that goes with it


@st.composite
def configs(draw: st.DrawFn) -> SelectionConfig:
    """Rules with any of what goes with them."""
    number = st.sampled_from([-1.0, 0.0, 0.2, 0.25, 1.0])
    limit = st.one_of(
        st.none(), number, st.dictionaries(st.sampled_from(["de", "sw", "default"]), number)
    )
    count = st.integers(1, 3)
    quotas = st.one_of(
        st.none(), count, st.dictionaries(st.sampled_from(["de", "sw", "default"]), count)
    )
    rule = draw(st.sampled_from(sorted(SELECTORS)))
    return SelectionConfig(
        rule=rule,
        k=draw(st.integers(1, 3)) if rule == "top_k" else 2,
        min_reward=draw(limit),
        min_margin=draw(limit),
        quota=draw(quotas),
        max_teacher_share=draw(st.sampled_from([None, None, 0.2, 0.5, 0.7, 1.0])),
    )


def said(limit: Any, language: str) -> Any:
    return limit.get(language, limit.get("default")) if isinstance(limit, dict) else limit


def lowest_beside(rows: list[Candidate], chosen: Candidate) -> Candidate | None:
    """What is rejected beside it, before it is looked at how much lower it is."""
    others = [
        row
        for row in rows
        if row.prompt == chosen.prompt
        and row.text
        and row.text != chosen.text
        and not math.isnan(row.score)
    ]
    return min(others, key=lambda row: (row.score, lot(row)), default=None)


class Slow:
    """The documented rules, one prompt and one candidate after the other."""

    def __init__(self, pool: Pool, config: SelectionConfig, standing: Any = None) -> None:
        self.rows, self.prompts, _ = pool
        self.config, self.standing = config, standing
        self.taken: dict[str, list[Candidate]] = {}
        self.reasons: dict[str, str] = {}
        self.tally: Any = nothing()

    def usable(self, prompt: str) -> list[Candidate] | str:
        """What can be taken of a prompt, best first, or why nothing can."""
        able = sorted_by_rule(self.rows, prompt, self.standing)
        if not able:
            return "unusable"
        language = language_of(prompt)
        trusted = not (self.standing and language == "sw")
        margin = able[0].score - able[1].score if len(able) > 1 and trusted else NAN
        distance = dict.fromkeys(able, margin)
        if self.config.rule == "pairs":
            found = {row: lowest_beside(self.rows, row) for row in able}
            distance = {row: row.score - low.score for row, low in found.items() if low}
            able = [row for row in able if trusted and distance.get(row, 0) > 0]
            if not able:
                return "no_pair"
        reward, least = (
            said(self.config.min_reward, language),
            said(self.config.min_margin, language),
        )
        able = [row for row in able if reward is None or row.score >= reward]
        able = [row for row in able if least is None or not distance[row] < least]
        return able or "below_threshold"

    def run(self) -> None:
        """All prompts in the order of the lot, then again those that may have room by now."""
        waiting = sorted(self.prompts, key=drawn)
        before = -1
        while len(self.taken) != before:
            before = len(self.taken)
            for prompt in [p for p in waiting if p not in self.taken]:
                self.look_at(prompt)

    def look_at(self, prompt: str) -> None:
        able, language = self.usable(prompt), language_of(prompt)
        if isinstance(able, str):
            self.reasons[prompt] = able
            return
        quota = said(self.config.quota, language)
        if quota is not None and self.tally["prompts"].get(language, 0) >= quota:
            self.reasons[prompt] = "over_quota"
            return
        rows = Counter(self.tally["rows"].get(language, {}))
        chosen = []
        for row in able:
            if len(chosen) == (self.config.k if self.config.rule == "top_k" else 1):
                break
            share = self.config.max_teacher_share or 1.0
            if rows[row.teacher] + 1 <= math.ceil(share * (rows.total() + 1) - 1e-7):
                chosen.append(row)
                rows[row.teacher] += 1
        if not chosen:
            self.reasons[prompt] = "over_teacher_share"
            return
        self.taken[prompt] = chosen
        self.tally["rows"][language] = dict(rows)
        self.tally["prompts"][language] = self.tally["prompts"].get(language, 0) + 1


def assert_as_slowly(pool: Pool, config: SelectionConfig, standing: Any = None) -> None:
    rows, prompts, teachers = pool
    slow = Slow(pool, config, standing)
    slow.run()
    choice = choose(field_of(rows, prompts, teachers, standing), config)
    for number, prompt in enumerate(prompts):
        at = np.flatnonzero(choice.prompt == number)
        wanted = slow.taken.get(prompt, [])
        assert [rows[i] for i in choice.candidate[at]] == wanted
        assert choice.place[at].tolist() == list(range(1, len(wanted) + 1))
        reason = "" if wanted else slow.reasons[prompt]
        assert REASONS[choice.reason[number]] == reason
        against = [rows[i] if i >= 0 else None for i in choice.rejected[at]]
        pairs = config.rule == "pairs"
        assert against == [lowest_beside(rows, row) if pairs else None for row in wanted]
    assert choice.prompt.tolist() == sorted(choice.prompt.tolist())
    assert choice.tally == slow.tally


@given(pools(10), configs())
@settings(max_examples=300, deadline=None)
def test_every_rule_is_that_of_a_plain_loop(pool: Pool, config: SelectionConfig) -> None:
    assert_as_slowly(pool, config)


@given(pools(10), configs(), st.lists(st.sampled_from([-2.0, -1.0, 0.0]), min_size=4, max_size=4))
@settings(max_examples=200, deadline=None)
def test_where_no_arbiter_is_trusted_the_standing_of_teachers_decides(
    pool: Pool, config: SelectionConfig, places: list[float]
) -> None:
    standing = dict(zip(pool[2], places[: len(pool[2])], strict=True))
    assert_as_slowly(pool, config, standing)


@given(pools(), configs(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_choice_depends_on_no_order(
    pool: Pool, config: SelectionConfig, rng: random.Random
) -> None:
    """Neither of candidates, nor of teachers, nor of prompts."""
    rows, prompts, teachers = pool
    wanted = outcome(field_of(rows, prompts, teachers), config)
    for shuffled in (rows, prompts, teachers):
        rng.shuffle(shuffled)
    assert outcome(field_of(rows, prompts, teachers), config) == wanted


@given(pools(10), st.sampled_from(sorted(SELECTORS)))
@settings(max_examples=200, deadline=None)
def test_limits_that_nobody_reaches_change_nothing(pool: Pool, rule: Any) -> None:
    """What is taken by turns is then what is taken at once."""
    rows, prompts, teachers = pool
    field = field_of(rows, prompts, teachers)
    wide = SelectionConfig(rule=rule, quota=1000, max_teacher_share=1.0, min_reward=-1e13)
    assert outcome(field, wide) == outcome(field, SelectionConfig(rule=rule))


# Quotas and caps over shards


def shards_of(count: int, size: int) -> list[tuple[Field, list[Candidate]]]:
    """Three teachers; the first is best at four prompts of five."""
    rng = random.Random(5)
    found = []
    for number in range(count):
        prompts = [drawn(f"{number}/{n}").hex() for n in range(size)]
        rows = [
            Candidate(p, t, 0, rng.random() + (t == "a") * 0.6, True, t)
            for p in prompts
            for t in ("a", "b", "c")
            if rng.random() < 0.8
        ]
        found.append((field_of(rows, prompts, ["a", "b", "c"]), rows))
    return found


def chained(shards: list[tuple[Field, list[Candidate]]], config: SelectionConfig) -> list[Choice]:
    choices: list[Choice] = []
    for field, _ in shards:
        choices.append(choose(field, config, choices[-1].tally if choices else None))
    return choices


def test_a_quota_is_met_exactly_over_shards_and_what_was_taken_stays() -> None:
    shards = shards_of(6, 40)
    config = SelectionConfig(quota={"de": 90, "default": 10_000})
    choices = chained(shards, config)
    taken = Counter(
        language_of(field.prompt_ids[prompt])
        for (field, _), choice in zip(shards, choices, strict=True)
        for prompt in set(choice.prompt.tolist())
    )
    assert taken["de"] == 90
    possible = {
        prompt
        for field, rows in shards
        for prompt in field.prompt_ids
        if any(r.prompt == prompt for r in rows)
    }
    assert taken["sw"] == sum(language_of(prompt) == "sw" for prompt in possible)
    assert choices[-1].tally["prompts"] == taken
    fewer = chained(shards[:3], config)
    assert [c.candidate.tolist() for c in fewer] == [c.candidate.tolist() for c in choices[:3]]
    canonical(choices[-1].tally)  # plain data, fit for a footer


def test_a_quota_prefers_no_prompt_for_its_reward_or_its_place() -> None:
    ((field, rows),) = shards_of(1, 400)
    choice = choose(field, SelectionConfig(quota=60))
    taken = set(choice.prompt.tolist())
    assert len(taken) == 120
    every = choose(field, BEST)
    rewards = {int(p): rows[i].score for p, i in zip(every.prompt, every.candidate, strict=True)}
    mean = np.mean(list(rewards.values()))
    spread = np.std(list(rewards.values())) / math.sqrt(len(taken))
    assert abs(np.mean([rewards[prompt] for prompt in taken]) - mean) < 3 * spread
    assert 140 < np.mean(list(taken)) < 260, "all over the file"


@pytest.mark.parametrize("share", [0.34, 0.5, 0.65, 1.0])
@pytest.mark.parametrize("rule", ["best", "top_k"])
def test_no_teacher_has_more_than_its_share(share: float, rule: Any) -> None:
    shards = shards_of(4, 60)
    tally = chained(shards, SelectionConfig(rule=rule, max_teacher_share=share))[-1].tally
    for rows in tally["rows"].values():
        assert max(rows.values()) <= share_of(sum(rows.values()), share)
        if rule == "best" and share < 1:
            assert rows["a"] >= share * sum(rows.values()) - 1, "and has all of it"


def test_where_the_best_teacher_has_its_share_the_next_best_answer_is_taken() -> None:
    prompts = [f"{n:031x}0" for n in range(30)]
    rows = [Candidate(p, t, 0, s, True, t) for p in prompts for t, s in (("a", 0.9), ("b", 0.4))]
    choice = choose(field_of(rows, prompts, ["a", "b"]), SelectionConfig(max_teacher_share=0.5))
    assert len(choice.candidate) == 30, "nothing is lost"
    assert choice.tally["rows"] == {"de": {"a": 15, "b": 15}}
    alone = [row for row in rows if row.teacher == "a"]
    choice = choose(field_of(alone, prompts, ["a", "b"]), SelectionConfig(max_teacher_share=0.5))
    assert choice.tally["rows"] == {"de": {"a": 1}}
    assert [REASONS[n] for n in choice.reason].count("over_teacher_share") == 29


def test_a_prompt_that_waited_is_taken_when_others_have_made_room() -> None:
    prompts = sorted((f"{n:031x}0" for n in range(40)), key=drawn)
    rows = [Candidate(p, "a" if n < 20 else "b", 0, 0.5, True) for n, p in enumerate(prompts)]
    choice = choose(field_of(rows, prompts, ["a", "b"]), SelectionConfig(max_teacher_share=0.5))
    assert choice.tally["rows"] == {"de": {"a": 20, "b": 20}}


def test_a_share_is_rounded_up_but_not_for_what_a_computer_adds() -> None:
    assert share_of(10, 0.7) == 7
    assert share_of(10, 0.1) == 1
    assert share_of(3, 0.5) == 2
    assert share_of(1, 0.01) == 1


# Pairs


def test_a_rejected_answer_may_fail_gates_but_not_be_without_score() -> None:
    rows = [
        Candidate("a", "t", 0, 0.9, True, "good"),
        Candidate("a", "t", 1, 0.5, True, "fair"),
        Candidate("a", "t", 2, 0.1, False, "gated"),
        Candidate("a", "t", 3, NAN, False, "failed"),
    ]
    choice = choose(field_of(rows, ["a"], ["t"]), SelectionConfig(rule="pairs"))
    assert (choice.candidate.tolist(), choice.rejected.tolist()) == ([0], [2])


def test_a_pair_needs_two_texts_and_a_difference() -> None:
    rows = [
        Candidate("a", "t", 0, 0.9, True, "same"),
        Candidate("a", "t", 1, 0.1, True, "same"),
        Candidate("b", "t", 0, 0.5, True, "one"),
        Candidate("b", "t", 1, 0.5, True, "two"),
        Candidate("c", "t", 0, 0.5, True, "one"),
        Candidate("d", "t", 0, 0.5, False, "one"),
        Candidate("d", "t", 1, 0.9, False, "two"),
    ]
    choice = choose(field_of(rows, list("abcd"), ["t"]), SelectionConfig(rule="pairs"))
    told = [REASONS[n] for n in choice.reason]
    assert told == ["no_pair", "no_pair", "no_pair", "unusable"]
    assert len(choice.candidate) == 0


def test_the_least_margin_of_a_pair_is_between_its_two() -> None:
    rows = [Candidate("a", "t", n, s, True, str(n)) for n, s in enumerate((0.9, 0.85, 0.2))]
    field = field_of(rows, ["a"], ["t"])
    assert len(choose(field, SelectionConfig(rule="pairs", min_margin=0.5)).candidate) == 1
    assert len(choose(field, SelectionConfig(rule="pairs", min_margin=0.8)).candidate) == 0
    assert len(choose(field, SelectionConfig(min_margin=0.5)).candidate) == 0


def test_a_single_candidate_has_no_margin_to_be_too_small() -> None:
    rows = [Candidate("a", "t", 0, 0.9, True, "x")]
    assert len(choose(field_of(rows, ["a"], ["t"]), SelectionConfig(min_margin=9)).candidate) == 1


# Edges


def test_prompts_without_candidates_are_not_chosen_wherever_they_stand() -> None:
    rows = [Candidate("b", "t", 0, 1.0, True), Candidate("d", "t", 0, NAN, False)]
    choice = choose(field_of(rows, ["a", "b", "c", "d", "e"], ["t"]), BEST)
    assert choice.prompt.tolist() == [1]
    assert [REASONS[n] for n in choice.reason] == ["unusable", "", *["unusable"] * 3]
    assert choice.ranking.starts.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.isnan(choice.ranking.margin).all()


@pytest.mark.parametrize("rule", SELECTORS)
@pytest.mark.parametrize("quota", [None, 3])
def test_nothing_at_all_is_a_valid_choice(rule: Any, quota: int | None) -> None:
    choice = choose(field_of([], [], []), SelectionConfig(rule=rule, quota=quota))
    assert len(choice.ranking.order) == len(choice.candidate) == len(choice.reason) == 0
    assert choice.ranking.starts.tolist() == [0]
    assert choice.tally == nothing()


@pytest.mark.parametrize("rule", SELECTORS)
def test_the_input_is_left_as_it_is(rule: Any) -> None:
    rows = [Candidate("a", "t", n, 0.5, True, "x") for n in range(5)]
    field = field_of(rows, ["a"], ["t"])
    names = ("prompt", "teacher", "sample", "score", "eligible", "text", "language")
    before = [getattr(field, name).copy() for name in names]
    earlier = {"prompts": {"de": 1}, "rows": {"de": {"t": 1}}}
    choose(field, SelectionConfig(rule=rule, quota=9), earlier)  # type: ignore[arg-type]
    after = [getattr(field, name) for name in names]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert earlier == {"prompts": {"de": 1}, "rows": {"de": {"t": 1}}}


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
        ["de"],
        table["prompt"].to_numpy(),
        table["teacher"].to_numpy(),
        table["sample"].to_numpy(),
        table["score"].to_numpy(),
        eligible.to_numpy(),
        np.arange(candidates),
        np.zeros(prompts, np.int64),
    )
    choice = choose(field, BEST)
    usable = table[eligible].sort_values("score", ascending=False).groupby("prompt")
    top = usable.head(1).set_index("prompt")["score"]
    assert np.array_equal(choice.prompt, np.sort(top.index))
    assert np.array_equal(field.score[choice.candidate], top.sort_index().to_numpy())
    second = usable.nth(1).set_index("prompt")["score"]
    margin = (top.loc[second.index] - second).sort_index()
    found = choice.ranking.margin[choice.candidate]
    assert np.array_equal(choice.prompt[~np.isnan(found)], margin.index)
    assert np.array_equal(found[~np.isnan(found)], margin.to_numpy())


def test_every_rule_in_the_table_is_a_function_of_a_ranking() -> None:
    field = field_of([Candidate("a", "t", 0, 1.0, True)], ["a"], ["t"])
    assert all(isinstance(rule(ranked(field), BEST), Picks) for rule in SELECTORS.values())


# The config


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"k": 3}, "`k:` belongs to `rule: top_k`"),
        ({"rule": "top_k", "k": 0}, "greater than or equal to 1"),
        ({"quota": 0}, "greater than or equal to 1"),
        ({"quota": {"de": 0}}, "greater than or equal to 1"),
        ({"quota": {"qqq": 3}}, "'qqq' is no known language"),
        ({"min_reward": {"de": 1, "deu": 2}}, "'deu' names a language that is already there"),
        ({"max_teacher_share": 0}, "greater than 0"),
        ({"max_teacher_share": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused(wrong: Any, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        SelectionConfig(**wrong)


def test_languages_are_known_by_any_of_their_tags_and_defaults_are_no_identity() -> None:
    config = SelectionConfig(min_margin={"deu": 0.5, "default": 0.1})
    assert config.min_margin == {"de": 0.5, "default": 0.1}
    assert config.identity() == {"min_margin": {"de": 0.5, "default": 0.1}}
    assert SelectionConfig().identity() == {}
    assert not SelectionConfig(rule="top_k", min_reward=0.5).chained
    assert SelectionConfig(quota=3).chained
    assert SelectionConfig(max_teacher_share=0.5).chained
