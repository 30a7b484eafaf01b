"""Turns summaries, plans and prompts into what a terminal shows; prints nothing itself.

Fits 80 columns. Text of models and users is text: no markup, control characters made visible.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage.results import beside, lengths_over
from arbitrage.stats import Moments
from arbitrage.usage import total_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from arbitrage.garbage import Collection
    from arbitrage.repair import Examination
    from arbitrage.results import LanguageResult
    from arbitrage.summary import Summary
    from arbitrage.usage import Usage
    from arbitrage.views import Shown

PLUS_MINUS = "\u00b1"
SHOWN_REASONING = 300
NAME_WIDTH = 24
SPACES = "\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
JOINERS = "\u180e\u200c\u200d"
SIGNS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Of Arabic, Syriac and Kaithi: they are seen, and stand before the numbers that they enclose."""
KEPT = frozenset(f"\n\t{SPACES}{JOINERS}{SIGNS}")
TEXT_INDENT = "    "
BESIDE = (
    "gain: the chosen reward less what the other way gives, with its 95 % interval; both rewards "
    "are of the Arbiter that chose, so a gain is no proof of better answers"
)
LEGEND = (
    "alone: mean reward of the language's best single teacher; gain: what choosing per prompt adds "
    "to it, with its 95 % interval"
)


def of_summary(summary: Summary) -> Group:
    """The end of a run: winners, ledger, remarks, and where the product is."""
    parts: list[RenderableType] = []
    if summary.languages:
        parts += [
            _winners(summary),
            Text(),
            _won_overall(summary),
            Text(LEGEND, style="dim"),
            Text(),
            *_beside(summary),
        ]
    parts.append(Text(_ledger_line(summary)))
    for what, counts in _remarks(summary).items():
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        parts.append(Text(f"{what}: {told}"))
    for name, why in summary.set_aside.items():
        told = (
            f"set aside: {name} ({why}); shards were finished without it, the next run tries again"
        )
        parts.append(harmless(told, "bold red"))
    if summary.unusable:
        told = ", ".join(summary.unusable)
        parts.append(Text(f"no answer could be selected from: {told}", style="bold red"))
    if any(one.usage.requests for one in summary.spent):
        parts += [Text(), _spent(summary)]
    if summary.budget:
        parts.append(Text(f"budget: {of_budget(summary.budget)}"))
    if summary.ledger.selected:
        code = f"  import pandas as pd\n  rows = pd.read_parquet({summary.product!r})"
        parts += [Text(f"\nproduct: {summary.product}", style="bold"), Text(code)]
        parts.append(Text(f"next: arbitrage report {summary.run}"))
    return Group(*parts)


def _winners(summary: Summary) -> Table:
    """Who won where, and what choosing per prompt adds over the language's best teacher."""
    table = _table("lang", prompts=1, reward=1, alone=1, gain=1, won=0)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in summary.languages:
        table.add_row(*_language_cells(row))
    if len(summary.languages) > 1:
        table.add_section()
        table.add_row(*_total_cells(summary), style="bold")
    return table


def plain_table(left: Sequence[str], right: Sequence[str], width: int = NAME_WIDTH) -> Table:
    """A table without lines: names, cut to a width where they are longer, then numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=width)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _table(*left: str, **columns: int) -> Table:
    """A plain table; the keyword columns say whether they are flushed right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name, right in columns.items():
        table.add_column(name.replace("_", " "), justify="right" if right else "left")
    return table


def _language_cells(row: LanguageResult) -> list[str | Text]:
    best = row.best_alone
    alone = row.teachers[best] if best else None
    wins = {name: result.wins for name, result in row.teachers.items()}
    return [
        row.language,
        f"{row.prompts:,}",
        f"{row.reward.mean:.3f}",
        f"{alone.alone.mean:.3f}" if alone else "",
        _interval(alone.gain) if alone else "",
        _shares(wins, row.prompts),
    ]


def _total_cells(summary: Summary) -> list[str]:
    reward, gain = Moments(), Moments()
    for row in summary.languages:
        reward.add(row.reward.count, row.reward.total, row.reward.squares)
        if row.best_alone:
            part = row.teachers[row.best_alone].gain
            gain.add(part.count, part.total, part.squares)
    alone = f"{reward.mean - gain.mean:.3f}"
    return ["all", f"{reward.count:,}", f"{reward.mean:.3f}", alone, _interval(gain)]


def _won_overall(summary: Summary) -> Text:
    wins = dict.fromkeys(summary.teachers, 0.0)
    for row in summary.languages:
        for name, result in row.teachers.items():
            wins[name] += result.wins
    prompts = sum(row.prompts for row in summary.languages)
    return Text("won overall: ").append_text(_shares(wins, prompts))


