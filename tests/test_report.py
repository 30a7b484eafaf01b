"""The report of a run: figures against plain pandas, hostile text, empty runs, a real browser."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage import report, report_matrix, shown
from arbitrage.account import account
from arbitrage.errors import UsageError
from arbitrage.plan import read_state
from arbitrage.stats import Moments
from arbitrage.store import Store
from arbitrage.variety import diversity_of_run
from browser import browser  # noqa: F401 - a fixture
from command_line import cli
from harness import Run, fake, make_config, numbered_prompts, opened, run, write_prompts
from page_reader import Reader
from plain_run import candidates_of, lost_of, product_of, stored_of
from s3_server import address, s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from browser import Browser, Page

Z95 = 1.959964
PROMPTS = 90
POOL: dict[str, Any] = {
    "generalist": fake(
        0.5, sampling={"n": 2, "temperature": 0.8}, options={"truncate": 0.3, "voice": "g"}
    ),
    "african": fake(0.8, ["sw"], options={"fail": 0.3, "empty": 0.2}),
    "asian": fake(0.55, ["ja"], sampling=[{"temperature": 0}, {"n": 2, "temperature": 0.7}]),
    "second": fake(0.5, sampling={"temperature": 0}, options={"voice": "s", "fail": 0.05}),
    "echo": fake(
        0.5, ["de"], sampling={"temperature": 0, "max_tokens": 99}, options={"voice": "s"}
    ),
}
BAD_ROWS = [{"prompt": 7, "language": "de"}, {"prompt": "no such tongue", "language": "qqq"}]
HOSTILE = [
    "<script>window.broken = 1</script> closes",
    "</script><img src=x onerror='window.broken = 2'> and",
    "<!-- <script> never ends",
    "]]> & &amp; {{ 7 * 7 }} ${7 * 7} %{x}",
    "\u202eturned around\u202c and \u2066isolated\u2069 \u200f right",
    "long " * 19_000,
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 family \U0001f600",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u2028 \u2029 lines",
    "bell \u0007 escape \u001b[31m null \u0000 end",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("report")
    write_prompts(folder / "prompts.jsonl", [*numbered_prompts(PROMPTS), *BAD_ROWS])
    arbiter = {"engine": "fake", "options": {"fail": 0.1}}
    more = {"retry": {"budget": 2}, "selection": {"min_reward": 0.45}}
    return run(make_config(folder, POOL, arbiter=arbiter, seed=4, **more))


@pytest.fixture(scope="module")
def written(made: Run) -> report.Written:
    return report.write(str(made.store.root))


@pytest.fixture(scope="module")
def page_of(written: report.Written) -> Reader:
    return Reader(written.path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def product(made: Run) -> pd.DataFrame:
    return product_of(made)


@pytest.fixture(scope="module")
def lost(made: Run) -> pd.DataFrame:
    return lost_of(made)


@pytest.fixture(scope="module")
def usable(product: pd.DataFrame) -> pd.DataFrame:
    """One row per candidate that could have been chosen."""
    table = candidates_of(product)
    return table[table["usable"]]


@pytest.fixture(scope="module")
def alone(usable: pd.DataFrame, product: pd.DataFrame) -> pd.DataFrame:
    """(selected prompts, teachers): the best usable reward of each."""
    table = usable.pivot_table("reward", "prompt_id", "teacher", "max")
    return table.reindex(columns=list(POOL), index=product["prompt_id"])


@pytest.fixture(scope="module")
def stored(made: Run) -> pd.DataFrame:
    return stored_of(made)


@pytest.fixture(scope="module")
def wins(usable: pd.DataFrame, product: pd.DataFrame) -> pd.DataFrame:
    """(selected prompts, teachers): each one's part of the win."""
    chosen = product.set_index("prompt_id")[["teacher", "sample"]]
    parts = pd.DataFrame(0.0, index=chosen.index, columns=list(POOL))
    for key, mine in usable.groupby("prompt_id"):
        owner, sample = chosen.loc[key]
        first = mine[(mine["teacher"] == owner) & (mine["sample"] == sample)].iloc[0]
        names = set(mine[mine["same_as"] == first["same_as"]]["teacher"])
        parts.loc[key, sorted(names)] = 1 / len(names)
    return parts


def half_of(values: pd.Series) -> float:
    known = values.dropna()
    return Z95 * known.std(ddof=1) / math.sqrt(len(known))


def test_the_run_has_all_that_makes_figures_hard(
    made: Run, product: pd.DataFrame, lost: pd.DataFrame, wins: pd.DataFrame, usable: pd.DataFrame
) -> None:
    assert len(product) + len(lost) == PROMPTS
    assert len(lost) > 0
    assert ((wins > 0) & (wins < 1)).any().any(), "nobody shared a win"
    assert (usable.groupby(["prompt_id", "teacher"]).size() > 1).any()
    assert any("retry" in path.name for path in made.store.root.glob("candidates/*"))


