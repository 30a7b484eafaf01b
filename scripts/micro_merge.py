"""Does merging specialists help? Measured against the truth, on the held-out micro-world.

Trains six specialists per seed from the shipped generalist (`train_specialists.py`; only what is
missing), merges them by every method and setting of `grid` with `arbitrage merge`, and prints which
share of the 1,012 held-out questions each model answers exactly right, by language.

A method stands there twice. `default` is what `arbitrage merge` does when it is told the method
alone. `best` is the best of its settings, and no question has a part in choosing the setting that
it is reported on: the questions are halved by hash, and each half is answered with the setting that
is best on the other. Slerp merges two models, so specialists are taken in one by one, each with an
equal share in the end. `each at home` is six models, each asked in its own family alone.

Figures are means over the seeds; intervals are 95 %, by bootstrap over the questions, and a
difference is paired by question. How steady a method is: the lowest and the highest average over
all its settings and seeds with their standard deviation, and that over the seeds alone (of each
setting, then the mean).

    python scripts/micro_merge.py --seeds 3
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import transformers
import yaml
from rich.console import Console
from rich.table import Table

from arbitrage.cli import app
from arbitrage.errors import ArbitrageError
from micro_exact import exact
from micro_training import Recipe
from micro_world import read_lexicons, world
from train_micro import GENERALIST, read_pool
from train_specialists import BASE, OUT, SHARED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from micro_world import Example

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "runs/micro_merge"
RESAMPLES = 10_000
WIDTH = 170  # of the tables, which are of no use when they are squeezed
BASE_NAME, HOME, DEFAULT, BEST = "base", "each at home", "default", "best"
WEIGHTS = (0.1, 0.2, 0.4)
DENSITIES = (0.2, 0.5, 0.8)
SCALES = (0.25, 0.5, 1.0)


class Setting(NamedTuple):
    """One merge: a method, and what it is told beside (keys of a merge's config, dotted)."""

    method: str
    told: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """Short, readable, and one per setting."""
        told = [f"{key.removeprefix('models.')} {value:g}" for key, value in self.told]
        return " ".join([self.method, *told])


class Estimate(NamedTuple):
    """A mean or a difference with its 95 % interval, in points of exact match."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, merges, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many sets of specialists")
    parser.add_argument("--study", type=Path, default=STUDY, help="merged models and answers")
    options = parser.parse_args(arguments)
    examples = world(read_lexicons()).heldout
    frames = []
    for seed in range(Recipe.seed, Recipe.seed + options.seeds):
        specialists = OUT if seed == Recipe.seed else OUT.with_name(f"{OUT.name}-{seed}")
        train(seed, specialists)
        frames.append(measure(specialists, options.study / f"seed-{seed}", examples))
    console = Console()
    console.width = max(console.width, WIDTH)
    show(frames, console)


def train(seed: int, out: Path) -> None:
    """What is missing, in a process of its own. Exits as it does."""
    script = Path(__file__).with_name("train_specialists.py")
    command = [sys.executable, str(script), "--seed", str(seed), "--out", str(out)]
    if code := subprocess.run(command, check=False).returncode:  # noqa: S603 - our own script
        sys.exit(code)


@cache
def families() -> dict[str, list[str]]:
    """Specialist name to the languages of its own family."""
    return {name: codes for name, codes in read_pool().items() if name != GENERALIST}


def grid(names: Sequence[str]) -> dict[str, list[Setting]]:
    """The settings of every method over these specialists, its default first."""
    spread = [(("density", d), ("weight", w)) for d in DENSITIES for w in WEIGHTS]
    told: dict[str, list[tuple[tuple[str, float], ...]]] = {
        "linear": [((f"models.{name}.weight", 2.0),) for name in names],
        "slerp": [],
        "task_arithmetic": [(("weight", w),) for w in WEIGHTS],
        "ties": [(("density", d), ("scale", s)) for d in DENSITIES for s in SCALES],
        "dare_linear": list(spread),
        "dare_ties": list(spread),
    }
    return {
        method: [Setting(method), *(Setting(method, one) for one in rest)]
        for method, rest in told.items()
    }


def measure(specialists: Path, study: Path, examples: Sequence[Example]) -> pd.DataFrame:
    """Which model is exactly right on which question: one row per question, one column per model,
    merges by their settings' names."""
    study.mkdir(parents=True, exist_ok=True)
    models = {name: str(specialists / name) for name in families()}
    folders = {BASE_NAME: BASE, **{name: Path(path) for name, path in models.items()}}
    for settings in grid(list(models)).values():
        folders |= {setting.name: merged(setting, models, study) for setting in settings}
    found = {}
    for name, folder in folders.items():
        found[name] = answered(folder, study, examples)
        print(f"{study.name}: {name} {np.mean(found[name]):.1%}", flush=True)
    return pd.DataFrame(found, index=[example.name for example in examples])


def merged(setting: Setting, models: Mapping[str, str], study: Path) -> Path:
    """The merge of all specialists, made by `arbitrage merge` where it is not there."""
    if setting.method != "slerp":
        return _merge(config_of(setting, models), study / setting.name.replace(" ", "-"))
    (_, whole), *rest = models.items()
    for number, (name, path) in enumerate(rest, 2):
        pair = {"so-far": whole, name: path}
        told = {"method": "slerp", "t": 1 / number, "dtype": "bfloat16", "models": pair}
        whole = str(_merge(told, study / f"slerp-of-{number}"))
    return Path(whole)


def config_of(setting: Setting, models: Mapping[str, str]) -> dict[str, Any]:
    """A merge's config as it stands in YAML."""
    listed: dict[str, Any] = {name: {"model": path} for name, path in models.items()}
    told: dict[str, Any] = {"method": setting.method, "dtype": "bfloat16", "models": listed}
    if setting.method != "linear":
        told["base"] = str(BASE)
    for key, value in setting.told:
        *way, last = key.split(".")
        block = told
        for part in way:
            block = block[part]
        block[last] = value
    return told


def _merge(told: Mapping[str, Any], target: Path) -> Path:
    """By the command itself. Exits with its sentence where it refuses."""
    config = target.with_name(f"{target.name}.yaml")
    config.write_text(yaml.safe_dump(dict(told), sort_keys=False), encoding="utf-8")
    try:
        app(["merge", str(config), "-o", str(target), "--quiet"], standalone_mode=False)
    except ArbitrageError as error:
        sys.exit(f"error: {error}")
    return target


def answered(folder: Path, study: Path, examples: Sequence[Example]) -> list[bool]:
    """Which questions a model answers exactly right; kept by its weights and the questions."""
    told = hashlib.sha256((folder / "model.safetensors").read_bytes())
    told.update(json.dumps([[one.prompt, one.answer] for one in examples]).encode())
    kept = study.parent / "right" / f"{told.hexdigest()}.json"
    if kept.is_file():
        known: list[bool] = json.loads(kept.read_text("utf-8"))
        return known
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    right = exact(model, tokenizer, examples)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(right), encoding="utf-8")
    return right


