"""What columns of a table are made into: numbers, flags, conversations, a table of a schema.

Pure Arrow and numpy; knows no teachers, scores or files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.records import MESSAGES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray


def numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """A column of numbers without nulls as integers."""
    found: NDArray[np.int64] = whole(column).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def names_any(lists: pa.ListArray, names: Collection[str]) -> NDArray[np.bool_]:
    """Per list of strings: whether one of these names is in it."""
    found = np.zeros(len(lists), dtype=bool)
    hits = pc.is_in(lists.flatten(), value_set=pa.array(sorted(names), pa.string()))
    found[pc.list_parent_indices(lists).to_numpy()[hits.to_numpy(zero_copy_only=False)]] = True
    return found


def with_answers(messages: pa.ListArray, answers: pa.ChunkedArray) -> pa.ListArray:
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


def table_of(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """The columns (Arrow or plain lists, by name) as a table of a schema."""
    arrays = []
    for column in schema:
        values = columns[column.name]
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        arrays.append(values if isinstance(values, pa.Array) else pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)
