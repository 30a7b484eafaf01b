"""Win rates beside a run, by the command line: in its report, and in its leaderboard."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage import report
from arbitrage.winrate import telling
from arbitrage.winrate.results import LANGUAGES, Results
from browser import browser  # noqa: F401 - a fixture
from command_line import cli
from harness import Run, fake, make_config, numbered_prompts, run, write_prompts
from winrate_results import CODES, EVIL, make_results

if TYPE_CHECKING:
    from browser import Browser

POOL: dict[str, Any] = {"east": fake(0.5), "west": fake(0.6, ["de"])}
RATES = {"east": 0.58, "selected": 0.7, EVIL: 0.4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("rated")
    write_prompts(folder / "prompts.jsonl", numbered_prompts(12, ("de", "fr")))
    return run(make_config(folder, POOL))


def written(folder: Path, results: Results) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "winrate.json").write_text(results.as_json(), encoding="utf-8")
    return folder


def test_the_report_has_a_section_of_win_rates(
    made: Run,
    tmp_path: Path,
    browser: Browser,  # noqa: F811
) -> None:
    results = make_results(RATES, languages=CODES[:4])
    place, target = written(tmp_path / "arena", results), tmp_path / "report.html"
    done = cli("report", made.config.run, "-o", target, "--winrate", place)
    assert done.returncode == 0, done.stderr
    page = browser.page(1440, 900).open(target)
    assert page.text("#win-rates h2") == "Win rates"
    assert page.text("#win-rates .wr-first") == telling.headline(results)[0]
    bars = "[...document.querySelectorAll('.wr-bar')]"
    told = page.evaluate(f"{bars}.map(bar => [bar.dataset.model, bar.dataset.value])")
    found = {name: float(value) for name, value in told}
    assert found == {row.model: pytest.approx(row.rate.value) for row in telling.ranked(results)}
    cells = "document.querySelectorAll('#wr-matrix tbody td').length"
    assert page.evaluate(cells) == 3 * (2 + 4)
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.getElementById('matrix').rows.length") > 2
    assert page.console == []
    assert page.requests == []
    for width in (360, 1440):
        page.resize(width, 900)
        page.settle()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_report_without_win_rates_is_what_it_was(made: Run) -> None:
    text = report.rendered(made.config.run)
    assert "wr-bars" not in text
    assert "Win rates" not in text


def test_a_report_with_win_rates_is_never_too_large(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = make_results({f"m{n}": 0.5 for n in range(30)}, languages=CODES)
    alone = len(report.rendered(made.config.run, 0, results).encode())
    monkeypatch.setattr(report, "MAX_BYTES", alone + report.SPARE_BYTES)
    assert len(report.rendered(made.config.run, 600, results).encode()) <= report.MAX_BYTES


def test_the_leaderboard_has_a_column_of_win_rates(made: Run, tmp_path: Path) -> None:
    results = make_results(RATES)
    first = written(tmp_path / "arena", results)
    told = cli("leaderboard", made.config.run, "--winrate", first, "--json", "--sort", "winrate")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert [row["name"] for row in found["rows"]][:2] == ["selected", "east"]
    for model in RATES:
        row = results.row(model, "gpt", LANGUAGES)
        assert row is not None
        assert [rows[model][f"winrate{end}"] for end in ("", "_low", "_high")] == [*row.rate]
    assert rows["west"]["winrate"] is None
    assert rows[EVIL]["kind"] == "model"
    assert any(note.endswith("(arena).") for note in found["notes"])
    assert str(tmp_path) not in told.stdout
    second = written(tmp_path / "other", make_results({"east": 0.3}, baseline="claude"))
    both = cli(
        *("leaderboard", made.config.run, "--winrate", first, "--winrate", second),
        *("--format", "csv"),
    )
    assert both.returncode == 0, both.stderr
    assert "which do not compare with each other: against gpt by judge-a" in both.stderr
    table = {row["name"]: row for row in csv.DictReader(io.StringIO(both.stdout))}
    assert float(table["east"]["winrate"]) != float(table["east"]["winrate_2"])
    page = cli("leaderboard", made.config.run, "--winrate", first, "-o", tmp_path / "board.html")
    assert page.returncode == 0, page.stderr
    assert '"winrate_low"' in (tmp_path / "board.html").read_text("utf-8")


@pytest.mark.parametrize("command", ["report", "leaderboard"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read as win rates"),
        ("{", "cannot be read as win rates"),
        ("[1]", "holds no win rates"),
        ('{"format": 99}', "are of format 99"),
        ('{"format": 1}', "is no winrate.json"),
    ],
)
def test_mistakes_are_one_sentence(
    command: str, content: str | None, said: str, made: Run, tmp_path: Path
) -> None:
    file = tmp_path / "winrate.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    target = tmp_path / "page.html"
    found = cli(command, made.config.run, "--winrate", file, "-o", target)
    assert found.returncode == 2
    assert said in found.stderr
    assert found.stderr.count("\n") == 1
    assert not target.exists()


def test_win_rates_given_twice_are_refused(made: Run, tmp_path: Path) -> None:
    place = written(tmp_path / "arena", make_results(RATES))
    found = cli("leaderboard", made.config.run, "--winrate", place, "--winrate", place, "--json")
    assert found.returncode == 2
    assert "given twice" in found.stderr
    assert not (Path(made.config.run) / "leaderboard.html").exists()
