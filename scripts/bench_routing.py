"""Accuracy against the share of generations, for every router, on the held-out micro-world.

Replays the routers over a run in which every teacher answered everything (`runs/bench_micro`, made
here where it is missing; two to four minutes), and holds what the Arbiter then chooses against the
truth. What is fitted is fitted in five parts, so that no prompt is routed by what was fitted to it;
what learns on the way sees shards of 64 prompts in five orders. Routers that are told families are
also told wrong ones: the languages' families dealt out anew, five times. Intervals are 95 %, by
bootstrap over the prompts of each language.

    python scripts/bench_routing.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from arbitrage.choices import (
    AdaptiveRouting,
    CascadeRouting,
    FixedRouting,
    LearnedRouting,
    RandomRouting,
    RoutingConfig,
)
from arbitrage.replay import Outcomes, cross_fitted, replay
from arbitrage.routers import ROUTERS, Pool, pool_of
from arbitrage.routers.learned import Learned
from arbitrage.routing import fixed_from, learned_text, outcomes
from bench_micro import ROOT, ask_everyone, run_and_read
from micro_world import HELDOUT
from train_micro import read_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from arbitrage.components import Components
    from arbitrage.routers import Router

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

RUN = ROOT / "runs/bench_micro"
RESAMPLES = 10_000
TIMES = 5
"""Orders of the prompts, and deals of the families."""
WRONG = " (misled)"
"""Told wrong families."""
TARGET_ACCURACY, TARGET_SHARE = 0.97, 0.40
GENERALIST = "generalist"


@dataclass(frozen=True)
class World:
    """Known rewards and, in the same shape, which answers are right."""

    known: Outcomes
    right: Bools
    pool: Pool
    names: dict[str, str]

    def chosen_right(self, ask: Bools) -> Floats:
        """Per prompt whether the best of those asked is right, 0 or 1."""
        reward = np.where(ask & ~np.isnan(self.known.reward), self.known.reward, -np.inf)
        rows = np.arange(len(reward))
        right = self.right[rows, reward.argmax(axis=1)] & np.isfinite(reward.max(axis=1))
        return np.asarray(right, dtype=np.float64)


@dataclass(frozen=True)
class Point:
    """A router with one setting: means with 95 % intervals as (mean, low, high).

    `share` of all generations; `accuracy`; `of_all`: accuracy over that of asking all.
    """

    router: str
    setting: str
    share: float
    accuracy: tuple[float, float, float]
    of_all: tuple[float, float, float]

    @property
    def meets_target(self) -> bool:
        """Whether it is as good and as cheap as a router should be."""
        return self.of_all[0] >= TARGET_ACCURACY and self.share <= TARGET_SHARE


def main(arguments: Sequence[str] | None = None) -> None:
    """Replays, measures, prints, writes and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--json", type=Path, default=ROOT / "runs/bench_routing.json")
    parser.add_argument("--svg", type=Path, default=ROOT / "runs/bench_routing.svg")
    options = parser.parse_args(arguments)
    if not options.run.is_dir():
        run_and_read(ask_everyone(options.run))
    points = measure(read_world(options.run))
    show(points, Console())
    for path in (options.json, options.svg):
        path.parent.mkdir(parents=True, exist_ok=True)
    told = [dataclasses.asdict(point) for point in points]
    options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    options.svg.write_text(drawn(points), encoding="utf-8")
    print(f"written to {options.json} and {options.svg}")


def read_world(run: Path) -> World:
    """The rewards of a run in which all were asked, and the truth beside them."""
    known, components = outcomes(str(run))
    answers = pd.read_json(HELDOUT / "answers.jsonl", lines=True, dtype=False)
    prompts = pd.concat(map(pd.read_parquet, sorted(run.glob("prompts/*.parquet"))))
    asked = prompts.merge(answers, left_on="user_id", right_on="id", validate="one_to_one")
    truth = asked.set_index("prompt_id").loc[list(known.asked.ids), "answer"].to_numpy()
    columns = [_answers(run, print_, known) == truth for print_ in known.teachers]
    return World(known, np.stack(columns, axis=1), pool_of(components), _names(components))


def _answers(run: Path, fingerprint: str, known: Outcomes) -> Any:
    files = sorted(run.glob(f"candidates/*-{fingerprint}/*.parquet"))
    made = pd.concat(map(pd.read_parquet, files))
    first = made[made["sample"] == 0].set_index("prompt_id")["completion"]
    return first.loc[list(known.asked.ids)].to_numpy()


