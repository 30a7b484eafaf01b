"""Turns how far a run is into what a terminal shows, whole or as one line; prints nothing itself.

Fits 80 columns where the names of teachers do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage import amounts
from arbitrage.tables import harmless, of_budget

if TYPE_CHECKING:
    from rich.console import RenderableType

    from arbitrage.state import RoleStatus, Status

BAR_WIDTH = 8
FULL, REST = "\u2588", "\u2591"
EXACT_ROWS = 100_000
NAMES = {"gate": "gates", "select": "selection"}
"""What the one line calls stages that have one role."""


def of_status(found: Status) -> Group:
    """How far a run is, role by role."""
    last = found.last_event
    ago = found.seconds_since_event
    told = f", last event {last['event']} {ago:,.0f} s ago" if last and ago is not None else ""
    unrouted = f", {found.unrouted:,} not routed yet" if found.unrouted else ""
    parts: list[RenderableType] = [
        harmless(f"{found.run}: {_state(found)}{told}"),
        Text(f"{found.prompts:,} prompts in {found.shards:,} shards{unrouted}{_left(found)}"),
        _roles(found),
        Text(_ledger(found)),
    ]
    if found.refused:
        parts.append(Text(f"refused: {found.refused:,} rows of the sources"))
    errors = ", ".join(f"{role.name} {role.errors:,}" for role in found.roles if role.errors)
    if errors:
        parts.append(harmless(f"rows with an error: {errors}"))
    if found.budget:
        parts.append(Text(f"budget: {of_budget(found.budget)}{_share_spent(found)}"))
    if found.outdated:
        told = "more shards of the product are there without all of their answers"
        parts.append(Text(f"{found.outdated:,} {told}"))
    parts += [harmless(f"set aside: {n} ({why})", "red") for n, why in found.set_aside.items()]
    return Group(*parts)


def _state(found: Status) -> str:
    if found.running:
        return f"running ({found.holder or 'by whom is not known'})"
    return "not running, complete" if found.is_complete else "not running"


def _left(found: Status) -> str:
    return f", about {amounts.span(found.left_s)} left" if found.left_s is not None else ""


def _ledger(found: Status) -> str:
    unfinished = found.prompts - found.selected - found.quarantined
    tail = f" + {unfinished:,} unfinished" if unfinished else ""
    so_far = f"{found.selected:,} selected + {found.quarantined:,} quarantined{tail}"
    return f"ledger: {found.prompts:,} prompts = {so_far}"


def _share_spent(found: Status) -> str:
    """Of that limit of which least is left."""
    shares = {name: spent / limit for name, (spent, limit) in found.budget.items() if limit}
    name = max(shares, key=lambda one: shares[one], default=None)
    return "" if name is None else f" ({name}: {shares[name]:,.0%} spent)"


def _roles(found: Status) -> Table:
    timed = any(role.rows_per_s for role in found.roles)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("by", no_wrap=True, overflow="ellipsis", min_width=8)
    titles = ["shards", "done", "rows", "tokens", *(["rows/s", "left"] if timed else [])]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for role in found.roles:
        table.add_row(*_cells(role, timed=timed))
    return table


def _cells(role: RoleStatus, *, timed: bool) -> list[Text]:
    rows = f"{role.rows:,}" if role.rows < EXACT_ROWS else amounts.count(role.rows)
    tokens = amounts.count(role.completion_tokens) if role.completion_tokens else ""
    told = [role.stage, role.name, f"{role.done:,}/{role.known:,}"]
    cells = [*map(harmless, told), _bar(role.share), Text(rows), Text(tokens)]
    if timed:
        speed = "" if role.rows_per_s is None else f"{role.rows_per_s:,.3g}"
        left = "" if role.left_s is None else amounts.span(role.left_s)
        cells += [Text(speed), Text(left)]
    return cells


def _bar(share: float | None) -> Text:
    """Full only where all is done, and empty only where nothing is."""
    if share is None:
        return Text()
    filled = min(max(round(share * BAR_WIDTH), share > 0), BAR_WIDTH - (share < 1))
    return Text.assemble(
        (FULL * filled, "green"), (REST * (BAR_WIDTH - filled), "dim"), f"{percent(share):>5}"
    )


def percent(share: float) -> str:
    """As a whole number that is 0 % or 100 % only where that is exact."""
    return f"{min(max(round(100 * share), share > 0), 100 - (share < 1)):d}%"


def line_of(found: Status) -> str:
    """The same in a line, for a log: it changes only when more is done."""
    told = []
    for role in found.roles:
        if role.known:
            name = NAMES.get(role.stage, role.name)
            told.append(f"{name} {role.done:,}/{role.known:,}")
    lost = f", {found.quarantined:,} quarantined" if found.quarantined else ""
    aside = f", set aside: {', '.join(found.set_aside)}" if found.set_aside else ""
    done = percent(found.share) if found.prompts else "no prompts yet"
    state = "running" if found.running else _state(found)
    return f"{state}, {done}: {', '.join(told) or 'nothing to do yet'}{lost}{aside}"
