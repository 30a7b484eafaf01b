"""Builds the product of one shard: the best completion per prompt, and what was lost and why.

Pure Arrow and numpy: tables in, tables out. Invariants: rows selected + rows quarantined = prompts;
every candidate of a prompt stands in its `candidates` list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.errors import StageError
from arbitrage.records import CANDIDATE_SUMMARY, MESSAGES, QUARANTINE, RAW_CHARS, SELECTED
from arbitrage.selection import SELECTORS, Choice, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arbitrage.components import Components, Teacher


class Part(NamedTuple):
    """One teacher's candidates of a shard with their scores, row by row."""

    teacher: Teacher
    candidates: pa.Table
    scores: pa.Table


@dataclass(frozen=True)
class _Pool:
    """All candidates of a shard in one table, in the order of the arrays of `field`."""

    table: pa.Table
    field: Field
    enforced: NDArray[np.bool_]


def build(
    prompts: pa.Table, parts: list[Part], components: Components, enforced: tuple[str, ...]
) -> tuple[pa.Table, pa.Table]:
    """The SELECTED and QUARANTINE tables of one shard."""
    pool = _pool(prompts, parts, enforced)
    choice = SELECTORS[components.selector.name](pool.field)
    selected = _selected(prompts, parts, components, pool, choice)
    lost = _lost(prompts, pool, choice, components.covered)
    if selected.num_rows + lost.num_rows != prompts.num_rows:
        raise StageError(
            f"{selected.num_rows} selected and {lost.num_rows} lost do not make "
            f"{prompts.num_rows} prompts"
        )
    return selected, lost


def _pool(prompts: pa.Table, parts: list[Part], enforced: tuple[str, ...]) -> _Pool:
    ids = prompts["prompt_id"].combine_chunks()
    tables = [_joined(part, index) for index, part in enumerate(parts)]
    table = pa.concat_tables(tables).combine_chunks() if tables else _joined_schema().empty_table()
    place = pc.index_in(table["prompt_id"], value_set=ids)
    if place.null_count:
        raise StageError("there are candidates for prompts that the shard does not have")
    score = table["score"].combine_chunks().to_numpy(zero_copy_only=False).astype(np.float64)
    stopped = _fails_enforced(table["gates"].combine_chunks(), enforced)
    sound = pc.is_null(table["error"]).to_numpy(zero_copy_only=False)
    field = Field(
        ids.to_pylist(),
        [part.teacher.fingerprint for part in parts],
        _numbers(place),
        _numbers(table["owner"]),
        _numbers(table["sample"]),
        score,
        ~np.isnan(score) & ~stopped & sound,
    )
    return _Pool(table, field, stopped)


def _joined(part: Part, index: int) -> pa.Table:
    """Candidates and scores side by side; they must be about the same rows."""
    for column in ("prompt_id", "sample"):
        if not part.candidates[column].equals(part.scores[column]):
            raise StageError(f"scores of {part.teacher.name} are not those of its candidates")
    table = part.candidates
    for column in ("score", "gates"):
        table = table.append_column(column, part.scores[column])
    error = pc.coalesce(part.candidates["error"], part.scores["error"])
    table = table.set_column(table.schema.get_field_index("error"), "error", error)
    table = table.append_column(
        "teacher", pa.array([part.teacher.name] * table.num_rows, pa.string())
    )
    return table.append_column("owner", pa.array(np.full(table.num_rows, index, np.int64)))


def _joined_schema() -> pa.Schema:
    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("sample", pa.int32()),
            ("score", pa.float64()),
            ("gates", pa.list_(pa.string())),
            ("owner", pa.int64()),
            ("error", pa.string()),
        ]
    )


def _numbers(column: Any) -> NDArray[np.int64]:
    chunk = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    numbers: NDArray[np.int64] = chunk.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _fails_enforced(gates: pa.ListArray, enforced: tuple[str, ...]) -> NDArray[np.bool_]:
    """Per candidate: whether one of the gates that it fails is enforced."""
    fails = np.zeros(len(gates), dtype=bool)
    hits = pc.is_in(gates.flatten(), value_set=pa.array(enforced, pa.string()))
    fails[pc.list_parent_indices(gates).to_numpy()[hits.to_numpy(zero_copy_only=False)]] = True
    return fails


def _selected(
    prompts: pa.Table, parts: list[Part], components: Components, pool: _Pool, choice: Choice
) -> pa.Table:
    rows = np.flatnonzero(choice.chosen)
    if not len(rows):
        return SELECTED.empty_table()
    winners = choice.order[choice.starts[:-1][rows]]
    asked = prompts.take(pa.array(rows))
    won = pool.table.take(pa.array(winners))
    owners = pool.field.teacher[winners]
    columns: dict[str, Any] = {
        "messages": _with_answers(asked["messages"].combine_chunks(), won["completion"]),
        "family": [components.families[code] for code in asked["language"].to_pylist()],
        "reward": won["score"],
        "margin": pa.array(choice.margin[rows], from_pandas=True),
        "candidates": _summaries(parts, pool, choice).take(pa.array(rows)),
        "sampling": _samplings(parts, owners, _numbers(won["sampling"])),
    }
    for name in ("prompt_id", "user_id", "language", "extra"):
        columns[name] = asked[name]
    for name in ("completion", "reasoning", "sample", "seed"):
        columns[name] = won[name]
    for name in ("finish_reason", "prompt_tokens", "completion_tokens"):
        columns[name] = won[name]
    columns.update(_names(parts, owners, components))
    return _table(columns, SELECTED)


