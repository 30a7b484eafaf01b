"""What the gates find in a run, by teacher and language, from its files alone.

Every candidate of the current routing counts, chosen or not, and every gate, enforced or not.

    arbitrage gates runs/first
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arbitrage.cells import cells_of
from arbitrage.gates import Rates
from arbitrage.views import look

if TYPE_CHECKING:
    from pathlib import Path

ALL = "all"


@dataclass
class Failures:
    """Per teacher name and language code: how its candidates did. `enforced`: the gates that keep
    a candidate from being chosen; `missing`: files of candidates that were not looked at yet."""

    run: str
    enforced: tuple[str, ...]
    rates: dict[tuple[str, str], Rates]
    missing: int = 0

    @property
    def teachers(self) -> dict[str, Rates]:
        """Over all languages."""
        return self._summed(0)

    @property
    def languages(self) -> dict[str, Rates]:
        """Over all teachers."""
        return self._summed(1)

    def _summed(self, part: int) -> dict[str, Rates]:
        found: dict[str, Rates] = {}
        for key, rates in self.rates.items():
            found.setdefault(key[part], Rates()).add(rates)
        return dict(sorted(found.items()))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        rows = [
            {
                "teacher": teacher,
                "language": language,
                "candidates": rates.candidates,
                "right_lines": rates.right_lines,
                "right_words": rates.right_words,
                "failed": dict(rates.failed),
                "line_level": rates.line_level,
                "word_level": rates.word_level,
            }
            for (teacher, language), rates in sorted(self.rates.items())
        ]
        return {
            "run": self.run,
            "enforced": list(self.enforced),
            "missing": self.missing,
            "rates": rows,
        }


def failures(place: Path | str) -> Failures:
    """Adds up the facts of a run, shard by shard. Raises UsageError where there is no run."""
    view = look(place)
    cells = cells_of(view.store, view.planner, view.shards, view.config)
    rates = {key: cell.rates for key, cell in cells.found.items() if cell.rates.candidates}
    return Failures(view.store.address(), view.config.gates.enforced(), rates, cells.missing)