def test_the_tiles_of_the_ledger(
    page_of: Reader, made: Run, product: pd.DataFrame, lost: pd.DataFrame
) -> None:
    assert page_of.value("prompts") == len(made.frame("prompts")) == PROMPTS
    assert page_of.value("rows_read") == PROMPTS + len(BAD_ROWS)
    assert page_of.value("refused") == len(BAD_ROWS)
    assert page_of.value("selected") == len(product)
    assert page_of.value("selected_share") == pytest.approx(len(product) / PROMPTS)
    assert page_of.value("quarantined") == len(lost)
    for reason, count in lost["reason"].value_counts().items():
        assert page_of.value(f"quarantined:{reason}") == count


def test_the_tiles_of_the_gain(
    page_of: Reader, product: pd.DataFrame, alone: pd.DataFrame, stored: pd.DataFrame
) -> None:
    reward = product.set_index("prompt_id")["reward"]
    language = product.set_index("prompt_id")["language"]
    name = alone[["generalist", "second"]].mean().idxmax()
    gain = reward - alone[name]
    assert page_of.figures["single"]["text"] == name
    assert page_of.value("gain") == pytest.approx(gain.mean())
    assert page_of.interval("gain") == pytest.approx(half_of(gain))
    assert page_of.value("gain_relative") == pytest.approx(gain.mean() / abs(alone[name].mean()))
    assert page_of.value("better") == (gain > 0).sum()
    assert page_of.value("compared") == gain.notna().sum()
    assert page_of.value("better_share") == pytest.approx((gain > 0).sum() / gain.notna().sum())
    best = alone.groupby(language).mean().idxmax(axis=1)
    each = pd.concat([reward[mine] - alone.loc[mine, best[code]]
                      for code, mine in language.groupby(language).groups.items()])  # fmt: skip
    assert page_of.value("gain_each") == pytest.approx(each.mean())
    assert page_of.interval("gain_each") == pytest.approx(half_of(each))
    asked = product["candidates"].map(lambda some: any(one["teacher"] == name for one in some))
    tokens = stored.groupby("teacher")["completion_tokens"].sum()
    times = tokens.sum() / len(product) / (tokens[name] / asked.sum())
    assert page_of.value("times") == pytest.approx(times)


def test_the_tiles_of_the_cost(page_of: Reader, stored: pd.DataFrame) -> None:
    assert page_of.value("tokens") == stored["completion_tokens"].sum()
    assert page_of.value("prompt_tokens") == stored["prompt_tokens"].sum()
    assert page_of.value("scored") == stored["completion"].notna().sum()
    assert "money" not in page_of.figures, "there are no prices"
    assert page_of.value("errors") == stored["error"].notna().sum() > 0
    told = stored[stored["completion"].notna()]
    cut = (told["finish_reason"] != "stop").mean()
    assert page_of.value("all_truncated") == pytest.approx(cut)
    assert page_of.value("all_language") == 0


def test_the_matrix_that_is_shown_first_is_its_first_mode(page_of: Reader) -> None:
    rows = page_of.tables["matrix"][2:]
    told = page_of.data["matrix"]["share"]["cells"]
    assert [[cell["text"] for cell in row[1:]] for row in rows] == [
        [text for text, _, _ in row] for row in told
    ]
    assert [row[0]["text"] for row in rows] == [*POOL_ORDER, "prompts selected"]
    for row, mine in zip(rows, told, strict=True):
        for cell, (_, value, heat) in zip(row[1:], mine, strict=True):
            assert (float(cell["data-value"]) if cell["data-value"] else None) == value
            assert ("heat" in cell["class"].split()) == (heat is not None)


POOL_ORDER = sorted(POOL)


def plain(
    key: str, mine: pd.Index, name: str | None, made: pd.DataFrame, tables: dict[str, pd.DataFrame]
) -> float:
    """A cell of the matrix by plain pandas; `mine` are the prompts, `made` the completions."""
    product, wins, alone = tables["product"], tables["wins"], tables["alone"]
    rows = product[product["prompt_id"].isin(mine)].set_index("prompt_id")
    if key in ("truncated", "tokens"):
        mine_made = made if name is None else made[made["teacher"] == name]
        if key == "tokens":
            return mine_made["completion_tokens"].sum()
        told = mine_made[mine_made["completion"].notna()]
        return (told["finish_reason"] != "stop").mean()
    if key == "margin":
        return (rows if name is None else rows[rows["teacher"] == name])["margin"].mean()
    if key == "share":
        return len(rows) if name is None else wins.loc[rows.index, name].sum() / len(rows)
    if key == "alone":
        return (rows["reward"] if name is None else alone.loc[rows.index, name]).mean()
    if name is None:
        parts = []
        for _, some in rows.groupby("language"):
            best = alone.loc[some.index].mean().idxmax()
            parts.append(some["reward"] - alone.loc[some.index, best])
        return pd.concat(parts).mean()
    rest = alone.drop(columns=name).max(axis=1).loc[rows.index]
    return (
        (rows["reward"] - rest)
        .where(rows["teacher"] == name, 0.0)[rest.notna() | (rows["teacher"] != name)]
        .mean()
    )


