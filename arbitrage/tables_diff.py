"""Turns what differs between two runs into what a terminal shows; prints nothing itself.

Fits 80 columns; `--json` has all digits.
"""

from __future__ import annotations

import json
import math
import textwrap
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage.differences import Shared
from arbitrage.tables import NAME_WIDTH, PLUS_MINUS, harmless, plain_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import RenderableType

    from arbitrage.costs import Cost
    from arbitrage.differences import Answer, Differences, Row
    from arbitrage.fields import Change
    from arbitrage.stats import Moments

WIDTH = 80
HALF = 38
NARROW = 12
VALUE_WIDTH = 60
SHOWN_PROMPT = 300
LEGEND = (
    "B-A: reward of the second run's answer less the first's, paired by prompt, with its 95 % "
    "interval; of the prompts that both have selected: same: the same completion, reword: "
    "another one of the same teacher, other: another teacher's; lost: selected in A and in "
    "quarantine in B, found: the reverse"
)
KINDS = {"candidates": "teacher", "scores": "Arbiter", "routes": "router", "selected": "selector"}
WON = "won: share of the shared prompts that each run has selected; equal answers share a win"
SAME_CONFIG = "config: the same fields in both, besides `run`"


def of_differences(found: Differences) -> Group:
    """Configs, then what became of the shared prompts, gates, costs, and rows if any are wanted."""
    heads = [f"{name}: {run}" for name, run in zip("AB", found.runs, strict=True)]
    parts: list[RenderableType] = [*(harmless(head, "bold") for head in heads), Text()]
    parts += [*_changes(found), Text(), _prompts_line(found)]
    if found.overall.prompts:
        parts += [Text(), _languages(found), _wrapped(LEGEND, "dim")]
        if found.incomparable:
            parts.append(_wrapped(f"rewards are not compared: {found.incomparable}", "bold"))
        parts += [*_lost(found), Text(), _won(found.overall), _wrapped(WON, "dim")]
    if found.gates:
        parts += [Text(), _gates(found)]
    parts += [Text(), _costs(found.costs)]
    return Group(*parts)


def of_rows(rows: Sequence[Row], incomparable: str) -> Group:
    """Prompts with both answers side by side."""
    if not rows:
        return Group(Text("no shared prompt has two answers that differ"))
    parts: list[RenderableType] = []
    if incomparable:
        parts.append(Text("answers that differ, first by prompt id:"))
    for row in rows:
        gap = "" if row.difference is None else f"  {row.difference:+.4f}"
        parts += [Text(), harmless(f"{row.prompt_id}  {row.language}{gap}", "bold")]
        parts.append(_cells(_short(row.prompt), WIDTH, "dim"))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, answer in (("A", row.first), ("B", row.second)):
            table.add_column(_cells(_headline(name, answer), HALF), width=HALF)
        table.add_row(*(_cells(one.completion, HALF) for one in (row.first, row.second)))
        parts.append(table)
    return Group(*parts)


def _headline(name: str, answer: Answer) -> str:
    return f"{name} {answer.teacher} {answer.reward:.4f}"


def _short(text: str) -> str:
    left = len(text) - SHOWN_PROMPT
    return text if left <= 0 else f"{text[:SHOWN_PROMPT]} ... and {left:,} more characters"


def _cells(text: str, width: int, style: str = "") -> Text:
    """Harmless text in lines of at most so many columns; wide letters count as two."""
    lines: list[str] = []
    for line in harmless(text.expandtabs(4)).plain.split("\n"):
        words = ""
        for word in line.split(" "):
            longer = f"{words} {word}" if words else word
            if words and cell_len(longer) > width:
                lines.append(words)
                longer = word
            *full, words = chop_cells(longer, width) or [""]
            lines += full
        lines.append(words)
    return Text("\n".join(lines), style=style)


def _changes(found: Differences) -> list[Text]:
    """Fields that change the output, then the others, then what has another content."""
    told: list[Text] = []
    groups = {
        "config, part of an identity": [one for one in found.changes if one.identity],
        "config, the rest (resources, places, who is asked in which languages)": [
            one for one in found.changes if not one.identity
        ],
    }
    for name, changes in groups.items():
        if changes:
            told.append(Text(f"{name}:"))
            told += [_change(one) for one in changes]
    if not found.changes:
        told.append(Text(SAME_CONFIG))
    if found.parts:
        parts = (
            f"{_part(name)} (only in {'B' if first is None else 'A'})"
            if first is None or second is None
            else _part(name)
            for name, (first, second) in found.parts.items()
        )
        told.append(_wrapped(f"other identities: {', '.join(parts)}"))
    return told


def _part(name: str) -> str:
    kind, _, own = name.partition("/")
    return own if kind == own else f"{KINDS.get(kind, kind)} {own}"