def _names(parts: list[Part], owners: NDArray[np.int64], components: Components) -> dict[str, Any]:
    """Columns that say who made the row."""
    teachers = [part.teacher for part in parts]
    made_by = {
        "teacher": [t.name for t in teachers],
        "model": [t.config.model for t in teachers],
        "revision": [t.config.revision for t in teachers],
        "teacher_fingerprint": [t.fingerprint for t in teachers],
    }
    columns: dict[str, Any] = {
        name: pa.array(values, pa.string()).take(pa.array(owners))
        for name, values in made_by.items()
    }
    columns["arbiter_fingerprint"] = [components.arbiter.fingerprint] * len(owners)
    columns["selector_fingerprint"] = [components.selector.fingerprint] * len(owners)
    columns["run_fingerprint"] = [components.fingerprint] * len(owners)
    return columns


def _samplings(parts: list[Part], owners: Any, groups: Any) -> list[str]:
    """The sampling parameters of each row as JSON."""
    told = [
        [
            json.dumps(group.model_dump(mode="json"), sort_keys=True)
            for group in p.teacher.config.sampling
        ]
        for p in parts
    ]
    return [
        told[owner][group] for owner, group in zip(owners.tolist(), groups.tolist(), strict=True)
    ]


def _with_answers(messages: pa.ListArray, answers: pa.ChunkedArray) -> pa.ListArray:
    """Each conversation with the chosen answer as its last turn."""
    count = len(messages)
    turns = messages.flatten()
    lengths = messages.value_lengths().to_numpy().astype(np.int64)
    ends = np.cumsum(lengths)
    source = np.insert(np.arange(len(turns)), ends, len(turns) + np.arange(count))
    said = pa.StructArray.from_arrays(
        [pa.array(["assistant"] * count, pa.string()), answers.combine_chunks()],
        fields=list(MESSAGES.value_type),
    )
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    joined = pa.concat_arrays([turns, said]).take(pa.array(source))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), joined, type=MESSAGES)


def _summaries(parts: list[Part], pool: _Pool, choice: Choice) -> pa.ListArray:
    """For every prompt all its candidates, best first."""
    order = pa.array(choice.order)
    owners = pa.array(pool.field.teacher).take(order)
    table = pool.table.select(["sample", "score", "gates", "error"]).take(order)
    names = pa.array([part.teacher.name for part in parts], pa.string())
    prints = pa.array([part.teacher.fingerprint for part in parts], pa.string())
    values = pa.StructArray.from_arrays(
        [
            names.take(owners),
            prints.take(owners),
            *(table[name].combine_chunks() for name in ("sample", "score", "gates", "error")),
        ],
        fields=list(CANDIDATE_SUMMARY),
    )
    return pa.ListArray.from_arrays(
        pa.array(choice.starts, pa.int32()), values, type=pa.list_(CANDIDATE_SUMMARY)
    )


def _lost(prompts: pa.Table, pool: _Pool, choice: Choice, covered: frozenset[str]) -> pa.Table:
    rows = np.flatnonzero(~choice.chosen)
    asked = prompts.take(pa.array(rows)).to_pylist() if len(rows) else []
    told = [
        _why(pool, choice, int(row), covered=prompt["language"] in covered)
        for row, prompt in zip(rows, asked, strict=True)
    ]
    lost = [
        {
            "stage": "select",
            "reason": reason,
            "detail": detail,
            "raw": prompt["messages"][-1]["content"][:RAW_CHARS],
            **{name: prompt[name] for name in ("prompt_id", "language", "source", "line")},
        }
        for prompt, (reason, detail) in zip(asked, told, strict=True)
    ]
    return pa.Table.from_pylist(lost, QUARANTINE)


NOBODY = {
    False: ("no_teacher", "no teacher of the pool covers its language"),
    True: ("set_aside", "its teachers were set aside; the next run takes them up again"),
}
"""Why there is no candidate, by whether a teacher covers the language."""


def _why(pool: _Pool, choice: Choice, row: int, *, covered: bool) -> tuple[str, str]:
    """Reason and detail for a prompt without an eligible candidate."""
    mine = choice.order[choice.starts[row] : choice.starts[row + 1]]
    if not len(mine):
        return NOBODY[covered]
    names: list[str] = []
    for candidate in pool.table.take(pa.array(mine)).to_pylist():
        problem = candidate["error"] or ", ".join(candidate["gates"]) or "not chosen"
        names.append(f"{candidate['teacher']} #{candidate['sample']}: {problem}")
    gated = bool(pool.enforced[mine].any())
    errors = bool(np.isnan(pool.field.score[mine]).any())
    reason = "gates_and_errors" if gated and errors else "gates" if gated else "errors"
    return reason, "; ".join(names)


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = []
    for column in schema:
        values = columns[column.name]
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        arrays.append(values if isinstance(values, pa.Array) else pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)
