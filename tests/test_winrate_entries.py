"""Win rates in the leaderboard: who is found by name, what shares a column, what is said."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage import tables_leaderboard
from arbitrage.errors import UsageError
from arbitrage.standings import COLUMNS, Cell, Entry, Leaderboard, standing
from arbitrage.stats import Moments
from arbitrage.winrate.entries import SELECTED, _compared, with_win_rates
from arbitrage.winrate.results import LANGUAGES, Results
from browser import browser  # noqa: F401 - a fixture
from winrate_results import CODES, EVIL, make_results

if TYPE_CHECKING:
    from pathlib import Path

    from browser import Browser

RATES = {"east-8b": 0.58, "selected": 0.706, "merged": 0.61}
EVALUATION = make_results(RATES)


def entry(name: str, reward: float, run: str = "first", kind: str = "teacher") -> Entry:
    cells = {code: Cell(Moments(2, 2 * reward, 2 * reward**2), prompts=2) for code in ("de", "sw")}
    return Entry(name, run, kind, languages=cells, figures={"tokens": 9.0})


BOARD = Leaderboard(
    (
        entry("east-8b", 3.0),
        entry("west-8b", 2.0),
        entry("gpt", 1.0),
        entry("selected", 4.0, kind="arbitrage"),
    ),
    ("de", "sw"),
    ("A note.",),
)


def rates(board: Leaderboard, name: str = "winrate") -> dict[tuple[str, str], float | None]:
    return {(one.run, one.name): one.figures.get(name) for one in board.entries}


def mean_of(results: Results, model: str) -> tuple[float, float, float]:
    row = results.row(model, results.opponent, LANGUAGES)
    assert row is not None
    return tuple(row.rate)


def test_rows_get_the_rate_of_their_name_and_others_a_row_of_their_own() -> None:
    board = with_win_rates(BOARD, [("arena", EVALUATION)])
    told = rates(board)
    for name in ("east-8b", "selected"):
        assert told["first", name] == pytest.approx(mean_of(EVALUATION, name)[0])
    assert told["first", "west-8b"] is None
    assert told["first", "gpt"] == 0.5
    assert told["", "merged"] == pytest.approx(mean_of(EVALUATION, "merged")[0])
    merged = board.entries[-1]
    assert (merged.kind, merged.languages) == ("model", {})
    low, high = merged.figures["winrate_low"], merged.figures["winrate_high"]
    assert (low, high) == pytest.approx(mean_of(EVALUATION, "merged")[1:])
    assert board.entries[0].figures["tokens"] == 9.0
    assert [column.name for column in board.extra] == [
        *("winrate", "winrate_low", "winrate_high", "winrate_controlled"),
    ]
    assert BOARD.columns == COLUMNS


def test_answers_of_a_run_are_found_whatever_the_evaluation_calls_them() -> None:
    results = make_results({"ours": 0.7, "theirs": 0.6, "other": 0.5})
    made = {"ours": {"run": "first"}, "theirs": {"run": "first/west-8b"}, "other": {"run": "third"}}
    board = with_win_rates(BOARD, [("arena", dataclasses.replace(results, made_from=made))])
    told = rates(board)
    assert told["first", "selected"] == pytest.approx(mean_of(results, "ours")[0])
    assert told["first", "west-8b"] == pytest.approx(mean_of(results, "theirs")[0])
    assert told["", "other"] == pytest.approx(mean_of(results, "other")[0])
    assert ("", "ours") not in told


def test_what_a_rate_is_of_is_told() -> None:
    notes = with_win_rates(BOARD, [("arena/winrate.json", EVALUATION)]).notes
    assert notes[0] == "A note."
    assert notes[1] == (
        "win rate: share of games won against gpt (gpt itself: 50 %), ties as half, as the plain "
        "mean of 11 languages, judged by judge-a, judge-b (arena/winrate.json)."
    )
    assert notes[2].startswith("arena/winrate.json: 12 verdicts are missing")
    assert len(notes) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"baseline": "claude"},
        {"baseline": ""},
        {"judges": ("judge-c",)},
        {"languages": CODES[:3]},
        {"settings": {"strong_weight": 1.0}},
        {"made_from": {"questions": "other.jsonl"}},
    ],
)
def test_what_does_not_compare_has_a_column_of_its_own(other: dict[str, Any]) -> None:
    second = make_results({"trained": 0.4, "east-8b": 0.3}, **other)
    board = with_win_rates(BOARD, [("one", EVALUATION), ("two", second)])
    first, again = rates(board), rates(board, "winrate_2")
    assert first["first", "east-8b"] == pytest.approx(mean_of(EVALUATION, "east-8b")[0])
    assert again["first", "east-8b"] == pytest.approx(mean_of(second, "east-8b")[0])
    assert first["", "trained"] is None
    assert again["first", "selected"] is None
    said = [note for note in board.notes if "do not compare" in note]
    assert len(said) == 1
    titles = {column.title for column in board.extra if column.name in ("winrate", "winrate_2")}
    assert len(titles) == 2 or other.keys() & {"languages", "settings", "made_from"}


def test_evaluations_that_compare_share_a_column_but_no_model_is_in_it_twice() -> None:
    second = make_results({"trained": 0.4})
    board = with_win_rates(BOARD, [("one", EVALUATION), ("two", second)])
    assert len(board.extra) == 4
    assert rates(board)["", "trained"] == pytest.approx(mean_of(second, "trained")[0])
    assert "(one, two)." in board.notes[1]
    twice = with_win_rates(BOARD, [("one", EVALUATION), ("two", EVALUATION)])
    assert len(twice.extra) == 8


def made(**prints: str) -> dict[str, Any]:
    """What an evaluation writes of its parts, and of its questions."""
    told: dict[str, Any] = {
        name: {"kind": "any", "fingerprint": one} for name, one in prints.items()
    }
    return told | {"questions": prints["questions"]} if "questions" in prints else told


MADE = {"gpt": "1", "judge-a": "2", "judge-b": "3", "questions": "4", "east-8b": "5"}


@pytest.mark.parametrize("name", ["gpt", "judge-a", "judge-b", "questions"])
def test_what_hides_behind_the_same_names_decides_too(name: str) -> None:
    one = dataclasses.replace(EVALUATION, made_from=made(**MADE))
    again = make_results({"trained": 0.4}, made_from=made(**MADE, trained="6"))
    other = make_results({"trained": 0.4}, made_from=made(**{**MADE, name: "other"}))
    assert len(with_win_rates(BOARD, [("one", one), ("two", again)]).extra) == 4
    board = with_win_rates(BOARD, [("one", one), ("two", other)])
    assert len(board.extra) == 8
    assert rates(board)["", "trained"] is None
    assert rates(board, "winrate_2")["", "trained"] is not None


def test_of_all_against_all_every_model_decides_and_recorded_files_go_by_names() -> None:
    rest = {"x": 0.6, "y": 0.4}
    league = [make_results(rest, baseline="", made_from=made(x="1", y=one)) for one in ("2", "3")]
    assert len({_compared(one) for one in league}) == 2
    files = [{"judgements": ["a.jsonl"]}, {"judgements": ["b.jsonl"]}, None]
    kept = {_compared(dataclasses.replace(EVALUATION, made_from=one)) for one in files}
    assert len(kept) == 1


def test_a_name_that_means_two_runs_gets_to_both_rows_with_its_own_figure() -> None:
    entries = (*BOARD.entries, entry("selected", 2.0, "runs/second", "arbitrage"))
    board = dataclasses.replace(BOARD, entries=entries)
    one, two, three = (
        make_results({"ours": rate}, made_from={"ours": {"run": run}})
        for rate, run in ((0.7, "first"), (0.3, "second"), (0.6, "third"))
    )
    told = with_win_rates(board, [("one", one), ("two", two), ("three", three)])
    found = rates(told)
    assert len(told.extra) == 4, "they compare"
    assert found["first", "selected"] == pytest.approx(mean_of(one, "ours")[0])
    assert found["runs/second", "selected"] == pytest.approx(mean_of(two, "ours")[0])
    assert found["", "third"] == pytest.approx(mean_of(three, "ours")[0])
    assert ("", "ours") not in found
    alike = dataclasses.replace(
        board, entries=(*entries, entry("selected", 1.0, "new/second", SELECTED))
    )
    both = with_win_rates(alike, [("two", two)])
    assert rates(both)["new/second", "selected"] == rates(both)["runs/second", "selected"]
    assert "ours is in several runs (runs/second, new/second)" in both.notes[-1]
    full = make_results({"new/second": 0.3}, made_from={"new/second": {"run": "second"}})
    assert rates(with_win_rates(alike, [("two", full)]))["runs/second", "selected"] is None
    away = make_results({"east-8b": 0.6}, made_from={"east-8b": {"run": "third/east-8b"}})
    assert rates(with_win_rates(BOARD, [("one", away)]))["first", "east-8b"] is None


def test_a_full_name_parts_rows_of_the_same_name() -> None:
    entries = (*BOARD.entries, entry("east-8b", 1.0, "second"),
               entry("selected", 2.0, "second", "arbitrage"))  # fmt: skip
    board = dataclasses.replace(BOARD, entries=entries)
    bare = with_win_rates(board, [("arena", make_results({"east-8b": 0.6}))])
    assert rates(bare)["first", "east-8b"] == rates(bare)["second", "east-8b"] != None  # noqa: E711
    assert "east-8b is in several runs (first, second)" in bare.notes[-1]
    full = with_win_rates(board, [("arena", make_results({"second/east-8b": 0.6, "second": 0.7}))])
    assert rates(full)["first", "east-8b"] is None
    assert rates(full)["second", "east-8b"] is not None
    assert rates(full)["second", "selected"] is not None
    assert rates(full)["first", "selected"] is None
    assert not any("several runs" in note for note in full.notes)


def test_models_of_no_run_stay_whatever_languages_are_chosen() -> None:
    board = with_win_rates(BOARD, [("arena", EVALUATION)])
    assert standing(board).rows[-1].values["languages"] is None
    for found in (standing(board), standing(board, languages=["sw"]), standing(board, common=True)):
        assert "merged" in [row.entry.name for row in found.rows]
        assert found.languages
    order = [row.entry.name for row in standing(board, sort="winrate").rows]
    assert order == ["selected", "merged", "east-8b", "gpt", "west-8b"]
    with pytest.raises(UsageError, match="no column 'winrate' to sort by"):
        standing(BOARD, sort="winrate")


def test_markdown_csv_and_json_hold_the_figures() -> None:
    board = with_win_rates(BOARD, [("arena", EVALUATION)])
    found = standing(board)
    value, low, high = mean_of(EVALUATION, "merged")
    markdown = tables_leaderboard.of_markdown(board, found)
    assert "| win rate vs gpt |" in markdown
    assert f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})" in markdown
    assert "fewer languages" not in markdown
    rows = {
        row["name"]: row
        for row in csv.DictReader(io.StringIO(tables_leaderboard.of_csv(board, found)))
    }
    assert float(rows["merged"]["winrate_low"]) == low
    assert rows["west-8b"]["winrate"] == ""
    told = json.loads(tables_leaderboard.of_json(board, found))
    plain = {row["name"]: row for row in told["rows"]}
    assert plain["merged"]["winrate"] == value
    assert plain["east-8b"]["by_language"] == {"de": 3.0, "sw": 3.0}
    assert plain["merged"]["by_language"] == {}
    assert "against gpt" in told["columns"]["winrate"]
    assert told["notes"] == list(board.notes)


def test_hostile_names_stay_text_in_titles_too() -> None:
    board = with_win_rates(BOARD, [(EVIL, make_results({EVIL: 0.6}, baseline=f"{EVIL}|x"))])
    found = standing(board)
    markdown = tables_leaderboard.of_markdown(board, found)
    assert "<img" not in markdown
    counts = {
        line.replace("\\\\", "").replace("\\|", "").count("|")
        for line in markdown.split("\n\n")[0].splitlines()
    }
    assert len(counts) == 1
    for text in (markdown, tables_leaderboard.of_json(board, found)):
        assert not set("\x1b\u202e") & set(text)


def test_the_page_shows_rates_and_rows_of_no_run(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    second = make_results({"trained": 0.4, EVIL: 0.3}, baseline=EVIL + "0")
    board = with_win_rates(BOARD, [("one", EVALUATION), ("two", second)])
    path = tmp_path / "board.html"
    start = {"pattern": "", "languages": [], "common": True, "sort": "winrate"}
    path.write_text(tables_leaderboard.of_page(board, start), encoding="utf-8")
    page = browser.page(1400, 900).open(path)
    names = "[...document.querySelectorAll('#board tbody th .entry')].map(one => one.textContent)"
    assert page.evaluate(names)[:4] == ["selected", "merged", "east-8b", "gpt"]
    cells = page.evaluate(
        "[...document.querySelectorAll('#board td[data-column=winrate]')].map(c => c.textContent)"
    )
    value, low, high = mean_of(EVALUATION, "selected")
    assert cells[0] == f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})"
    assert cells[3] == "50.0%"
    heads = page.evaluate("[...document.querySelectorAll('#board th[data-column]')].length")
    assert heads > 6
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert "lack some of them" not in (page.text("#said") or "")
    page.evaluate("document.querySelectorAll('#languages input')[0].click()")
    assert "merged" in page.evaluate(names)
    assert page.console == []
    assert page.requests == []
    page.close()
