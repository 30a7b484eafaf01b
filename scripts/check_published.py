"""Compares win rates read from other tools' recorded judgements with the figures they published.

Takes paths, as neither judgements nor leaderboards are part of this project: AlpacaEval's
`results/*/ANNOTATOR/annotations.json` with its `..._leaderboard.csv`, or Arena-Hard's
`model_judgment/JUDGE` or battles with its `arena_hard_leaderboard_*.csv`. Each file is read by
itself, by the package's own reader. Exit code 1 where a win rate is further than 0.1 point away,
or the order of two models is another.

    python scripts/check_published.py alpaca_eval/results/*/weighted_alpaca_eval_gpt4_turbo \
        --leaderboard weighted_alpaca_eval_gpt4_turbo_leaderboard.csv
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from arbitrage.errors import InputError
from arbitrage.winrate.choices import AnalysisConfig
from arbitrage.winrate.recorded import Recorded, read_recorded
from arbitrage.winrate.recorded_files import files_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.stats.outcomes import Outcomes

CLOSE = 0.1
"""Points that a win rate may be away."""
RATES = ("win_rate", "score", "Scores (%)")
"""Columns of leaderboards, in percent."""


class Figure(NamedTuple):
    """A model's figures in percent, by their names on AlpacaEval's leaderboards, and its file."""

    model: str
    path: Path
    told: dict[str, float]


def main() -> None:
    """Prints the table of differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("judgements", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--leaderboard", type=Path, required=True, metavar="CSV")
    options = parser.parse_args()
    published = read_leaderboard(options.leaderboard)
    found = [one for path, _ in files_in(options.judgements) for one in figures(path)]
    pairs = [(one, published[name]) for one in found if (name := name_in(one, published))]
    if not pairs:
        sys.exit(f"none of {len(found)} models is in {options.leaderboard}")
    print(f"{'model':<44}{'games':>7}{'here':>11}{'published':>11}{'difference':>12}  others")
    for one, row in sorted(pairs, key=lambda pair: -pair[1][0]):
        away, rest = one.told["rate"] - row[0], others(one, row[1])
        print(
            f"{one.model[:43]:<44}{one.told['n_total']:>7.0f}{one.told['rate']:>11.4f}{row[0]:>11.4f}"
            f"{away:>12.6f}  {rest}"
        )
    furthest = max(abs(one.told["rate"] - row[0]) for one, row in pairs)
    wrong = swapped([(one.told["rate"], row[0]) for one, row in pairs])
    print(
        f"\n{len(pairs)} models; furthest away {furthest:.6f} points; {wrong} pairs in other order"
    )
    left = [one.model for one in found if not name_in(one, published)]
    if left:
        print(f"not on the leaderboard: {', '.join(left)}")
    sys.exit(1 if wrong or furthest > CLOSE else 0)


def read_leaderboard(path: Path) -> dict[str, tuple[float, dict[str, str]]]:
    """Win rate in percent and all columns, by model: the first column, or `model`."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not (rate := next((name for name in RATES if name in rows[0]), None)):
        sys.exit(f"{path} has none of the columns {', '.join(RATES)}")
    key = "model" if "model" in rows[0] else next(iter(rows[0]))
    return {row[key]: (float(row[rate]), row) for row in rows}


def figures(path: Path) -> Iterator[Figure]:
    """Every model of a file against its baseline."""
    try:
        found = read_recorded([path], AnalysisConfig())
    except InputError as error:
        if "between two models" in str(error):  # the baseline's own entry
            yield Figure(path.parent.parent.name, path, {"rate": 50.0, "n_total": math.nan})
            return
        print(f"passed over: {error}", file=sys.stderr)
        return
    if not found.baseline:
        print(f"passed over: {path} has no one baseline", file=sys.stderr)
        return
    outcomes = found.outcomes.where(counted(found))
    for number, model in enumerate(outcomes.models):
        if model != found.baseline:
            rows = (outcomes.first == number) | (outcomes.second == number)
            yield Figure(model, path, summed(outcomes.where(rows), number))


def counted(found: Recorded) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The games with a verdict, less those that the tool's own rule leaves out with another."""
    outcomes = found.outcomes
    missing = np.isnan(outcomes.score)
    if found.rule == "prompt":
        keys = [*zip(outcomes.judge, outcomes.first, outcomes.second, outcomes.prompt, strict=True)]
        lost = {key for key, out in zip(keys, missing, strict=True) if out}
        missing = np.array([key in lost for key in keys])
    return np.array(~missing)


def summed(games: Outcomes, model: int) -> dict[str, float]:
    """The figures of AlpacaEval's leaderboards, but that games have weights."""
    score = np.where(games.first == model, games.score, 1 - games.score)
    rate = np.average(score, weights=games.weight)
    wins, losses = (score > 0.5).sum(), (score < 0.5).sum()
    return {
        "rate": 100 * float(rate),
        "n_total": len(score),
        "n_wins": float(wins),
        "n_wins_base": float(losses),
        "n_draws": float(len(score) - wins - losses),
        "discrete_win_rate": 100 * float((wins + (len(score) - wins - losses) / 2) / len(score)),
        "standard_error": 100 * float(score.std(ddof=1) / math.sqrt(len(score))),
    }


def name_in(one: Figure, published: dict[str, tuple[float, dict[str, str]]]) -> str | None:
    """A model's name on the leaderboard: its folder's there, if it has one, else its own."""
    folders = [part for part in one.path.parts[:-1] if part in published]
    own = [one.model] if one.model in published else []
    return next(iter([*folders[-1:], *own]), None)


def others(one: Figure, row: dict[str, str]) -> str:
    """The other figures of a leaderboard that are not the same."""
    shared = [name for name in one.told if row.get(name)]
    away = {name: one.told[name] - float(row[name]) for name in shared}
    return ", ".join(f"{name} {by:+.4g}" for name, by in away.items() if abs(by) > 1e-6) or "same"


def swapped(rates: list[tuple[float, float]]) -> int:
    """Pairs of models that stand in another order; published figures may be rounded, and alike."""
    here, there = (np.array(column) for column in zip(*rates, strict=True))
    mine, theirs = (np.sign(np.round(one[:, None] - one, 2)) for one in (here, there))
    return int((mine * theirs < 0).sum() // 2)


if __name__ == "__main__":
    main()