@pytest.mark.parametrize("key", ["share", "alone", "margin", "value", "truncated", "tokens"])
def test_every_cell_of_the_matrix(
    key: str,
    page_of: Reader,
    product: pd.DataFrame,
    wins: pd.DataFrame,
    alone: pd.DataFrame,
    stored: pd.DataFrame,
) -> None:
    tables = {"product": product, "wins": wins, "alone": alone}
    covers = {"african": ["sw"], "asian": ["ja"], "echo": ["de"]}
    seen = 0
    for name, code, (text, value, _) in page_of.cells(key):
        if name in covers and code not in (None, *covers[name]):
            assert (text, value) == (report_matrix.UNASKED, None)
            continue
        some = stored if code is None else stored[stored["language"] == code]
        mine = product if code is None else product[product["language"] == code]
        expected = plain(key, mine["prompt_id"], name, some, tables)
        if math.isnan(expected):
            assert (text, value) == (shown.MISSING, None)
        else:
            assert value == pytest.approx(expected, abs=1e-12), (name, code)
        seen += 1
    assert seen == 3 * 4 + 3 * 2, "two generalists and all in three languages and all; three in one"


def test_the_table_of_teachers(
    page_of: Reader,
    product: pd.DataFrame,
    alone: pd.DataFrame,
    wins: pd.DataFrame,
    stored: pd.DataFrame,
) -> None:
    chosen = product.set_index("prompt_id")
    for name in POOL:
        rest = alone.drop(columns=name).max(axis=1)
        own = chosen["teacher"] == name
        lost = (chosen["reward"] - rest).where(own, 0.0)[rest.notna() | ~own]
        assert page_of.value(f"teacher/value:{name}") == pytest.approx(lost.mean(), abs=1e-12)
        assert page_of.interval(f"teacher/value:{name}") == pytest.approx(half_of(lost), abs=1e-9)
        assert page_of.value(f"teacher/alone:{name}") == (own & rest.isna()).sum()
        assert page_of.value(f"teacher/changed:{name}") == (lost != 0).sum()
        assert page_of.value(f"teacher/won:{name}") == pytest.approx(wins[name].mean())
        assert page_of.value(f"teacher/reward:{name}") == pytest.approx(alone[name].mean())
        assert page_of.interval(f"teacher/reward:{name}") == pytest.approx(half_of(alone[name]))
        mine = stored[stored["teacher"] == name]
        assert page_of.value(f"teacher/completions:{name}") == len(mine)
        assert page_of.value(f"teacher/errors:{name}") == mine["error"].notna().sum()
        assert page_of.value(f"teacher/tokens:{name}") == mine["completion_tokens"].sum()
        part = mine["completion_tokens"].sum() / stored["completion_tokens"].sum()
        assert page_of.value(f"teacher/cost_share:{name}") == pytest.approx(part)
        told = mine[mine["completion"].notna()]
        cut = (told["finish_reason"] != "stop").mean()
        assert page_of.value(f"teacher/truncated:{name}") == pytest.approx(cut)


def test_the_table_of_languages(
    page_of: Reader, product: pd.DataFrame, alone: pd.DataFrame, lost: pd.DataFrame
) -> None:
    chosen = product.set_index("prompt_id")
    assert set(page_of.column("table-language", "Prompts")) == {"de", "sw", "ja"}
    for code, mine in chosen.groupby("language"):
        gone = lost[lost["language"] == code]
        assert page_of.value(f"language/prompts:{code}") == len(mine) + len(gone)
        assert page_of.value(f"language/selected:{code}") == len(mine)
        assert page_of.value(f"language/lost:{code}") == len(gone)
        assert page_of.value(f"language/reward:{code}") == pytest.approx(mine["reward"].mean())
        assert page_of.interval(f"language/reward:{code}") == pytest.approx(half_of(mine["reward"]))
        own = alone.loc[mine.index]
        best = own.mean().idxmax()
        assert page_of.figures[f"language/best:{code}"]["data-value"] == best
        gain = mine["reward"] - own[best]
        assert page_of.value(f"language/gain_best:{code}") == pytest.approx(gain.mean(), abs=1e-12)
        assert page_of.interval(f"language/gain_best:{code}") == pytest.approx(
            half_of(gain), abs=1e-9
        )
        lot = mine["reward"] - own.mean(axis=1)
        assert page_of.value(f"language/gain_random:{code}") == pytest.approx(lot.mean())
        holds_0 = gain.mean() - half_of(gain) <= 0
        assert (
            "unsure" in page_of.figures[f"language/gain_best:{code}"]["class"].split()
        ) == holds_0


