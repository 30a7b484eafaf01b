"""Turns what a run would do and take into what a terminal shows; prints nothing itself.

Fits 80 columns. Numbers are rounded as estimates should be; `--json` has all digits.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage import amounts
from arbitrage.tables import harmless, of_budget, plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from arbitrage.estimate import Costs
    from arbitrage.preview import Preview, RolePlan

SHOWN_SOURCES = 5
NAME_WIDTH = 16
SHOWN_LANGUAGES = 12
WIDTH = 80
TIME = "time: that of all replicas' work together, without loading"
SOURCES = {
    "earlier": "earlier: from what this run has made so far",
    "probe": "probe: from a few prompts, tried just now; engines that batch are faster on many",
    "bound": "bound: completion tokens at most, by max_tokens; prompt tokens, times and sizes are "
    "not known, and money is for completions alone (`--probe 16` tries 16 prompts per teacher)",
}


def of_plan(found: Preview) -> Group:
    """What a run would do and take, or that there is nothing to do."""
    warnings = [Text(f"warning: {sentence}") for sentence in found.warnings]
    refused = [harmless(f"never fits: {sentence}", "bold red") for sentence in found.misfits]
    if found.is_empty:
        done = f"nothing to do: {found.prompts:,} prompts are complete in {found.run}"
        return Group(Text(done), *_spent_of(found), *warnings, *refused)
    changed = [
        harmless(f"{role.name}: made anew because {change}")
        for role in found.roles
        for change in role.changed
    ]
    parts: list[RenderableType] = [_work(found), *changed, *_unread(found), *_languages(found)]
    if any(role.tasks for role in found.roles):
        parts += [Text(), _costs(found), *_sources(found)]
        parts.append(_wrapped(TIME, "dim"))
    parts += [Text(), *_places(found), *_disk(found)]
    return Group(*parts, *_spent_of(found), *warnings, *refused)


def _work(found: Preview) -> Table:
    """Units to make against units stored."""
    table = plain_table(
        ("stage", "by"), ("shards", "prompts", "requests", "stored", "requests"), NAME_WIDTH
    )
    for role in found.roles:
        served = role.stage in ("generate", "score")
        counts = [f"{role.tasks:,}", f"{role.prompts:,}"]
        counts += [f"{role.requests:,}", f"{role.stored:,}", f"{role.stored_requests:,}"]
        table.add_row(role.stage, harmless(role.name), *(counts if served else counts[:2]))
    served_roles = [role for role in found.roles if role.stage in ("generate", "score")]
    sums = (
        sum(role.tasks for role in found.roles),
        None,
        sum(role.requests for role in served_roles),
        sum(role.stored for role in served_roles),
        sum(role.stored_requests for role in served_roles),
    )
    table.add_section()
    table.add_row("all", "", *("" if n is None else f"{n:,}" for n in sums), style="bold")
    return table


def _costs(found: Preview) -> Table:
    """Estimated tokens, money, time and disk; a column without any figure is left out."""
    priced = any(role.costs.money is not None for role in found.roles)
    money = ("money",) if priced else ()
    right = ("tokens in", "tokens out", *money, "time", "disk", "from")
    table = plain_table(("by",), right, NAME_WIDTH)
    for role in found.roles:
        if role.tasks:
            table.add_row(harmless(role.name), *_cells(role, priced=priced))
    total = found.total
    table.add_section()
    bound = total.source == "bound"
    told = [
        amounts.count(total.prompt_tokens),
        _at_most(amounts.count(total.completion_tokens), bound=bound),
    ]
    if not any(role.stage == "generate" and role.tasks for role in found.roles):
        told = ["", ""] if total.completion_tokens is None else told
    told += [_at_most(_money(total.money), bound=bound)] if priced else []
    told += [amounts.span(total.time_s), amounts.size(total.bytes), ""]
    table.add_row("all", *told, style="bold")
    return table


def _cells(role: RolePlan, *, priced: bool) -> list[str]:
    costs: Costs = role.costs
    bound = costs.source == "bound" and role.stage == "generate"
    money = [_at_most(_money(costs.money), bound=bound)] if priced else []
    if role.stage not in ("generate", "score"):
        return ["", "", *([""] if priced else []), "", amounts.size(costs.bytes), costs.source]
    tokens = [
        amounts.count(costs.prompt_tokens),
        _at_most(amounts.count(costs.completion_tokens), bound=bound),
    ]
    if role.stage == "score" and costs.completion_tokens is None:
        tokens = ["", ""]
    return [*tokens, *money, amounts.span(costs.time_s), amounts.size(costs.bytes), costs.source]


def _at_most(told: str, *, bound: bool) -> str:
    return f"<= {told}" if bound and told not in ("", amounts.UNKNOWN) else told


def _sources(found: Preview) -> list[Text]:
    used = {role.costs.source for role in found.roles if role.tasks}
    return [_wrapped(told, "dim") for source, told in SOURCES.items() if source in used]


def _places(found: Preview) -> list[RenderableType]:
    """What fits where, in which order, and for how long."""
    machine = found.machine
    if machine is None:
        return [Text("machine: that of a cluster which is joined, so not known before the run")]
    told = f"machine: {machine['cpus']:g} CPUs, {machine['gpus']:g} GPUs"
    if found.forecast is None:
        return [Text(told)]
    timed = found.forecast.time_s is not None
    right = ("turn", "replicas", *(("loading", "from", "to") if timed else ()))
    table = plain_table(("loaded",), right, NAME_WIDTH)
    for part in found.forecast.parts:
        spans = (part.load_s, part.start_s, part.end_s) if timed else ()
        times = [amounts.span(seconds) for seconds in spans]
        table.add_row(harmless(part.name), str(part.turn), str(part.replicas), *times)
    if timed:
        last = f"; in all {amounts.span(found.forecast.time_s)}, and most of it for "
        told += f"{last}{found.forecast.bottleneck}"
    else:
        told += "; how long it takes is not known"
    return [table, harmless(told, "bold")]


def _disk(found: Preview) -> list[Text]:
    if found.free_bytes is None:
        return []
    size = found.total.bytes
    need = (
        f"about {amounts.size(size)} to write"
        if size is not None
        else "what is written is not known"
    )
    return [Text(f"disk: {need}, {amounts.size(found.free_bytes)} free")]


def _spent_of(found: Preview) -> list[Text]:
    return [Text(f"budget: {of_budget(found.budget)} are spent")] if found.budget else []


def _unread(found: Preview) -> list[Text]:
    if not found.unread:
        return []
    shown = ", ".join(found.unread[:SHOWN_SOURCES])
    more = " ..." if len(found.unread) > SHOWN_SOURCES else ""
    told = f"{found.new_prompts:,} new prompts in {len(found.unread)} unread sources"
    return [harmless(f"{told}: {shown}{more}")]


def _languages(found: Preview) -> list[Text]:
    if not found.languages:
        return []
    ranked = sorted(found.languages.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{code} {count:,}" for code, count in ranked[:SHOWN_LANGUAGES])
    rest = ranked[SHOWN_LANGUAGES:]
    more = f", {sum(n for _, n in rest):,} in {len(rest)} more" if rest else ""
    return [_wrapped(f"prompts by language: {shown}{more}")]


def _wrapped(told: str, style: str = "") -> Text:
    return Text("\n".join(textwrap.wrap(told, WIDTH)), style=style)


def _money(amount: float | None) -> str:
    """In the currency of the prices; small sums keep two digits that count."""
    if amount is None:
        return ""
    if amount >= 1000:
        return f"{amount:,.0f}"
    return f"{amount:.2f}" if amount >= 1 or not amount else f"{amount:.2g}"
