"""Multilingual synthetic-data arbitrage. Read `arbitrage.pipeline` first.

import arbitrage

run = arbitrage.open("runs/quickstart")
run.selected(columns=["language", "teacher", "reward"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from arbitrage.runs import Run

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(place: Path | str) -> Run:  # noqa: A001 - it is called arbitrage.open
    """A run directory or address, or the config that names one, to look at as tables.

    Raises UsageError where there is no run.
    """
    from arbitrage.runs import Run  # so that importing the package stays instantaneous

    return Run(place)