SIZES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "%": 0.01, "\u00d7": 1.0}


def test_what_is_shown_is_the_value_rounded(page_of: Reader) -> None:
    looked_at = 0
    for name, one in page_of.figures.items():
        if not re.fullmatch(r"-?[\d.e+-]+", one.get("data-value", "")):
            continue
        found = re.match(r"(?:of )?([+\u2212]?)([\d,]+(?:\.(\d+))?)([KMB%\u00d7]?)", one["text"])
        assert found, (name, one["text"])
        sign, digits, decimals, unit = found.groups()
        size = SIZES[unit]
        told = float(digits.replace(",", "")) * size * (-1 if sign == "\u2212" else 1)
        step = size * 10.0 ** -len(decimals or "")
        assert abs(told - float(one["data-value"])) <= step / 2 * (1 + 1e-9), (name, one["text"])
        if "data-interval" in one:
            half = re.search(r"\u00b1\u00a0([\d.,]+)", one["text"])
            assert half, one["text"]
            assert abs(float(half[1]) - float(one["data-interval"])) <= step / 2 * (1 + 1e-9)
        looked_at += 1
    assert looked_at > 100


def has_nothing_foreign(found: Reader) -> None:
    kinds = [told.get("type", "") for told, text in found.scripts if text.strip()]
    assert kinds == ["application/json", "", "", "", "", ""]
    assert not [one for one in found.attributes if one[1].startswith("on")]
    leads = [value for _, name, value in found.attributes if name in ("src", "href", "action")]
    assert all(value.startswith(("#", "data:")) for value in leads), leads
    policy = next(v for _, name, v in found.attributes if name == "content" and "src" in v)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def is_told_in_words(found: Reader) -> None:
    """Nothing says nan, None or null where a person reads."""
    cells = [one for rows in found.tables.values() for row in rows for one in row]
    told = [*found.figures.values(), *cells]
    assert not [one for one in told if "None" in (one["text"], one.get("data-value"))]
    assert not re.search(r"\b(nan|null|undefined|inf)\b", " ".join(found.seen))
    titles = " ".join(value for _, name, value in found.attributes if name == "title")
    assert not re.search(r"\b(nan|None|null|undefined|inf)\b", titles)


def test_the_page_runs_and_asks_for_nothing_but_its_own(page_of: Reader) -> None:
    has_nothing_foreign(page_of)
    is_told_in_words(page_of)


def hostile(folder: Path) -> Run:
    place = folder / "<img src=x onerror=alert(1)>"
    rows = [{"prompt": f"{text} {n}", "language": "de", "id": f"<b>{n}"}
            for n, text in enumerate(HOSTILE * 3)]  # fmt: skip
    write_prompts(place / "prompts.jsonl", rows)
    pool = {"one": fake(0.5, options={"words": 400}), "two": fake(0.6, options={"voice": "t"})}
    return run(make_config(place, pool))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    made = hostile(tmp_path)
    text = report.rendered(str(made.store.root))
    found = Reader(text)
    has_nothing_foreign(found)
    assert text.count("<script") == 6 + len(re.findall("<script", "".join(SOURCES)))
    samples = found.data["texts"]["samples"]
    prompts = {sample["messages"][0]["content"]["text"] for sample in samples}
    assert any("<script>window.broken" in one for one in prompts)
    assert any("\u202e" in one for one in prompts)
    longest = max(samples, key=lambda one: one["messages"][0]["content"]["left_out"])
    assert longest["messages"][0]["content"]["left_out"] > 90_000


SOURCES = [
    path.read_text(encoding="utf-8")
    for path in Path(report.__file__).parent.joinpath("templates").glob("*.js")
]


def test_a_page_is_never_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"{n} " + "\u65e5\u672c < & " * 250, "language": "ja"} for n in range(300)]
    write_prompts(tmp_path / "prompts.jsonl", rows)
    pool = {f"t{n}": fake(0.5, options={"voice": f"{n}", "words": 1500}) for n in range(3)}
    asked = {"prompts": {"shard_size": 350}}
    for one in pool.values():
        one["sampling"] = {"max_tokens": 1500}
    made = run(make_config(tmp_path, pool, **asked))
    written = report.write(str(made.store.root))
    assert written.size == written.path.stat().st_size <= report.MAX_BYTES
    texts = Reader(written.path.read_text(encoding="utf-8")).data["texts"]
    assert texts["chars"] < texts["asked_chars"]
    assert len(texts["samples"]) > 100
    monkeypatch.setattr(report, "MAX_BYTES", 6_000_000)
    assert len(report.rendered(str(made.store.root)).encode()) <= 6_000_000


