"""What choosing per prompt is worth, measured against the truth, on the held-out micro-world.

Runs `configs/quickstart.yaml`, and the same once more with every teacher asked about everything (in
a run of its own; of both only what is missing), looks up which candidate says exactly the right
answer, and compares: each teacher alone, a random one, routing by family, arbitrage (what the run
selected), and the oracle, which is right where any candidate is. A prompt without an answer counts
as wrong. Intervals are 95 %, by bootstrap over the prompts of each language. The Arbiter is also
asked, pair by pair, to tell the right answer from a wrong one of each kind.

    python scripts/bench_micro.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arbitrage.configfile import load
from arbitrage.engines import build_scorer
from arbitrage.identity import prompt_id
from arbitrage.records import Prompt
from arbitrage.resolve import resolve
from micro_world import HELDOUT, read_lexicons, world
from micro_wrong import KINDS, WrongAnswers
from train_micro import read_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arbitrage.components import Components

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/quickstart.yaml"
RESAMPLES = 10_000
BEST, RANDOM, ROUTING, ARBITRAGE, ORACLE, ALL_ASKED, ALL_ORACLE = STRATEGIES = (
    "best single teacher",
    "random teacher",
    "routing by family",
    "arbitrage",
    "oracle",
    "arbitrage, all asked",
    "oracle, all asked",
)


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval, all between 0 and 1 (a difference: -1 and 1)."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        """Mean and interval in per cent."""
        return f"{self.mean:.1%} [{self.low:.1%}, {self.high:.1%}]".replace("%", "")


@dataclass(frozen=True)
class Outcomes:
    """Per prompt how right each strategy is, 0 to 1 (a random teacher: the mean of all).

    `right` has one row per prompt, one column per teacher and strategy, and the prompt's `language`
    as its index.
    """

    right: pd.DataFrame
    teachers: list[str]

    @property
    def best(self) -> str:
        """The teacher that is right most often over all languages."""
        return str(self.right[self.teachers].mean().idxmax())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=ROOT / "runs/bench_micro.json")
    options = parser.parse_args(arguments)
    outcomes = run_and_read([])
    everyone = run_and_read(ask_everyone(ROOT / "runs/bench_micro"))
    report = summarise(beside(outcomes, everyone))
    report["arbiter_pairs"] = pair_accuracy(resolve(load(CONFIG).config))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1, default=vars) + "\n", encoding="utf-8")
    show(report, Console())
    print(f"written to {options.json}")


def ask_everyone(run: Path) -> list[str]:
    """Settings by which every teacher is asked about every language, in a run of its own."""
    teachers = load(CONFIG).config.teachers
    wide = [(f"{name}.families=[]", f"{name}.languages=all") for name in teachers]
    return [f"run={run}", *(f"teachers.{setting}" for pair in wide for setting in pair)]


def run_and_read(settings: Sequence[str]) -> Outcomes:
    """Makes what is missing of the run with these settings, and looks at it."""
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "arbitrage.cli", "run", str(CONFIG), "--quiet", *options]
    if code := subprocess.run(command, check=False).returncode:  # noqa: S603 - our own command
        sys.exit(code)
    config = load(CONFIG, settings).config
    return read_outcomes(Path(config.run), resolve(config))


def beside(outcomes: Outcomes, everyone: Outcomes) -> Outcomes:
    """The teachers as `everyone` was asked; choosing in both ways."""
    right = everyone.right.rename(columns={ARBITRAGE: ALL_ASKED, ORACLE: ALL_ORACLE})
    right[[ARBITRAGE, ORACLE]] = outcomes.right[[ARBITRAGE, ORACLE]].to_numpy()
    return Outcomes(right[[*everyone.teachers, *STRATEGIES]], everyone.teachers)


def read_outcomes(run: Path, components: Components) -> Outcomes:
    """Which candidates of a finished run are right, and which of them was chosen."""
    answers = pd.read_json(HELDOUT / "answers.jsonl", lines=True, dtype=False)
    prompts = pd.concat(map(pd.read_parquet, sorted(run.glob("prompts/*.parquet"))))
    asked = prompts.merge(answers, left_on="user_id", right_on="id", validate="one_to_one")
    asked = asked.set_index("prompt_id")[["language", "answer"]].sort_index()
    right = pd.DataFrame(index=asked.index)
    trained = read_pool()
    anyone = pd.Series(False, index=asked.index)
    for teacher in components.teachers:
        files = sorted(run.glob(f"candidates/*-{teacher.fingerprint}/*.parquet"))
        made = pd.concat(map(pd.read_parquet, files))
        hits = made["completion"].to_numpy() == asked.loc[made["prompt_id"], "answer"].to_numpy()
        made = made.assign(right=hits)
        first = made[made["sample"] == 0].set_index("prompt_id")["right"]
        right[teacher.name] = first.reindex(asked.index, fill_value=False).astype(float)
        anyone |= made.groupby("prompt_id")["right"].any().reindex(asked.index, fill_value=False)
    names = [teacher.name for teacher in components.teachers]
    outcomes = Outcomes(right, names)
    right[BEST] = right[outcomes.best]
    right[RANDOM] = right[names].mean(axis=1)
    right[ROUTING] = 0.0
    for name in (name for name in names if set(trained[name]) != set(asked["language"])):
        own = asked["language"].isin(trained[name])
        right.loc[own, ROUTING] = right.loc[own, name]
    chosen = pd.read_parquet(run / "selected/latest").set_index("prompt_id")["completion"]
    right[ARBITRAGE] = (chosen.reindex(asked.index) == asked["answer"]).astype(float)
    right[ORACLE] = anyone.astype(float)
    right.index = pd.Index(asked["language"], name="language")
    return outcomes


def summarise(outcomes: Outcomes) -> dict[str, Any]:
    """Estimates per language and over all, and the two figures that matter."""
    drawn = _bootstrap(outcomes.right)
    columns = list(outcomes.right.columns)
    at = columns.index
    every = np.mean(list(drawn.values()), axis=0)
    means = outcomes.right.groupby("language").mean()
    overall = means.mean()
    gain = every[:, at(ARBITRAGE)] - every[:, at(BEST)]
    share = every[:, at(ARBITRAGE)] / every[:, at(ORACLE)]
    return {
        "prompts": len(outcomes.right),
        "best_single_teacher": outcomes.best,
        "gain": _estimate(overall[ARBITRAGE] - overall[BEST], gain),
        "share_of_oracle": _estimate(overall[ARBITRAGE] / overall[ORACLE], share),
        "teachers": outcomes.teachers,
        "all": {name: _estimate(overall[name], every[:, at(name)]) for name in columns},
        "languages": {
            str(code): {
                name: _estimate(row[name], drawn[str(code)][:, at(name)]) for name in columns
            }
            for code, row in means.iterrows()
        },
    }


def _bootstrap(right: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Per language, the means of RESAMPLES draws of its prompts: (resamples, columns)."""
    draw = np.random.default_rng(0)
    found = {}
    for code, rows in right.groupby("language"):
        values = rows.to_numpy()
        times = draw.multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES)
        found[str(code)] = times @ values / len(values)
    return found


