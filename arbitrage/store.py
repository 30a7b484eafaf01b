"""The run directory: its layout, atomic publication, listings, footers, the lock, the event log.

The only module that writes Parquet. Knows what kinds of files there are, not how they are made.
Invariants: a file that has its final name is complete and on disk; a reader at any moment sees
whole files only; one driver at a time holds a run directory, and a dead driver holds nothing.

    run.yaml run.json lock events.jsonl
    prompts/00000.<digest>.parquet             prompts/sources.json
    routes/<router>-<fp>/00000.<key>.parquet
    candidates/<teacher>-<fp>/00000.<key>.parquet
    scores/<arbiter>-<fp>/<teacher>-<fp>/00000.<key>.parquet
    selected/<selector>-<fp>/00000.parquet     selected/latest
    quarantine/<stage>/...
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from arbitrage.errors import LockedError, StoreError
from arbitrage.records import REPEATING, SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOOTER_KEY = b"arbitrage"
TEMPORARY = ".tmp-"
FOOTER_READERS = 8
DIGEST = "{digest}"
DIGEST_HEX = 16
LOCK_TRIES = 10
LOCK_PAUSE_S = 0.1


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

    `folders` maps (parent folder, fingerprint) to the component's folder, both relative.
    """

    files: set[str] = field(default_factory=set)
    folders: dict[tuple[str, str], str] = field(default_factory=dict)

    def folder(self, parent: str, label: str, fingerprint: str) -> str:
        """Where a component lives: found by fingerprint, or `label` if it is new."""
        return self.folders.setdefault((parent, fingerprint), f"{parent}/{label}")