def of_config(folder: Path, teachers: dict[str, Any], count: int = 24, **blocks: Any) -> Run:
    write_prompts(folder / "prompts.jsonl", numbered_prompts(count))
    return run(make_config(folder, teachers, **blocks))


EMPTY: dict[str, Callable[[Path], Run]] = {
    "one teacher": lambda folder: of_config(folder, {"only": fake()}),
    "nobody has all languages": lambda folder: of_config(
        folder, {"a": fake(0.5, ["de", "sw"]), "b": fake(0.6, ["ja", "sw"])}
    ),
    "nothing can be selected": lambda folder: of_config(
        folder, {"a": fake(options={"fail": 1.0}), "b": fake(0.6, options={"fail": 1.0})}
    ),
    "an Arbiter that tells nothing apart": lambda folder: of_config(
        folder,
        {"a": fake(), "b": fake(0.6)},
        arbiters={"flat": {"engine": "rule", "options": {"function": f"{__name__}:flat"}}},
    ),
    "one language, one prompt": lambda folder: of_config(
        folder, {"a": fake(), "b": fake(0.6)}, count=1
    ),
}


def flat(prompt: Any, completion: str) -> float:
    """A rule that likes everything the same."""
    del prompt, completion
    return 1.0


@pytest.mark.parametrize("kind", EMPTY)
def test_runs_of_which_little_is_known(kind: str, tmp_path: Path) -> None:
    made = EMPTY[kind](tmp_path)
    found = Reader(report.rendered(str(made.store.root)))
    has_nothing_foreign(found)
    is_told_in_words(found)


def test_a_run_without_a_product_says_so(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(20))
    config = make_config(tmp_path, {"a": fake(), "b": fake(0.6)})
    opened(config)
    made = run(config, stop_after=3)
    found = Reader(report.rendered(str(made.store.root)))
    is_told_in_words(found)
    assert "Nothing was selected yet" in " ".join(found.seen)
    assert found.value("selected") == 0


# ---- The command ----


def test_the_command_writes_beside_the_run_and_says_where(made: Run, tmp_path: Path) -> None:
    done = cli("report", made.store.root, "-o", tmp_path / "deep" / "r.html", "--samples", "5")
    assert done.returncode == 0, done.stderr
    written = tmp_path / "deep" / "r.html"
    assert done.stdout.startswith(f"wrote {written} (")
    assert len(Reader(written.read_text(encoding="utf-8")).data["texts"]["samples"]) == 5
    assert [path.name for path in written.parent.iterdir()] == ["r.html"]


def test_mistakes_are_one_sentence(made: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder; name a file"):
        report.write(str(made.store.root), tmp_path)
    with pytest.raises(UsageError, match=r"-o report\.html"):
        report.write("s3://bucket/run")
    with pytest.raises(UsageError, match="is no run directory"):
        report.write(str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        report.write(str(made.store.root), tmp_path / "file" / "r.html")


def test_curves_of_some_prompts_say_so(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "From "
        not in " ".join(Reader(report.rendered(str(made.store.root))).seen).split("Whose")[0]
    )
    monkeypatch.setattr("arbitrage.account.CURVE_PROMPTS", 20)
    told = account(made.store.root)
    page_of = Reader(report.rendered(str(made.store.root)))
    assert told.curve_prompts < told.ledger.selected
    words = f"From {told.curve_prompts} of {told.ledger.selected} prompts."
    assert words in " ".join(page_of.seen)


def test_the_same_run_gives_the_same_page(made: Run) -> None:
    assert report.rendered(str(made.store.root)) == report.rendered(str(made.store.root))


# ---- Numbers ----


@given(st.floats(-1e12, 1e12) | st.sampled_from([math.nan, math.inf, -math.inf, -0.0]))
def test_numbers_are_read_back_as_they_were(value: float) -> None:
    text = shown.number(value, 3)
    if not math.isfinite(value):
        assert text == shown.MISSING
        return
    back = float(text.replace(",", "").replace("\u2212", "-"))
    assert abs(back - value) <= 0.0005 + abs(value) * 1e-15
    assert "-" not in text
    assert text.startswith("\u2212") == (back < 0)
    assert shown.signed(value, 3).startswith("+") == (back > 0)


def test_numbers_in_words() -> None:
    assert shown.compact(1234567) == "1.23M"
    assert shown.compact(999) == "999"
    assert shown.percent(0.1234) == "12.3%"
    assert shown.percent(-0.5, 0) == "\u221250%"
    assert shown.significant(0.00012345) == "0.000123"
    assert shown.significant(None) == shown.MISSING
    assert shown.interval(Moments(2, 2.0, 4.0)) == "1.0\u00a0\u00b1\u00a02.0"
    assert shown.interval(Moments()) == shown.MISSING
    assert shown.interval(Moments(1, 2.0, 4.0)) == "2.000"


# ---- The page in a browser ----


@pytest.fixture
def view(browser: Browser, written: report.Written) -> Iterator[Page]:  # noqa: F811
    page = browser.page(1440, 900)
    page.open(written.path)
    yield page
    assert page.console == []
    assert page.requests == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def texts(page: Page, css: str) -> list[str]:
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll({json.dumps(css)})].map(one => one.innerText)"
    )
    return found


