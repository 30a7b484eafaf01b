"""Turns what an export made into what a terminal shows; prints nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from arbitrage.sieve import WHY
from arbitrage.tables import harmless

if TYPE_CHECKING:
    from rich.console import RenderableType

    from arbitrage.exporting import Exported


def of_exported(found: Exported) -> Group:
    """The ledger, what was left out, licenses, and how to load it."""
    ledger = found.ledger
    left = sum(sum(counts.values()) for counts in ledger["left_out"].values())
    splits = ", ".join(f"{name} {rows:,}" for name, rows in found.splits.items())
    parts: list[RenderableType] = [
        Text(
            f"{ledger['rows']:,} rows of the product = {ledger['exported']:,} exported + "
            f"{left:,} left out"
        )
    ]
    for why, counts in ledger["left_out"].items():
        whose = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name)
        told = f"  {sum(counts.values()):,} {WHY[why]}{': ' if whose else ''}{whose}"
        parts.append(harmless(told))
    if ledger["next_best"]:
        whose = ", ".join(f"{name} {count:,}" for name, count in ledger["next_best"].items())
        parts.append(harmless(f"the next best answer stands for answers of: {whose}"))
    parts.append(Text(f"{found.form}: {splits} in {len(found.languages):,} languages"))
    licenses = ", ".join(f"{name} {rows:,}" for name, rows in found.licenses.items())
    parts.append(harmless(f"licenses of the teachers' models, by rows: {licenses}"))
    if found.unlicensed:
        told = (
            f"license not recorded: {', '.join(found.unlicensed)}; say it with `license:` in the "
        )
        parts.append(harmless(f"{told}config, and export with the config in the place of RUN"))
    if found.unfinished:
        told = f"the run is not complete: {found.unfinished:,} of its prompts are missing here"
        parts.append(Text(told, style="bold red"))
    if found.outdated:
        told = f"{found.outdated:,} shards of the product are not yet as the config says; run again"
        parts.append(Text(told, style="bold red"))
    code = f"  from datasets import load_dataset\n  rows = load_dataset({found.folder!r})"
    parts += [harmless(f"\nexported: {found.folder}", "bold"), harmless(code)]
    return Group(*parts)