@dataclass(frozen=True)
class Store:
    """One run directory. Cheap to build and to send to another process."""

    root: Path
    compression: str = "zstd"

    def exists(self) -> bool:
        """Whether a run has ever been started here."""
        return (self.root / "run.json").exists()

    def path(self, relative: str) -> Path:
        """The place of a stored file."""
        return self.root / relative

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
            use_dictionary=[leaf for leaf in _leaves(schema) if REPEATING & set(leaf.split("."))],
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
        target = self.path(relative)
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StoreError(f"{target} cannot be written: {error.strerror or error}") from error

    def sync_folders(self) -> None:
        """Makes every name so far survive a power cut; file contents already do.

        Once at the end is enough: a name that a power cut takes away is only made again.
        """
        for folder in [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]:
            _sync_folder(folder)

    def point_latest(self, folder: str) -> None:
        """Makes `selected/latest` lead to the current selector's folder, in one step."""
        link = self.root / "selected" / "latest"
        name = Path(folder).name
        if link.is_symlink() and link.readlink() == Path(name):
            return
        temporary = link.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            temporary.symlink_to(name)
            temporary.rename(link)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StoreError(f"{link} cannot be set: {error.strerror or error}") from error

    def read(self, relative: str, columns: list[str] | None = None) -> Content:
        """A whole file, or some columns of it, with its kind's schema: a nullable column that an
        earlier version did not have is null. Raises StoreError with the file's name when it is
        damaged or gone, or has other columns."""
        try:
            data = self.path(relative).read_bytes()
            # half the cost of pq.read_table
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            table = _as_kind(file.read(columns, use_threads=False), relative, columns)
            note = _note(table.schema.metadata)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"{self.path(relative)} cannot be read: {error}") from error
        return Content(table, hashlib.sha256(data).hexdigest(), note)

    def footer(self, relative: str) -> dict[str, Any]:
        """A file's own account of itself, with its number of `rows`; reads no data."""
        try:
            metadata = pq.read_metadata(self.path(relative))
            note = _note(metadata.metadata)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"{self.path(relative)} cannot be read: {error}") from error
        return {**note, "rows": metadata.num_rows}

    def footers(self, relatives: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The footers of many files, by path."""
        names = list(relatives)
        with ThreadPoolExecutor(FOOTER_READERS) as pool:
            return dict(zip(names, pool.map(self.footer, names), strict=True))

    def read_json(self, relative: str) -> Any:
        """A small JSON file, or none if it is not there; StoreError if it is damaged."""
        try:
            return json.loads(self.path(relative).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path(relative)} cannot be read: {error}") from error

    def listing(self) -> Listing:
        """One directory listing per component."""
        found = Listing()
        for kind in ("prompts", "quarantine"):
            self._list_files(kind, found, deep=kind == "quarantine")
        for kind in ("routes", "candidates", "selected"):
            self._list_components(kind, found)
        for arbiter in self._list_components("scores", found):
            self._list_components(arbiter, found)
        return found

    def _list_components(self, parent: str, found: Listing) -> list[str]:
        folders = []
        for entry in self._entries(parent):
            name, dash, fingerprint = entry.name.rpartition("-")
            if dash and name and entry.is_dir(follow_symlinks=False):
                relative = f"{parent}/{entry.name}"
                found.folders[parent, fingerprint] = relative
                folders.append(relative)
                self._list_files(relative, found)
        return folders

    def _list_files(self, folder: str, found: Listing, *, deep: bool = False) -> None:
        for entry in self._entries(folder):
            relative = f"{folder}/{entry.name}"
            if deep and entry.is_dir(follow_symlinks=False):
                self._list_files(relative, found, deep=True)
            elif entry.name.endswith(".parquet"):
                found.files.add(relative)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path(folder)) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{self.path(folder)} cannot be listed: {error.strerror}") from error

    def files_in(self, folder: str) -> list[str]:
        """The data files of one folder."""
        found = Listing()
        self._list_files(folder, found)
        return list(found.files)

    def sweep(self) -> int:
        """Removes what killed processes left half-written; only for the holder of the lock."""
        leftovers = [
            path
            for path in self.root.rglob(f"{TEMPORARY}*")
            if path.is_symlink() or not path.is_dir()
        ]
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def append(self, relative: str, data: bytes) -> None:
        """Adds to a small file of lines; on disk when it comes back. Raises StoreError."""
        target = self.path(relative)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror or error}") from error

    def appended(self, relative: str) -> bytes:
        """All that was appended; nothing where nothing was."""
        try:
            return self.path(relative).read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StoreError(f"{self.path(relative)} cannot be read: {error}") from error

    def remove(self, relative: str) -> None:
        """Removes a file, or what was appended, if it is there."""
        self.path(relative).unlink(missing_ok=True)

    def append_event(self, event: str, **facts: Any) -> None:
        """Adds one line to the run's diary; only the driver writes it."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts})
        with (self.root / "events.jsonl").open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
                line = f"\n{line}" if torn else line
            file.write(line.encode() + b"\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """The diary; a line torn by a kill is passed over."""
        try:
            lines = (self.root / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    @contextlib.contextmanager
    def lock(self) -> Iterator[str]:
        """Holds the run directory; the operating system lets go of it when the process dies.

        Gives a token by which the driver's replicas know whether it still is the holder. Raises
        LockedError, which names the holder.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{self.root} cannot be made: {error.strerror}") from error
        with file:
            if not _acquire(file):
                raise LockedError(
                    f"{self.root} is in use by {self.holder() or 'another driver'}; wait for it, "
                    "or stop it"
                )
            file.truncate(0)
            token = secrets.token_hex(8)
            json.dump({"host": socket.gethostname(), "pid": os.getpid(), "token": token}, file)
            file.flush()
            yield token

    def holder(self) -> str | None:
        """Who took the lock last, in words."""
        held = self._lock_note()
        return f"process {held['pid']} on {held['host']}" if "pid" in held else None

    def check_holder(self, token: str) -> None:
        """Raises StoreError when another driver has taken the run directory since.

        The replicas of a driver that was killed live a moment longer than it, and must not read on.
        """
        if self._lock_note().get("token") != token:
            raise StoreError(f"another driver has taken over {self.root}")

    def _lock_note(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            note = json.loads((self.root / "lock").read_text(encoding="utf-8"))
            return note if isinstance(note, dict) else {}
        return {}

    def is_held(self) -> bool:
        """Whether a living driver holds the run directory now."""
        try:
            with (self.root / "lock").open("r", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def shard_number(relative: str) -> int:
    """The shard that a data file belongs to."""
    return int(relative.rsplit("/", 1)[-1].split(".", 1)[0])


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's dotted names of all leaf columns."""
    leaves: list[str] = []

    def walk(kind: pa.DataType, prefix: str) -> None:
        if pa.types.is_list(kind):
            walk(kind.value_type, f"{prefix}.list.element")
        elif pa.types.is_struct(kind):
            for child in kind:
                walk(child.type, f"{prefix}.{child.name}")
        else:
            leaves.append(prefix)

    for column in schema:
        walk(column.type, column.name)
    return leaves


def _as_kind(table: pa.Table, relative: str, columns: list[str] | None) -> pa.Table:
    """The table in its kind's schema; ValueError where more than nullable columns are missing."""
    kind = relative.split("/", 1)[0]
    schema = pa.schema([SCHEMAS[kind].field(name) for name in columns or SCHEMAS[kind].names])
    for place, column in enumerate(schema):
        if column.nullable and column.name not in table.column_names:
            nulls = pa.nulls(table.num_rows, column.type)
            table = table.add_column(min(place, table.num_columns), column, nulls)
    if not table.schema.equals(schema):
        raise ValueError(f"its columns are not those of {kind} files; another version wrote it")
    return table


def _note(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((metadata or {}).get(FOOTER_KEY, b"{}"))
    return note


def _acquire(file: IO[str]) -> bool:
    """Tries for a moment: `status` looks at the lock by holding it for an instant."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False


def _sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
