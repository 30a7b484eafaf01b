"""Turns a sweep of merges, done or to be done, into what a terminal shows; prints nothing."""

from __future__ import annotations

import json
import math
from statistics import NormalDist
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage.amounts import size
from arbitrage.stats import Z95
from arbitrage.tables import PLUS_MINUS, harmless

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from arbitrage.merging.outcome import MethodLine, Outcome, Swept
    from arbitrage.merging.sweep_outlook import SweepOutlook
    from arbitrage.winrate.results import Estimate

BEST = "*"
PARTIAL = "!"
NUMBER = 10
WIN_RATE = "win rate"
STAGES = {"generate": "answers", "score": "scores", "judge": "games"}
MEANING = {
    "reward": "mean: of the rewards alone, the plain mean of languages, with its 95 % interval; "
    "worst: the language with the lowest mean; over: what it has more, paired by prompt; rewards "
    "are the Arbiter's",
    WIN_RATE: "mean: share of games won, ties as half, the plain mean of languages, with its 95 % "
    "interval; worst: the language with the lowest; over: its rate beyond a half where the two "
    "met, else the difference of their rates, without an interval",
}


def of_sweep(found: Swept) -> RenderableType:
    """The end of a sweep: a table, sentences on the best and on each method, and what was amiss."""
    parts: list[RenderableType] = [_table(found), Text()]
    parts += [harmless(line) for line in [*_headline(found), *_methods(found)]]
    parts.append(Text(f"{BEST} best of the merges. {MEANING[found.unit]}.", style="dim"))
    shown = [one for one in (*found.points, *found.beside) if one.figures]
    lacking = [one for one in shown if one.figures and not one.figures.complete]
    if lacking:
        names = ", ".join(one.name for one in lacking)
        parts.append(harmless(f"{PARTIAL} has no answers in some languages, not compared: {names}"))
    parts += [harmless(line) for line in _answered(shown)]
    parts += [harmless(f"{one.name}: {_said(one)}", "dim") for one in found.points if _hides(one)]
    if gone := [one.name for one in found.points if one.state == "removed"]:
        parts.append(harmless(f"removed once they were evaluated (`keep:`): {', '.join(gone)}"))
    for one in found.refused:
        parts += [harmless(f"refused: {one.name}: {why}", "red") for why in one.reasons]
    parts += [harmless(problem, "red") for problem in found.problems]
    return Group(*parts)


def _table(found: Swept) -> Table:
    over = [name for name in dict.fromkeys((found.base, found.single)) if name]
    grid = _grid(["model"], [f"mean {found.unit}", "worst", *(f"over {name}" for name in over)])
    best = _best_of(found)
    for one in found.points:
        if one.figures is not None:
            grid.add_row(*_cells(one, found, over, best))
    if any(one.figures for one in found.points):
        grid.add_section()
        grid.add_row()
    for one in found.beside:
        if one.figures is not None:
            grid.add_row(*_cells(one, found, over, best))
    return grid


