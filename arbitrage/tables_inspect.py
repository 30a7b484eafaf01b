"""Turns what the files of a run hold into what a terminal shows; prints nothing itself.

Fits 80 columns: a matrix that is wider goes on below. Text of others is text, and cut.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage import amounts
from arbitrage.tables import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from arbitrage.inspection import Column, Inspection

WIDTH = 80
GAP = 2
LONGEST_NAME = 20
SHOWN_CHARS = 160
ALL = "all"


def of_inspection(found: Inspection) -> Group:
    """Files, rows by language and teacher, columns, and a few rows."""
    size = amounts.size(found.size_bytes)
    files = f"{found.files:,} files, {found.rows:,} rows, {found.row_groups:,} row groups, {size}"
    folders = found.places if len(found.places) == 1 else [f"{len(found.places)} folders"]
    parts: list[RenderableType] = [
        harmless(f"{found.run}: {found.kind}"),
        harmless(f"{files} in {folders[0]}")
        if found.files
        else Text("there is no file of this kind"),
    ]
    if found.counts:
        parts += [Text(f"\nrows by language and {found.by.replace('_', ' ')}"), *_matrix(found)]
    parts += [Text(), _columns(found.columns)]
    if any(column.nulls is None for column in found.columns):
        parts.append(Text("?: not counted, as that reads long texts; --nulls does", style="dim"))
    width = max(len(column.name) for column in found.columns)
    for number, row in enumerate(found.sample, start=1):
        parts += [Text(f"\nrow {number:,}", style="bold")]
        parts += [_field(name, value, width) for name, value in row.items()]
    return Group(*parts)


def _matrix(found: Inspection) -> Iterator[RenderableType]:
    """Languages down, teachers across, in as many blocks as it takes."""
    languages = sorted({language for language, _ in found.counts})
    names = sorted({name for _, name in found.counts})
    cells = dict(found.counts)
    for (language, name), rows in found.counts.items():
        for key in ((language, ALL), (ALL, name), (ALL, ALL)):
            cells[key] = cells.get(key, 0) + rows
    down = [*languages, *([ALL] if len(languages) > 1 else [])]
    across = [*names, *([ALL] if len(names) > 1 else [])]
    first = max(len("language"), *map(len, down))
    for number, block in enumerate(_blocks(across, cells, first)):
        yield from [Text()] if number else []
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("language", no_wrap=True)
        for name in block:
            title = harmless(_short(name, LONGEST_NAME))
            table.add_column(title, justify="right", no_wrap=True)
        for language in down:
            told = [f"{cells[language, n]:,}" if (language, n) in cells else "." for n in block]
            style = "bold" if language == ALL else ""
            table.add_row(harmless(language or "none"), *told, style=style)
        yield table


def _blocks(
    names: Sequence[str], cells: Mapping[tuple[str, str], int], first: int
) -> Iterator[list[str]]:
    """As many columns as stand beside each other."""
    block: list[str] = []
    taken = first
    for name in names:
        numbers = (len(f"{rows:,}") for (_, by), rows in cells.items() if by == name)
        width = GAP + max(min(len(name), LONGEST_NAME), *numbers)
        if block and taken + width > WIDTH:
            yield block
            block, taken = [], first
        block.append(name)
        taken += width
    yield block


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}\u2026"


def _columns(columns: Sequence[Column]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, width=WIDTH)
    table.add_column("column", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("nulls", justify="right", no_wrap=True)
    table.add_column("meaning")
    for column in columns:
        nulls = amounts.UNKNOWN if column.nulls is None else f"{column.nulls:,}"
        table.add_row(column.name, column.type, nulls, column.meaning)
    return table


def _field(name: str, value: Any, width: int) -> Text:
    """A value, cut; its further lines stand below its start, so none passes for another field."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    left = len(text) - SHOWN_CHARS
    more = f" ... and {left:,} more characters" if left > 0 else ""
    lines = text[:SHOWN_CHARS].split("\n")
    told = f"\n{' ' * (width + 2)}".join([*lines[:-1], lines[-1] + more])
    return harmless(f"{name:<{width}}  {told}")