def _names(components: Components) -> dict[str, str]:
    return {teacher.fingerprint: teacher.name for teacher in components.teachers}


def measure(world: World) -> list[Point]:
    """Every router with every setting; `all` first."""
    found: list[tuple[str, str, Floats, float]] = []
    for router, setting, asks in routings(world):
        right = np.mean([world.chosen_right(ask) for ask in asks], axis=0)
        share = float(np.mean([ask.mean() for ask in asks]))
        found.append((router, setting, right, share))
    right = np.stack([row[2] for row in found], axis=1)
    draws = bootstrap(right, np.asarray(world.known.asked.languages))
    means = right.mean(axis=0)
    return [
        Point(
            router,
            setting,
            share,
            _interval(means[n], draws[:, n]),
            _interval(means[n] / means[0], draws[:, n] / draws[:, 0]),
        )
        for n, (router, setting, _, share) in enumerate(found)
    ]


def bootstrap(values: Floats, languages: Any) -> Floats:
    """(resamples, columns) means of `values` with each language's prompts drawn anew."""
    draw = np.random.default_rng(0)
    total = np.zeros((RESAMPLES, values.shape[1]))
    for code in np.unique(languages).tolist():
        rows = values[languages == code]
        times = draw.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), RESAMPLES)
        total += times @ rows
    return total / len(values)


