"""Win rates held against the truth, on the held-out micro-world.

Runs `configs/quickstart.yaml` and `configs/winrate.yaml` (of both only what is missing), looks up
which answers are exactly right, and compares, for what arbitrage has selected against each single
teacher and in each language: the difference in exact match, with a 95 % interval by bootstrap over
the questions, and the win rate that each of three judges gives. The first is the Arbiter that chose
the data, the second another one, and the third knows the truth: its win rate must be what exact
match says, to the digit, and the script ends with 1 where it is not. Of the others it says how
often they point the same way where the difference is significant.

    python scripts/micro_winrate.py
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from arbitrage.winrate.results import ALL, LANGUAGE, read_results
from micro_world import HELDOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arbitrage.winrate.results import Results

ROOT = Path(__file__).resolve().parents[1]
OURS = "arbitrage"
OTHER, TRUTH = "second", "truth"
"""The judge that has not chosen the data, and the one that knows."""
RULE = "{engine: rule, options: {function: 'micro_truth:right'}}"
RESAMPLES = 10_000


class Compared(NamedTuple):
    """One teacher in one language, or in all (""). `gap`, `low`, `high`: of exact match, in points,
    what was selected less the teacher; `rates`: the win rate of what was selected as each judge
    sees it, in percent."""

    teacher: str
    language: str
    gap: float
    low: float
    high: float
    rates: dict[str, float]

    @property
    def is_significant(self) -> bool:
        """Whether the interval of the difference leaves 0 out."""
        return self.low > 0 or self.high < 0

    @property
    def is_exact(self) -> bool:
        """Whether the win rate of the judge that knows is what exact match says."""
        return math.isclose(self.rates[TRUTH], 50 + self.gap / 2, abs_tol=1e-9)

    def agrees(self, judge: str) -> bool:
        """Whether a judge's win rate is on the same side of 50 % as the difference of 0."""
        return (self.rates[judge] - 50) * self.gap > 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "runs/quickstart")
    parser.add_argument("--evaluation", type=Path, default=ROOT / "runs/winrate")
    options = parser.parse_args(arguments)
    call("run", ROOT / "configs/quickstart.yaml", "--set", f"run={options.run}")
    settings = (
        f"evaluation={options.evaluation}",
        f"models.{OURS}.run={options.run}",
        f"arbiters.{TRUTH}={RULE}",
    )
    told = [part for setting in settings for part in ("--set", setting)]
    call("winrate", ROOT / "configs/winrate.yaml", *told)
    compared = list(compare(options.evaluation))
    show(compared, Console())
    sys.exit(0 if all(one.is_exact for one in compared) else 1)


def call(*arguments: Any) -> None:
    """One command of `arbitrage`, quietly."""
    command = [sys.executable, "-m", "arbitrage.cli", *map(str, arguments), "--quiet"]
    paths = os.pathsep.join([str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    if code := subprocess.run(command, check=False, env=environment).returncode:  # noqa: S603
        sys.exit(code)


def compare(evaluation: Path) -> Iterator[Compared]:
    """Every teacher, in all languages together and in each."""
    results = read_results(evaluation)
    right = right_answers(evaluation, results)
    draw = np.random.default_rng(0)
    for teacher in (name for name in results.models if name != OURS):
        gaps = right[OURS].astype(float) - right[teacher].astype(float)
        for language in ("", *sorted(set(right.index))):
            some = gaps.to_numpy() if not language else gaps[right.index == language].to_numpy()
            drawn = draw.integers(len(some), size=(RESAMPLES, len(some)))
            low, high = np.percentile(some[drawn].mean(axis=1), [2.5, 97.5]) * 100
            rates = {judge: rate_of(results, teacher, language, judge) for judge in results.judges}
            if any(map(math.isnan, rates.values())):
                continue  # a teacher that was not asked there
            yield Compared(teacher, language, some.mean() * 100, low, high, rates)


def rate_of(results: Results, teacher: str, language: str, judge: str) -> float:
    """The win rate of what was selected against a teacher, in percent."""
    where = (LANGUAGE, language) if language else (ALL, "")
    row = results.row(OURS, teacher, *where, judge)
    return float("nan") if row is None else row.rate.value * 100


def sure_of(compared: Sequence[Compared], teacher: str = "") -> list[Compared]:
    """The languages in which the difference is significant, of one teacher or of all."""
    return [
        one
        for one in compared
        if one.language and one.is_significant and teacher in ("", one.teacher)
    ]


def right_answers(evaluation: Path, results: Results) -> pd.DataFrame:
    """Which model is exactly right on which question; the index is the language."""
    truth = pd.read_json(HELDOUT / "answers.jsonl", lines=True, dtype=False)
    prompts = pd.concat(map(pd.read_parquet, sorted(evaluation.glob("prompts/*.parquet"))))
    asked = prompts.merge(truth, left_on="user_id", right_on="id", validate="one_to_one")
    found = pd.DataFrame(index=pd.Index(asked.prompt_id))
    made = results.made_from or {}
    for name in results.models:
        files = evaluation.glob(f"candidates/*-{made[name]['fingerprint']}/*.parquet")
        answers = pd.concat(map(pd.read_parquet, sorted(files))).set_index("prompt_id")
        texts = answers.completion.reindex(found.index)
        found[name] = texts.fillna("").str.strip().to_numpy() == asked.answer.to_numpy()
    return found.set_axis(asked.language.to_numpy(), axis=0)


def show(compared: Sequence[Compared], console: Console) -> None:
    """The teachers over all languages, and how often the measures point the same way."""
    judges = list(compared[0].rates)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arbitrage against")
    table.add_column("exact match, points", justify="right")
    table.add_column("significant in", justify="right")
    for judge in judges:
        table.add_column(f"{judge}, %", justify="right")
        table.add_column("agrees", justify="right")
        table.add_column("not in")
    for whole in (one for one in compared if not one.language):
        sure = sure_of(compared, whole.teacher)
        cells = [f"{whole.gap:+.1f} [{whole.low:+.1f}, {whole.high:+.1f}]", f"{len(sure)}"]
        for judge in judges:
            not_in = " ".join(one.language for one in sure if not one.agrees(judge))
            agree = sum(one.agrees(judge) for one in sure)
            cells += [f"{whole.rates[judge]:.1f}", f"{agree}", not_in or "-"]
        table.add_row(whole.teacher, *cells)
    console.print(table, soft_wrap=True)
    sure = sure_of(compared)
    told = ", ".join(f"{j} in {sum(one.agrees(j) for one in sure)}" for j in judges)
    pairs = sum(1 for one in compared if one.language)
    console.print(
        f"\nof {pairs} pairs of a teacher and a language {len(sure)} differ significantly in exact "
        f"match; win rates agree in sign: {told}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
