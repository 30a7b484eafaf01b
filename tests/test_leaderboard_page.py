"""The leaderboard's page in a real browser: it says and does what the Python rules say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage.ranking import front
from arbitrage.standings import Cell, Entry, Leaderboard, standing
from arbitrage.stats import Moments
from arbitrage.tables_leaderboard import of_page
from browser import browser  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browser import Browser, Page

EVIL = "<img src=https://evil.example onerror=alert(1)>|\u202eevil"


def moments(*values: float) -> Moments:
    return Moments(len(values), sum(values), sum(value**2 for value in values))


def entry(name: str, rewards: dict[str, tuple[float, ...]], price: float, **more: Any) -> Entry:
    cells = {
        code: Cell(moments(*told), moments(1, 0), wins=1, prompts=len(told))
        for code, told in rewards.items()
    }
    figures = {"money_per_1000": price, "money": price, "tokens": 9, "tokens_per_s": 1000 / price}
    kind = more.pop("kind", "teacher")
    return Entry(name, "run", kind, languages=cells, figures=figures, **more)


BOARD = Leaderboard(
    (
        entry(
            "Qwen3-8B", {"de": (3, 4), "sw": (1, 2), "ja": (2, 2)}, 4.0, parameters=8_000_000_000
        ),
        entry(
            "qwen3-4b", {"de": (2, 3), "sw": (1, 1), "ja": (1, 2)}, 2.0, parameters=4_000_000_000
        ),
        entry("twin", {"de": (3, 4), "sw": (1, 2), "ja": (2, 2)}, 4.0),
        entry("slow", {"de": (2, 2), "sw": (1, 1), "ja": (1, 1)}, 8.0),
        entry("only-de", {"de": (9, 8)}, 1.0, license="MIT"),
        entry(EVIL, {"de": (0, 1), "ja": (-5, 1)}, 0.5, model=EVIL),
        entry("selected", {"de": (5, 5), "sw": (4, 4), "ja": (3, 4)}, 15.0, kind="arbitrage"),
    ),
    ("de", "ja", "sw"),
    (f"A note about {EVIL}.",),
)
START = {"pattern": "", "languages": [], "common": False, "sort": "reward"}


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Iterator[Page]:  # noqa: F811
    path = tmp_path / "board.html"
    path.write_text(of_page(BOARD, START), encoding="utf-8")
    page = browser.page(1400, 900)
    page.prefer("light")
    yield page.open(path)
    assert page.console == []
    assert page.requests == []
    page.close()


def names(page: Page) -> list[str]:
    rows = "[...document.querySelectorAll('#board tbody tr')]"
    found: list[str] = page.evaluate(f"{rows}.map(row => row.querySelector('.entry').textContent)")
    return found


def on_front(page: Page) -> set[str]:
    rows = "[...document.querySelectorAll('#board tbody tr')]"
    told = f"{rows}.filter(row => !row.querySelector('.front').hidden)"
    return set(page.evaluate(f"{told}.map(row => row.querySelector('.entry').textContent)"))


def column(page: Page, name: str) -> list[str]:
    cells = f"[...document.querySelectorAll('#board td[data-column=\"{name}\"]')]"
    found: list[str] = page.evaluate(f"{cells}.map(cell => cell.textContent)")
    return found


def choose(page: Page, select: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const one = document.getElementById({json.dumps(select)});"
        f"one.value = {json.dumps(value)}; one.dispatchEvent(new Event('change')); }})()"
    )


def filtered(page: Page, pattern: str) -> list[str]:
    page.clear("#filter")
    page.type(pattern)
    return names(page)


def test_it_opens_as_python_ranks(shown: Page) -> None:
    found = standing(BOARD)
    assert names(shown) == [row.entry.name for row in found.rows]
    assert on_front(shown) == {row.entry.name for row in found.rows if row.front}
    assert on_front(shown) == {"selected", "Qwen3-8B", "twin", "qwen3-4b"}
    for told, row in zip(column(shown, "reward"), found.rows, strict=True):
        assert told.split("*")[0].split(" ")[0] == f"{row.values['reward']:.2f}".replace(
            "-", "\u2212"
        )
        assert ("*" in told) == (not row.complete)
        assert told.endswith(f"{row.values['interval']:.2f}")
    assert column(shown, "languages") == ["3/3"] * 5 + ["1/3", "2/3"]
    assert "2 lack some of them" in (shown.text("#said") or "")


def test_hostile_names_are_text(shown: Page) -> None:
    assert EVIL in names(shown)
    assert shown.evaluate("document.querySelectorAll('img').length") == 0
    shown.wait("document.querySelectorAll('#scatter .textpoint').length > 0")
    labels = "[...document.querySelectorAll('#scatter .textpoint text')].map(t => t.textContent)"
    assert any("<img src=" in label for label in shown.evaluate(labels))
    assert "\u202e" not in (shown.text(".notice") or "\u202e")


def test_columns_and_languages_sort(shown: Page) -> None:
    head = "#board th[data-column='{}']"
    shown.click(head.format("money"))
    assert names(shown)[0] == EVIL
    assert shown.evaluate("document.querySelector('#board th[data-column=money]').ariaSort") == (
        "ascending"
    )
    shown.click(head.format("money"))
    assert names(shown)[0] == "selected"
    shown.click(head.format("sw"))
    told = standing(BOARD, sort="sw")
    assert names(shown) == [row.entry.name for row in told.rows]
    shown.evaluate("document.querySelector('#board th[data-column=name]').focus()")
    shown.press("Enter")
    assert names(shown)[-3:] == ["selected", "slow", "twin"]
    focused = "document.activeElement.dataset.column"
    assert shown.evaluate(focused) == "name"


@pytest.mark.parametrize(
    "pattern",
    ["qwen", "QWEN*", "*b", "?wen3-4b", "re:^(slow|only)", "re:8B$", "MIT", "<img", "|", "."],
)
def test_the_filter_is_the_rule_of_python(shown: Page, pattern: str) -> None:
    found = standing(BOARD, pattern=pattern)
    assert filtered(shown, pattern) == [row.entry.name for row in found.rows]
    assert on_front(shown) == {row.entry.name for row in found.rows if row.front}
    if found.rows:
        marks = shown.evaluate("document.querySelectorAll('#board mark').length")
        assert marks >= len(found.rows) - (pattern == "MIT")


def test_a_broken_expression_is_said_and_filters_nothing(shown: Page) -> None:
    assert len(filtered(shown, "re:qwen")) == 2
    shown.type("(")
    assert len(names(shown)) == len(BOARD.entries)
    said = shown.text("#said") or ""
    assert said == "Not a valid regular expression: unterminated group; all rows are shown."
    assert shown.evaluate("document.getElementById('said').classList.contains('bad')")
    assert len(filtered(shown, "re:/gi: (")) == len(BOARD.entries)
    assert shown.text("#said") == said
    assert (
        shown.evaluate("document.getElementById('filter').getAttribute('aria-invalid')") == "true"
    )
    assert len(filtered(shown, "re:")) == len(BOARD.entries)
    assert not (shown.text("#said") or "").startswith("Not a valid")
    assert not shown.evaluate("document.getElementById('said').classList.contains('bad')")


def test_common_languages_compare_all_rows_that_are_shown(shown: Page) -> None:
    shown.click("#mode button[data-choice=common]")
    found = standing(BOARD, common=True)
    assert found.languages == ("de",)
    assert names(shown) == [row.entry.name for row in found.rows]
    assert on_front(shown) == {row.entry.name for row in found.rows if row.front}
    assert column(shown, "languages") == ["1/1"] * 7
    filtered(shown, "qwen")
    assert column(shown, "languages") == ["3/3"] * 2


def test_languages_are_chosen(shown: Page) -> None:
    shown.click("#show-languages")
    shown.click("#languages input[value=de]")
    found = standing(BOARD, languages=["ja", "sw"])
    assert names(shown) == [row.entry.name for row in found.rows]
    assert on_front(shown) == {row.entry.name for row in found.rows if row.front}
    assert shown.evaluate("document.querySelector('#board th[data-column=de]')") is None
    shown.click("#languages .button", nth=1)
    assert shown.text("#said") == "No language is chosen."
    assert shown.text("#undrawn") == "No language is chosen."
    shown.click("#languages .button", nth=0)
    assert filtered(shown, "nobody") == []
    assert shown.text("#said") == "No row matches."
    shown.clear("#filter")
    assert len(names(shown)) == len(BOARD.entries)


def test_columns_are_chosen(shown: Page) -> None:
    assert column(shown, "tokens_per_s") != []
    shown.click("#show-columns")
    shown.click("#columns input[value=tokens_per_s]")
    assert column(shown, "tokens_per_s") == []
    shown.click("#columns input[value=gap_interval]")
    assert len(column(shown, "gap_interval")) == len(BOARD.entries)


def drawn(page: Page) -> list[dict[str, Any]]:
    chart = "document.getElementById('scatter')"
    found: list[dict[str, Any]] = page.evaluate(
        f"{chart}.data.map(t => ({{name: t.name, mode: t.mode, x: [...t.x], y: [...t.y],"
        " symbols: t.marker ? [...[].concat(t.marker.symbol)] : [] }))"
    )
    return found


def test_both_axes_are_chosen_and_the_front_follows(shown: Page) -> None:
    choose(shown, "x", "parameters")
    choose(shown, "y", "tokens_per_s")
    rows = [one for one in BOARD.entries if one.parameters]
    points = [(float(one.parameters or 0), one.figures["tokens_per_s"]) for one in rows]
    members = front(points, (-1, 1))
    assert on_front(shown) == {one.name for one, on in zip(rows, members, strict=True) if on}
    traces = drawn(shown)
    assert sorted(x for trace in traces[1:] for x in trace["x"]) == [4e9, 8e9]
    assert "5 rows have no value" in (shown.text("#plotted") or "")
    shown.click("#log-x")
    chart = "document.getElementById('scatter').layout"
    assert shown.evaluate(f"{chart}.xaxis.type") == "log"
    assert shown.evaluate(f"{chart}.yaxis.type") == "linear"
    choose(shown, "x", "tokens")
    assert "no better direction" in (shown.text("#plotted") or "")
    assert on_front(shown) == set()


def test_no_log_scale_of_what_is_zero_or_less(shown: Page) -> None:
    box = "document.getElementById('log-{}')"
    assert shown.evaluate(f"{box.format('y')}.disabled")
    assert shown.evaluate(f"{box.format('y')}.title") == (
        "No log scale: reward has values of 0 or less."
    )
    choose(shown, "y", "tokens_per_s")
    assert not shown.evaluate(f"{box.format('y')}.disabled")
    shown.click("#log-y")
    assert shown.evaluate("document.getElementById('scatter').layout.yaxis.type") == "log"
    choose(shown, "y", "reward")
    assert not shown.evaluate(f"{box.format('y')}.checked")
    assert shown.evaluate("document.getElementById('scatter').layout.yaxis.type") == "linear"
    filtered(shown, "qwen")
    assert not shown.evaluate(f"{box.format('y')}.disabled")


def test_what_cannot_be_drawn_is_said_in_the_place_of_the_plot(shown: Page) -> None:
    assert shown.evaluate("document.getElementById('undrawn').hidden")
    choose(shown, "x", "gpu_hours")
    assert shown.text("#undrawn") == "Nothing to draw: no row has both GPU-hours and reward."
    assert shown.evaluate("document.getElementById('scatter').offsetHeight") == 0
    for _ in range(2):  # there and back, as the browser remembers it for the tests to come
        shown.click("[data-theme-toggle]")
    choose(shown, "x", "money")
    assert shown.evaluate("document.getElementById('undrawn').offsetHeight") == 0
    shown.settle()
    width = "document.querySelector('#scatter .main-svg').getBoundingClientRect().width"
    assert shown.evaluate(width) == shown.evaluate(
        "document.getElementById('scatter').getBoundingClientRect().width"
    )


def test_behind_is_marked_over_fewer_languages(shown: Page) -> None:
    told = column(shown, "gap")
    assert ["*" in one for one in told] == [False] * 5 + [True] * 2
    shown.click("#board th[data-column=gap]")
    assert set(names(shown)[-2:]) == {"only-de", EVIL}


def test_a_telephone_sees_the_reward_and_whole_choosers(
    browser: Browser,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = tmp_path / "narrow.html"
    path.write_text(of_page(BOARD, START), encoding="utf-8")
    page = browser.page(400, 800).open(path)
    heads = "[...document.querySelectorAll('#board thead th')].map(one => one.dataset.column)"
    assert page.evaluate(heads)[:2] == ["name", "reward"]
    page.click("#show-columns")
    holder = "document.getElementById('columns')"
    assert page.evaluate(f"{holder}.scrollHeight <= {holder}.clientHeight")
    page.click("#columns input[value=kind]")
    assert page.evaluate(heads)[1] == "kind"
    page.wait("document.querySelectorAll('#scatter .textpoint').length > 0")
    left = "document.querySelector('#scatter .nsewdrag').getBoundingClientRect().left"
    labels = "[...document.querySelectorAll('#scatter .textpoint text')]"
    least = f"Math.min(...{labels}.map(one => one.getBoundingClientRect().left))"
    assert page.evaluate(least) >= page.evaluate(left)
    assert page.console == []
    page.close()


def test_rows_over_fewer_languages_are_hollow_and_on_no_front(shown: Page) -> None:
    line, *groups = drawn(shown)
    assert line["mode"] == "lines"
    assert sorted(line["x"]) == [2.0, 4.0, 4.0, 15.0]
    symbols = {
        x: symbol
        for trace in groups
        for x, symbol in zip(trace["x"], trace["symbols"], strict=True)
    }
    assert {x for x, symbol in symbols.items() if symbol.endswith("-open")} == {1.0, 0.5}
    assert symbols[15.0] == "diamond"


def test_the_theme_recolors_the_plot(shown: Page) -> None:
    color = "document.getElementById('scatter').layout.font.color"
    light = shown.evaluate(color)
    shown.click("[data-theme-toggle]")
    assert shown.evaluate(color) != light
    assert shown.evaluate("document.documentElement.dataset.theme") == "dark"


def test_it_opens_as_it_was_asked_to(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    asked: dict[str, Any] = {"pattern": "re:qwen|only", "languages": ["de", "sw"]}
    asked |= {"common": True, "sort": "money"}
    path = tmp_path / "asked.html"
    path.write_text(of_page(BOARD, asked), encoding="utf-8")
    page = browser.page().open(path)
    found = standing(BOARD, **asked)
    assert names(page) == [row.entry.name for row in found.rows]
    assert page.evaluate("document.getElementById('filter').value") == asked["pattern"]
    assert page.console == []
    page.close()


def test_five_hundred_rows_of_sixty_languages(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    codes = [f"l{n:02d}" for n in range(60)]
    entries = [
        entry(f"model-{n}", {code: (n * 37 % 500, k) for k, code in enumerate(codes)}, n + 1.0)
        for n in range(500)
    ]
    board = Leaderboard(tuple(entries), tuple(codes))
    path = tmp_path / "large.html"
    path.write_text(of_page(board, START), encoding="utf-8")
    page = browser.page().open(path)
    best = [row.entry.name for row in standing(board).rows]
    assert names(page) == best[:100]
    assert "500 of 500 rows" in (page.text("#said") or "")
    matching = [row.entry.name for row in standing(board, pattern="model-4??").rows]
    assert filtered(page, "model-4?5") == [name for name in matching if name[-1] == "5"]
    page.clear("#filter")
    page.click("#more")
    assert names(page) == best
    assert page.evaluate("document.getElementById('more').hidden")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert page.console == []
    page.close()
