"""The run directory: its layout, publication, listings, footers; in a folder or an object store.

The only module that writes Parquet. Knows what kinds of files there are, not how they are made.
Invariants: a file that has its final name is complete and on disk; a reader at any moment sees
whole files only; one driver at a time holds a run directory, and a dead driver holds nothing.

    run.yaml run.json lock lease.json claims/ events.jsonl
    prompts/00000.<digest>.parquet             prompts/sources.json
    routes/<router>-<fp>/00000.<key>.parquet
    candidates/<teacher>-<fp>/00000.<key>.parquet
    gates/gates-<fp>/<teacher>-<fp>/00000.<key>.parquet
    scores/<arbiter>-<fp>/<teacher>-<fp>/00000.<key>.parquet
    judgements/<judge>-<fp>/<pair>-<fp>/00000.<key>.parquet
    selected/<selector>-<fp>/00000.parquet     selected/latest
    quarantine/<stage>/...
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from arbitrage.diary import DIARY, Diary, parsed
from arbitrage.errors import StoreError
from arbitrage.files import files_of, patiently, reason_of
from arbitrage.lock import CLAIMS, NOTE, Lock, holder_of
from arbitrage.records import REPEATING, RETIRED, SCHEMAS, leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from arbitrage.files import Entry, LocalFiles, ObjectFiles
    from arbitrage.lock import Held, Times

T = TypeVar("T")

FOOTER_KEY = b"arbitrage"
LATEST = "selected/latest"
JOURNAL = ".journal-"
TAIL_BYTES = 65_536
FOOTER_READERS = 8
DIGEST = "{digest}"
DIGEST_HEX = 16


class Published(NamedTuple):
    """A file that has just become visible; `digest` is the SHA-256 of its bytes."""

    path: str
    digest: str
    rows: int
    size_bytes: int


class Content(NamedTuple):
    """A whole file as read; `digest` is the SHA-256 of the bytes that `table` came from."""

    table: pa.Table
    digest: str
    footer: dict[str, Any]


@dataclass
class Listing:
    """What is there: relative paths of all data files, and the folder of each component.

    `folders` maps (parent folder, fingerprint) to the component's folder, both relative;
    `journals` are those of files being made.
    """

    files: set[str] = field(default_factory=set)
    journals: set[str] = field(default_factory=set)
    folders: dict[tuple[str, str], str] = field(default_factory=dict)

    def folder(self, parent: str, label: str, fingerprint: str) -> str:
        """Where a component lives: found by fingerprint, or `label` if it is new."""
        return self.folders.setdefault((parent, fingerprint), f"{parent}/{label}")


@dataclass(frozen=True)
class Store:
    """One run. Cheap to build and to send to another process.

    `root` is a folder, or the address of an object store. What fails and may pass is tried again
    for `patience_s` seconds. Raises UsageError for an address that no run can live at.
    """

    root: Path | str
    compression: str = "zstd"
    patience_s: float = 0.0
    files: LocalFiles | ObjectFiles = field(init=False, compare=False, repr=False)
    _diary: Diary = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        files = files_of(self.root)
        object.__setattr__(self, "files", files)
        object.__setattr__(self, "_diary", Diary(files, self.patience_s))

    def exists(self) -> bool:
        """Whether a run has ever been started here."""
        return self.has("run.json")

    def path(self, relative: str) -> Path:
        """The place of a file of a run that lives in a folder."""
        return Path(self.address(relative))

    def address(self, relative: str = "") -> str:
        """Where a file, or the run, is, as pandas and pyarrow take it."""
        return self.files.address(relative)

    def _done(self, what: str, relative: str, action: Callable[[], T]) -> T:
        """The result of an action on the files, tried again while its error may pass.

        Raises FileNotFoundError as it is, for the caller to judge, and StoreError for the rest.
        """
        try:
            return patiently(action, self.patience_s)
        except FileNotFoundError:
            raise
        except OSError as error:
            place = self.address(relative)
            raise StoreError(f"{place} cannot be {what}: {reason_of(error)}") from error

    def has(self, relative: str) -> bool:
        """Whether a file is there."""
        return self.size(relative) is not None

    def size(self, relative: str) -> int | None:
        """A file's bytes; none where there is no such file."""
        return self._done("read", relative, lambda: self.files.size(relative))

    def read_bytes(self, relative: str) -> bytes:
        """A whole file. Raises StoreError where there is none."""
        return self._there("read", relative, lambda: self.files.read(relative))

    def remove(self, relative: str) -> None:
        """Removes a file and what was appended to it; one that is gone is no error."""
        self._done("removed", relative, lambda: self.files.remove(relative))

    def names(self, folder: str) -> list[str]:
        """All names directly in a folder, hidden ones too; none where there is no folder."""
        return [entry.name for entry in self._entries(folder)]

    def append(self, relative: str, data: bytes) -> None:
        """Adds to a file that has one writer; what was added survives a power cut."""
        self._there("written", relative, lambda: self.files.append(relative, data))

    def appended(self, relative: str) -> bytes:
        """All that was appended so far; nothing where there is no such file."""
        return self._there("read", relative, lambda: self.files.appended(relative))

    def _there(self, what: str, relative: str, action: Callable[[], T]) -> T:
        """As `_done`, and a file that is not there is a StoreError too."""
        try:
            return self._done(what, relative, action)
        except FileNotFoundError as error:
            place = self.address(relative)
            raise StoreError(f"{place} cannot be {what}: {reason_of(error)}") from error

    def publish(self, relative: str, table: pa.Table, footer: dict[str, Any]) -> Published:
        """Writes one Parquet file so that it is either there whole or not at all.

        The kind, and with it the schema, is the first part of the path; `{digest}` in the path
        becomes the start of the content's SHA-256. Raises StoreError when the
        table does not have that schema or the disk does not take it.
        """
        kind = relative.split("/", 1)[0]
        schema = SCHEMAS[kind]
        if not table.schema.equals(schema):
            raise StoreError(f"{relative}: these columns are not those of {kind} files")
        note = json.dumps({"kind": kind, **footer}, sort_keys=True).encode()
        buffer = io.BytesIO()
        with pq.ParquetWriter(
            buffer,
            schema.with_metadata({FOOTER_KEY: note}),
            compression=self.compression,
            use_dictionary=[leaf for leaf in leaves(schema) if REPEATING & set(leaf.split("."))],
            write_statistics=False,
            write_page_checksum=True,
        ) as writer:
            if table.num_rows:  # an empty row group is more than `datasets` can read
                writer.write_table(table.replace_schema_metadata({FOOTER_KEY: note}))
        data = buffer.getbuffer()
        digest = hashlib.sha256(data).hexdigest()
        relative = relative.replace(DIGEST, digest[:DIGEST_HEX])
        self._replace(relative, data)
        return Published(relative, digest, table.num_rows, len(data))

    def write_text(self, relative: str, text: str) -> None:
        """Replaces a small text file in one step."""
        self._replace(relative, text.encode())

    def _replace(self, relative: str, data: bytes | memoryview) -> None:
        self._there("written", relative, lambda: self.files.write(relative, data))

    def sync_folders(self) -> None:
        """Makes every name so far survive a power cut; file contents already do.

        Once at the end is enough: a name that a power cut takes away is only made again.
        """
        self._there("written", "", self.files.sync)

    def point_latest(self, folder: str) -> None:
        """Makes `selected/latest` lead to the current selector's folder, in one step."""
        name = folder.rpartition("/")[2]
        self._there("set", LATEST, lambda: self.files.point(LATEST, name))

    def latest(self) -> str | None:
        """The folder that `selected/latest` leads to, if any."""
        name = self._done("read", LATEST, lambda: self.files.pointed(LATEST))
        return f"selected/{name}" if name else None

    def read(self, relative: str, columns: list[str] | None = None) -> Content:
        """A whole file, or some columns of it, with its kind's schema: a nullable column that an
        earlier version did not have is null, and one that has moved elsewhere is left out.

        Raises StoreError with the file's name when it is damaged or gone, or has other columns."""
        data = self.read_bytes(relative)
        try:
            # half the cost of pq.read_table
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            table = as_kind(file.read(columns, use_threads=False), relative, columns)
            note = _note(table.schema.metadata)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"{self.address(relative)} cannot be read: {error}") from error
        return Content(table, hashlib.sha256(data).hexdigest(), note)

    def footer(self, relative: str) -> dict[str, Any]:
        """A file's own account of itself, with its number of `rows`; reads no data."""
        tail = self._there("read", relative, lambda: self._metadata_of(relative))
        try:
            metadata = pq.read_metadata(pa.BufferReader(tail))
            note = _note(metadata.metadata)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"{self.address(relative)} cannot be read: {error}") from error
        return {**note, "rows": metadata.num_rows}

    def _metadata_of(self, relative: str) -> bytes:
        """The end of a Parquet file with all of its metadata, of which the last bytes tell the
        length; mostly one read."""
        tail = self.files.tail(relative, TAIL_BYTES)
        length = int.from_bytes(tail[-8:-4], "little") + 8
        return tail if length <= len(tail) else self.files.tail(relative, length)

    def footers(self, relatives: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The footers of many files, by path."""
        names = list(relatives)
        with ThreadPoolExecutor(FOOTER_READERS) as pool:
            return dict(zip(names, pool.map(self.footer, names), strict=True))

    def read_json(self, relative: str) -> Any:
        """A small JSON file, or none if it is not there; StoreError if it is damaged."""
        try:
            data = self._done("read", relative, lambda: self.files.read(relative))
            return json.loads(data)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{self.address(relative)} cannot be read: {error}") from error

    def listing(self) -> Listing:
        """One directory listing per component."""
        found = Listing()
        for kind in ("prompts", "quarantine"):
            self._list_files(kind, found, deep=kind == "quarantine")
        for kind in ("routes", "candidates", "selected"):
            self._list_components(kind, found)
        for kind in ("gates", "scores", "judgements"):
            for judge in self._list_components(kind, found):
                self._list_components(judge, found)
        return found

    def _list_components(self, parent: str, found: Listing) -> list[str]:
        folders = []
        for entry in self._entries(parent):
            name, dash, fingerprint = entry.name.rpartition("-")
            if dash and name and entry.is_folder:
                relative = f"{parent}/{entry.name}"
                found.folders[parent, fingerprint] = relative
                folders.append(relative)
                self._list_files(relative, found)
        return folders

    def _list_files(self, folder: str, found: Listing, *, deep: bool = False) -> None:
        for entry in self._entries(folder):
            relative = f"{folder}/{entry.name}"
            if deep and entry.is_folder:
                self._list_files(relative, found, deep=True)
            elif entry.name.endswith(".parquet"):
                found.files.add(relative)
            elif entry.name.startswith(JOURNAL):
                found.journals.add(relative)

    def _entries(self, folder: str) -> list[Entry]:
        return self._done("listed", folder, lambda: self.files.entries(folder))

    def files_in(self, folder: str) -> list[str]:
        """The data files of one folder."""
        found = Listing()
        self._list_files(folder, found)
        return list(found.files)

    def sweep(self) -> int:
        """Removes what killed processes left half-written; only for the holder of the lock."""
        for claim in self.names(CLAIMS):
            self.remove(f"{CLAIMS}/{claim}")
        return self._there("removed", "", self.files.sweep)

    def append_event(self, event: str, **facts: Any) -> None:
        """Adds one line to the run's diary; only the driver writes it. Never ends a run."""
        self._diary.add(event, facts)

    def flush_events(self) -> None:
        """Writes the events that an object store has not been told yet."""
        self._diary.flush()

    def events(self) -> Iterator[dict[str, Any]]:
        """The diary; a line torn by a kill is passed over."""
        return parsed(self.appended(DIARY))

    @contextlib.contextmanager
    def lock(self, times: Times | None = None) -> Iterator[Held]:
        """Holds the run; see `lock`. Gives what the driver knows by whether it still holds it.

        Raises LockedError, which names the holder.
        """
        with Lock(self.files, times).hold() as held:
            try:
                yield held
            finally:
                self.flush_events()

    def holder(self) -> str | None:
        """Who took the lock last, in words."""
        return holder_of(self._done("read", NOTE, Lock(self.files).note))

    def check_holder(self, token: str) -> None:
        """Raises StoreError when another driver has taken the run since: replicas of a killed one
        live a moment longer than it, and must not read on."""
        if self._done("read", NOTE, Lock(self.files).note).get("token") != token:
            raise StoreError(f"another driver has taken over {self.address()}")

    def is_held(self) -> bool:
        """Whether a living driver holds the run now."""
        return self._done("read", NOTE, Lock(self.files).is_held)


def key_of(relative: str) -> str:
    """What went into a data file, as its name tells."""
    return relative.rsplit("/", 1)[-1].split(".")[1]


def shard_number(relative: str) -> int:
    """The shard that a data file belongs to. Raises StoreError for a name that no run gives."""
    name = relative.rsplit("/", 1)[-1].split(".", 1)[0]
    if not name.isdecimal():
        raise StoreError(f"{relative} is no file of a run; move it elsewhere")
    return int(name)


def as_kind(table: pa.Table, relative: str, columns: list[str] | None) -> pa.Table:
    """The table in its kind's schema; ValueError where more than nullable columns are missing, or
    nullable fields of the structs in lists."""
    kind = relative.split("/", 1)[0]
    schema = pa.schema([SCHEMAS[kind].field(name) for name in columns or SCHEMAS[kind].names])
    table = table.select([n for n in table.column_names if n not in RETIRED.get(kind, ())])
    for place, column in enumerate(schema):
        if column.nullable and column.name not in table.column_names:
            nulls = pa.nulls(table.num_rows, column.type)
            table = table.add_column(min(place, table.num_columns), column, nulls)
        elif column.name in table.column_names and _lacks_fields(
            table[column.name].type, column.type
        ):
            at = table.column_names.index(column.name)
            table = table.set_column(at, column, table[column.name].cast(column.type))
    if not table.schema.equals(schema):
        raise ValueError(f"its columns are not those of {kind} files; another version wrote it")
    return table


def _lacks_fields(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether lists of structs have some of the fields that they should have, and no others."""
    if not all(pa.types.is_list(t) and pa.types.is_struct(t.value_type) for t in (have, want)):
        return False
    wanted = {part.name: part.type for part in want.value_type}
    known = (wanted.get(part.name) == part.type for part in have.value_type)
    return have.value_type.num_fields < len(wanted) and all(known)


def _note(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    return dict(json.loads((metadata or {}).get(FOOTER_KEY, b"{}")))
