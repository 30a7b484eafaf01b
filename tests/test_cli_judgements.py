"""`arbitrage judgements`: what reaches the analysis, and what a user is told."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.text import Text
from typer.testing import CliRunner

import arbitrage
from arbitrage.cli import app
from arbitrage.errors import UsageError
from command_line import cli

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RATES = {"a": 0.9, "b": 0.3}
LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
WEIGHTS = {label: 3 if len(label) == 4 else 1 for label in LABELS}


def row(question: str, model: str, *labels: str | None, **more: Any) -> dict[str, Any]:
    games = [{"score": label, "judgment": "x" * 50} for label in labels]
    told = {"uid": question, "model": model, "judge": "j", "baseline": "base", "category": "c"}
    return {**told, "games": games, **more}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the analysis, and keeps what it was given."""
    seen: dict[str, Any] = {}

    def analyse(outcomes: Any, choices: Any, baseline: str = "", **more: Any) -> Any:
        seen.update(outcomes=outcomes, choices=choices, baseline=baseline, **more)
        return SimpleNamespace(as_json=lambda: '{"format": 1}\n')

    tables = SimpleNamespace(of_results=lambda results: Text("the table"))
    monkeypatch.setitem(sys.modules, "arbitrage.winrate.analysis", SimpleNamespace(analyse=analyse))
    monkeypatch.setitem(sys.modules, "arbitrage.tables_winrate", tables)
    monkeypatch.setattr(arbitrage, "tables_winrate", tables, raising=False)
    return seen


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["judgements", *map(str, arguments)], catch_exceptions=False)


def test_options_reach_the_analysis(tmp_path: Path, told: dict[str, Any]) -> None:
    path = write(tmp_path / "a.jsonl", [row("q", "a", "A>>B", "A>B")])
    found = run(
        *(path, "--strong-weight", "5", "--flips", "tie", "--missing", "game", "--seed", "3"),
        *("--control", "length,position", "--resamples", "50"),
    )
    assert (found.exit_code, found.output) == (0, "the table\n")
    choices = told["choices"]
    assert (choices.strong_weight, choices.flips, choices.missing) == (5, "tie", "game")
    assert (choices.control, choices.resamples, choices.seed) == (("length", "position"), 50, 3)
    assert told["outcomes"].weight.tolist() == [5, 1]
    assert told["baseline"] == "base"
    assert told["made_from"] == {"judgements": [str(path)]}


def test_the_rule_of_the_tool_that_wrote_the_files_is_followed_and_told(
    tmp_path: Path, told: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.jsonl", [row("q", "a", None, "A>B")])
    run(path)
    assert told["choices"].missing == "prompt"
    assert "as Arena-Hard v2 does" in told["remarks"][0]
    assert told["failures"] == [("j", "a", "the judge gave no verdict", 1)]
    run(path, "--missing", "game")
    assert told["choices"].missing == "game"
    assert told["remarks"] == []
    run(write(tmp_path / "b.jsonl", [row("q", "a", "A>B", "A>B")]))
    assert told["remarks"] == [], "where nothing is missing there is nothing to say"


def test_answers_and_questions_are_read(tmp_path: Path, told: dict[str, Any]) -> None:
    path = write(tmp_path / "a.jsonl", [row("q", "a", "A>B", "A>B")])
    questions = write(tmp_path / "q.jsonl", [{"id": "q", "language": "de"}])
    own = [{"id": "q", "model": name, "completion": "x" * n} for name, n in (("a", 6), ("base", 2))]
    files = [write(tmp_path / f"{one['model']}.answers", [one]) for one in own]
    assert (
        run(
            path,
            "--questions",
            questions,
            "--answers",
            files[0],
            "--answers",
            files[1],
            "--no-control",
        ).exit_code
        == 0
    )
    assert told["outcomes"].languages == ("de",)
    assert np.allclose(told["outcomes"].style[:, 0], 0.5)
    assert told["choices"].control == ()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--control", "length,colour"),
            "--control 'colour' is none of length, markdown, position",
        ),
        (("--strong-weight", "0"), "--strong-weight 0.0: input should be greater than 0"),
        (("--resamples", "-1"), "--resamples -1: input should be greater than or equal to 0"),
        (("--baseline", "x"), "no judgement is of the baseline 'x'; there are a, base"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    tmp_path: Path, told: dict[str, Any], options: Sequence[str], sentence: str
) -> None:
    path = write(tmp_path / "a.jsonl", [row("q", "a", "A>B", "A>B")])
    with pytest.raises(UsageError) as caught:
        run(path, *options)
    assert sentence in str(caught.value)
    assert told == {}


