"""What the files of a run hold: how many and how big, rows by language and teacher, columns, nulls.

Reads ends of files first, and columns of long text only for the few rows that are shown, or where
their nulls are to be counted. Invariant: memory does not grow with the run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from arbitrage import frames, views
from arbitrage.frames import Asked
from arbitrage.reading import shape_of
from arbitrage.records import meaning

if TYPE_CHECKING:
    from pathlib import Path

    from arbitrage.views import View

LONG = ("messages", "completion", "reasoning", "rejected", "candidates", "raw", "extra", "detail")
"""Columns of long text, which take most of a file."""
BY = {"quarantine": "reason", "prompts": "language_source", "routes": "round"}
"""What rows are counted by beside the language, where that is not the teacher."""
NO_LANGUAGE = ""


@dataclass(frozen=True)
class Column:
    """One column of a kind; `nulls` is none where they were not counted."""

    name: str
    type: str
    meaning: str
    nulls: int | None


@dataclass
class Inspection:
    """The files of one kind that a run has now. `counts` are rows by language code ("" without one)
    and by what `by` names: the teacher, say. `places` are the folders; `sample` has a few rows."""

    run: str
    kind: str
    places: list[str]
    by: str
    files: int = 0
    size_bytes: int = 0
    row_groups: int = 0
    rows: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    columns: list[Column] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        counts = [
            {"language": language or None, self.by: name, "rows": rows}
            for (language, name), rows in sorted(self.counts.items())
        ]
        return {**asdict(self), "counts": counts}


def inspect(
    place: Path | str, kind: str = "selected", rows: int = 0, *, nulls: bool = False
) -> Inspection:
    """Adds up the files of a kind, one after the other. `nulls`: of all columns, which reads all.

    Raises UsageError where there is no run, StoreError where a file is damaged.
    """
    view = views.look(place)
    paths = [piece.path for piece in frames.pieces(view, kind)]
    folders = sorted({path.rpartition("/")[0] for path in paths})
    found = Inspection(view.store.address(), kind, folders, BY.get(kind, "teacher"))
    for path in paths:
        shape = shape_of(view.store, path)
        found.files += 1
        found.size_bytes += shape.size_bytes
        found.row_groups += shape.row_groups
        found.rows += shape.rows
    _count(found, view, all_nulls=nulls)
    found.sample = _first_rows(view, kind, rows)
    return found


def _count(found: Inspection, view: View, *, all_nulls: bool) -> None:
    """Rows by language and the like, and nulls, in one pass over narrow columns."""
    schema = frames.schema_of(found.kind)
    can = [f.name for f in schema if f.nullable and (all_nulls or f.name not in LONG)]
    keys = ["language", found.by]
    keys += ["teacher_fingerprint"] if found.by == "teacher" else []
    nulls = Counter(dict.fromkeys(can, 0))
    for table in frames.stream(view, found.kind, Asked(tuple(dict.fromkeys([*keys, *can])))):
        for name in can:
            nulls[name] += table[name].null_count
        for row in table.group_by(keys).aggregate([([], "count_all")]).to_pylist():
            by = _current(view, row) if found.by == "teacher" else str(row[found.by])
            found.counts[row["language"] or NO_LANGUAGE, by] += row["count_all"]
    for column in schema:
        counted = nulls[column.name] if column.name in can else None
        told = counted if column.nullable else 0
        found.columns.append(
            Column(column.name, _type(column.type), meaning(found.kind, column.name), told)
        )


def _current(view: View, row: dict[str, Any]) -> str:
    """A teacher's name of today; of one that the config has no longer, the name in the file."""
    try:
        return view.name_of(row["teacher_fingerprint"])
    except KeyError:
        return str(row["teacher"])


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _first_rows(view: View, kind: str, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if count:
        every = Asked(tuple(frames.schema_of(kind).names))
        for table in frames.stream(view, kind, every):
            rows += table.slice(0, count - len(rows)).to_pylist()
            if len(rows) == count:
                break
    return rows