def test_the_first_screen_answers_without_scrolling(view: Page) -> None:
    for css in (".verdicts", ".strip", "#matrix"):
        bottom = view.evaluate(f"document.querySelector('{css}').getBoundingClientRect().bottom")
        assert bottom <= 900, css
    assert len(texts(view, ".verdict .answer")) == 3
    assert not view.evaluate("document.getElementById('tab-overview').hidden")
    assert view.evaluate("document.getElementById('tab-samples').hidden")


@pytest.mark.parametrize("key", ["alone", "margin", "value", "truncated", "language", "tokens"])
def test_a_click_shows_another_measure(view: Page, page_of: Reader, key: str) -> None:
    view.click(f'[data-choice="{key}"]')
    rows = view.evaluate(
        "[...document.querySelector('#matrix').tBodies[0].rows]"
        ".map(row => [...row.cells].slice(1).map(cell => cell.textContent))"
    )
    told = page_of.data["matrix"][key]
    assert rows == [[text for text, _, _ in row] for row in told["cells"]]
    assert view.text("#matrix-legend") == told["legend"]
    assert view.text("#matrix tr.all th") == told["last"]


def test_tables_are_sorted_by_numbers(view: Page, page_of: Reader) -> None:
    view.click("#table-teacher thead th", nth=1)
    names = texts(view, "#table-teacher tbody th")
    assert names == sorted(POOL, key=lambda name: -page_of.value(f"teacher/value:{name}"))


def test_tabs_are_kept_in_the_address(view: Page) -> None:
    view.click('a[href="#distributions"]')
    view.wait("document.querySelector('#plot-spread .main-svg') !== null")
    assert view.evaluate("location.hash") == "#distributions"
    assert view.evaluate("document.getElementById('tab-overview').hidden")
    assert len(texts(view, "#spread-language option")) == 4
    view.click('a[href="#overview"]')
    assert not view.evaluate("document.getElementById('tab-overview').hidden")


def test_samples_are_found_and_moved_through(view: Page, page_of: Reader) -> None:
    samples = page_of.data["texts"]["samples"]
    view.click('a[href="#samples"]')
    assert view.evaluate("document.querySelectorAll('#sample-list li').length") == len(samples)
    first = view.evaluate("location.hash")
    view.press("j")
    assert view.evaluate("location.hash") == f"#samples/{samples[1]['prompt_id']}"
    view.press("k")
    assert view.evaluate("location.hash") != first
    set_filter(view, "language", "ja")
    mine = [one for one in samples if one["language"] == "ja"]
    assert view.evaluate("document.querySelectorAll('#sample-list li').length") == len(mine)
    set_filter(view, "teacher", "asian")
    mine = [one for one in mine if one["chosen"] and one["chosen"]["teacher"] == "asian"]
    assert view.evaluate("document.querySelectorAll('#sample-list li').length") == len(mine)
    set_filter(view, "least", "0.1")
    mine = [one for one in mine if one["margin"] is not None and one["margin"] >= 0.1]
    assert view.evaluate("document.querySelectorAll('#sample-list li').length") == len(mine)
    set_filter(view, "words", "nothing says this")
    assert view.text("#sample-count") == f"0 of {len(samples)} sampled prompts"
    assert "No sampled prompt" in (view.text("#sample-detail") or "")


def set_filter(page: Page, name: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const field = document.querySelector('[data-filter={name}]');"
        f"field.value = {json.dumps(value)};"
        "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind)); })()"
    )


def test_a_sample_has_its_own_address(
    browser: Browser,  # noqa: F811
    written: report.Written,
    page_of: Reader,
) -> None:
    sample = page_of.data["texts"]["samples"][-1]
    page = browser.page(1440, 900)
    page.open(written.path)
    page.evaluate(f"location.hash = '#samples/{sample['prompt_id']}'")
    page.settle()
    cards = texts(page, ".candidate")
    assert len(cards) == len(sample["candidates"])
    chosen = [one for one in sample["candidates"] if one["rank"]]
    assert len(texts(page, ".candidate.chosen")) == len(chosen)
    for card, one in zip(cards, sample["candidates"], strict=True):
        assert card.startswith(one["teacher"])
        assert shown.number(one["reward"], page_of.data["digits"]) in card
    page.close()


