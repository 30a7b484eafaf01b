"""Turns what routing saves and loses into what a terminal shows; prints nothing itself.

Fits 80 columns. `--json` has all digits, and every router in every language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage.replay import SHARD_SIZE
from arbitrage.tables import harmless

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbitrage.replay import Measure
    from arbitrage.routing import Fitted, RoutingReport

LEGEND = (
    "asked: share of all generations; lost: mean reward lost against asking all; other: prompts "
    "with another, worse pick; over oracle: generations beyond those of who always knows the winner"
)
ALL = "all"


def of_fitted(found: Fitted, path: str) -> Group:
    """Prompts and cross-validated regret per language, and what to do next."""
    total = sum(found.prompts.values())
    head = f"{found.router}: fitted to {total:,} prompts in {len(found.prompts):,} languages"
    table = _table("lang", "fitted to", "asked", "lost", "other")
    for code, count in [*found.prompts.items(), (ALL, total)]:
        measure = found.regret.get(code)
        cells = _cells(measure)[:3] if measure and measure.prompts else ["", "", ""]
        table.add_row(code, f"{count:,}", *cells, style="bold" if code == ALL else "")
    told = (
        "regret on prompts that the router was not fitted to, in five parts"
        if found.regret
        else "no regret: no prompt has answers of all teachers that cover its language"
    )
    hint = f"next: routing: {{router: {found.router}, file: {path}}}"
    return Group(Text(head), table, Text(told, style="dim"), harmless(f"wrote {path}; {hint}"))


def of_report(found: RoutingReport) -> Group:
    """The run's own savings by language, and every router by replay, over all and by language."""
    whole = found.own[ALL]
    own = (
        f"router {found.router!r} asked {whole.asked:,} of {whole.possible:,} possible "
        f"generations: {whole.saved:.1%} saved"
    )
    if not found.replayed:
        why = "no replay: no prompt has answers of all teachers that cover its language"
        return Group(Text(own), _own(found.own), Text(why, style="dim"))
    told = f"by replay, {SHARD_SIZE} prompts a shard, on {found.complete:,} that all were asked"
    table = _table("router", "asked", "lost", "other", "over oracle")
    for name, measures in found.replayed.items():
        table.add_row(name, *_cells(measures[ALL]))
    return Group(
        Text(own),
        _own(found.own),
        Text(f"\n{told}", style="bold"),
        table,
        Text(LEGEND, style="dim"),
        Text("\nworse picks by language, %", style="bold"),
        _others(found.replayed),
    )


def _own(measures: Mapping[str, Measure]) -> Table:
    table = _table("lang", "prompts", "asked", "possible", "saved")
    for code, one in _all_last(measures):
        counts = (f"{n:,}" for n in (one.prompts, one.asked, one.possible))
        table.add_row(code, *counts, f"{one.saved:.1%}", style="bold" if code == ALL else "")
    return table


def _others(replayed: Mapping[str, Mapping[str, Measure]]) -> Table:
    """Per language and router the share of prompts with a worse pick; `all` has none."""
    names = [name for name in replayed if name != "all"]
    table = _table("lang", *(name.replace(" ", "\n") for name in names))
    for code in [*(code for code in replayed["all"] if code != ALL), ALL]:
        shares = (_share(replayed[name][code]) for name in names)
        table.add_row(code, *shares, style="bold" if code == ALL else "")
    return table


def _all_last(measures: Mapping[str, Measure]) -> list[tuple[str, Measure]]:
    return [*((code, one) for code, one in measures.items() if code != ALL), (ALL, measures[ALL])]


def _cells(one: Measure) -> list[str]:
    other = f"{one.other / one.prompts:.1%}" if one.prompts else ""
    return [f"{one.share:.1%}", f"{one.lost:.3f}", other, f"{one.oracle_gap:.1%}"]


def _share(one: Measure) -> str:
    return f"{100 * one.other / one.prompts:.1f}" if one.prompts else ""


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table
