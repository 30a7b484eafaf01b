"""The rules of a leaderboard: who matches, who comes first, whom nobody beats."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.errors import UsageError
from arbitrage.ranking import front, matcher, ranked

VALUES = st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
POINTS = st.lists(st.tuples(VALUES, VALUES), max_size=30)
DIRECTION = st.sampled_from((-1, 1))


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one != other


@given(POINTS, DIRECTION, DIRECTION)
def test_the_front_is_those_that_nobody_beats(
    points: list[tuple[float | None, float | None]], across: int, up: int
) -> None:
    found = front(points, (across, up))
    turned = [None if x is None or y is None else (x * across, y * up) for x, y in points]
    known = [point for point in turned if point is not None]
    assert found == [
        point is not None and not any(beats(other, point) for other in known) for point in turned
    ]


def test_an_axis_without_a_direction_has_no_front() -> None:
    assert front([(1.0, 1.0), (2.0, 2.0)], (0, 1)) == [False, False]
    assert front([(math.nan, 1.0), (2.0, 2.0)], (1, 1)) == [False, True]


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("", ["Qwen/Qwen3-8B", "a.b[c]", "romance", "x|y"]),
        ("  ", ["Qwen/Qwen3-8B", "a.b[c]", "romance", "x|y"]),
        ("qwen3", ["Qwen/Qwen3-8B"]),
        ("ROM", ["romance"]),
        (".", ["a.b[c]"]),
        ("qwen*", ["Qwen/Qwen3-8B"]),
        ("*ance", ["romance"]),
        ("wen*", []),
        ("roman?e", ["romance"]),
        ("a*[c]", ["a.b[c]"]),
        ("*|y", ["x|y"]),
        ("re:^r|8b$", ["Qwen/Qwen3-8B", "romance"]),
        (r"re:\[c\]", ["a.b[c]"]),
        ("re:", ["Qwen/Qwen3-8B", "a.b[c]", "romance", "x|y"]),
    ],
)
def test_a_pattern_is_a_part_a_wildcard_or_an_expression(pattern: str, matching: list[str]) -> None:
    names = ["Qwen/Qwen3-8B", "a.b[c]", "romance", "x|y"]
    matches = matcher(pattern)
    assert [name for name in names if matches([name, "teacher"])] == matching


def test_a_broken_expression_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"^'\(' is no regular expression: .*[^.]$"):
        matcher("re:(")


def is_like(pattern: str, text: str) -> bool:
    """The rule, letter by letter."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(is_like(pattern[1:], text[start:]) for start in range(len(text) + 1))
    same = bool(text) and pattern[0] in ("?", text[0])
    return same and is_like(pattern[1:], text[1:])


@given(st.text(alphabet="ab[]!-.*?\\^$", max_size=8), st.text(alphabet="ab[]!-.\\^$", max_size=8))
def test_a_wildcard_knows_two_signs_only(pattern: str, text: str) -> None:
    if "*" in pattern or "?" in pattern:
        assert matcher(pattern)([text]) == is_like(pattern, text)


@given(st.lists(VALUES, max_size=20), DIRECTION)
def test_best_first_unknown_last_equal_ones_as_they_stood(
    values: list[float | None], direction: int
) -> None:
    order = ranked(values, direction)
    assert sorted(order) == list(range(len(values)))
    told = [values[place] for place in order]
    known = [value * direction for value in told if value is not None]
    assert known == sorted(known, reverse=True)
    assert told[len(known) :] == [None] * (len(values) - len(known))
    for one, other in itertools.pairwise(order):
        if values[one] == values[other]:
            assert one < other


def test_text_goes_by_the_alphabet_whatever_the_direction() -> None:
    assert ranked(["b", None, "A", "c"], -1) == ranked(["b", None, "A", "c"], 1) == [2, 0, 3, 1]
