"""The page of win rates in a real browser: its numbers are those of the results."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage import winrate_page
from arbitrage.winrate import telling
from arbitrage.winrate.results import ALL, CATEGORY, LANGUAGE, LANGUAGES, Estimate, Results, Row
from arbitrage.winrate_page import FIELDS, data_of, write
from browser import browser  # noqa: F401 - a fixture
from winrate_results import CODES, EVIL, make_results, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browser import Browser, Page

RESULTS = make_results(languages=CODES)
HOSTILE = make_results(
    {EVIL: 0.7, "</script><script>window.broken=1</script>": 0.5, "c": 0.3},
    baseline="",
    judges=(EVIL, "<b>j</b>"),
    languages=CODES[:3],
    categories=("<i>c</i>", EVIL),
    remarks=(EVIL,),
    failures=((EVIL, EVIL, "</td><script>window.broken=2</script>", 3),),
    settings={EVIL: EVIL},
    made_from={"x": [EVIL, math.nan]},
)
MINUS = "\u2212"
SIGNS = {"above": "+", "level": "=", "below": MINUS}


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Any]:  # noqa: F811
    pages = []

    def show(results: Results, width: int = 1440, **more: Any) -> Page:
        path = tmp_path / "winrate.html"
        path.write_text(write(results, **more), encoding="utf-8")
        page = browser.page(width, 900)
        page.prefer("light")
        pages.append(page)
        return page.open(path)

    yield show
    for page in pages:
        assert page.console == []
        assert page.requests == []
        page.close()


def data_in(text: str) -> dict[str, Any]:
    start = text.index('id="data">') + len('id="data">')
    found: dict[str, Any] = json.loads(text[start : text.index("</script>", start)])
    return found


def choose(page: Page, name: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const one = document.getElementById('wr-{name}');"
        f"one.value = {json.dumps(value)}; one.dispatchEvent(new Event('change')); }})()"
    )


def bars(page: Page) -> list[tuple[str, float, str]]:
    rows = "[...document.querySelectorAll('.wr-bar')]"
    told = f"{rows}.map(row => [row.dataset.model, row.dataset.value, row.innerText])"
    return [(name, float(value), text) for name, value, text in page.evaluate(told)]


def cells(page: Page, model: str) -> list[tuple[str, str, str]]:
    found: list[list[str]] = page.evaluate(
        "[...document.querySelectorAll('#wr-matrix tbody tr')].filter(row => row.dataset.model === "
        f"{json.dumps(model)})[0].querySelectorAll('td').values().map(cell => "
        "[cell.dataset.key, cell.dataset.value, cell.textContent]).toArray()"
    )
    return [(key, value, text) for key, value, text in found]


def row_of(results: Results, *key: Any, judge: str | None = None) -> Row:
    row = results.row(*key, judge=judge)
    assert row is not None
    return row


def test_the_data_of_the_page_are_the_rows() -> None:
    data = data_in(write(RESULTS))["winrate"]
    assert len(data["rows"]) == len(RESULTS.rows)
    for told, row in zip(data["rows"], RESULTS.rows, strict=True):
        for name, value in zip(FIELDS, told, strict=True):
            own = getattr(row, name)
            assert value == (pytest.approx(list(own)) if isinstance(own, Estimate) else own)


def test_a_brief_section_holds_what_it_shows_first() -> None:
    data = data_of(RESULTS, brief=True)
    place = FIELDS.index("judge")
    assert {told[place] for told in data["rows"]} == {""}
    assert len(data["rows"]) == 4 * (1 + 1 + len(CODES) + 3)
    against = FIELDS.index("against")
    everyone = data_of(HOSTILE, brief=True)
    assert {told[against] for told in everyone["rows"]} == {"", *HOSTILE.models}


def test_it_opens_with_the_headline_and_a_bar_for_each_model(opened: Any) -> None:
    page = opened(RESULTS)
    assert page.text(".wr-first") == telling.headline(RESULTS)[0]
    notices = page.evaluate("[...document.querySelectorAll('.notice')].map(one => one.innerText)")
    assert notices == [*RESULTS.remarks, telling.failures(RESULTS)]
    found = bars(page)
    assert [name for name, _, _ in found] == [row.model for row in telling.ranked(RESULTS)]
    for (_, value, text), row in zip(found, telling.ranked(RESULTS), strict=True):
        assert value == pytest.approx(row.rate.value)
        assert f"{100 * row.rate.value:.1f}%" in text
        assert SIGNS[telling.side(row.rate)] in text
        assert f"{100 * row.rate.low:.1f} to {100 * row.rate.high:.1f}" in text


def test_bars_stand_where_their_numbers_say(opened: Any) -> None:
    page = opened(RESULTS)
    places = page.evaluate(
        "[...document.querySelectorAll('.wr-bar')].map(row => ['.wr-half', '.wr-range', '.wr-dot',"
        "'.wr-track'].map(name => { const box = row.querySelector(name).getBoundingClientRect();"
        "return [box.left, box.right]; }))"
    )
    for (half, span, dot, track), row in zip(places, telling.ranked(RESULTS), strict=True):
        middle = (dot[0] + dot[1]) / 2
        assert span[0] - 1 <= middle <= span[1] + 1
        assert (middle > half[0]) == (row.rate.value > 0.5) or abs(row.rate.value - 0.5) < 0.01
        assert (span[0] > half[0]) == (telling.side(row.rate) == "above")
        assert track[0] <= dot[0]
        assert dot[1] <= track[1]


def test_the_matrix_has_every_language_with_number_and_sign(opened: Any) -> None:
    page = opened(RESULTS)
    for model in ("arbitrage", "west-8b"):
        found = cells(page, model)
        assert [key for key, _, _ in found] == ["all", "mean", *CODES]
        rows = [
            row_of(RESULTS, model, "gpt", ALL),
            row_of(RESULTS, model, "gpt", LANGUAGES),
            *(row_of(RESULTS, model, "gpt", LANGUAGE, code) for code in CODES),
        ]
        for (_, value, text), row in zip(found, rows, strict=True):
            assert float(value) == pytest.approx(row.rate.value)
            assert text == f"{100 * row.rate.value:.0f}{SIGNS[telling.side(row.rate)]}"


def test_a_cell_tells_its_interval_under_the_mouse_and_the_keyboard(opened: Any) -> None:
    page = opened(RESULTS)
    row = row_of(RESULTS, "arbitrage", "gpt", LANGUAGE, "cs")
    page.evaluate("document.querySelector('#wr-matrix td[tabindex=\"0\"]').focus()")
    for _ in range(3):
        page.press("ArrowRight")
    told = page.text("#wr-readout") or ""
    assert told.startswith(f"arbitrage in Czech (cs): {100 * row.rate.value:.1f}% (")
    assert f"({100 * row.rate.low:.1f} to {100 * row.rate.high:.1f})" in told
    assert f"{row.games} games: {row.wins} won, {row.ties} tied, {row.losses} lost" in told
    page.press("ArrowDown")
    assert (page.text("#wr-readout") or "").startswith("east-8b in Czech (cs)")
    assert page.evaluate("document.querySelectorAll('#wr-matrix td[tabindex=\"0\"]').length") == 1
    page.click("#wr-matrix td[data-key='de']")
    assert (page.text("#wr-readout") or "").startswith("arbitrage in German (de)")


def test_judge_prompts_and_kind_of_rate_are_switched(opened: Any) -> None:
    page = opened(RESULTS)
    choose(page, "judge", "judge-b")
    for name, value, _ in bars(page):
        assert value == pytest.approx(row_of(RESULTS, name, "gpt", judge="judge-b").rate.value)
    choose(page, "prompts", json.dumps([CATEGORY, "maths"], separators=(",", ":")))
    for name, value, _ in bars(page):
        row = row_of(RESULTS, name, "gpt", CATEGORY, "maths", judge="judge-b")
        assert value == pytest.approx(row.rate.value)
    page.click("[data-choice='controlled']")
    for name, value, _ in bars(page):
        row = row_of(RESULTS, name, "gpt", CATEGORY, "maths", judge="judge-b")
        assert row.controlled is not None
        assert value == pytest.approx(row.controlled.value)
    page.click("[data-choice='category']")
    assert [key for key, _, _ in cells(page, "arbitrage")] == ["all", *RESULTS.categories]
    assert "as judge-b sees it" in (page.text("#wr-bars-legend") or "")


def test_everyone_against_everyone(opened: Any) -> None:
    results = make_results({"a": 0.7, "b": 0.5, "c": 0.3}, baseline="", languages=CODES[:3])
    page = opened(results)
    page.click("[data-choice='models']")
    found = cells(page, "a")
    assert [key for key, _, _ in found] == ["all", "a", "b", "c"]
    assert found[1][2] == ""
    assert float(found[3][1]) == pytest.approx(row_of(results, "a", "c").rate.value)
    choose(page, "against", "c")
    assert [(n, v) for n, v, _ in bars(page)] == [
        (name, pytest.approx(row_of(results, name, "c").rate.value)) for name in ("a", "b")
    ]


def figures(page: Page, title: str) -> list[str]:
    column = f"[...document.querySelectorAll('#figures td[data-column=\"{title}\"]')]"
    found: list[str] = page.evaluate(f"{column}.map(cell => cell.dataset.value)")
    return found


def test_the_table_has_every_row_and_sorts(opened: Any) -> None:
    page = opened(RESULTS)
    mine = [row for row in RESULTS.rows if row.judge == ""]
    assert sorted(map(float, figures(page, "win rate"))) == pytest.approx(
        sorted(row.rate.value for row in mine)
    )
    page.click("#figures th[data-column='games']")
    assert list(map(float, figures(page, "games"))) == sorted(
        (row.games for row in mine), reverse=True
    )
    page.clear("#filter")
    page.type("czech")
    assert len(figures(page, "games")) == 4
    assert "4 rows" in (page.text("#said") or "")


def test_judges_settings_and_what_was_judged_are_there(opened: Any) -> None:
    page = opened(RESULTS)
    told = page.text("#judges") or ""
    for sentence in telling.biases(RESULTS):
        assert sentence in told
    rows = "document.querySelectorAll('#agreements tbody tr').length"
    assert page.evaluate(rows) == len(RESULTS.agreements)
    assert page.evaluate("document.querySelectorAll('#effects tbody tr').length") == 6
    made = page.text("#made-from") or ""
    assert "strong_weight" in made
    assert "m-arena-hard.jsonl" in made


def test_hostile_names_are_text(opened: Any) -> None:
    page = opened(HOSTILE)
    for css in ("[data-choice='models']", "[data-choice='category']", "[data-choice='controlled']"):
        page.click(css)
    assert page.evaluate("typeof window.broken") == "undefined"
    assert page.evaluate("document.querySelectorAll('img, main i, main script').length") == 0
    assert page.evaluate("document.querySelectorAll('#judges b').length") == 0
    assert EVIL in [name for name, _, _ in bars(page)]
    assert not set("\u202e\x1b") & set(page.text("body") or "\x1b")
    assert "<img src=" in (page.text("#judges") or "")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    long = make_results({f"a-model-of-a-very-long-name-{'x' * 60}-{n}": 0.5 for n in range(8)})
    for results in (RESULTS, HOSTILE, long):
        page = opened(results, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_little_is_shown_without_a_complaint(opened: Any) -> None:
    empty = Results("gpt", ("gpt", "a"), ("j",), (), (), {}, ())
    assert opened(empty).text(".wr-first") == telling.NOTHING
    one = make_results({"a": 0.6}, judges=("j",), languages=("de",), categories=(),
                       effects=(), agreements=(), failures=())  # fmt: skip
    page = opened(one)
    assert page.evaluate("document.getElementById('wr-where').hidden")
    assert page.evaluate("document.getElementById('wr-judge')") is None
    none = Estimate(math.nan, math.nan, math.nan)
    rows = tuple(
        dataclasses.replace(row, rate=none, controlled=None, strength=None) for row in one.rows
    )
    blank = opened(dataclasses.replace(one, rows=rows))
    assert blank.text(".wr-first") == telling.NOTHING


def test_nobody_is_told_to_ask_again_what_others_recorded(opened: Any) -> None:
    assert "--retry-failed" not in write(recorded(RESULTS))
    assert "--retry-failed" in write(RESULTS)


def test_of_very_many_rows_a_page_leaves_out_pairs_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = make_results({"a": 0.7, "b": 0.5, "c": 0.3}, baseline="", judges=("j",))
    pair = dataclasses.replace(row_of(results, "a", "b"), scope=LANGUAGE, of="de")
    results = dataclasses.replace(results, rows=(*results.rows, pair))
    assert "not on this page" not in write(results)
    monkeypatch.setattr(winrate_page, "MOST_ROWS", len(results.rows) - 1)
    text = write(results)
    assert "1 rates of single pairs" in text
    assert len(data_in(text)["winrate"]["rows"]) == len(results.rows) - 1