def _change(change: Change) -> Text:
    first, second = (_value(one) for one in (change.first, change.second))
    line = f"  {change.field}: {first} -> {second}"
    if cell_len(line) <= WIDTH:
        return harmless(line)
    return harmless(f"  {change.field}:\n    A {first}\n    B {second}")


def _value(value: object) -> str:
    if value is None:
        return "default"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    return text if len(text) <= VALUE_WIDTH else f"{text[: VALUE_WIDTH - 4]} ..."


def _prompts_line(found: Differences) -> Text:
    both = found.overall.prompts
    told = f"prompts: {both:,} in both, {found.only[0]:,} only in A, {found.only[1]:,} only in B"
    return Text(told if both else f"{told}; there is nothing to compare")


def _languages(found: Differences) -> Table:
    rewards = () if found.incomparable else ("A", "B", "B-A")
    counts = ("same", "reword", "other", "lost", "found")
    table = plain_table(("lang",), ("prompts", *rewards, *counts))
    for code, one in found.languages.items():
        table.add_row(code, *_language(one, compared=not found.incomparable))
    if len(found.languages) > 1:
        table.add_section()
        own = _language(found.overall, compared=not found.incomparable)
        table.add_row("all", *own, style="bold")
    return table


def _language(one: Shared, *, compared: bool) -> list[str]:
    rewards = []
    if compared:
        known = bool(one.difference.count)
        rewards = [f"{side.mean:.2f}" if known else "" for side in one.rewards]
        rewards.append(_interval(one.difference) if known else "")
    selected = max(1, one.selected)
    shares = [f"{count / selected:.0%}" for count in (one.same, one.reworded, one.other)]
    moved = [_count(count) for count in (one.lost, one.found)]
    return [_count(one.prompts), *rewards, *(shares if one.selected else [""] * 3), *moved]


def _interval(difference: Moments) -> str:
    half = difference.half_width
    return f"{difference.mean:+.2f}" + ("" if math.isnan(half) else f" {PLUS_MINUS}{half:.2f}")


def _lost(found: Differences) -> list[Text]:
    told = []
    for what, reasons in zip(("found", "lost"), found.reasons, strict=True):
        if reasons:
            ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
            counts = ", ".join(f"{reason} {count:,}" for reason, count in ranked)
            told.append(_wrapped(f"{what}, in quarantine for: {counts}"))
    return told


def _won(overall: Shared) -> Table:
    table = plain_table(("teacher",), ("won in A", "won in B", "B-A"))
    shares = {name: overall.shares(name) for name in overall.won}
    for name, (first, second) in sorted(shares.items(), key=lambda item: (-item[1][1], item[0])):
        table.add_row(
            harmless(name), f"{first:.1%}", f"{second:.1%}", f"{100 * (second - first):+.1f}"
        )
    return table


def _gates(found: Differences) -> Table:
    table = plain_table(("candidates that fail",), ("A", "B"))
    for name, shares in found.gates.items():
        table.add_row(name, *(f"{share:.2%}" for share in shares))
    table.add_section()
    table.add_row("candidates", *(f"{count:,}" for count in found.candidates), style="bold")
    return table


def _costs(costs: Mapping[tuple[str, str], tuple[Cost | None, Cost | None]]) -> Table:
    """Requests, completion tokens and whatever hours or money are known, in both."""
    known = [cost for pair in costs.values() for cost in pair if cost is not None]
    columns: dict[str, Callable[[Cost], str]] = {
        "requests": lambda cost: _count(cost.usage.requests),
        "tokens": lambda cost: _count(cost.usage.completion_tokens),
    }
    if any(cost.money for cost in known):
        columns["money"] = lambda cost: f"{cost.money:,.2f}" if cost.money else ""
    elif any(cost.gpu_hours for cost in known):
        columns["GPU h"] = lambda cost: f"{cost.gpu_hours:,.1f}" if cost.gpu_hours else ""
    table = plain_table(("spent by",), [f"{name} {side}" for name in columns for side in "AB"])
    table.columns[0].max_width = NAME_WIDTH if len(columns) == 2 else NARROW
    for (name, _), pair in costs.items():
        cells = (tell(c) if c is not None else "" for tell in columns.values() for c in pair)
        table.add_row(harmless(name), *cells)
    return table


def _count(number: int) -> str:
    """1,234,567 and 12.3 M; nothing for none."""
    for unit, size in (("G", 10**10), ("M", 10**7)):
        if number >= size:
            return f"{10 * number / size:,.1f} {unit}"
    return f"{number:,}" if number else ""


def _wrapped(text: str, style: str = "") -> Text:
    return harmless(textwrap.fill(text, WIDTH), style)
