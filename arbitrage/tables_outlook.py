"""Turns what an evaluation would ask into what a terminal shows; prints nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage.tables import harmless

if TYPE_CHECKING:
    from rich.console import RenderableType

    from arbitrage.winrate.outlook import Outlook

DOES = {
    "generate": "answers",
    "adopt": "has answered",
    "judge": "plays games",
    "score": "scores answers",
}
"""What is done in a stage."""


def of_outlook(found: Outlook) -> RenderableType:
    """What `winrate --dry-run` shows: who would be asked how much."""
    told = Text(
        f"{found.questions:,} questions ({found.unread:,} not read yet), {found.models} models, "
        f"{found.pairs} pairs"
    )
    if not found.asking:
        return Group(told, Text("nothing is left to be asked"))
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("who")
    grid.add_column("does")
    grid.add_column("shards", justify="right")
    grid.add_column("requests", justify="right")
    for one in found.asking:
        grid.add_row(harmless(one.name), DOES[one.stage], f"{one.tasks:,}", f"{one.requests:,}")
    return Group(told, Text(""), grid)
