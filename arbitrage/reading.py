"""Reads some columns of a stored file, and no other bytes of it: for those who look at a run.

Knows nothing of components. Invariant: a file is seen whole, as it was when it was opened: one that
is replaced meanwhile is read to its end as it was, and on an object store, which cannot do that,
the files that are ever replaced are fetched in one piece.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from arbitrage.errors import StoreError
from arbitrage.files import LocalFiles, patiently, reason_of
from arbitrage.records import SCHEMAS
from arbitrage.store import as_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arbitrage.store import Store

REPLACED = ("selected", "quarantine")
"""Kinds whose files have fixed names; all others never change."""


class Shape(NamedTuple):
    """A file's size, and what its end tells of it."""

    size_bytes: int
    rows: int
    row_groups: int


def columns_of(store: Store, relative: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a file in its kind's schema, in its order; of an older file what it lacks is
    null.

    Raises StoreError where the file is gone or damaged, or of another version.
    """
    kind = relative.split("/", 1)[0]
    wanted = [name for name in SCHEMAS[kind].names if name in columns]

    def read(file: pq.ParquetFile) -> pa.Table:
        table = file.read(wanted, use_threads=False)
        return as_kind(table, relative, wanted) if wanted else table  # rows without columns

    table: pa.Table = _with_file(store, relative, read)
    return table


def shape_of(store: Store, relative: str) -> Shape:
    """How big a file is; reads no data. Raises StoreError as `columns_of` does."""

    def read(file: pq.ParquetFile) -> tuple[int, int]:
        return file.metadata.num_rows, file.num_row_groups

    return Shape(store.size(relative) or 0, *_with_file(store, relative, read))


def _with_file(store: Store, relative: str, read: Callable[[pq.ParquetFile], Any]) -> Any:
    place = store.address(relative)
    try:
        with patiently(lambda: _opened(store, relative), store.patience_s) as source:
            # Buffers ahead would read what stands between the columns that are asked for.
            return read(pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False))
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {reason_of(error)}") from error
    except (ValueError, pa.ArrowException) as error:
        raise StoreError(f"{place} cannot be read: {error}") from error


def _opened(store: Store, relative: str) -> Any:
    """A file to read at any place."""
    if isinstance(store.files, LocalFiles):
        return pa.OSFile(store.address(relative))
    if relative.startswith(REPLACED):
        return pa.BufferReader(store.files.read(relative))
    system, root = _system(store.files.uri)
    return system.open_input_file(f"{root}/{relative}")


@lru_cache(maxsize=8)
def _system(uri: str) -> tuple[Any, str]:
    system, root = fs.FileSystem.from_uri(uri)
    return system, root.rstrip("/")