def _beside(summary: Summary) -> list[RenderableType]:
    """What other ways to choose would have given, and whether choosing is more than length."""
    table = _table("beside", reward=1, gain=1, prompts=1)
    for name, way in beside(summary.languages).items():
        count = way.gain.count
        if count:
            table.add_row(name, f"{way.reward.mean:.3f}", _interval(way.gain), f"{count:,}")
    told: list[RenderableType] = [table, Text(BESIDE, style="dim")]
    lengths = lengths_over(summary.languages)
    if lengths.prompts:
        longest, chance = lengths.longest / lengths.prompts, lengths.chance / lengths.prompts
        text = f"the longest answer was chosen for {longest:.0%} of {lengths.prompts:,} prompts "
        text += f"whose answers differ in length; by lot it would be {chance:.0%}"
        told.append(Text(text))
    return [*told, *_no_better_than_long(summary)]


def _no_better_than_long(summary: Summary) -> list[Text]:
    """Where rewards do not show that choosing beats taking the longest answer."""
    known = [row for row in summary.languages if row.longest.gain.count]
    codes = [row.language for row in known if not row.longest.is_beaten]
    if not codes:
        return []
    over_all = not beside(known)["longest answer"].is_beaten
    where = "over all languages" if over_all else f"in {', '.join(codes)}"
    told = f"choosing is not shown to be better than taking the longest answer {where}"
    return [Text(told, style="bold red" if over_all else "bold")]


def _shares(wins: Mapping[str, float], prompts: int) -> Text:
    """The teachers' shares of prompts won, largest first."""
    ranked = sorted(wins.items(), key=lambda item: (-item[1], item[0]))
    told = Text(no_wrap=True, overflow="ellipsis")
    for place, (name, count) in enumerate(ranked):
        told.append("" if place == 0 else ", ")
        told.append(f"{name} {count / prompts:.0%}", style="green" if place == 0 else "")
    return told


def _interval(gain: Moments) -> str:
    half = gain.half_width
    return f"{gain.mean:+.3f}" + ("" if math.isnan(half) else f" {PLUS_MINUS}{half:.3f}")


def _ledger_line(summary: Summary) -> str:
    ledger = summary.ledger
    refused = sum(ledger.refused.values())
    lost = sum(ledger.quarantined.values())
    tail = f" + {ledger.unfinished:,} unfinished" if ledger.unfinished else ""
    return (
        f"ledger: {ledger.rows_read:,} rows in the sources, {refused:,} refused; "
        f"{ledger.prompts:,} prompts = {ledger.selected:,} selected + {lost:,} quarantined{tail}"
    )


def _spent(summary: Summary) -> Table:
    """What the run directory has cost, by whom; costs only where there is a price."""
    usages = [one.usage for one in summary.spent]
    priced = any(usage.cost for usage in usages)
    columns = {"requests": 1, "prompt_tokens": 1, "completion_tokens": 1}
    table = _table("spent by", **columns, **({"cost": 1} if priced else {}))
    for column in table.columns[1:]:
        column.no_wrap = True
    for one in summary.spent:
        table.add_row(harmless(one.name), *_usage_cells(one.usage, priced=priced))
    table.add_section()
    table.add_row("all", *_usage_cells(total_of(usages), priced=priced), style="bold")
    return table


def _usage_cells(usage: Usage, *, priced: bool) -> list[str]:
    counts = (usage.requests, usage.prompt_tokens, usage.completion_tokens)
    cost = [f"{usage.cost:,.4f}" if usage.cost else ""] if priced else []
    return [*(f"{count:,}" if count else "" for count in counts), *cost]


def of_budget(budget: Mapping[str, tuple[float, float]]) -> str:
    """How much of what is limited is spent, as part of a sentence."""
    return ", ".join(
        f"{spent:,.4f} of {limit:,.4f} in money"
        if name == "money"
        else f"{spent:,.0f} of {limit:,.0f} {name}"
        for name, (spent, limit) in budget.items()
    )


def _remarks(summary: Summary) -> dict[str, dict[str, int]]:
    ledger = summary.ledger
    told = {
        "refused rows": ledger.refused,
        "quarantined prompts": ledger.quarantined,
        "declared languages that the text contradicts": ledger.contradicted,
        "candidates with an error on selected prompts": summary.errors,
    }
    for name, counts in summary.gates.items():
        told[f"gates failed by {name} on selected prompts"] = counts
    return {what: counts for what, counts in told.items() if counts}


