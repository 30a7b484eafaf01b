"""Style of answers: counted as Arena-Hard counts it, and how much more one answer has of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from arbitrage.winrate import style
from arbitrage.winrate.style import Features, features

MARKDOWN = st.text(alphabet="#-*+_1.` \t\nab", max_size=120)
COUNTS = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.just(4)),
    elements=st.integers(0, 10_000).map(float),
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (0, 0, 0, 0)),
        ("# A\n## B\n####### no\n#no\n #no", (31, 2, 0, 0)),
        ("- a\n  * b\n+ c\n12. d\n1) no\n-no", (31, 0, 4, 0)),
        ("**a** __b__ **c\nd** * e * ****", (30, 0, 0, 2)),
        ("# A\n```\n# B\n- c\n**d**\n```\n- e", (31, 1, 1, 0)),
        ("\n\n- a\r\n- b", (11, 0, 2, 0)),
    ],
)
def test_a_few_texts_by_hand(text: str, found: tuple[int, ...]) -> None:
    assert features(text) == Features(len(text), *found[1:])


@given(MARKDOWN)
def test_each_line_is_counted_as_the_rules_say(text: str) -> None:
    """Line by line, in plain Python, on texts without code."""
    plain = text.replace("`", "")
    lines = plain.split("\n")
    ended = [line + "\n" for line in lines[:-1]] + lines[-1:]
    headers = sum(bool(re.match(r"#{1,6}[ \t\n]", line)) for line in ended)
    lists = sum(bool(re.match(r"[ \t]*([0-9]+\.|[-*+])[ \t\n]", line)) for line in ended)
    assert features(plain)[:3] == (len(plain), headers, lists)


@given(MARKDOWN, MARKDOWN)
def test_code_adds_to_the_length_alone(before: str, code: str) -> None:
    before, code = before.replace("`", ""), code.replace("`", "")
    with_code = features(f"{before}\n```{code}```")
    assert with_code[1:] == features(f"{before}\n")[1:]
    assert with_code.length == len(before) + len(code) + 7


@given(COUNTS, COUNTS)
def test_differences_change_sign_with_the_sides_and_stay_within_one(
    first: np.ndarray, second: np.ndarray
) -> None:
    n = min(len(first), len(second))
    names, one = style.differences(first[:n], second[:n])
    _, other = style.differences(second[:n], first[:n])
    assert names == ("length", "headers", "lists", "bold")
    assert np.allclose(one, -other)
    assert (np.abs(one) <= 1).all()
    assert not style.differences(first, first)[1].any()


@given(COUNTS, COUNTS)
def test_differences_are_those_of_arena_hard(first: np.ndarray, second: np.ndarray) -> None:
    n = min(len(first), len(second))
    _, found = style.differences(first[:n], second[:n])
    for row, one, other in zip(found, first, second, strict=False):
        total = one[0] + other[0]
        assert row[0] == pytest.approx((one[0] - other[0]) / total if total else 0)
        for column in (1, 2, 3):
            dense, rest = one[column] / (one[0] + 1), other[column] / (other[0] + 1)
            assert row[column] == pytest.approx((dense - rest) / (dense + rest + 1))


def test_an_unknown_answer_stays_unknown() -> None:
    known, unknown = np.ones((1, 4)), np.full((1, 4), np.nan)
    assert np.isnan(style.differences(known, unknown)[1]).all()


@pytest.mark.parametrize("text", ["\n", " ", "*", "_", "`", "#", "```", "**a", "1", "- "])
def test_a_model_that_repeats_itself_to_its_limit_is_counted(text: str) -> None:
    """In square time, as with `^\\s*` before the mark of a list, this would not come to an end."""
    found = features(text * 200_000)
    assert found.length == 200_000 * len(text)
    assert max(found[1:]) <= 200_000