def halves(names: Sequence[str]) -> list[bool]:
    """Whether a question is in the first half: by a hash of its name."""
    return [hashlib.blake2b(f"half/{name}".encode()).digest()[0] % 2 == 0 for name in names]


def chosen(right: pd.DataFrame, settings: Sequence[str]) -> tuple[pd.Series[float], list[str]]:
    """How right a method is on each question with the setting that is best on the other half, and
    the settings chosen: by the first half, by the second. Of equals the first is chosen."""
    first = np.array(halves([str(name) for name in right.index]))
    by_first = str(right.loc[first, list(settings)].mean().idxmax())
    by_second = str(right.loc[~first, list(settings)].mean().idxmax())
    found = np.where(first, right[by_second], right[by_first])
    return pd.Series(found, index=right.index), [by_first, by_second]


def estimate(values: pd.Series[float]) -> Estimate:
    """The mean of what was measured per question, with its interval, in points."""
    some = values.to_numpy(dtype=np.float32)
    low, high = np.percentile(_shares(len(some)) @ some, [2.5, 97.5])
    return Estimate(*(100 * float(value) for value in (some.mean(), low, high)))


@cache
def _shares(count: int) -> NDArray[np.float32]:
    """(resamples, questions): how much each question counts in each resample."""
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return (drawn / count).astype(np.float32)


def languages_of(right: pd.DataFrame) -> pd.DataFrame:
    """Exact match in percent: one row per language, one column per model."""
    return right.groupby(right.index.str.split("/").str[0]).mean() * 100