def _estimate(mean: float, drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(mean), float(low), float(high))


def pair_accuracy(components: Components) -> dict[str, dict[str, float]]:
    """How often the Arbiter scores a held-out right answer above a wrong one, by language and kind.

    A tie is a miss.
    """
    lexicons = read_lexicons()
    heldout = world(lexicons).heldout
    wrong = WrongAnswers(lexicons, heldout)
    told = [
        (example, [example.answer, *(wrong.of(example, kind, _source(example)) for kind in KINDS)])
        for example in heldout
    ]
    scorer = build_scorer(components.arbiter)

    async def judge() -> list[float]:
        jobs = []
        for example, answers in told:
            messages = [{"role": "user", "content": example.prompt}]
            prompt = Prompt(prompt_id(messages), example.language, messages)  # type: ignore[arg-type]
            jobs += [scorer.score(prompt, answer) for answer in answers]
        return await asyncio.gather(*jobs)

    scores = np.array(asyncio.run(judge())).reshape(len(told), -1)
    scorer.close()
    wins = pd.DataFrame(scores[:, :1] > scores[:, 1:], columns=list(KINDS))
    wins.index = pd.Index([example.language for example in heldout])
    by_language = wins.groupby(level=0).mean()
    by_language["all kinds"] = by_language.mean(axis=1)
    by_language.loc["all"] = by_language.mean()
    return {
        str(code): {str(kind): float(share) for kind, share in row.items()}
        for code, row in by_language.iterrows()
    }


def _source(example: Any) -> random.Random:
    return random.Random(example.name)


def show(report: dict[str, Any], console: Console) -> None:
    """Strategies, languages by strategy and by teacher, the Arbiter's pairs, and what counts."""
    for title, table in (
        (f"exact match on {report['prompts']:,} held-out prompts, %", _strategies(report)),
        ("by language, %", _languages(report)),
        ("by language and teacher, %", _matrix(report)),
        ("the Arbiter's pairs, right against each kind of wrong answer, %", _pairs(report)),
    ):
        console.print(Text(title, style="bold"), table, "", sep="\n")
    gain, share = report["gain"], report["share_of_oracle"]
    console.print(
        f"arbitrage - best single teacher: {gain.percent()} points of exact match\n"
        f"arbitrage / oracle: {share.percent()} %",
        highlight=False,
    )


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for at, name in enumerate(names):
        table.add_column(name, justify="right" if at else "left", no_wrap=True)
    return table


def _strategies(report: dict[str, Any]) -> Table:
    table = _table("", "")
    for name in report["all"]:
        told = f"{name} ({report['best_single_teacher']})" if name == BEST else name
        bold = "bold" if name == ARBITRAGE else ""
        table.add_row(told, report["all"][name].percent(), style=bold)
    return table


def _languages(report: dict[str, Any]) -> Table:
    shown = STRATEGIES[:-1]
    table = _table("", *(name.replace(" ", "\n", 1) for name in shown))
    for code, row in _rows(report):
        cells = [f"{100 * row[name].mean:.0f}" for name in shown]
        interval = f" [{100 * row[ARBITRAGE].low:.0f}, {100 * row[ARBITRAGE].high:.0f}]"
        cells[shown.index(ARBITRAGE)] += interval
        table.add_row(code, *cells)
    return table


def _matrix(report: dict[str, Any]) -> Table:
    table = _table("", *(name.replace("-", "-\n") for name in report["teachers"]))
    for code, row in _rows(report):
        table.add_row(code, *(f"{100 * row[name].mean:.0f}" for name in report["teachers"]))
    return table


def _rows(report: dict[str, Any]) -> list[tuple[str, dict[str, Estimate]]]:
    return [*report["languages"].items(), ("all", report["all"])]


def _pairs(report: dict[str, Any]) -> Table:
    table = _table("", *(kind.replace(" ", "\n") for kind in report["arbiter_pairs"]["all"]))
    for code, row in report["arbiter_pairs"].items():
        table.add_row(code, *(f"{100 * share:.0f}" for share in row.values()))
    return table


if __name__ == "__main__":
    main()
