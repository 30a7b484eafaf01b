"""Turns what the preflight of a merge found into what a terminal shows; prints nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage.amounts import count, size
from arbitrage.tables import harmless

if TYPE_CHECKING:
    from rich.console import RenderableType

    from arbitrage.merging.preflight import Examination


def of_examination(found: Examination) -> RenderableType:
    """One table of all reasons, remarks below, and what the merge is, reads and writes."""
    parts: list[RenderableType] = []
    if found.reasons:
        number = len(found.reasons)
        told = "1 reason" if number == 1 else f"{number:,} reasons"
        parts += [Text(f"not merged, for {told}; no weight was read", style="bold red"), Text("")]
        parts += [_reasons(found), Text("")]
    parts += [harmless(f"note: {_one_line(remark)}", "dim") for remark in found.remarks]
    parts += [Text("")] if found.remarks else []
    return Group(*parts, Text(figures(found)))


def _reasons(found: Examination) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=True)
    table.add_column("about", no_wrap=True, style="bold")
    table.add_column("where", overflow="fold", ratio=1)
    table.add_column("what is wrong, and what to do", overflow="fold", ratio=3)
    for reason in found.reasons:
        about, where, told = (harmless(_one_line(text)) for text in reason)
        table.add_row(about, where, told)
    return table


def _one_line(text: str) -> str:
    """Text of others begins no line of its own."""
    return text.replace("\n", "\\n")


def figures(found: Examination) -> str:
    """What is merged, read, written and needed, in one line."""
    models = "1 model" if found.models == 1 else f"{found.models:,} models"
    onto = " onto a base" if found.base else ""
    if not found.tensors:
        return f"merges {models}{onto}"
    free = f" ({size(found.disk_free)} free)" if found.disk_free is not None else ""
    parameters = count(found.parameters).replace("G", "B")
    return (
        f"merges {models}{onto} of {found.tensors:,} tensors, {parameters} parameters; reads "
        f"{size(found.input_bytes)}, writes {size(found.output_bytes)}{free}, needs "
        f"{size(found.memory_bytes)} of memory"
    )