def of_prompt(found: Shown) -> Group:
    """A prompt and all its candidates, the chosen one marked. Text of others stands further right
    than what is told of it, so no line of it can pass for another candidate."""
    prompt = found.prompt
    own = f" (yours: {prompt['user_id']})" if prompt["user_id"] else ""
    head = f"{prompt['prompt_id']}{own}  {prompt['language']}, {prompt['language_source']}"
    parts = [_in_line(head, "bold")]
    turns = (_indented(f"{turn['role']}: {turn['content']}") for turn in prompt["messages"])
    parts += [harmless(turn.lstrip(" ")) for turn in turns]
    chosen = found.selected or {}
    for row in found.candidates:
        mine = (row["teacher"], row["sample"]) == (chosen.get("teacher"), chosen.get("sample"))
        score = _scores(row)
        told = [f"{'*' if mine else ' '} {row['teacher']} #{row['sample']}", score]
        told += [row["finish_reason"], f"{row['completion_tokens']} tokens"]
        told += [f"fails {', '.join(row['gates'])}"] if row["gates"] else []
        told += [row["error"]] if row["error"] else []
        parts += [Text(), _in_line("  ".join(told), "green" if mine else "bold")]
        parts += [_reasoning(row["reasoning"])] if row["reasoning"] else []
        parts += [harmless(_indented(row["completion"]))] if row["completion"] else []
    if found.quarantined:
        parts += [Text(), _in_line(f"quarantined: {found.quarantined}", "red")]
    return Group(*parts)


def _indented(text: str) -> str:
    return "\n".join(f"{TEXT_INDENT}{line}" for line in text.split("\n"))


def _in_line(text: str, style: str = "") -> Text:
    """Text of others that has no line of its own, and must not begin one."""
    return harmless(text.replace("\n", "\\n"), style)


def _scores(row: Mapping[str, Any]) -> str:
    """The score, by name where there are several."""
    several = len(row["scores"]) > 1
    told = [
        f"{name} {score:.4f}" if several else f"{score:.4f}"
        for name, score in row["scores"].items()
        if score is not None
    ]
    return ", ".join(told) or "no score"


def _reasoning(text: str) -> Text:
    """Its start, each line marked, so that nothing in it can be taken for the answer."""
    left = len(text) - SHOWN_REASONING
    more = f" ... and {left:,} more characters" if left > 0 else ""
    lines = f"reasoning: {text[:SHOWN_REASONING]}{more}".split("\n")
    return harmless("\n".join(f"| {line}" for line in lines), "dim")


def harmless(text: str, style: str = "") -> Text:
    """Text of others: no markup, and control characters shown instead of obeyed, those that turn
    the direction of a line too.

    Spaces and signs of other scripts stay as they are, and the joiners that Persian, Hindi,
    Mongolian and emoji need.
    """
    kept = (c if c in KEPT or c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return Text("".join(kept), style=style)


def of_examination(found: Examination) -> Group:
    """Every fault, what was done about it, and how much was read."""
    parts: list[RenderableType] = [
        harmless(f"{fault.path}: {fault.what}", "red") for fault in found.findings.faults
    ]
    parts += [harmless(f"note: {note}", "dim") for note in found.findings.notes]
    table = Table("kind", box=None, pad_edge=False)
    for title in ("files", "rows", "faults"):
        table.add_column(title, justify="right")
    for kind, *counts in found.findings.table():
        table.add_row(kind, *(f"{count:,}" for count in counts))
    parts += [Text(), table]
    if found.repaired is None:
        told = "sound" if found.is_sound else "not sound; `arbitrage verify RUN --repair` mends it"
        return Group(*parts, Text(told))
    parts += [harmless(f"removed {path}") for path in found.repaired.removed]
    parts += [harmless(f"restored {path}") for path in found.repaired.restored]
    parts += [harmless(f"not mended: {f.path}: {f.what}", "red") for f in found.repaired.left]
    told = "`arbitrage run` makes again what was removed" if found.repaired.removed else "done"
    return Group(*parts, Text(told))


def of_garbage(found: Collection) -> Group:
    """What nobody needs, biggest first, and what was paid for it."""
    if not found.garbage:
        return Group(Text("nothing to remove"))
    parts: list[RenderableType] = []
    for one in found.garbage:
        paid = f", {one.spent.requests:,} requests, {one.spent.tokens:,} tokens paid"
        files = len(one.files) + len(one.papers)
        told = f"{one.place or 'leftovers'}: {one.why}; {files:,} files, {one.rows:,} rows, "
        told += f"{one.size_bytes:,} bytes{paid if one.spent.requests else ''}"
        parts.append(harmless(told))
        parts += [] if one.place else [harmless(f"  {path}", "dim") for path in one.papers]
    if found.warning:
        parts.append(Text(f"warning: {found.warning}", style="bold red"))
    done = "freed" if found.deleted else "to be freed with --delete:"
    return Group(*parts, Text(f"{done} {found.size_bytes:,} bytes"))
