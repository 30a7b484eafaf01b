"""The product of one shard from small tables made by hand, looked at row by row."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage import product
from arbitrage.arbiter import NO_COMPLETION
from arbitrage.choices import SelectionConfig
from arbitrage.errors import StageError
from arbitrage.lineup import Choosing, Part
from arbitrage.product import build
from arbitrage.records import CANDIDATES, PROMPTS, QUARANTINE, RAW_CHARS, SCORES, SELECTED
from arbitrage.resolve import resolve
from arbitrage.selection import choose
from harness import make_config

if TYPE_CHECKING:
    from arbitrage.components import Components, Teacher
    from arbitrage.quotas import Tally

BOTH = ("truncated", "empty")
PLAIN = Choosing(SelectionConfig(), BOTH)


def components_of_the_pool() -> Components:
    """Two teachers: one with a model, a revision and two sampling groups, one without."""
    groups = [{"temperature": 0, "max_tokens": 50}, {"n": 2, "temperature": 0.5, "stop": ["END"]}]
    model = {"engine": "fake", "languages": "all"}
    pool = {
        "alpha": {**model, "model": "org/alpha", "revision": "abc123", "sampling": groups},
        "beta": {**model, "sampling": {"n": 3, "temperature": 1.0, "seed": 5}},
    }
    return resolve(make_config(Path("/nowhere"), pool))


POOL = components_of_the_pool()
ALPHA, BETA = POOL.teachers


class Made(NamedTuple):
    """A candidate as a person would write it; what is left out is as usual."""

    prompt: str
    sample: int = 0
    score: float | None = 0.5
    gates: tuple[str, ...] = ()
    error: str | None = None
    text: str | None = None
    thought: str | None = None
    judged: str | None = None

    @property
    def why(self) -> str | None:
        """The error that the product tells: the teacher's, or the Arbiter's."""
        return self.error or self.judged


def said(teacher: Teacher, row: Made) -> str | None:
    """The completion; another one for each candidate unless a test says otherwise."""
    return None if row.error else row.text or f"answer {row.sample} of {teacher.name}"


def prompt(name: str, language: str = "de", **more: Any) -> dict[str, Any]:
    row = {
        "prompt_id": name,
        "user_id": None,
        "language": language,
        "language_source": "declared",
        "messages": [{"role": "user", "content": f"question {name}"}],
        "extra": None,
        "source": "in.jsonl",
        "line": 7,
    }
    return {**row, **more}


def shard(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), PROMPTS)


def part(teacher: Teacher, *made: Made) -> Part:
    groups = [g for g, group in enumerate(teacher.config.sampling) for _ in range(group.n)]
    candidates = [
        {
            "prompt_id": row.prompt,
            "sample": row.sample,
            "sampling": groups[row.sample],
            "completion": said(teacher, row),
            "reasoning": row.thought,
            "finish_reason": "error" if row.error else "stop",
            "prompt_tokens": 10 + row.sample,
            "completion_tokens": 20 + row.sample,
            "seed": 1000 + row.sample,
            "error": row.error,
        }
        for row in made
    ]
    scores = [
        {
            "prompt_id": row.prompt,
            "sample": row.sample,
            "score": row.score,
            "error": NO_COMPLETION.error if row.error else row.judged,
        }
        for row in made
    ]
    judged = pa.Table.from_pylist(scores, SCORES)
    gates = pa.array([list(row.gates) for row in made], pa.list_(pa.string()))
    return Part(teacher, pa.Table.from_pylist(candidates, CANDIDATES), gates, (judged,))


def failed(name: str, sample: int = 0, error: str = "too long") -> Made:
    return Made(name, sample, None, (), error)


def built(
    prompts: pa.Table,
    *parts: Part,
    enforced: tuple[str, ...] = BOTH,
    choosing: Choosing = PLAIN,
    earlier: Tally | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    choosing = replace(choosing, enforced=enforced)
    selected, lost, _ = build(prompts, list(parts), POOL, choosing, earlier)
    assert selected.schema.equals(SELECTED, check_metadata=False)
    assert lost.schema.equals(QUARANTINE, check_metadata=False)
    selected.validate(full=True)
    lost.validate(full=True)
    return selected.to_pylist(), lost.to_pylist()


def summary_of(teacher: Teacher, row: Made, place: int) -> dict[str, Any]:
    """Of one that no other is identical to."""
    return {
        "teacher": teacher.name,
        "teacher_fingerprint": teacher.fingerprint,
        "sample": row.sample,
        "reward": row.score,
        "gates": list(row.gates),
        "error": row.why,
        "chars": None if row.error else len(said(teacher, row) or ""),
        "duplicate": False,
        "same_as": place,
    }


def test_a_row_tells_everything_about_the_answer_that_was_chosen() -> None:
    asked = prompt("p1", "sw", user_id="mine-1", extra='{"topic": 3}')
    mine = [
        Made("p1", 0, 0.25),
        Made("p1", 1, 0.75, text="the best answer", thought="which is it?"),
        Made("p1", 2, 0.7, ("empty",)),
    ]
    theirs = [Made("p1", 0, 0.5), failed("p1", 1), Made("p1", 2, None, judged="odd")]
    (row,), lost = built(shard(asked), part(ALPHA, *mine), part(BETA, *theirs))
    assert lost == []
    assert list(row) == SELECTED.names
    sampling = json.loads(row.pop("sampling"))
    assert sampling == ALPHA.config.sampling[1].model_dump(mode="json")
    assert (sampling["n"], sampling["temperature"], sampling["stop"]) == (2, 0.5, ["END"])
    summaries = row.pop("candidates")
    assert summaries == [
        summary_of(ALPHA, mine[1], 0),
        summary_of(BETA, theirs[0], 1),
        summary_of(ALPHA, mine[0], 2),
        summary_of(ALPHA, mine[2], 3),
        summary_of(BETA, theirs[1], 4),
        summary_of(BETA, theirs[2], 5),
    ]
    assert row == {
        "prompt_id": "p1",
        "user_id": "mine-1",
        "language": "sw",
        "family": POOL.families["sw"],
        "messages": [
            {"role": "user", "content": "question p1"},
            {"role": "assistant", "content": "the best answer"},
        ],
        "completion": "the best answer",
        "reasoning": "which is it?",
        "teacher": "alpha",
        "model": "org/alpha",
        "revision": "abc123",
        "reward": 0.75,
        "margin": 0.25,
        "rank": 1,
        "rejected": None,
        "rejected_teacher": None,
        "rejected_reward": None,
        "sample": 1,
        "finish_reason": "stop",
        "prompt_tokens": 11,
        "completion_tokens": 21,
        "seed": 1001,
        "extra": '{"topic": 3}',
        "teacher_fingerprint": ALPHA.fingerprint,
        "arbiter_fingerprint": POOL.arbiter.fingerprint,
        "selector_fingerprint": POOL.selector.fingerprint,
        "run_fingerprint": POOL.fingerprint,
    }


def test_a_teacher_without_model_has_none_in_its_rows() -> None:
    (row,), _ = built(shard(prompt("p")), part(BETA, Made("p", 2, 0.5)))
    assert (row["teacher"], row["model"], row["revision"]) == ("beta", None, None)
    assert json.loads(row["sampling"])["seed"] == 5
    assert row["sample"] == 2


def test_a_single_candidate_has_no_margin_and_a_tie_has_margin_nought() -> None:
    rows, _ = built(
        shard(prompt("one"), prompt("tie"), prompt("gated")),
        part(ALPHA, Made("one"), Made("tie", 0), Made("gated", 0), Made("gated", 1, 0.4, BOTH)),
        part(BETA, Made("tie", 1)),
    )
    assert [row["margin"] for row in rows] == [None, 0.0, None]


def test_a_margin_may_reach_over_to_another_teacher_and_scores_may_be_negative() -> None:
    (row,), _ = built(
        shard(prompt("p")), part(ALPHA, Made("p", 0, -3.0)), part(BETA, Made("p", 0, -1.5))
    )
    assert (row["teacher"], row["reward"], row["margin"]) == ("beta", -1.5, 1.5)


def test_a_score_of_nought_is_a_score_and_beats_what_has_none() -> None:
    (row,), lost = built(
        shard(prompt("p")), part(ALPHA, Made("p", 0, 0.0)), part(BETA, Made("p", 0, None))
    )
    assert lost == []
    assert (row["teacher"], row["reward"]) == ("alpha", 0.0)
    assert [c["reward"] for c in row["candidates"]] == [0.0, None]


def test_conversations_end_with_the_answer_and_keep_every_turn() -> None:
    long = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "two"},
    ]
    short = [{"role": "user", "content": "only"}]
    asked = shard(prompt("a", messages=long), prompt("lost"), prompt("b", messages=short))
    answers = [Made("a", text="to a"), failed("lost"), Made("b", text="to b\n\u0000 \u30c6")]
    rows, _ = built(asked, part(ALPHA, *answers))
    assert rows[0]["messages"] == [*long, {"role": "assistant", "content": "to a"}]
    assert rows[1]["messages"] == [*short, {"role": "assistant", "content": "to b\n\u0000 \u30c6"}]
    assert all(row["messages"][-1]["content"] == row["completion"] for row in rows)


def test_rows_stand_in_the_order_of_the_prompts_whatever_the_order_of_the_candidates() -> None:
    names = ["c", "a", "d", "b"]
    made = [Made(name, text=f"to {name}") for name in sorted(names)]
    rows, _ = built(shard(*map(prompt, names)), part(ALPHA, *made))
    assert [row["prompt_id"] for row in rows] == names
    assert [row["completion"] for row in rows] == [f"to {name}" for name in names]


def test_the_order_of_the_parts_changes_nothing_that_was_chosen() -> None:
    names = [f"p{n}" for n in range(40)]
    one, other = (part(t, *(Made(name, text=t.name) for name in names)) for t in POOL.teachers)
    first, _ = built(shard(*map(prompt, names)), one, other)
    second, _ = built(shard(*map(prompt, names)), other, one)
    assert first == second
    assert {row["teacher"] for row in first} == {"alpha", "beta"}, "ties are drawn by lot"


def lot(name: str, teacher: Teacher, sample: int) -> bytes:
    key = f"{name}/{teacher.fingerprint}/{sample}".encode()
    return hashlib.blake2b(key, digest_size=8).digest()


def test_a_tie_is_won_by_the_documented_lot() -> None:
    names = [f"p{n}" for n in range(30)]
    parts = [part(t, *(Made(name) for name in names)) for t in POOL.teachers]
    rows, _ = built(shard(*map(prompt, names)), *parts)
    wanted = [min(POOL.teachers, key=lambda t: lot(name, t, 0)).name for name in names]
    assert [row["teacher"] for row in rows] == wanted


def test_lost_prompts_stand_in_quarantine_with_reason_and_detail() -> None:
    text = "x" * (RAW_CHARS + 100)
    nobody = prompt("none", messages=[{"role": "user", "content": text}], line=3, source="b.csv")
    _, lost = built(
        shard(prompt("gated"), prompt("broken"), prompt("mixed"), nobody),
        part(
            ALPHA,
            Made("gated", 0, 0.9, ("truncated",)),
            Made("gated", 1, 0.8, BOTH),
            failed("broken"),
            Made("mixed", 0, 0.9, ("empty",)),
        ),
        part(BETA, Made("broken", 0, None, judged="no score"), failed("mixed", 2)),
    )
    told = {row["prompt_id"]: (row["reason"], row["detail"]) for row in lost}
    assert list(told) == ["gated", "broken", "mixed", "none"]
    assert told["gated"] == ("gates", "alpha #0: truncated; alpha #1: truncated, empty")
    reason, detail = told["broken"]
    assert reason == "errors"
    assert sorted(detail.split("; ")) == ["alpha #0: too long", "beta #0: no score"]
    assert told["mixed"] == ("gates_and_errors", "alpha #0: empty; beta #2: too long")
    assert told["none"][0] == "set_aside"
    assert {row["stage"] for row in lost} == {"select"}
    assert (lost[3]["raw"], lost[3]["source"], lost[3]["line"]) == (text[:RAW_CHARS], "b.csv", 3)
    assert lost[0]["raw"] == "question gated"
    assert lost[0]["language"] == "de"


def test_a_gate_that_is_not_enforced_is_recorded_and_excludes_nobody() -> None:
    made = [Made("p", 0, 0.9, ("truncated",)), Made("p", 1, 0.8)]
    for enforced, sample, margin in (((), 0, 0.1), (("empty",), 0, 0.1), (("truncated",), 1, None)):
        (row,), lost = built(shard(prompt("p")), part(ALPHA, *made), enforced=enforced)
        assert lost == []
        assert (row["sample"], row["margin"]) == (sample, pytest.approx(margin))
        assert {c["sample"]: c["gates"] for c in row["candidates"]} == {0: ["truncated"], 1: []}


def test_a_candidate_that_is_gated_and_unscored_is_both() -> None:
    made = Made("p", 0, None, ("empty",), judged="no score")
    assert built(shard(prompt("p")), part(ALPHA, made))[1][0]["reason"] == "gates_and_errors"
    assert built(shard(prompt("p")), part(ALPHA, made), enforced=())[1][0]["reason"] == "errors"


def test_no_teacher_at_all_loses_every_prompt() -> None:
    rows, lost = built(shard(prompt("a"), prompt("b")))
    assert rows == []
    assert [row["reason"] for row in lost] == ["set_aside"] * 2


def test_an_empty_shard_gives_two_empty_tables_of_the_right_schema() -> None:
    assert built(shard()) == ([], [])
    assert built(shard(), part(ALPHA), part(BETA)) == ([], [])


def test_sliced_and_chunked_tables_give_the_same_rows() -> None:
    names = [f"p{n}" for n in range(9)]
    rows = [prompt(name, user_id=f"u{name}", extra="{}") for name in names]
    made = [Made(name, s, 0.1 * s, BOTH[: n % 3]) for n, name in enumerate(names) for s in (0, 1)]
    whole = part(ALPHA, *made)
    wanted = built(shard(*rows), whole, enforced=("empty",))

    def cut(table: pa.Table) -> pa.Table:
        around = pa.concat_tables([table.slice(0, 4), table, table.slice(1, 3)]).combine_chunks()
        middle = around.slice(4, table.num_rows)
        return pa.concat_tables([middle.slice(0, 5), middle.slice(5)])

    gates = pa.table({"gates": whole.failed})
    scores = cut(whole.scores[0])
    pieces = Part(ALPHA, cut(whole.candidates), cut(gates)["gates"], (scores,))
    assert built(cut(shard(*rows)), pieces, enforced=("empty",)) == wanted
    scores = whole.scores[0].slice(4, 6)
    single = Part(ALPHA, whole.candidates.slice(4, 6), whole.failed.slice(4, 6), (scores,))
    few = [row for row in wanted[0] if row["prompt_id"] in names[2:5]]
    assert len(few) == 2
    assert built(shard(*rows).slice(2, 3), single, enforced=("empty",))[0] == few


# What must never be published


def test_candidates_of_other_prompts_are_refused() -> None:
    with pytest.raises(StageError, match="does not have"):
        build(shard(prompt("p")), [part(ALPHA, Made("p"), Made("stranger"))], POOL, PLAIN)


@pytest.mark.parametrize(
    "scores",
    [[Made("p", 1), Made("p", 0)], [Made("p", 0)], [Made("p", 0), Made("q", 1)], []],
    ids=["other order", "one missing", "other prompt", "none"],
)
def test_scores_of_other_candidates_are_refused(scores: list[Made]) -> None:
    right = part(ALPHA, Made("p", 0), Made("p", 1))
    for wrong in (
        right._replace(scores=part(ALPHA, *scores).scores),
        right._replace(scores=(*right.scores, *part(ALPHA, *scores).scores)),
    ):
        with pytest.raises(StageError, match="not those of its candidates"):
            build(shard(prompt("p"), prompt("q")), [wrong], POOL, PLAIN)


def test_gates_of_other_candidates_and_no_scores_at_all_are_refused() -> None:
    right = part(ALPHA, Made("p", 0), Made("p", 1))
    with pytest.raises(StageError, match="gates of alpha are not those"):
        build(shard(prompt("p")), [right._replace(failed=right.failed.slice(1))], POOL, PLAIN)
    with pytest.raises(StageError, match="no scores of alpha"):
        build(shard(prompt("p")), [right._replace(scores=())], POOL, PLAIN)


def test_a_choice_that_loses_prompts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(*told: Any) -> Any:
        made = choose(*told)
        return replace(made, reason=np.where(np.arange(2) == 1, 0, made.reason))

    monkeypatch.setattr(product, "choose", forgetful)
    with pytest.raises(StageError, match="do not make"):
        build(shard(prompt("p"), prompt("q")), [part(ALPHA, Made("p"))], POOL, PLAIN)


# Several Arbiters


def judged(teacher: Teacher, made: list[Made], *others: list[float | None]) -> Part:
    """Candidates with their own score, and those of further Arbiters; none is an error."""
    first = part(teacher, *made)
    more = []
    for numbers in others:
        again = [
            row._replace(score=number, judged=None if number is not None else "second failed")
            for row, number in zip(made, numbers, strict=True)
        ]
        more.append(part(teacher, *again).scores[0])
    return first._replace(scores=(*first.scores, *more))


THREE = [Made("p", 0, 0.1), Made("p", 1, 0.2), Made("p", 2, 0.9)]


def test_the_combined_number_of_two_arbiters_is_what_is_compared_and_told() -> None:
    given = judged(BETA, THREE, [1000.0, 5000.0, 1000.0])
    choosing = replace(PLAIN, weights={"default": (1.0, 3.0)})
    (row,), _ = built(shard(prompt("p")), given, choosing=choosing)
    ones = [(v - 0.4) / statistics.pstdev([0.1, 0.2, 0.9]) for v in (0.1, 0.2, 0.9)]
    twos = [-math.sqrt(0.5), math.sqrt(2), -math.sqrt(0.5)]
    wanted = [(one + 3 * two) / 4 for one, two in zip(ones, twos, strict=True)]
    assert row["sample"] == 1
    assert row["reward"] == pytest.approx(wanted[1])
    assert row["margin"] == pytest.approx(wanted[1] - wanted[2])
    rewards = {c["sample"]: c["reward"] for c in row["candidates"]}
    assert [rewards[n] for n in range(3)] == pytest.approx(wanted)


def test_a_language_may_count_another_arbiter_alone() -> None:
    prompts = shard(prompt("p"), prompt("q", "sw"))
    made = [*THREE, *(row._replace(prompt="q") for row in THREE)]
    given = judged(BETA, made, [3.0, 2.0, 1.0] * 2)
    choosing = replace(PLAIN, weights={"default": (1.0, 0.0), "sw": (0.0, 1.0)})
    rows, _ = built(prompts, given, choosing=choosing)
    assert [(row["sample"], row["reward"]) for row in rows] == [(2, 0.9), (0, 3.0)]


def test_a_failure_of_an_arbiter_is_an_error_only_where_it_counts() -> None:
    prompts = shard(prompt("p"), prompt("q", "sw"))
    made = [*THREE, *(row._replace(prompt="q") for row in THREE)]
    given = judged(BETA, made, [None, 2.0, None] * 2)
    choosing = replace(PLAIN, method="rank", weights={"de": (1.0, 1.0), "default": (1.0, 0.0)})
    (first, second), lost = built(prompts, given, choosing=choosing)
    assert lost == []
    assert (first["sample"], first["reward"], first["margin"]) == (1, 0.0, None)
    assert [c["error"] for c in first["candidates"]] == [None, "second failed", "second failed"]
    assert (second["sample"], second["reward"]) == (2, 0.9)
    assert [c["error"] for c in second["candidates"]] == [None] * 3
    given = judged(BETA, THREE, [None, None, None])
    _, lost = built(shard(prompt("p")), given, choosing=choosing)
    assert lost[0]["reason"] == "errors"
    assert lost[0]["detail"] == "; ".join(f"beta #{n}: second failed" for n in range(3))


def test_weights_must_fit_the_arbiters_and_leave_one() -> None:
    given = judged(BETA, THREE, [1.0, 1.0, 1.0])
    for weights, sentence in (((1.0,), "there are 2 Arbiters"), ((0.0, 0.0), "language de")):
        choosing = replace(PLAIN, weights={"default": weights})
        with pytest.raises(StageError, match=sentence):
            build(shard(prompt("p")), [given], POOL, choosing)


def test_a_shard_without_candidates_needs_no_scores_of_anybody() -> None:
    choosing = replace(PLAIN, weights={"default": (1.0, 2.0)})
    _, lost = built(shard(prompt("p")), choosing=choosing)
    assert [row["reason"] for row in lost] == ["set_aside"]


def test_candidates_that_one_arbiter_less_has_scored_are_refused() -> None:
    parts = [judged(ALPHA, THREE, [1.0, 1.0, 1.0]), part(BETA, *THREE)]
    with pytest.raises(StageError, match="same number of Arbiters"):
        build(shard(prompt("p")), parts, POOL, PLAIN)


def test_length_control_is_by_arbiter_and_language() -> None:
    texts = [row._replace(text="x" * n) for row, n in zip(THREE, (9, 99, 999), strict=True)]
    choosing = replace(PLAIN, slopes={"de": (0.5,)})
    (row,), _ = built(shard(prompt("p")), part(BETA, *texts), choosing=choosing)
    rewards = {c["sample"]: c["reward"] for c in row["candidates"]}
    wanted = [0.1 - 0.5 * math.log(10), 0.2 - 0.5 * math.log(100), 0.9 - 0.5 * math.log(1000)]
    assert [rewards[n] for n in range(3)] == pytest.approx(wanted)
    assert row["sample"] == 0
    (row,), _ = built(shard(prompt("p", "sw")), part(BETA, *(t for t in texts)), choosing=choosing)
    assert (row["sample"], row["reward"]) == (2, 0.9)


def test_where_no_arbiter_is_trusted_the_preferred_teacher_answers() -> None:
    prompts = shard(prompt("p"), prompt("q", "sw"))
    parts = [
        part(ALPHA, Made("p", 0, 0.9), Made("q", 0, 0.9)),
        part(BETA, Made("p", 0, 0.1), Made("q", 0, 0.1)),
    ]
    choosing = replace(PLAIN, preferred={"sw": (BETA.fingerprint, ALPHA.fingerprint)})
    rows, _ = built(prompts, *parts, choosing=choosing)
    told = [(row["teacher"], row["reward"], row["margin"]) for row in rows]
    assert told == [("alpha", 0.9, 0.8), ("beta", 0.1, None)]
    gated = [parts[0], part(BETA, Made("p", 0, 0.1), Made("q", 0, 0.1, ("empty",)))]
    rows, _ = built(prompts, *gated, choosing=choosing)
    assert [row["teacher"] for row in rows] == ["alpha", "alpha"], "the next of the list"


# Other rules than best


def test_top_k_gives_a_row_for_each_of_the_best_different_candidates() -> None:
    twin = Made("p", 0, 0.9, text="same")
    made = [twin, twin._replace(sample=1), Made("p", 2, 0.4)]
    choosing = replace(PLAIN, selection=SelectionConfig(rule="top_k", k=3))
    rows, lost = built(
        shard(prompt("p"), prompt("q")), part(BETA, *made, Made("q")), choosing=choosing
    )
    assert lost == []
    told = [(row["prompt_id"], row["rank"], row["reward"]) for row in rows]
    assert told == [("p", 1, 0.9), ("p", 2, 0.4), ("q", 1, 0.5)]
    assert rows[0]["candidates"] == rows[1]["candidates"]
    assert [c["duplicate"] for c in rows[0]["candidates"]] == [False, False, True]
    assert [row["margin"] for row in rows] == [0.5, None, None]
    assert rows[1]["messages"][-1]["content"] == rows[1]["completion"] == "answer 2 of beta"


def test_a_pair_stands_in_one_row_and_the_conversation_ends_with_the_chosen_one() -> None:
    choosing = replace(PLAIN, selection=SelectionConfig(rule="pairs"))
    parts = [
        part(ALPHA, Made("p", 0, 0.9), Made("q", 0, 0.3)),
        part(BETA, Made("p", 0, 0.2, ("truncated",)), Made("p", 1, 0.4)),
    ]
    (row,), (lost,) = built(shard(prompt("p"), prompt("q")), *parts, choosing=choosing)
    assert row["messages"][-1]["content"] == row["completion"] == "answer 0 of alpha"
    rejected = (row["rejected"], row["rejected_teacher"], row["rejected_reward"])
    assert rejected == ("answer 0 of beta", "beta", 0.2)
    assert (row["rank"], row["margin"]) == (1, 0.5)
    assert (lost["prompt_id"], lost["reason"]) == ("q", "no_pair")


def test_what_limits_leave_out_is_in_quarantine_with_its_reason() -> None:
    names = [f"p{n}" for n in range(6)]
    given = part(BETA, *(Made(name, 0, n / 10) for n, name in enumerate(names)))
    for selection, reason in (
        (SelectionConfig(quota=2), "over_quota"),
        (SelectionConfig(min_reward=0.4), "below_threshold"),
        (SelectionConfig(max_teacher_share=0.5), "over_teacher_share"),
    ):
        rows, lost = built(
            shard(*map(prompt, names)), given, choosing=replace(PLAIN, selection=selection)
        )
        assert len(rows) == {"over_quota": 2, "below_threshold": 2, "over_teacher_share": 1}[reason]
        assert sorted(row["prompt_id"] for row in (*rows, *lost)) == names
        assert {row["reason"] for row in lost} == {reason}
        assert all(row["detail"].endswith((".", "language", "prompts")) for row in lost)


def test_what_earlier_shards_took_counts() -> None:
    selection = SelectionConfig(quota={"de": 3})
    choosing = replace(PLAIN, selection=selection)
    first = build(
        shard(prompt("a"), prompt("b")), [part(BETA, Made("a"), Made("b"))], POOL, choosing
    )
    assert first.tally == {"prompts": {"de": 2}, "rows": {"de": {BETA.fingerprint: 2}}}
    rows, lost = built(
        shard(prompt("c"), prompt("d")),
        part(BETA, Made("c"), Made("d")),
        choosing=choosing,
        earlier=json.loads(json.dumps(first.tally)),
    )
    assert (len(rows), [row["reason"] for row in lost]) == (1, ["over_quota"])


# Random shards against a plain loop

CANDIDATE = st.tuples(
    st.sampled_from([None, None, 0.0, 0.5, 0.5, -1.0, 1e9]),
    st.sampled_from([(), (), ("truncated",), ("empty",), BOTH]),
    st.sampled_from([None, None, None, "refused"]),
    st.sampled_from([None, None, "same", "other"]),
)


@st.composite
def shards(draw: st.DrawFn) -> tuple[list[str], list[tuple[Teacher, list[Made]]]]:
    names = [f"p{n}" for n in range(draw(st.integers(0, 6)))]
    pool = []
    for teacher in draw(st.lists(st.sampled_from(POOL.teachers), unique_by=lambda t: t.name)):
        made = []
        for name in draw(st.lists(st.sampled_from(names), unique=True)) if names else []:
            for sample in range(draw(st.integers(1, 3))):
                score, gates, error, text = draw(CANDIDATE)
                row = Made(name, sample, None if error else score, gates, error, text)
                made.append(row._replace(gates=() if error else gates))
        pool.append((teacher, made))
    return names, pool


@given(shards(), st.sampled_from([(), ("truncated",), ("empty",), BOTH]))
@settings(max_examples=200, deadline=None)
def test_selected_and_lost_are_all_prompts_and_every_row_is_right(
    told: tuple[list[str], list[tuple[Teacher, list[Made]]]], enforced: tuple[str, ...]
) -> None:
    names, pool = told
    rows, lost = built(
        shard(*map(prompt, names)), *(part(t, *made) for t, made in pool), enforced=enforced
    )
    assert sorted([row["prompt_id"] for row in (*rows, *lost)]) == names
    found = {row["prompt_id"]: row for row in rows}
    reasons = {row["prompt_id"]: row["reason"] for row in lost}
    for name in names:
        mine = [(t, row) for t, made in pool for row in made if row.prompt == name]
        usable = [(t, m) for t, m in mine if m.score is not None and not {*m.gates} & {*enforced}]
        usable.sort(key=lambda pair: (-pair[1].score, lot(name, pair[0], pair[1].sample)))  # type: ignore[operator]
        texts = [said(*pair) for pair in usable]
        usable = [pair for n, pair in enumerate(usable) if texts[n] not in texts[:n]]
        if usable:
            check_selected(found[name], mine, usable)
        else:
            gated = any({*row.gates} & {*enforced} for _, row in mine)
            errors = any(row.score is None for _, row in mine)
            words = {(True, True): "gates_and_errors", (True, False): "gates"}
            assert reasons[name] == (words.get((gated, errors), "errors") if mine else "set_aside")


def check_selected(
    row: dict[str, Any], mine: list[tuple[Teacher, Made]], usable: list[tuple[Teacher, Made]]
) -> None:
    (teacher, winner), *others = usable
    assert (row["teacher"], row["sample"]) == (teacher.name, winner.sample)
    assert row["reward"] == winner.score
    assert row["teacher_fingerprint"] == teacher.fingerprint
    wanted = winner.score - others[0][1].score if others else None  # type: ignore[operator]
    assert row["margin"] == wanted
    assert wanted is None or not math.isnan(wanted)
    assert row["candidates"][: len(usable)] == [
        summary_of(t, m, place) for place, (t, m) in enumerate(usable)
    ]
    texts = {(t.name, m.sample): said(t, m) for t, m in mine}
    order = [texts[c["teacher"], c["sample"]] for c in row["candidates"]]
    first = [n if text is None else order.index(text) for n, text in enumerate(order)]
    assert [c["same_as"] for c in row["candidates"]] == first
    assert [c["duplicate"] for c in row["candidates"]] == [n != at for n, at in enumerate(first)]
    assert len(row["candidates"]) == len(mine)
    rest = [summary_of(t, m, 0) for t, m in mine if (t, m) not in usable]
    plain = [{**summary, "duplicate": False, "same_as": 0} for summary in row["candidates"]]
    assert all(summary in rest for summary in plain[len(usable) :])
