"""The page that every other is made from: nothing in it can run, end an element, or call anybody.

The first half reads the markup as a parser does, so that it holds where there is no browser.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import ChoiceLoader, DictLoader, UndefinedError

from arbitrage import page
from browser import browser  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from browser import Browser

TEMPLATES = Path(page.__file__).with_name("templates")
HOSTILE = (
    "</script><script>alert(1)</script><!--<img src=https://evil.example/x onerror=alert(2)>"
    "\u2028\u2029\u202e]]>&lt;\ud800\x00'\""
)
MARKUP = "<b>x</b><br><a href='https://evil.example'>y</a>&lt;&amp;"
"""What plotly takes for markup in a text."""
BODY = """{% extends "page.html" %}{% block body %}
<p id="said" class="others" dir="auto" title="{{ said }}">{{ said }}</p>
<div class="scroll"><table data-sortable id="numbers">
<thead><tr><th>name</th><th>value</th><th data-unsorted>note</th></tr></thead>
<tbody>
<tr><th>b</th><td data-value="10">ten</td><td></td></tr>
<tr><th>a10</th><td></td><td></td></tr>
<tr><th>a9</th><td data-value="-3">minus three</td><td></td></tr>
<tr><th>c</th><td data-value="9.5">nine</td><td></td></tr>
</tbody></table></div>
<div id="chart" class="plot"></div>
{% endblock %}"""
SCRIPT = """"use strict";
window.told = [];
document.addEventListener("arbitrage:theme", (event) => window.told.push(event.detail.dark));
if (window.Plotly) arbitrage.plot(document.getElementById("chart"), (colors) => [
  { type: "scatter", mode: "markers+text", x: [1, 2], y: [3, 4],
    text: arbitrage.data.labels.map(arbitrage.plotText) },
  { type: "bar", x: [1, 2], y: [1, 2], marker: { color: colors.good } },
  { type: "box", y: [1, 2, 9] }, { type: "histogram", x: [1, 1, 2] },
  { type: "heatmap", z: [[1, 2], [3, 4]], x: [3, 4], y: [1, 2], colorscale: colors.heat },
]);
"""


@pytest.fixture(autouse=True)
def _template() -> Iterator[None]:
    """A page of the tests' own."""
    env = page.environment()
    before = env.loader
    assert before is not None
    env.loader = ChoiceLoader([DictLoader({"demo.html": BODY, "demo.js": SCRIPT}), before])
    page._source.cache_clear()
    yield
    env.loader = before
    page._source.cache_clear()


def rendered(*, plots: bool = False, **data: Any) -> str:
    told = {"labels": [HOSTILE, MARKUP], **data}
    return page.render("demo.html", title=HOSTILE, data=told, plots=plots, said=HOSTILE)