def _interval(mean: float, draws: Floats) -> tuple[float, float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(mean), float(low), float(high)


def routings(world: World) -> Iterator[tuple[str, str, list[Bools]]]:
    """Router, setting, and whom it asks in each of its repetitions."""
    known, pool = world.known, world.pool
    yield "all", "", [known.put]
    for count in (1, 2, 3, 4):
        yield "random", f"count {count}", [_alone(RandomRouting(count=count), known, pool)]
    for setting, threshold in _thresholds(known).items():
        yield "cascade", setting, [_alone(CascadeRouting(threshold=threshold), known, pool)]
    yield from _told_families(world)
    for count in (1, 2):
        ask = cross_fitted(lambda part, count=count: fixed_from(part, pool, count), known)  # type: ignore[misc]
        yield "fixed, fitted", f"count {count}", [ask]
    for told in ({"count": 1}, {"count": 2}, {"count": 3}, {"mass": 0.6}, {"mass": 0.9}):
        setting = " ".join(f"{name} {value}" for name, value in told.items())
        yield "learned", setting, [cross_fitted(_learner(told, pool), known)]
    for budget in (0.2, 0.25, 0.3, 0.38, 0.4, 0.5):
        yield (
            "adaptive",
            f"budget {budget}",
            _in_orders(AdaptiveRouting(budget=budget), known, pool),
        )
    wrong = [dataclasses.replace(pool, families=deal) for deal in _deals(pool, known)]
    for budget in (0.3, 0.4):
        asks = [_in_orders(AdaptiveRouting(budget=budget), known, one, 1)[0] for one in wrong]
        yield "adaptive" + WRONG, f"budget {budget}", asks


def _alone(block: RoutingConfig, known: Outcomes, pool: Pool) -> Bools:
    return replay(ROUTERS[block.router](block, pool), known)


def _thresholds(known: Outcomes) -> dict[str, float]:
    best = np.nanmax(known.reward, axis=1)
    return {f"threshold q{q}": float(np.quantile(best, q / 100)) for q in (5, 20, 50)}


def _learner(told: dict[str, Any], pool: Pool) -> Callable[[Outcomes], Router]:
    return lambda part: Learned(LearnedRouting(file=learned_text(part), **told), pool)


def _in_orders(
    block: AdaptiveRouting, known: Outcomes, pool: Pool, times: int = TIMES
) -> list[Bools]:
    """Whom it asks where the prompts come in several orders, in the order of `known`."""
    found = []
    router = ROUTERS["adaptive"](block, pool)
    place = {key: row for row, key in enumerate(known.asked.ids)}
    for number in range(times):
        mixed = known.mixed(f"order {number}")
        ask = np.zeros_like(known.put)
        ask[[place[key] for key in mixed.asked.ids]] = replay(router, mixed)
        found.append(ask)
    return found


def _told_families(world: World) -> Iterator[tuple[str, str, list[Bools]]]:
    """Tables by family: whoever was trained on it, alone and beside the generalist."""
    right = {code: world.pool.families[code] for code in set(world.known.asked.languages)}
    for extra, setting in ((False, "specialist"), (True, "and generalist")):
        yield "fixed", setting, [_by_family(world, right, beside=extra)]
        deals = _deals(world.pool, world.known)
        asks = [_by_family(world, deal, beside=extra) for deal in deals]
        yield "fixed" + WRONG, setting, asks


def _by_family(world: World, family_of: dict[str, str], *, beside: bool) -> Bools:
    """A fixed table: who was trained on the language's family, as `family_of` has it."""
    codes = sorted(set(world.known.asked.languages))
    home = _home(world.pool)
    prints = {name: fingerprint for fingerprint, name in world.names.items()}
    more = (prints[GENERALIST],) if beside else ()
    table = {code: (prints[home[family_of[code]]], *more) for code in codes}
    return _alone(FixedRouting(table=table), world.known, world.pool)


@cache
def _trained() -> dict[str, list[str]]:
    return {name: list(codes) for name, codes in read_pool().items() if name != GENERALIST}


def _home(pool: Pool) -> dict[str, str]:
    """Family -> the specialist that was trained on it."""
    trained = _trained().items()
    return {pool.families[code]: name for name, codes in trained for code in codes}


def _deals(pool: Pool, known: Outcomes) -> list[dict[str, str]]:
    """The languages' families, dealt out anew."""
    codes = sorted(set(known.asked.languages))
    names = [pool.families[code] for code in codes]
    return [
        dict(zip(codes, np.random.default_rng(n).permutation(names).tolist(), strict=True))
        for n in range(TIMES)
    ]


def show(points: list[Point], console: Console) -> None:
    """All points, and whether the routers that learn are where they should be."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for number, name in enumerate(["router", "setting", "share", "right", "of all"]):
        table.add_column(name, justify="right" if number > 1 else "left", no_wrap=True)
    for point in points:
        style = "bold" if point.meets_target else ""
        cells = (f"{100 * point.share:.1f}", _percent(point.accuracy), _percent(point.of_all))
        table.add_row(point.router, point.setting, *cells, style=style)
    console.print("exact match against the share of generations, %", table, "", sep="\n")
    for router in ("adaptive", "learned"):
        met = [point.setting for point in points if point.router == router and point.meets_target]
        told = f"yes ({', '.join(met)})" if met else "no"
        console.print(
            f"{router} reaches {TARGET_ACCURACY:.0%} of all with {TARGET_SHARE:.0%} of its "
            f"generations: {told}",
            highlight=False,
        )


def _percent(told: tuple[float, float, float]) -> str:
    mean, low, high = (100 * value for value in told)
    return f"{mean:.1f} [{low:.1f},{high:.1f}]"


WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 860, 480, 60, 20, 440, 600
COLOURS = (
    *("#000000", "#999999", "#cc79a7", "#0072b2", "#56b4e9"),
    *("#009e73", "#d55e00", "#e69f00", "#7a4b00"),
)


def drawn(points: list[Point]) -> str:
    """A plain SVG: share to the right, accuracy upwards, a line per router, bars for intervals."""

    def x(share: float) -> float:
        return LEFT + share * (RIGHT - LEFT)

    def y(accuracy: float) -> float:
        return BOTTOM - accuracy * (BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in range(0, 101, 20):
        across, up = x(tick / 100), y(tick / 100)
        parts.append(f'<path d="M{LEFT} {up:.1f}H{RIGHT}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{up + 4:.1f}" text-anchor="end">{tick}</text>')
        parts.append(f'<text x="{across:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{tick}</text>')
    middle = (LEFT + RIGHT) / 2
    label = "share of generations, % (accuracy upwards, %)"
    parts.append(f'<text x="{middle}" y="{BOTTOM + 34}" text-anchor="middle">{label}</text>')
    for number, router in enumerate(dict.fromkeys(point.router for point in points)):
        colour = COLOURS[number % len(COLOURS)]
        dashes = ' stroke-dasharray="4 3"' if router.endswith(WRONG) else ""
        mine = sorted((p.share, *p.accuracy) for p in points if p.router == router)
        line = " ".join(f"{x(share):.1f},{y(mean):.1f}" for share, mean, _, _ in mine)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"{dashes}/>')
        for share, mean, low, high in mine:
            bar = f"M{x(share):.1f} {y(low):.1f}V{y(high):.1f}"
            parts.append(f'<path d="{bar}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x(share):.1f}" cy="{y(mean):.1f}" r="3" fill="{colour}"/>')
        at = TOP + 18 * number + 10
        parts.append(f'<circle cx="{RIGHT + 20}" cy="{at - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{RIGHT + 30}" y="{at}">{router}</text>')
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