def test_light_and_dark_are_one_click_apart(view: Page) -> None:
    before = view.evaluate("getComputedStyle(document.body).backgroundColor")
    view.click("[data-theme-toggle]")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") != before
    view.click("[data-theme-toggle]")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == before


def test_a_browser_says_numbers_as_python_does(view: Page) -> None:
    values = [0, -0.001, 1234.5678, -1234.5678, 0.04, 1e9, -7.25]
    for value in values:
        assert view.evaluate(f"arbitrage.number({value}, 2)") == shown.number(value, 2)
        assert view.evaluate(f"arbitrage.signed({value}, 2)") == shown.signed(value, 2)
        assert view.evaluate(f"arbitrage.percent({value}, 1)") == shown.percent(value, 1)


def test_hostile_text_does_nothing_in_a_browser(
    browser: Browser,  # noqa: F811
    tmp_path: Path,
) -> None:
    written = report.write(str(hostile(tmp_path).store.root), tmp_path / "r.html")
    page = browser.page(400, 900)
    page.open(written.path)
    page.evaluate("location.hash = '#samples'")
    page.settle()
    for _ in range(len(HOSTILE)):
        page.press("j")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("document.querySelectorAll('#sample-detail img').length") == 0
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.querySelectorAll('script').length") == 6
    assert page.console == []
    assert page.requests == []
    page.close()


@pytest.mark.parametrize("kind", EMPTY)
def test_little_is_shown_without_a_complaint(
    kind: str,
    browser: Browser,  # noqa: F811
    tmp_path: Path,
) -> None:
    written = report.write(str(EMPTY[kind](tmp_path).store.root))
    page = browser.page(1440, 900)
    page.open(written.path)
    for tab in ("distributions", "samples", "overview"):
        page.evaluate(f"location.hash = '#{tab}'")
        page.settle()
        seen = page.evaluate("document.body.innerText")
        assert not re.search(r"\b(NaN|nan|null|undefined|Infinity)\b", seen)
    assert page.console == []
    page.close()


def test_the_account_is_not_read_from_anything_else(made: Run, page_of: Reader) -> None:
    """What scripts are given is the account's own, so that plots and tables agree."""
    told = account(made.store.root).as_dict()
    for key in ("drawn", "thinned", "spread", "lengths"):
        assert page_of.data[key] == json.loads(json.dumps(told[key]))


def test_diversity_is_what_is_told_of_the_run(page_of: Reader, made: Run) -> None:
    planner, shards = read_state(made.components, made.store)
    told = diversity_of_run(made.store, made.components, planner, shards, made.config).as_dict()
    assert told["teachers"]
    for name, one in told["teachers"].items():
        assert page_of.value(f"diversity/compared:{name}") == one["prompts"]
        for key in ("distinct_1", "distinct_2", "distinct_3", "similarity", "chars"):
            difference = one["differences"][key]
            assert page_of.value(f"diversity/{key}:{name}") == pytest.approx(difference["value"])
            figure = page_of.figures[f"diversity/{key}:{name}"]
            holds_0 = abs(difference["value"]) <= difference["interval"]
            assert ("unsure" in figure["class"].split()) == holds_0


def test_a_run_at_an_address_has_its_report_here(made: Run, tmp_path: Path) -> None:
    with s3_server() as port:
        there = address(port, "run")
        store = Store(there)
        for path in made.store.root.rglob("*"):
            if path.is_file() and "latest" not in path.parts and path.suffix != ".html":
                relative = path.relative_to(made.store.root).as_posix()
                store.files.write(relative, path.read_bytes())
        written = report.write(there, tmp_path / "r.html", prompts=7)
    found = Reader(written.path.read_text(encoding="utf-8"))
    assert found.value("prompts") == PROMPTS
    assert len(found.data["texts"]["samples"]) == 7
    assert "127.0.0.1" not in written.path.read_text(encoding="utf-8")


def at_samples(page: Page, prompt_id: str = "") -> None:
    page.evaluate(f"location.hash = '#samples/{prompt_id}'")
    page.settle()


