"""Rows of a training set: their forms, their lines of JSON, and the answers beside them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.exports import COLUMNS, FORMATS, PAIR_COLUMNS, Row, Said, line_of
from arbitrage.rivals import Rival, in_order, is_usable, rejected
from arbitrage.sieve import lot_of, split_of

TURNS: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Bye"},
]
BREAKS = "\x00\x0b\x0c\r\n\x1c\x1d\x1e\x1f\x7f\x85\x9f\u2028\u2029"
any_text = st.text(st.characters(), max_size=50) | st.text(BREAKS + '\ud800\udfff"\\ \u202e')


def row(**more: Any) -> Row:
    return Row(TURNS, Said("So long.", "short"), Said("Never!"), more)


@given(any_text, any_text)
def test_any_text_comes_back_from_its_line_and_no_reader_breaks_it(key: str, text: str) -> None:
    told = {"messages": [{"role": key, "content": text}]}
    line = line_of(told)
    assert json.loads(line) == json.loads(json.dumps(told)), "halves that meet become a pair"
    assert line.splitlines() == [line]
    assert line.encode("utf-8").decode("utf-8") == line
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)


def test_readable_scripts_are_not_escaped() -> None:
    assert "\u4f60\u597d \U0001f44d\u200d" in line_of({"a": "\u4f60\u597d \U0001f44d\u200d"})


def test_every_form_is_the_documented_one() -> None:
    turns = [{"role": t["role"], "content": t["content"]} for t in TURNS]
    last = {"role": "assistant", "content": "So long."}
    plain = Row(TURNS, Said("So long."), Said("Never!"))
    assert FORMATS["sft"].row(plain, ()) == {"messages": [*turns, last]}
    assert FORMATS["openai"].row(plain, ()) == {"messages": [*turns, last]}
    assert FORMATS["dpo"].row(plain, ()) == {
        "prompt": turns,
        "chosen": [last],
        "rejected": [{"role": "assistant", "content": "Never!"}],
    }
    assert FORMATS["sharegpt"].row(plain, ()) == {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Yes?"},
            {"from": "human", "value": "Bye"},
            {"from": "gpt", "value": "So long."},
        ]
    }


def test_reasoning_stands_in_the_last_turn_alone() -> None:
    made = FORMATS["sft"].row(row(), ())["messages"]
    assert made[-1]["reasoning_content"] == "short"
    assert all(set(turn) == {"role", "content"} for turn in made[:-1])
    table = pa.Table.from_pylist([{"messages": made}], FORMATS["sft"].schema((), reasoning=True))
    read = table.to_pylist()[0]["messages"]
    assert [turn["reasoning_content"] for turn in read] == [None] * 4 + ["short"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_has_exactly_the_columns_of_its_schema(name: str) -> None:
    form = FORMATS[name]
    columns = tuple(form.columns)
    made = form.row(row(prompt_id="p", reward=1.0), columns)
    assert list(made) == form.schema(columns, reasoning=False).names
    assert bool(form.columns) == (name != "openai")
    assert set(COLUMNS) <= set(PAIR_COLUMNS)


# The other answers


def rival(teacher: str, reward: float | None, text: str | None, **more: Any) -> Rival:
    told = {"gates": (), "error": None, "sample": 0, **more}
    return Rival(teacher=teacher, reward=reward, text=text, **told)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.sampled_from([None, 0.0, 1.0, 2.0]), st.sampled_from("xyz")
        ),
        max_size=8,
    ),
    st.sampled_from("xyz"),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_the_rejected_answer_is_the_lowest_of_another_text(
    told: list[tuple[str, float | None, str]], text: str, reward: float
) -> None:
    rivals = [rival(t, r, x, sample=n) for n, (t, r, x) in enumerate(told)]
    found = rejected("p", rivals, (text, reward))
    lower = [r for r in rivals if r.reward is not None and r.text != text and r.reward < reward]
    assert (found is None) == (not lower)
    if found is not None:
        assert found.text != text
        assert found.reward == min(r.reward for r in lower if r.reward is not None)
    assert rejected("p", rivals[::-1], (text, reward)) == found, "whatever the order"


def test_what_is_usable_has_a_reward_no_error_and_fails_no_enforced_gate() -> None:
    assert is_usable(rival("a", 0.0, "x"), ("empty",))
    assert is_usable(rival("a", 0.0, "x", gates=("refusal",)), ("empty",))
    assert not is_usable(rival("a", 0.0, "x", gates=("empty",)), ("empty",))
    assert not is_usable(rival("a", None, "x"), ())
    assert not is_usable(rival("a", 1.0, "x", error="lost"), ())
    assert not is_usable(rival("a", 1.0, None), ())
    assert not is_usable(rival("a", 1.0, "x"), (), least=1.5)


def test_an_identical_answer_takes_the_place_of_the_first() -> None:
    first, second = rival("a", 3.0, "x"), rival("b", 2.0, "y")
    twin = rival("c", 3.0, "x")
    rivals = [first, second, twin]
    assert in_order(rivals, lambda one: True) == [first, second]
    assert in_order(rivals, lambda one: one.teacher != "a") == [twin, second]


# By lot


def test_splits_hold_their_shares_and_stay_when_prompts_are_added() -> None:
    splits = (("train", 0.9), ("validation", 0.1))
    few = {f"p{n}": split_of(f"p{n}", splits) for n in range(2000)}
    more = {f"p{n}": split_of(f"p{n}", splits) for n in range(4000)}
    assert all(more[key] == split for key, split in few.items())
    assert 0.08 < list(more.values()).count("validation") / 4000 < 0.12
    assert lot_of("split", "p") != lot_of("limit", "p") != lot_of("limit", "p", 2)
