"""How long a million games take to analyse, and how much memory, for two shapes of an evaluation.

`many models`: 40 models against a baseline in 23 languages, translated questions. `many questions`:
two models on 250,000 questions of their own. Both have two judges of their own bias, two games per
pair and prompt, five categories, and 1,000 resamples. `all against all` is 40 models on fewer.

    python scripts/bench_winrate.py
    python scripts/bench_winrate.py --shape questions --games 100000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from arbitrage.stats.simulation import World, simulate
from arbitrage.winrate.analysis import analyse
from arbitrage.winrate.choices import AnalysisConfig

SHAPES = ("models", "questions", "all")
CATEGORIES = ("chat", "code", "math", "law", "poetry")
LANGUAGES = tuple(f"l{number:02}" for number in range(23))


def world(shape: str, games: int) -> World:
    """About so many games of a shape."""
    models = 2 if shape == "questions" else 40
    strengths = {f"m{number}": number / models for number in range(models)}
    pairs = models * (models - 1) // 2 if shape == "all" else models - 1
    return World(
        strengths=strengths,
        baseline="" if shape == "all" else "m0",
        questions=max(1, games // (4 * pairs * len(LANGUAGES))),
        languages=LANGUAGES,
        categories=CATEGORIES,
        translated=shape != "questions",
        first_shown=0.3,
        longer=0.4,
        missing=0.01,
        judges={"lenient": 0.0, "strict": 0.2},
    )


def bench(shape: str, games: int, resamples: int) -> None:
    """One line: what was analysed, in how long, and the most memory of this process."""
    outcomes = simulate(world(shape, games), seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start, used = time.perf_counter(), time.process_time()
    baseline = "" if shape == "all" else "m0"
    results = analyse(outcomes, AnalysisConfig(resamples=resamples), baseline=baseline)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{shape:10} {len(outcomes):>9,} games {len(results.rows):>7,} rows {seconds:6.1f} s "
        f"({processor:.1f} s of processor) {peak:5.2f} GB at most, {before:.2f} before"
    )


def main() -> None:
    """Each shape in a process of its own, so that its memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--games", type=int, default=1_000_000)
    parser.add_argument("--resamples", type=int, default=1000)
    told = parser.parse_args()
    if told.shape:
        bench(told.shape, told.games, told.resamples)
        return
    for shape in SHAPES:
        subprocess.run([sys.executable, __file__, "--shape", shape, *sys.argv[1:]], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
