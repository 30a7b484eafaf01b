"""How many times the cost of one teacher a run took: against the best one alone, and against each
language's best.

Pure: costs and counts in. Arbiters count in hours and money, as without choosing there would be
none; their tokens are not told. What is not known in a unit is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arbitrage.costs import amount_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.cells import Cells
    from arbitrage.costs import Cost

WITH_ARBITERS = ("gpu_hours", "cpu_hours", "money")
UNITS = ("requests", "completion_tokens", *WITH_ARBITERS)


def part_of(cells: Cells, teacher: str, language: str) -> float | None:
    """A language's part of what a teacher did: of its completion tokens, or of its completions
    where none are told."""
    cell = cells.found.get((teacher, language))
    whole = cells.of(teacher=teacher)
    if cell is None or not whole.completions:
        return None
    if whole.completion_tokens:
        return cell.completion_tokens / whole.completion_tokens
    return cell.completions / whole.completions


def against_single(costs: Sequence[Cost], name: str, asked: float) -> dict[str, float]:
    """By unit, against one teacher for all prompts, of which it was asked about a share."""
    own = next(cost for cost in costs if cost.name == name and cost.stage == "generate")
    return _times(costs, {unit: amount_of(own, unit) / asked for unit in UNITS} if asked else {})


def against_each(
    costs: Sequence[Cost], cells: Cells, best: Mapping[str, str | None]
) -> dict[str, float]:
    """By unit, against the best teacher of each language; `best` maps codes to names."""
    own = {cost.name: cost for cost in costs if cost.stage == "generate"}
    base = dict.fromkeys(UNITS, 0.0)
    for code, name in best.items():
        part = part_of(cells, name, code) if name is not None else None
        if name is None or part is None:
            return {}
        for unit in UNITS:
            base[unit] += amount_of(own[name], unit) * part
    return _times(costs, base)


def _times(costs: Sequence[Cost], base: Mapping[str, float]) -> dict[str, float]:
    found = {}
    for unit, alone in base.items():
        stages = ("generate", "score") if unit in WITH_ARBITERS else ("generate",)
        total = sum(amount_of(cost, unit) for cost in costs if cost.stage in stages)
        if alone > 0:
            found[unit] = total / alone
    return found