def samples_with(page_of: Reader, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The samples of which some candidate that was not chosen is like that."""
    samples: list[dict[str, Any]] = page_of.data["texts"]["samples"]
    return [
        sample
        for sample in samples
        if any(wanted(one) for one in sample["candidates"] if not one["rank"])
    ]


def cards_with(page: Page, badge: str) -> list[bool]:
    """Of every candidate's card, whether it has the badge."""
    return [badge in text.split("\n")[:8] for text in texts(page, ".candidate")]


def test_what_could_not_be_chosen_is_no_rival(view: Page, page_of: Reader, made: Run) -> None:
    enforced = set(made.config.gates.enforced())

    def barred(one: dict[str, Any]) -> bool:
        return not one["rank"] and bool(one["error"] or enforced & set(one["gates"]))

    found = samples_with(page_of, barred)
    assert found, "nothing failed"
    for sample in [*found[:3], *samples_with(page_of, lambda one: not barred(one))[:3]]:
        at_samples(view, sample["prompt_id"])
        assert cards_with(view, "not eligible") == [barred(one) for one in sample["candidates"]]
        sizes = view.evaluate(
            "[...document.querySelectorAll('.candidate .reward')]"
            ".map(one => getComputedStyle(one).fontWeight)"
        )
        assert sizes == ["400" if barred(one) else "650" for one in sample["candidates"]]


def test_a_gate_that_is_not_enforced_bars_nobody(
    browser: Browser,  # noqa: F811
    tmp_path: Path,
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(12))
    pool = {"a": fake(0.6, options={"truncate": 1.0}), "b": fake(0.4)}
    loose = run(make_config(tmp_path, pool, gates={"truncated": False}))
    written = report.write(str(loose.store.root))
    page = browser.page(1440, 900)
    page.open(written.path)
    at_samples(page)
    assert page.evaluate("document.querySelectorAll('.candidate .badge.warn').length") > 0
    assert "truncated" in texts(page, ".candidate .badge")
    assert "not eligible" not in texts(page, ".candidate .badge")
    page.close()


def test_a_repeated_answer_is_called_so(view: Page, page_of: Reader) -> None:
    def repeats(sample: dict[str, Any]) -> list[bool]:
        chosen = [one["completion"] for one in sample["candidates"] if one["rank"]]
        return [not one["rank"] and one["completion"] in chosen for one in sample["candidates"]]

    samples = page_of.data["texts"]["samples"]
    found = [sample for sample in samples if any(repeats(sample))]
    assert found, "no answer was given twice"
    for sample in [*found[:3], *[one for one in samples if one not in found][:3]]:
        at_samples(view, sample["prompt_id"])
        assert cards_with(view, "same answer") == repeats(sample)


def test_filters_are_told_and_cleared(view: Page, page_of: Reader) -> None:
    samples = page_of.data["texts"]["samples"]
    at_samples(view)
    set_filter(view, "language", "ja")
    set_filter(view, "least", "3")
    set_filter(view, "most", "1")
    told = view.text("#sample-detail") or ""
    assert "language Japanese (ja); margin from 3; margin to 1" in told
    assert "No margin can be from 3 to 1" in told
    assert view.evaluate("document.getElementById('sample-list').hidden")
    assert view.evaluate("document.querySelector('[data-filter=least]').ariaInvalid") == "true"
    view.click("#sample-detail .clear")
    assert view.text("#sample-count") == f"{len(samples)} of {len(samples)} sampled prompts"
    assert view.evaluate("document.querySelector('[data-filter=least]').value") == ""
    assert view.evaluate("document.querySelector('[data-filter=who]').value") == "chosen"
    assert view.evaluate("document.querySelectorAll('#sample-list li').length") == len(samples)
    assert texts(view, ".candidate")


def test_what_a_search_finds_is_marked(view: Page, page_of: Reader) -> None:
    at_samples(view)
    for words in ("a", ".*", "<b>", "(["):
        set_filter(view, "words", words)
        marks = texts(view, "#tab-samples mark")
        assert {mark.lower() for mark in marks} <= {words}
        assert words != "a" or marks
        assert texts(view, "#sample-detail b b") == []


def test_a_tap_on_a_small_screen_shows_the_sample(
    browser: Browser,  # noqa: F811
    written: report.Written,
) -> None:
    page = browser.page(400, 800)
    page.open(written.path)
    at_samples(page)
    page.click("#sample-list li", nth=2)
    top = "document.querySelector('.detail .card').getBoundingClientRect().top"
    assert 0 <= page.evaluate(top) < 500
    assert page.evaluate("getComputedStyle(document.querySelector('.keys')).display") == "none"
    page.click(".button.back")
    assert page.evaluate("document.activeElement.id") == "sample-list"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.console == []
    page.close()


def test_the_height_of_the_rewards_is_that_of_their_rows(view: Page) -> None:
    view.evaluate("location.hash = '#distributions'")
    view.wait("document.querySelector('#plot-spread .main-svg') !== null")
    height = "document.getElementById('plot-spread').clientHeight"
    whole = view.evaluate(height)
    view.evaluate(
        "(() => { const select = document.getElementById('spread-language');"
        "select.value = 'sw'; select.dispatchEvent(new Event('change')); })()"
    )
    rows = view.evaluate("document.querySelectorAll('#plot-spread .annotation').length")
    assert view.evaluate(height) == 90 + 74 * rows < whole
    tops = view.evaluate(
        "['reward', 'chosen'].map(one => document.getElementById(`plot-length-${one}`)"
        ".getBoundingClientRect().top)"
    )
    assert tops[0] == tops[1]
