"""What the gates found, as a terminal shows it; prints nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage.gates import GATES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from arbitrage.failures import Failures
    from arbitrage.gates import Rates

LEGEND = (
    "lines: share of candidates without a line in another language; words: of those, without a "
    "word in a foreign script; the others: share that fails the gate, of all candidates (* "
    "enforced)"
)


def of_failures(found: Failures) -> Group:
    """By teacher, by language, and the worst of both together."""
    gates = [name for name in GATES if any(name in rates.failed for rates in found.rates.values())]
    worst = sorted(found.rates.items(), key=lambda item: (-_failing(item[1], found), item[0]))
    places = {f"{name}, {code}": r for (name, code), r in worst[:8] if _failing(r, found)}
    parts: list[RenderableType] = [_table("teacher", found.teachers, gates, found), Text()]
    parts += [_table("language", found.languages, gates, found)]
    if places:
        parts += [Text(), _table("worst", places, gates, found)]
    parts += [Text(LEGEND, style="dim")]
    if found.missing:
        told = f"{found.missing:,} files of candidates were not looked at yet; run again"
        parts.append(Text(told))
    return Group(*parts)


def _failing(rates: Rates, found: Failures) -> float:
    """The largest share of candidates that one enforced gate stops."""
    most = max((rates.failed[name] for name in found.enforced), default=0)
    return most / rates.candidates if rates.candidates else 0.0


def _table(what: str, rows: Mapping[str, Rates], gates: list[str], found: Failures) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(what, no_wrap=True)
    names = [f"{name}*" if name in found.enforced else name for name in gates]
    for name in ("candidates", "lines", "words", *names):
        table.add_column(name, justify="right")
    for name, rates in rows.items():
        shares = (rates.failed[gate] / max(1, rates.candidates) for gate in gates)
        table.add_row(
            Text(name),
            f"{rates.candidates:,}",
            _percent(rates.line_level),
            _percent(rates.word_level),
            *(_percent(share) if share else "" for share in shares),
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
