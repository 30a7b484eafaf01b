"""The rows of a run as Arrow tables, file by file: of its current config, with what they belong to.

Reads no column that is not asked for, and no file of a teacher that is not. Only what a run would
use now counts: files of earlier configs, and of answers that were asked for otherwise, are left
out. Invariants: one fixed schema per kind, `schema_of`; memory does not grow with the run.

    for table in stream(look("runs/first"), "scores", Asked(("teacher", "score"))): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage import gates
from arbitrage.identity import digest
from arbitrage.parts import languages_of
from arbitrage.plan import quarantine_of
from arbitrage.prompts import MEMO
from arbitrage.reading import columns_of
from arbitrage.records import ADDED, SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from arbitrage.plan import Lane, ShardState
    from arbitrage.views import View

OF_TEACHERS = ("selected", "candidates", "gates", "scores")
"""Kinds whose rows are of one teacher each."""
NULLABLE = {
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}
STRING = pd.Series(["text"]).dtype
"""What this pandas has for text."""
FACTS = [name for name in SCHEMAS["gates"].names if name not in ("prompt_id", "sample")]


class Asked(NamedTuple):
    """Which rows and columns, in the order in which they are given back; none of the rest: all.

    `teachers` and `arbiters` are names.
    """

    columns: tuple[str, ...]
    languages: frozenset[str] | None = None
    teachers: frozenset[str] | None = None
    arbiters: frozenset[str] | None = None


def schema_of(kind: str, columns: Iterable[str] | None = None) -> pa.Schema:
    """Some columns of a kind, or all: those of its files, then those that are added."""
    every = pa.schema([*SCHEMAS[kind], *ADDED.get(kind, ())])
    return every if columns is None else pa.schema([every.field(name) for name in columns])


class Piece(NamedTuple):
    """One file: whose prompts tell its rows' languages, if they do not themselves, and what all of
    its rows have in common."""

    path: str
    shard: ShardState | None
    told: dict[str, Any]


def pieces(
    view: View,
    kind: str,
    teachers: frozenset[str] | None = None,
    arbiters: frozenset[str] | None = None,
) -> Iterator[Piece]:
    """The current files of a kind, of some teachers and Arbiters by name, shard by shard."""
    there = view.planner.listing.files
    if kind == "selected":
        yield from (Piece(path, None, {}) for path in sorted(view.planner.selected))
    elif kind == "quarantine":
        names = view.store.read_json(MEMO) or {}
        read = (f"quarantine/read/{digest(name.encode())}.parquet" for name in names)
        lost = (quarantine_of(path) for path in sorted(view.planner.selected))
        yield from (Piece(path, None, {}) for path in (*read, *lost) if path in there)
    elif kind == "prompts":
        yield from (Piece(s.path, None, {"shard": s.number}) for s in view.shards)
    elif kind == "routes":
        for shard in view.shards:
            for number, known in enumerate(shard.rounds):
                yield Piece(known.route, shard, {"shard": shard.number, "round": number})
    else:
        for shard in view.shards:
            for lane in view.planner.lanes(shard):
                yield from _of_lane(view, kind, shard, lane, teachers, arbiters)


def _of_lane(
    view: View,
    kind: str,
    shard: ShardState,
    lane: Lane,
    teachers: frozenset[str] | None,
    arbiters: frozenset[str] | None,
) -> Iterator[Piece]:
    found = lane.generate.variant or lane.generate.owner
    told = {"teacher": view.name_of(found), "teacher_fingerprint": found, "shard": shard.number}
    tasks = {"candidates": (lane.generate,), "gates": (lane.gate,), "scores": lane.scores}[kind]
    if teachers is not None and told["teacher"] not in teachers:
        return
    for task in tasks:
        more = {}
        if kind == "scores":
            more["arbiter"] = view.components.arbiter_of(task.owner).name
            if arbiters is not None and more["arbiter"] not in arbiters:
                continue
        if view.planner.is_done(task):
            yield Piece(task.output, shard, told | more)


def stream(view: View, kind: str, asked: Asked) -> Iterator[pa.Table]:
    """The rows of one file after the other, of those files that have any that are asked for.

    Raises StoreError where a file is gone or damaged.
    """
    schema, needed = schema_of(kind, asked.columns), _needed(kind, asked)
    number, prompts = -1, None
    for piece in pieces(view, kind, asked.teachers, asked.arbiters):
        if piece.shard is not None and "language" in needed:
            if number != piece.shard.number:
                number = piece.shard.number
                prompts = columns_of(view.store, piece.shard.path, ["prompt_id", "language"])
            if not _has_any(prompts, asked.languages):
                continue
        columns = _columns(view, kind, piece, needed, prompts)
        table = pa.Table.from_arrays([columns[name] for name in asked.columns], schema=schema)
        kept = _kept(view, kind, asked, columns)
        table = table if kept is None else table.filter(kept)
        if table.num_rows:
            yield table


def _needed(kind: str, asked: Asked) -> set[str]:
    """The columns that must be read or known for those that are asked for."""
    needed, by_teacher = {*asked.columns}, asked.teachers is not None
    needed |= {"language"} if asked.languages is not None or "failed" in needed else set()
    needed |= {"teacher_fingerprint"} if kind == "selected" and by_teacher else set()
    needed |= {*FACTS} if "failed" in needed else set()
    joined = "language" in needed and "language" not in SCHEMAS[kind].names
    return needed | ({"prompt_id"} if joined else set())


def _has_any(prompts: pa.Table, languages: frozenset[str] | None) -> bool:
    return languages is None or not languages.isdisjoint(pc.unique(prompts["language"]).to_pylist())


def _columns(
    view: View, kind: str, piece: Piece, needed: set[str], prompts: pa.Table | None
) -> dict[str, Any]:
    """Everything that is needed of a file, by name."""
    table = columns_of(view.store, piece.path, [*needed])
    columns: dict[str, Any] = {name: table[name] for name in table.column_names}
    for name in needed & piece.told.keys():
        of_type = schema_of(kind).field(name).type
        columns[name] = pa.repeat(pa.scalar(piece.told[name], of_type), table.num_rows)
    if prompts is not None:
        columns["language"] = languages_of(table, prompts)
    if "failed" in needed:
        columns["failed"] = gates.apply(table, columns["language"], view.config.gates)
    return columns


def _kept(view: View, kind: str, asked: Asked, columns: Mapping[str, Any]) -> Any:
    """A mask of the rows that are asked for; none: all. Only products mix teachers in a file."""
    masks = []
    if asked.languages is not None:
        masks.append(pc.is_in(columns["language"], pa.array(sorted(asked.languages), pa.string())))
    if kind == "selected" and asked.teachers is not None:
        masks.append(pc.is_in(columns["teacher_fingerprint"], _prints(view, asked.teachers)))
    return pc.and_(*masks) if len(masks) == 2 else next(iter(masks), None)


def _prints(view: View, names: Collection[str]) -> pa.Array:
    """The fingerprints under which answers of some teachers are known."""
    parts = (*view.components.answering, *view.components.variants)
    found = [part.fingerprint for part in parts if view.name_of(part.fingerprint) in names]
    return pa.array(found, pa.string())


def frame(tables: Iterable[pa.Table], schema: pa.Schema) -> pd.DataFrame:
    """All rows as a table of pandas, whose dtypes do not depend on what is in it: numbers and flags
    that can be null have pandas' own nullable types."""
    table = pa.concat_tables([schema.empty_table(), *tables])
    return pd.DataFrame({field.name: _series(table[field.name], field) for field in schema})


def _series(column: pa.ChunkedArray, field: pa.Field) -> Any:
    dtypes: dict[pa.DataType, Any] = {**NULLABLE} if field.nullable else {}
    if isinstance(STRING, pd.StringDtype):
        dtypes[pa.string()] = STRING
    return column.to_pandas(types_mapper=dtypes.get)