class Seen(HTMLParser):
    """Every element with its attributes, and the text in scripts and in all else."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def policy_of(seen: Seen) -> str:
    metas = [m for m in seen.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert len(metas) == 1
    return metas[0]["content"] or ""


def test_hostile_text_is_text_and_adds_no_element() -> None:
    seen = Seen(rendered())
    tame = Seen(page.render("demo.html", title="t", data={"labels": ["a", "b"]}, said="plain"))
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in tame.elements]
    assert seen.named("img") == []
    assert len(seen.scripts) == 3
    assert "<script>alert(1)</script>" in seen.text
    # A script knows no end but its own, and an attribute only its own quotes.
    [told] = [a for tag, a in seen.elements if a.get("id") == "said"]
    assert "onerror=alert(2)>" in (told["title"] or "")
    assert set(told) == {"id", "class", "dir", "title"}


@pytest.mark.parametrize("plots", [False, True])
def test_exactly_the_scripts_of_the_page_may_run_and_nothing_is_fetched(plots: bool) -> None:
    seen = Seen(rendered(plots=plots))
    running = [
        text
        for text, attributes in zip(seen.scripts, seen.named("script"), strict=True)
        if attributes.get("type") != "application/json"
    ]
    hashes = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in running]
    told = dict(part.split(" ", 1) for part in policy_of(seen).split("; "))
    assert told["default-src"] == "'none'"
    assert told["script-src"].split() == [f"'sha256-{one}'" for one in hashes]
    assert "connect-src" not in told
    assert len(running) == 2 + plots
    assert sum("plotly.js v" in text[:200] for text in running) == plots
    assert all("src" not in attributes for attributes in seen.named("script"))
    assert [a["href"] for a in seen.named("link")] == ["data:,"]


def test_own_files_name_no_address_and_are_read_as_they_are() -> None:
    own = [*TEMPLATES.glob("*.html"), *TEMPLATES.glob("*.css"), *TEMPLATES.glob("*.js")]
    assert {path.name for path in own} >= {"page.html", "page.css", "page.js"}
    for path in own:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\"'\s]*", text)) <= {"http://www.w3.org/2000/svg"}
        assert "\r" not in text, path
        assert text.isascii(), path
        assert not re.search(r"\|\s*safe|innerHTML|outerHTML|insertAdjacentHTML|eval\(", text), path
        assert path.suffix == ".html" or "</s" not in text.lower(), path
        assert not re.search(r"\son[a-z]+=", text) or path.suffix != ".html", path


def test_the_page_can_be_written_and_a_value_that_is_missing_is_an_error() -> None:
    assert rendered().encode("utf-8").decode("utf-8").startswith("<!doctype html>")
    with pytest.raises(UndefinedError):
        page.render("demo.html", title="t", data={})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def tamed(value: Any) -> Any:
    """What a reader gets back: no half characters, no numbers that are none."""
    if isinstance(value, dict):
        return {tamed(key): tamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tamed(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, str):
        return "".join("?" if "\ud800" <= char <= "\udfff" else char for char in value)
    return value


@given(JSON)
def test_any_data_comes_back_and_means_nothing_to_a_parser(value: Any) -> None:
    told = page.encoded({"value": value})
    assert not set("<>&\u2028\u2029") & set(told)
    assert json.loads(told) == {"value": tamed(value)}


def test_numbers_of_numpy_are_numbers_and_what_is_none_is_refused() -> None:
    told = {"a": np.float64("nan"), "b": np.int64(3), "c": (np.float32(0.5), float("-inf"))}
    assert json.loads(page.encoded(told)) == {"a": None, "b": 3, "c": [0.5, None]}
    with pytest.raises(TypeError, match="object has no form in JSON"):
        page.encoded({"a": object()})


# ---- In a browser ----


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Any]:  # noqa: F811
    path = tmp_path / "demo.html"
    path.write_text(rendered(plots=True, n=float("nan")), encoding="utf-8")
    shown = browser.page()
    shown.prefer("light")
    yield shown.open(path)
    shown.close()


def names(shown: Any) -> str:
    rows = "[...document.querySelectorAll('#numbers tbody th')]"
    found: str = shown.evaluate(f"{rows}.map(one => one.textContent).join(' ')")
    return found


def test_it_opens_offline_and_without_a_complaint(opened: Any) -> None:
    opened.wait("document.querySelectorAll('#chart .plot-container').length === 1")
    assert opened.text("#said").startswith("</script><script>alert(1)")
    assert opened.evaluate("arbitrage.data.n") is None
    assert opened.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
    labels = opened.evaluate("document.querySelector('#chart .textpoint text').textContent")
    assert "<script>alert(1)" in labels
    texts = "document.querySelectorAll('#chart .textpoint text')"
    assert opened.evaluate(f"{texts}[1].textContent") == MARKUP
    assert opened.console == []
    assert opened.requests == []


def test_nothing_injected_would_run_or_call_anybody(opened: Any) -> None:
    opened.evaluate(
        "(() => { const one = document.createElement('script'); one.textContent = 'window.ran = 1';"
        "document.body.append(one); const img = new Image(); img.src = 'https://evil.example/x';"
        "document.body.append(img); fetch('https://evil.example/y').catch(() => 0); })()"
    )
    assert opened.evaluate("window.ran") is None
    refused = " ".join(opened.console)
    assert refused.count("Content Security Policy") >= 3
    assert opened.evaluate("(() => { try { return eval('1') } catch { return 'refused' } })()") == (
        "refused"
    )


def test_no_plot_offers_to_send_its_data_away(opened: Any) -> None:
    opened.wait("document.querySelectorAll('#chart .modebar-btn').length > 3")
    buttons = "[...document.querySelectorAll('#chart .modebar-btn')].map(one => one.dataset.title)"
    titles = opened.evaluate(buttons)
    assert not [title for title in titles if "hare" in title or "loud" in title]


def test_a_table_is_sorted_by_mouse_and_keys(opened: Any) -> None:
    head = "#numbers thead th"
    opened.click(head, nth=1)
    assert names(opened) == "b c a9 a10"
    assert opened.evaluate(f"document.querySelectorAll('{head}')[1].ariaSort") == "descending"
    opened.click(head, nth=1)
    assert names(opened) == "a9 c b a10"
    opened.evaluate(f"document.querySelectorAll('{head}')[0].focus()")
    opened.press("Enter")
    assert names(opened) == "a9 a10 b c"
    opened.press(" ")
    assert names(opened) == "c b a10 a9"
    assert opened.evaluate(f"document.querySelectorAll('{head}')[1].ariaSort") == "none"
    assert opened.evaluate(f"document.querySelectorAll('{head}')[2].tabIndex") == -1


def test_the_theme_follows_the_system_and_the_button_and_recolors_plots(opened: Any) -> None:
    bars = "getComputedStyle(document.querySelector('#chart .bars path')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(paper), opened.evaluate(bars)
    opened.click("[data-theme-toggle]")
    dark = opened.evaluate(paper), opened.evaluate(bars)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert opened.evaluate("window.told") == [True]
    opened.click("[data-theme-toggle]")
    assert (opened.evaluate(paper), opened.evaluate(bars)) == light
    opened.evaluate("delete document.documentElement.dataset.theme")
    opened.prefer("dark")
    opened.settle()
    assert (opened.evaluate(paper), opened.evaluate(bars)) == dark
    assert opened.console == []


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_never_wider_than_the_screen(opened: Any, width: int) -> None:
    opened.resize(width, 800)
    opened.settle()
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_numbers_are_told_the_same_way_everywhere(opened: Any) -> None:
    told = opened.evaluate(
        "[arbitrage.number(1234.567), arbitrage.count(1e6), arbitrage.percent(0.1234),"
        "arbitrage.signed(0.5), arbitrage.significant(0.000123456), arbitrage.significant(12345.6),"
        "arbitrage.number(null), arbitrage.duration(3725), arbitrage.compact(1.5e9)]"
    )
    assert told == [
        *("1,234.57", "1,000,000", "12.3%", "+0.50", "0.000123", "12,346", "\u2013"),
        *("1 h 2 min", "1.5B"),
    ]
