"""Which rows of a leaderboard compare, in which order, and how hostile names are written."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage import tables_leaderboard
from arbitrage.errors import UsageError
from arbitrage.standings import COLUMNS, Cell, Entry, Leaderboard, standing
from arbitrage.stats import Moments

if TYPE_CHECKING:
    from collections.abc import Sequence


def moments(values: Sequence[float]) -> Moments:
    return Moments(len(values), sum(values), sum(value**2 for value in values))


def entry(name: str, rewards: dict[str, Sequence[float]], **more: Any) -> Entry:
    cells = {code: Cell(moments(told), prompts=10) for code, told in rewards.items()}
    return Entry(name, more.pop("run", "r"), more.pop("kind", "teacher"), languages=cells, **more)


SMALL = Leaderboard(
    (
        entry("easy", {"de": [9, 9]}, figures={"money_per_1000": 1.0}),
        entry("wide", {"de": [8, 9], "sw": [1, 2]}, figures={"money_per_1000": 5.0}),
        entry("good", {"de": [8, 8], "sw": [3, 4]}, figures={"money_per_1000": 9.0}),
        entry("dear", {"de": [8, 8], "sw": [3, 3]}, figures={"money_per_1000": 10.0}),
    ),
    ("de", "sw"),
)


def names(**asked: Any) -> list[str]:
    return [row.entry.name for row in standing(SMALL, **asked).rows]


def test_an_average_over_fewer_languages_comes_last_and_is_on_no_front() -> None:
    found = standing(SMALL)
    assert [row.entry.name for row in found.rows] == ["good", "dear", "wide", "easy"]
    assert [row.front for row in found.rows] == [True, False, True, False]
    assert found.rows[-1].values["reward"] == 9
    assert not found.rows[-1].complete


def test_common_languages_make_all_rows_compare() -> None:
    found = standing(SMALL, common=True)
    assert found.languages == ("de",)
    assert all(row.complete for row in found.rows)
    assert [row.entry.name for row in found.rows] == ["easy", "wide", "good", "dear"]
    assert [row.front for row in found.rows] == [True, False, False, False]
    assert standing(SMALL, common=True, pattern="re:wide|good").languages == ("de", "sw")


def test_languages_are_chosen_and_rows_without_any_are_left_out() -> None:
    found = standing(SMALL, languages=["sw"])
    assert [row.entry.name for row in found.rows] == ["good", "dear", "wide"]
    assert found.rows[0].values["reward"] == 3.5
    with pytest.raises(UsageError, match="no language 'fr' here; there are de, sw"):
        standing(SMALL, languages=["fr"])


def test_rows_are_sorted_by_any_column_or_language() -> None:
    assert names(sort="money_per_1000") == ["easy", "wide", "good", "dear"]
    assert names(sort="sw") == ["good", "dear", "wide", "easy"]
    assert names(sort="name") == ["dear", "easy", "good", "wide"]
    for column in COLUMNS:
        assert sorted(names(sort=column.name)) == ["dear", "easy", "good", "wide"]
    with pytest.raises(UsageError, match="no column 'costs' to sort by; there are name, run"):
        names(sort="costs")


def test_an_interval_that_is_not_known_makes_the_average_s_unknown() -> None:
    board = Leaderboard((entry("a", {"de": [1, 2], "sw": [4]}),), ("de", "sw"))
    told = standing(board).rows[0].values
    assert told["reward"] == pytest.approx(2.75)
    assert told["interval"] is None


# ---- What is written ----

EVIL = "<script>alert(1)</script>|a*b\\c\n\u202e`x` [y](https://evil.example)\x1b[31m"
HOSTILE = Leaderboard(
    (
        entry(EVIL, {"de": [1, 2]}, model=EVIL, license="=1+1", figures={"money_per_1000": 1.0}),
        entry("plain", {"de": [3, 4]}, figures={"money_per_1000": 2.0}),
    ),
    ("de",),
    (f"A note about {EVIL}.",),
)


def test_markdown_has_as_many_cells_as_columns_whatever_the_names() -> None:
    told = tables_leaderboard.of_markdown(HOSTILE, standing(HOSTILE))
    lines = told.split("\n\n")[0].splitlines()
    assert len(lines) == 4
    counts = {line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines}
    assert len(counts) == 1
    assert "<script" not in told
    assert not set("\x1b\u202e") & set(told)
    assert "[y](" not in told
    assert "&lt;script&gt;" in told


def test_csv_of_hostile_names_is_a_row_each_and_moves_no_terminal() -> None:
    text = tables_leaderboard.of_csv(HOSTILE, standing(HOSTILE))
    rows = list(csv.reader(io.StringIO(text)))
    assert {len(row) for row in rows} == {len(COLUMNS) + 3}
    assert not set("\x1b\u202e") & set(text)