def test_a_path_to_nothing_is_wrong_usage(tmp_path: Path) -> None:
    broken = tmp_path / "x\x1b[31m.jsonl"
    broken.write_text("{", encoding="utf-8")
    for path, sentence in ((tmp_path / "none", "leads to no file"), (broken, "is no JSON")):
        found = cli("judgements", path)
        assert found.returncode == 2
        assert sentence in found.stderr
        assert "\x1b[31m" not in found.stderr


@pytest.mark.parametrize("with_json", [True, False])
def test_win_rates_of_files_are_those_of_their_rows(tmp_path: Path, with_json: bool) -> None:
    draw = np.random.default_rng(5)
    rows = []
    wins = {name: [0.0, 0.0] for name in RATES}
    for n in range(40):
        for name, good in RATES.items():
            labels = [LABELS[one] for one in draw.integers(0, 5, 2)]
            labels[1] = "A>B" if draw.random() < good else labels[1]
            rows.append(row(f"q{n}", name, *labels))
            for label, is_second in zip(labels, (False, True), strict=True):
                share = 0.5 if label == "A=B" else float(label.startswith("A") == is_second)
                wins[name][0] += share * WEIGHTS[label]
                wins[name][1] += WEIGHTS[label]
    path = write(tmp_path / "judged.jsonl", rows)
    found = cli("judgements", path, "--resamples", "100", *(["--json"] if with_json else []))
    assert (found.returncode, found.stderr) == (0, "")
    if not with_json:
        assert all(f"{100 * won / of:.1f}" in found.stdout for won, of in wins.values())
        return
    told = json.loads(found.stdout)
    rates = {one["model"]: one["rate"] for one in told["rows"] if one["scope"] == "all"}
    assert told["baseline"] == "base"
    assert rates.keys() == RATES.keys()
    for name, (won, of) in wins.items():
        rate, low, high = rates[name]
        assert rate == pytest.approx(won / of)
        assert low < rate < high


def test_one_category_alone_has_its_own_baseline(tmp_path: Path) -> None:
    hard = [row(f"h{n}", "a", "B>A", "A>B", category="hard") for n in range(4)]
    creative = [
        row(f"c{n}", "a", "A>B", "B>A", category="creative", baseline="other") for n in range(4)
    ]
    path = write(tmp_path / "a.jsonl", [*hard, *creative])
    found = json.loads(cli("judgements", path, "--category", "hard", "--json").stdout)
    assert found["baseline"] == "base"
    assert [r["rate"][0] for r in found["rows"] if r["scope"] == "all"] == [1.0]
    both = json.loads(cli("judgements", path, "--json").stdout)
    assert both["baseline"] == ""
    wrong = cli("judgements", path, "--category", "hart")
    assert wrong.returncode == 2
    assert "there are creative, hard" in wrong.stderr


def test_lengths_in_a_row_are_controlled_for(tmp_path: Path) -> None:
    rows = []
    for n in range(300):
        longer = n % 3 != 0  # the model's answer, mostly; and the longer one always wins
        told = {"question": f"q{n}", "model": "a", "opponent": "b", "score": float(longer)}
        told |= {"length": 200 if longer else 100, "opponent_length": 100 if longer else 200}
        rows.append({**told, "score": float(longer if n % 10 else not longer)})
    path = write(tmp_path / "own.jsonl", rows)
    found = json.loads(cli("judgements", path, "--json", "--resamples", "0").stdout)
    (whole,) = (r for r in found["rows"] if (r["scope"], r["model"]) == ("all", "a"))
    assert whole["rate"][0] == pytest.approx(sum(r["score"] for r in rows) / 300)
    assert abs(whole["controlled"][0] - 0.5) < 0.1 < whole["rate"][0] - 0.5
    wrong = write(tmp_path / "wrong.jsonl", [{**rows[0], "length": "long"}])
    said = cli("judgements", wrong)
    assert said.returncode == 2
    assert "a length is 'long', not a number of characters" in said.stderr
