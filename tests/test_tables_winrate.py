"""What a terminal shows of win rates: its figures, its sentences, and how it fits."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from arbitrage.tables_winrate import _plain_rate, of_results
from arbitrage.winrate import telling
from arbitrage.winrate.results import ALL, LANGUAGE, Estimate, Results, read_results, results_from
from winrate_results import CODES, EVIL, make_results, make_row, recorded

if TYPE_CHECKING:
    from pathlib import Path

NONE = Estimate(math.nan, math.nan, math.nan)
TWENTY = {f"model-{n}-{'x' * n}": 0.3 + 0.02 * n for n in range(20)}


def printed(results: Results, width: int = 80, encoding: str = "utf-8", **more: Any) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = Console(file=file, width=width, color_system=None, force_terminal=False)
    console.print(of_results(results, **more))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def line_of(text: str, start: str, nth: int = 0) -> str:
    return [line for line in text.splitlines() if line.startswith(start)][nth]


# ---- Sentences ----


@pytest.mark.parametrize(
    ("estimate", "where"),
    [
        (Estimate(0.6, 0.51, 0.7), "above"),
        (Estimate(0.6, 0.5, 0.7), "level"),
        (Estimate(0.4, 0.3, 0.5), "level"),
        (Estimate(0.4, 0.3, 0.49), "below"),
        (Estimate(0.9, math.nan, math.nan), "unknown"),
        (None, "unknown"),
    ],
)
def test_a_rate_is_sure_where_its_interval_does_not_hold_one_half(
    estimate: Estimate | None, where: str
) -> None:
    assert telling.side(estimate) == where


def test_the_headline_says_who_wins_and_in_how_many_languages() -> None:
    results = make_results()
    best = results.row("arbitrage", "gpt")
    assert best is not None
    sure = 0
    for code in results.languages:
        row = results.row("arbitrage", "gpt", LANGUAGE, code)
        assert row is not None
        sure += row.rate.low > 0.5
    first, second = telling.headline(results)
    assert first == (
        f"arbitrage wins {100 * best.rate.value:.1f} % of the games against gpt (95 % interval "
        f"{100 * best.rate.low:.1f} to {100 * best.rate.high:.1f}), in {sure} of 11 languages "
        "surely."
    )
    assert second == (
        "Of the other 3 models, compared with gpt: 1 surely ahead, 1 surely behind, 1 not told "
        "apart."
    )


@pytest.mark.parametrize(
    ("rates", "baseline", "said"),
    [
        ({"a": 0.504, "b": 0.3}, "gpt", "No model is surely ahead of gpt: a wins 50.4 %"),
        ({"a": 0.31, "b": 0.3}, "gpt", "No model is ahead of gpt: the best, a, wins 31.0 %"),
        ({"a": 0.501, "b": 0.499}, "", "No model is surely ahead of the others: a wins 50.1 %"),
        ({"a": 0.7}, "gpt", "a wins 70.0 % of the games against gpt"),
    ],
)
def test_the_headline_claims_nothing_that_the_interval_does_not(
    rates: dict[str, float], baseline: str, said: str
) -> None:
    assert telling.headline(make_results(rates, baseline=baseline))[0].startswith(said)


def test_models_whose_intervals_overlap_are_not_ranked_by_the_headline() -> None:
    close = telling.headline(make_results({"a": 0.702, "b": 0.70, "c": 0.3}))
    assert "The intervals of a and b overlap" in close[-1]
    apart = telling.headline(make_results({"a": 0.9, "b": 0.70, "c": 0.3}))
    assert not any("overlap" in sentence for sentence in apart)
    met = telling.headline(make_results({"a": 0.7, "b": 0.45, "c": 0.4}, baseline=""))
    assert met[-1].startswith("a against the next, b: 7")


def test_without_a_verdict_nothing_is_said() -> None:
    empty = Results("gpt", ("gpt", "a"), ("j",), (), (), {}, ())
    assert telling.headline(empty) == [telling.NOTHING]
    assert telling.NOTHING in printed(empty)
    row = make_row("j", "a", "gpt", ALL, "", 0.5)
    blank = dataclasses.replace(row, rate=NONE, games=0, missing=4)
    nothing = dataclasses.replace(empty, rows=(blank,))
    assert telling.headline(nothing) == [telling.NOTHING]
    assert "4 verdicts are missing" in printed(nothing)


def test_without_intervals_nothing_is_called_sure() -> None:
    results = make_results()
    rows = tuple(
        dataclasses.replace(row, rate=Estimate(row.rate.value, math.nan, math.nan))
        for row in results.rows
    )
    bare = dataclasses.replace(results, rows=rows)
    assert "without an interval nobody knows" in telling.headline(bare)[0]
    told = printed(bare)
    table = told[told.index("by language") : told.index("+ surely above")]
    assert not re.search(r"\d[-+=]", table)
    assert len(re.findall(r"\d\?", table)) == 4 * 12


def test_missing_verdicts_are_told_with_judge_reason_and_what_to_do() -> None:
    results = make_results()
    assert telling.failures(results) == (
        "12 verdicts are missing: 9 of judge-a (no verdict in the answer), 3 of judge-b "
        "(timeout); `arbitrage winrate CONFIG --retry-failed` asks again."
    )
    assert "retry" not in printed(recorded(results))
    many = tuple((f"j{n}", "m", f"reason {n}", 10 - n) for n in range(6))
    told = telling.failures(dataclasses.replace(results, failures=many))
    assert told.startswith("45 verdicts are missing: 10 of j0 (reason 0), 9 of j1")
    assert "18 for other reasons" in told
    one = dataclasses.replace(results, failures=(("j", "m", "timeout", 1),))
    assert telling.failures(one).startswith("1 verdict is missing: 1 of j (timeout)")
    whole = tuple(dataclasses.replace(row, missing=0) for row in results.rows)
    assert telling.failures(dataclasses.replace(results, failures=(), rows=whole)) == ""


def test_what_moves_a_verdict_is_told_as_a_share() -> None:
    told = telling.biases(make_results())
    assert len(told) == 2
    share = 1 / (1 + math.exp(-0.31))
    low, high = (1 / (1 + math.exp(-size)) for size in (0.23, 0.39))
    assert told[0].startswith(
        f"judge-a moves an even game from 50 % to {100 * share:.1f} % ({100 * low:.1f} to "
        f"{100 * high:.1f}) for the answer shown first, "
    )
    assert "maybe by chance) for an answer with more list items" in told[0]


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_share_of_log_odds_is_a_share(size: float) -> None:
    share = telling.logistic(size)
    assert math.isnan(share) if not math.isfinite(size) else 0 <= share <= 1


# ---- Tables ----


def test_every_figure_of_the_models_is_the_row_s() -> None:
    results = make_results(languages=CODES)
    told = printed(results)
    for row in telling.ranked(results):
        assert row.controlled is not None
        assert row.strength is not None
        first = line_of(told, row.model, 0 if row.model != "arbitrage" else 1)
        assert f"{100 * row.rate.value:.1f}%" in first
        assert f"{100 * row.rate.low:.1f} to {100 * row.rate.high:.1f}" in first
        assert first.rstrip().endswith(f"{100 * row.controlled.value:.1f}%")
        second = line_of(told, row.model, 1 if row.model != "arbitrage" else 2)
        assert second.split()[1:] == [
            f"{row.strength.value:+.2f}",
            f"{100 * row.points.value:+.1f}",
            f"{100 * row.gain.value:+.0f}%",
            f"{row.games:,}",
            f"{row.ties / row.games:.0%}",
            f"{row.flipped / row.both:.0%}",
            str(row.missing),
        ]


def test_models_stand_by_rate_and_a_wide_terminal_has_one_table() -> None:
    results = make_results({"low": 0.2, "high": 0.8, "middle": 0.5})
    assert [row.model for row in telling.ranked(results)] == ["high", "middle", "low"]
    wide = printed(results, 140)
    assert "controlled strength points" in re.sub(" +", " ", wide)
    assert "model     strength" not in wide


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("rates", [None, TWENTY, {EVIL: 0.7, "b": 0.4}, {"\u4f60\u597d" * 30: 0.6}])
@pytest.mark.parametrize("baseline", ["gpt", ""])
def test_every_language_of_every_model_is_shown_whatever_the_width(
    width: int, rates: dict[str, float] | None, baseline: str
) -> None:
    results = make_results(rates, baseline=baseline, languages=CODES, categories=())
    told = printed(results, width)
    lines = told.splitlines()
    assert max(map(cell_len, lines)) <= width
    heads = [
        line.split()[2:] for line in lines if line.startswith("by language") and "+" not in line
    ]
    assert [code for head in heads for code in head] == [*CODES, "mean"]
    blocks = [at for at, line in enumerate(lines) if line.startswith("by language")]
    for place, row in enumerate(telling.ranked(results), 1):
        cells = [
            cell
            for at, head in zip(blocks, heads, strict=True)
            for cell in re.findall(r"(\d+)([-+=])", lines[at + place])[-len(head) :]
        ]
        wanted = [results.row(row.model, row.against, LANGUAGE, code) for code in CODES]
        told_of = [f"{100 * one.rate.value:.0f}" for one in wanted if one is not None]
        signs = {"above": "+", "level": "=", "below": "-"}
        marks = [signs[telling.side(one.rate)] for one in wanted if one is not None]
        assert [number for number, _ in cells[:-1]] == told_of
        assert [sign for _, sign in cells[:-1]] == marks


def test_the_bar_holds_the_rate_between_its_ends_beside_one_half() -> None:
    told = printed(make_results({"a": 0.8, "b": 0.2}))
    above, below = line_of(told, "a ", 1), line_of(told, "b ", 0)
    half = "\u2502"
    assert above.index(half) == below.index(half)
    assert above.index("\u25cf") > above.index(half)
    assert below.index("\u25cf") < below.index(half)
    assert re.search("\u2500\u25cf\u2500?", above)


def test_a_terminal_of_ascii_gets_ascii() -> None:
    told = printed(make_results(), encoding="ascii")
    assert told.isascii()
    assert re.search(r"\| +-?o", line_of(told, "arbitrage ", 1))


def test_everyone_meets_everyone_in_a_matrix() -> None:
    results = make_results({"a": 0.7, "b": 0.5, "c": 0.3}, baseline="")
    told = printed(results)
    lines = told.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("row against column"))
    assert lines[start].split()[3:] == ["1", "2", "3"]
    met = results.row("a", "c")
    assert met is not None
    assert lines[start + 1].split()[:2] == ["1", "a"]
    assert lines[start + 1].split()[-1] == f"{100 * met.rate.value:.0f}+"
    assert lines[start + 3].split()[:3] == ["3", "c", lines[start + 3].split()[2]]
    assert "row against column" not in printed(make_results())


def test_judges_and_categories_have_a_table_where_there_are_several() -> None:
    told = printed(make_results())
    assert line_of(told, "by judge").split() == ["by", "judge", "judge-a", "judge-b"]
    assert line_of(told, "by category").split()[2:4] == ["coding", "creative"]
    assert "judge-a and judge-b name the same winner for 78.0 % of 1,100 pairs" in told
    alone = printed(make_results(judges=("j",), categories=("one",), languages=("de",)))
    assert "by judge" not in alone
    assert "by category" not in alone
    assert "by language" not in alone
    assert "judge: j" in alone


def test_hostile_names_are_text_everywhere() -> None:
    results = make_results(
        {EVIL: 0.7, "b": 0.4},
        baseline=EVIL + "2",
        judges=(EVIL + "3", "[bold]j"),
        categories=("[red]c", EVIL),
        remarks=(EVIL,),
        failures=((EVIL, EVIL, EVIL, 3),),
    )
    for width in (80, 150):
        told = printed(results, width)
        assert not set("\x1b\u202e") & set(told)
        assert "[red]" in told
        assert "[bold]j" in told
        assert "\\x202e" in told


# ---- The file ----


def test_results_come_back_equal_from_their_file(tmp_path: Path) -> None:
    results = make_results(baseline="", languages=CODES[:3])
    (tmp_path / "winrate.json").write_text(results.as_json(), encoding="utf-8")
    assert read_results(tmp_path) == results
    assert results_from(results.as_dict()) == results


def test_long_names_that_begin_alike_are_told_apart_by_their_ends() -> None:
    names = [f"a-family-of-models-{size}-instruct" for size in ("1b", "3b", "70b")]
    rates = {name: 0.4 + 0.1 * place for place, name in enumerate(names)}
    text = printed(make_results(rates, baseline="short"))
    for size in ("1b", "3b", "70b"):
        assert f"-{size}-instruct" in text
    assert "a-family-of-models" not in text.split("model ")[1].split("by language")[0]


def test_a_controlled_rate_that_could_be_anything_is_not_told_without_its_interval() -> None:
    assert _plain_rate(Estimate(0.995, 0.03, 1.0)) == "?"
    assert _plain_rate(Estimate(0.6, 0.5, 0.7)) == "60.0%"
    assert _plain_rate(None) == "?"