def _grid(left: Sequence[str], right: Sequence[str]) -> Table:
    """Names may take several lines; numbers are never cut."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for title in left:
        grid.add_column(title, overflow="fold")
    for title in right:
        grid.add_column(harmless(title), justify="right", no_wrap=True, min_width=NUMBER)
    return grid


def _best_of(found: Swept) -> tuple[float, float]:
    """The highest mean of the merges, and the highest of their worst languages."""
    some = [one.figures for one in found.points if one.figures is not None and one.compares]
    means = [one.mean.value for one in some]
    worst = [one.languages[one.worst].value for one in some]
    return max(means, default=math.inf), max(worst, default=math.inf)


def _cells(
    one: Outcome, found: Swept, over: Sequence[str], best: tuple[float, float]
) -> list[Text]:
    figures = one.figures
    if figures is None:
        return [harmless(one.name)]
    worst = figures.languages[figures.worst].value
    is_point = bool(one.method)
    marks = [
        BEST if is_point and one.compares and value == top else ""
        for value, top in zip((figures.mean.value, worst), best, strict=True)
    ]
    name = f"{one.name}{'' if figures.complete else f' {PARTIAL}'}"
    where = f" ({figures.worst})" if figures.worst else ""
    cells = [name, marks[0] + _number(figures.mean, found.unit)]
    cells.append(f"{marks[1]}{_value(worst, found.unit)}{where}")
    for other in over:
        gain = figures.gains.get(other)
        cells.append("" if gain is None or other == one.name else _gain(gain, found.unit))
    return [harmless(cell) for cell in cells]


def _value(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "?"
    return f"{100 * value:.1f} %" if unit == WIN_RATE else f"{value:.3f}"


def _half(estimate: Estimate, unit: str) -> str:
    half = (estimate.high - estimate.low) / 2
    if not math.isfinite(half):
        return ""
    return f" {PLUS_MINUS} {100 * half:.1f}" if unit == WIN_RATE else f" {PLUS_MINUS} {half:.3f}"


def _number(estimate: Estimate, unit: str) -> str:
    return _value(estimate.value, unit) + _half(estimate, unit)


def _gain(estimate: Estimate, unit: str) -> str:
    if not math.isfinite(estimate.value):
        return "?"
    value = f"{100 * estimate.value:+.1f}" if unit == WIN_RATE else f"{estimate.value:+.3f}"
    return value + _half(estimate, unit)


def _headline(found: Swept) -> list[str]:
    """Which merge is the best, and whether it is surely better than single models."""
    best = found.best
    if best is None or best.figures is None:
        return ["No merge can be compared yet."]
    count = sum(one.compares for one in found.points)
    among = f"the best of {count} merges" if count > 1 else "the one merge"
    languages = len(best.figures.languages)
    over = f", over {languages} languages" if languages > 1 else ""
    told = [f"{best.name} is {among}: {_number(best.figures.mean, found.unit)}{over}."]
    told += [
        _against(best, name, what, found.unit, count)
        for name, what in ((found.single, "best single model"), (found.base, "base"))
        if name and (what != "base" or name != found.single)
    ]
    if count > 1:
        told.append(
            f"Chosen among {count} on these very prompts, its figures flatter it; evaluate it on "
            "others before relying on them."
        )
    return told


def _against(best: Outcome, name: str, what: str, unit: str, count: int) -> str:
    """Whether the best merge is better than a model beside, given that it was chosen."""
    gain = best.figures.gains.get(name) if best.figures else None
    whom = f"the {what}" if name == what else f"the {what}, {name}"
    if gain is None or not math.isfinite(gain.value):
        return f"How it compares with {whom}, is not known."
    told = f"Over {whom}: {_gain(gain, unit)}"
    if not math.isfinite(gain.low):
        return f"{told}; without an interval nobody knows whether that is chance."
    if gain.high < 0:
        return f"{told}, surely worse."
    if gain.low <= 0:
        return f"{told}, not told apart."
    if gain.value - (gain.value - gain.low) * widened(count) > 0:
        return f"{told}, surely better{f', even as the best of {count}' if count > 1 else ''}."
    return f"{told}, surely better if tried alone; as the best of {count} maybe by chance."


def widened(count: int) -> float:
    """By what an interval grows so that those of so many together hold at 95 % (Bonferroni)."""
    return NormalDist().inv_cdf(1 - 0.025 / max(count, 1)) / Z95


def _methods(found: Swept) -> list[str]:
    """A line per method, and which one its settings matter least to."""
    lines = found.methods()
    told = [_method(line, found.unit) for line in lines]
    several = [line for line in lines if line.settings > 1]
    if len(several) > 1:
        steady = min(several, key=lambda line: (line.highest - line.lowest, line.method))
        gap = _value(steady.highest - steady.lowest, found.unit)
        told.append(
            f"Most consistent over its settings: {steady.method} ({gap} between best and worst)."
        )
    return told


def _method(line: MethodLine, unit: str) -> str:
    spread = f"languages spread by {_value(line.spread, unit)}"
    if line.settings == 1:
        return f"{line.method}: {_value(line.highest, unit)}, one setting; {spread}"
    return (
        f"{line.method}: best {_value(line.highest, unit)} ({line.best}), mean "
        f"{_value(line.mean, unit)}, worst {_value(line.lowest, unit)} of {line.settings} "
        f"settings; {spread}"
    )


def _answered(shown: Sequence[Outcome]) -> list[str]:
    """Who has no usable answer to some prompts, so that its mean is over others."""
    lacking = [one for one in shown if one.figures is not None and one.figures.answered < 1]
    if not lacking:
        return []
    told = ", ".join(
        f"{one.name} {100 * one.figures.answered:.1f} %" for one in lacking if one.figures
    )
    return [f"usable answers, where not to all prompts (means are over those): {told}"]


def _hides(one: Outcome) -> bool:
    """Whether a name does not tell the settings."""
    long = any(isinstance(value, dict | str) for value in one.varied.values())
    return long or one.name.endswith(f"-{one.fingerprint[:8]}")


def _said(one: Outcome) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in one.varied.items())


def of_outlook(found: SweepOutlook) -> RenderableType:
    """What `merge sweep --dry-run` shows."""
    grid = _grid(["merge", "state"], ["size"])
    for one in found.points:
        grid.add_row(harmless(one.name), one.state, size(one.size_bytes))
    room = f"{size(found.free_bytes)} are free"
    told = [
        f"{len(found.points)} merges, {found.coming} to be made: {size(found.write_bytes)} to "
        f"write, {room}",
        f"beside them: {', '.join(found.beside) or 'nobody'}",
        f"evaluation: {found.evaluation}",
    ]
    if found.write_bytes > found.free_bytes:
        told.append("there is no room for all of them; the sweep would not begin")
    told.append(_asked(found))
    if found.pairs is not None:
        told.append(f"in all {found.pairs:,} pairs of models meet over each question")
    if found.others:
        told.append(f"merges that are no points of this grid: {', '.join(found.others)}")
    told += [f"{one.name} would be refused: {why}" for one in found.points for why in one.reasons]
    return Group(grid, Text(), *map(harmless, told))


def _asked(found: SweepOutlook) -> str:
    left = [f"{count:,} {STAGES.get(stage, stage)}" for stage, count in found.asked.items()]
    now = f"left of models that are there: {', '.join(left) or 'nothing'}"
    if not found.coming:
        return now
    each = "all" if found.prompts is None else f"{found.prompts:,}"
    return f"{now}; each of the {found.coming} merges to come is asked {each} {found.unit}"
