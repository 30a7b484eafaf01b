"""The comparison with published leaderboards, on files of their form."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

import check_published

if TYPE_CHECKING:
    from pathlib import Path

PREFERENCES = {"one": [1.0, 2.0, 1.9, 1.2], "two": [1.5, 0, 1.1, None]}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """AlpacaEval's folders; one model has another name inside its file, one is the baseline."""
    for folder, preferences in {**PREFERENCES, "base": [1.5]}.items():
        name = {"two": "example"}.get(folder, folder)
        rows = [
            {"instruction": f"q{n}", "generator_1": "base", "generator_2": name, "preference": one}
            for n, one in enumerate(preferences)
        ]
        place = tmp_path / "results" / folder / "judge"
        place.mkdir(parents=True)
        (place / "annotations.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path / "results"


def board(path: Path, rates: dict[str, float]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "win_rate", "n_total", "n_draws"])
        table.writerows([name, rate, 4, 0] for name, rate in rates.items())
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["check_published.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        check_published.main()
    return int(ended.value.code or 0)


def rate(name: str) -> float:
    told = [(one or 1.5) - 1 for one in PREFERENCES[name] if one is not None]
    return 100 * sum(told) / len(told)


def test_equal_figures_pass(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = board(tmp_path / "b.csv", {"one": rate("one"), "two": rate("two"), "base": 50.0})
    assert run(monkeypatch, results, "--leaderboard", path) == 0
    printed = capsys.readouterr().out
    assert "3 models; furthest away 0.000000 points; 0 pairs in other order" in printed
    assert "n_total -1, n_draws +2" in printed, "other columns are compared too"


@pytest.mark.parametrize(
    ("rates", "sentence"),
    [
        ({"one": rate("one") + 0.2}, "furthest away 0.200000 points; 0 pairs"),
        ({"one": rate("two"), "two": rate("one")}, "1 pairs in other order"),
    ],
)
def test_others_do_not(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    rates: dict[str, float],
    sentence: str,
) -> None:
    assert run(monkeypatch, results, "--leaderboard", board(tmp_path / "b.csv", rates)) == 1
    assert sentence in capsys.readouterr().out
