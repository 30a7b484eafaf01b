"""A leaderboard as Markdown, as CSV, as JSON, and as a page; writes nothing itself.

Names are text in each of them: no markup, and control characters made visible.
"""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

from arbitrage import page
from arbitrage.languages import table
from arbitrage.standings import Cell
from arbitrage.tables import harmless

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.standings import Column, Entry, Leaderboard, Row, Standing

PARTIAL = "*"
"""Marks an average over fewer languages than those asked for."""
FRONT = "\u25c6"
"""Marks a member of the Pareto front."""
MEANING = (
    "reward: mean reward alone, as the plain mean of languages, with its 95 % interval; behind: "
    "what the selected answers have more on the same prompts (0 for the selected data); rewards "
    "are those of the Arbiter that chose, so they are no proof of better answers"
)
DIGITS = 8
"""Significant ones of a page's numbers."""


def of_csv(board: Leaderboard, found: Standing) -> str:
    """One row per entry, every column, and the reward of each language; nothing is rounded."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [column.name for column in board.columns]
    codes = [code for code in board.languages if code in found.languages]
    writer.writerow([*names, "complete", "front", *codes])
    for row in found.rows:
        cells = [_plain(row.values[name]) for name in names]
        flags = ["true" if flag else "false" for flag in (row.complete, row.front)]
        writer.writerow([*cells, *flags, *(_plain(_reward(row.entry, code)) for code in codes)])
    return page.whole(file.getvalue())


def _plain(value: Any) -> str:
    """A value of CSV: the shortest form of a number that gives it back."""
    if value is None:
        return ""
    return harmless(value).plain if isinstance(value, str) else repr(value)


def _reward(entry: Entry, code: str) -> float | None:
    return entry.languages.get(code, Cell()).values()["reward"]


def of_json(board: Leaderboard, found: Standing) -> str:
    """Every column of every row, the reward of each language, and what a reader should know."""
    rows = [
        {
            **row.values,
            "complete": row.complete,
            "front": row.front,
            "by_language": {code: _reward(row.entry, code) for code in row.entry.languages},
        }
        for row in found.rows
    ]
    columns = {column.name: f"{column.title}: {column.about}" for column in found.columns}
    told = {"columns": columns, "languages": found.languages, "notes": board.notes, "rows": rows}
    return json.dumps(page.plain(told), indent=1) + "\n"


def of_markdown(board: Leaderboard, found: Standing) -> str:
    """A table of what anybody has, with sentences below it that say what it means."""
    columns = used(found)
    codes = list(found.languages)
    head = [escaped(column.title) for column in columns] + codes
    rule = ["---" if column.form == "text" else "---:" for column in columns] + ["---:"] * len(
        codes
    )
    lines = [_line(head), _line(rule)]
    for row in found.rows:
        cells = [_marked(column, row) for column in columns]
        lines.append(_line(cells + [_number(_reward(row.entry, code)) for code in codes]))
    return page.whole("\n".join([*lines, "", *remarks(board, found)]) + "\n")


def used(found: Standing) -> list[Column]:
    """The columns that tell anything here: some value, of costs one that is not 0, and the run only
    where there are several."""
    runs = {row.entry.run for row in found.rows}
    unused = {"interval", "gap_interval"} | ({"run"} if len(runs - {""}) == 1 else set())
    unused |= {column.name for column in found.columns if is_end(column.name)}
    costs = {"gpu_hours", "cpu_hours", "money"}
    hidden = unused | {
        column.name
        for column in found.columns
        if not any(
            row.values[column.name]
            not in ((None, 0) if column.name.split("_per_")[0] in costs else (None,))
            for row in found.rows
        )
    }
    return [column for column in found.columns if column.name not in hidden]


def is_end(name: str) -> bool:
    """Whether a column is one end of another's interval, which is shown beside that."""
    return name.endswith(("_low", "_high"))


def remarks(board: Leaderboard, found: Standing) -> list[str]:
    """What a reader should know, a line each."""
    said = [*(escaped(note) for note in board.notes), f"{MEANING}."]
    if any(not row.complete and row.entry.run for row in found.rows):
        said.append(
            f"{escaped(PARTIAL)}: over fewer languages than others, so it does not compare with "
            "them; `--languages` or `--common` makes averages comparable."
        )
    if any(row.front for row in found.rows):
        titles = {column.name: escaped(column.title) for column in found.columns}
        said.append(
            f"{FRONT}: nobody is better in both {' and '.join(titles[a] for a in found.axes)}."
        )
    return [f"- {sentence}" for sentence in said]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Text of others as Markdown shows it as it is, in one line."""
    told = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(harmless(text).plain.split()))
    return told.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _marked(column: Column, row: Row) -> str:
    told = _shown(column, row.values)
    if column.name == "name" and row.front:
        return f"{told} {FRONT}"
    return told + escaped(PARTIAL) if told and column.averaged and not row.complete else told


def _shown(column: Column, values: Mapping[str, Any]) -> str:
    value = values[column.name]
    if value is None:
        return ""
    if column.name in ("reward", "gap"):
        half = values["interval" if column.name == "reward" else "gap_interval"]
        return _number(value) + ("" if half is None else f" \u00b1 {half:.2f}")
    if column.form == "text":
        return escaped(value)
    if column.form == "share":
        return f"{value:.1%}" + _ends(column, values)
    return f"{value:,}" if column.form == "count" else _short(value)


def _ends(column: Column, values: Mapping[str, Any]) -> str:
    """The interval of a share, where it has one."""
    low, high = values.get(f"{column.name}_low"), values.get(f"{column.name}_high")
    return "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _short(value: float) -> str:
    """Three digits that say something, whatever the size."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def of_page(board: Leaderboard, start: Mapping[str, Any]) -> str:
    """The page of all entries; `start` is how it opens: pattern, languages, common, sort."""
    runs = list(dict.fromkeys(entry.run for entry in board.entries if entry.run))
    title = f"Leaderboard: {', '.join(runs)}"
    data = {
        "columns": [_column(column) for column in board.columns],
        "languages": {code: table()[code].name for code in board.languages if code in table()},
        "codes": list(board.languages),
        "axes": list(board.axes),
        "cell": [*Cell().values(), "answers", "prompts"],
        "entries": [_entry(entry) for entry in board.entries],
        "several": len(runs) > 1,
        "start": dict(start),
    }
    notes = [harmless(note).plain for note in board.notes]
    return page.render("leaderboard.html", title=title, data=data, plots=True, notes=notes)


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "title": harmless(column.title).plain,
        "form": column.form,
        "better": column.better,
        "averaged": column.averaged,
        "about": harmless(column.about).plain,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    """An entry without its averages, which the page makes of the languages that are chosen."""
    told: dict[str, Any] = {
        "name": entry.name,
        "run": entry.run,
        "kind": entry.kind,
        "engine": entry.engine,
        "model": entry.model,
        "license": entry.license,
        "parameters": entry.parameters,
        "figures": {name: _rounded(value) for name, value in entry.figures.items()},
    }
    cells = {
        code: [*map(_rounded, cell.values().values()), cell.reward.count, cell.prompts]
        for code, cell in entry.languages.items()
    }
    return {**told, "languages": cells}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