def columns_of(right: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """What is shown, per question: base, specialists, methods at their default and at their best;
    and which settings were the best, where there is a choice."""
    shown = right[[BASE_NAME, *families()]].copy()
    at_home = {code: name for name, codes in families().items() for code in codes}
    own = [right.at[name, at_home[str(name).split("/")[0]]] for name in right.index]
    shown[HOME] = np.array(own, dtype=float)
    picks = {}
    for method, settings in grid(list(families())).items():
        shown[f"{method}, {DEFAULT}"] = right[settings[0].name]
        if len(settings) > 1:
            names = [setting.name for setting in settings]
            shown[f"{method}, {BEST}"], picks[method] = chosen(right, names)
    return shown, picks


class Steadiness(NamedTuple):
    """The average exact match of a method in percent, over all its settings and seeds: the lowest,
    the highest, and the standard deviation. `seeds`: the deviation over seeds alone, the mean over
    the settings."""

    lowest: float
    highest: float
    deviation: float
    seeds: float


def steadiness(frames: Sequence[pd.DataFrame], settings: Sequence[str]) -> Steadiness:
    """Of one method. One frame per seed."""
    found = pd.DataFrame([frame[list(settings)].mean() * 100 for frame in frames])
    every = found.to_numpy()
    over_seeds = found.std(ddof=1).mean() if len(frames) > 1 else float("nan")
    return Steadiness(every.min(), every.max(), every.std(), float(over_seeds))


def show(frames: Sequence[pd.DataFrame], console: Console) -> None:
    """Everything that the study says."""
    right = sum(frames[1:], start=frames[0].astype(float)) / len(frames)
    shown, picks = columns_of(right)
    console.print(by_language(shown), soft_wrap=True)
    console.print()
    for table in (by_method(shown), by_steadiness(frames)):
        console.print(table, soft_wrap=True)
        console.print()
    for method, names in picks.items():
        console.print(f"best of {method}: {' / '.join(dict.fromkeys(names))}", soft_wrap=True)
    for sentence in conclusions(shown, frames):
        console.print(sentence, soft_wrap=True)


def by_language(shown: pd.DataFrame) -> Table:
    """One line per model: in all languages, in its own family, in its worst language, in each. The
    languages of a specialist's own family have a star."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    cells = languages_of(shown)
    table.add_column("exact match, %")
    for name in ("all", "own", "worst", *cells.index):
        table.add_column(name, justify="right", no_wrap=True)
    for model in shown:
        own = families().get(str(model), [])
        scores = cells[model]
        whole = estimate(shown[model])
        home = f"{scores[own].mean():.0f}" if own else ""
        told = [f"{whole.mean:.1f} \u00b1{(whole.high - whole.low) / 2:.1f}", home]
        told.append(f"{scores.idxmin()} {scores.min():.0f}")
        told += [f"{'*' if code in own else ''}{scores[code]:.0f}" for code in cells.index]
        table.add_row(str(model), *told)
    return table


def best_single(shown: pd.DataFrame) -> str:
    """The specialist that is right most often over all languages."""
    return str(shown[list(families())].mean().idxmax())


def by_method(shown: pd.DataFrame) -> Table:
    """One line per merge: how much better it is than the best specialist and than the base, than
    the base where not every specialist was trained, and in how many languages up and down."""
    single = best_single(shown)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("points of exact match")
    for name in (
        f"less {single}",
        "less base",
        f"less base, without {' '.join(SHARED)}",
        "up/down",
    ):
        table.add_column(name, justify="right")
    cells = languages_of(shown)
    apart = ~shown.index.str.split("/").str[0].isin(SHARED)
    for name in merges(shown):
        more, change = shown[name] - shown[BASE_NAME], cells[name] - cells[BASE_NAME]
        told = [estimate(one) for one in (shown[name] - shown[single], more, more[apart])]
        table.add_row(name, *map(str, told), f"{sum(change > 0)}/{sum(change < 0)}")
    return table


def by_steadiness(frames: Sequence[pd.DataFrame]) -> Table:
    """One line per method: how steady it is over its settings and over the seeds."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("average over all languages, %")
    for name in ("settings", "lowest", "highest", "deviation", "over seeds"):
        table.add_column(name, justify="right")
    for method, settings in grid(list(families())).items():
        steady = steadiness(frames, [setting.name for setting in settings])
        table.add_row(method, str(len(settings)), *(f"{figure:.1f}" for figure in steady))
    return table


def merges(shown: pd.DataFrame) -> list[str]:
    """Of what is shown, what was merged."""
    return [str(name) for name in shown if str(name).endswith((DEFAULT, BEST))]


def conclusions(shown: pd.DataFrame, frames: Sequence[pd.DataFrame]) -> list[str]:
    """The answers to the two questions, in sentences."""
    single = best_single(shown)
    gains = {name: estimate(shown[name] - shown[single]) for name in merges(shown)}
    better = [name for name, gain in gains.items() if gain.low > 0]
    worse = [name for name, gain in gains.items() if gain.high < 0]
    steady = {
        method: steadiness(frames, [setting.name for setting in settings])
        for method, settings in grid(list(families())).items()
        if len(settings) > 1
    }
    least = min(steady, key=lambda method: steady[method].deviation)
    safest = max(steady, key=lambda method: steady[method].lowest)
    return [
        f"better than every single specialist on average: {listed(better)}",
        f"worse than the best of them ({single}): {listed(worse)}",
        f"most consistent, by the smallest deviation over settings and seeds: {least} "
        f"({steady[least].deviation:.1f} points); highest of the lowest: {safest} "
        f"({steady[safest].lowest:.1f} %)",
    ]


def listed(names: Sequence[str]) -> str:
    """Names in one line."""
    return "; ".join(names) or "none"


if __name__ == "__main__":
    main()
