"""A folder of data that `datasets.load_dataset` opens: files by split, and by language if wanted.

Knows no run: it is given plain rows. Invariants: under its final name the folder is there whole or
not at all; what was there before is replaced only if it is an earlier export, and only at the end;
the same rows in the same order give the same bytes.

    README.md export.json data/train-00000-of-00002.parquet
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from arbitrage.errors import StoreError, UsageError
from arbitrage.exports import JSONL, line_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CARD, PAPER, DATA = "README.md", "export.json", "data"
KIND = "arbitrage export"
FILE_ROWS = 250_000
"""Rows of a file, where nothing else is said."""
FILE_CHARACTERS = 200_000_000
"""A file that holds more text is ended; about so many bytes of JSON."""
GROUP_CHARACTERS, GROUP_ROWS = 2_000_000, 2_000
"""What is gathered before it is written: bounded for each open file."""


@dataclass(frozen=True)
class DataFile:
    """A finished file, relative to the folder."""

    path: str
    split: str
    language: str | None
    rows: int
    size_bytes: int
    sha256: str


@dataclass
class _Open:
    """The files of one split, of one language or of all; the last one is open."""

    stem: str
    split: str
    language: str | None
    rows: list[int] = field(default_factory=list)
    characters: int = 0
    waiting: list[Mapping[str, Any]] = field(default_factory=list)
    gathered: int = 0
    writer: Any = None
    stream: IO[bytes] | None = None


@dataclass
class DataFolder:
    """A folder in the making. `file_rows` and `FILE_CHARACTERS` say where a file ends."""

    place: Path
    schema: pa.Schema
    kind: str
    file_rows: int
    per_language: bool = False
    _open: dict[tuple[str, str], _Open] = field(default_factory=dict, init=False)

    def add(self, split: str, language: str, row: Mapping[str, Any], characters: int) -> None:
        """Takes in a row. Raises OSError."""
        key = (split, language if self.per_language else "")
        files = self._open.get(key) or self._opened(*key)
        if files.rows and (files.rows[-1] >= self.file_rows or files.characters >= FILE_CHARACTERS):
            self._end(files)
        if files.stream is None:
            self._begin(files)
        files.rows[-1] += 1
        files.characters += characters
        files.gathered += characters
        files.waiting.append(row)
        if files.gathered >= GROUP_CHARACTERS or len(files.waiting) >= GROUP_ROWS:
            self._write(files)

    def _opened(self, split: str, language: str) -> _Open:
        stem = f"{DATA}/{language}/{split}" if language else f"{DATA}/{split}"
        (self.place / stem).parent.mkdir(parents=True, exist_ok=True)
        return self._open.setdefault((split, language), _Open(stem, split, language or None))

    def _begin(self, files: _Open) -> None:
        files.stream = self._part(files, len(files.rows)).open("xb")
        files.rows.append(0)
        files.characters = 0
        if self.kind != JSONL:
            files.writer = pq.ParquetWriter(
                files.stream, self.schema, compression="zstd", write_page_checksum=True
            )

    def _part(self, files: _Open, number: int) -> Path:
        return self.place / f"{files.stem}-{number:05d}.part"

    def _write(self, files: _Open) -> None:
        if files.writer is not None:
            files.writer.write_table(pa.Table.from_pylist(files.waiting, self.schema))
        elif files.stream is not None:
            files.stream.write("".join(f"{line_of(row)}\n" for row in files.waiting).encode())
        files.waiting, files.gathered = [], 0

    def _end(self, files: _Open) -> None:
        if files.waiting:
            self._write(files)
        if files.writer is not None:
            files.writer.close()
        if files.stream is not None:
            files.stream.flush()
            os.fsync(files.stream.fileno())
            files.stream.close()
        files.writer = files.stream = None

    def finish(self) -> list[DataFile]:
        """Ends all files and gives them their names, which say how many there are."""
        found = []
        for _, files in sorted(self._open.items()):
            self._end(files)
            for number, rows in enumerate(files.rows):
                path = f"{files.stem}-{number:05d}-of-{len(files.rows):05d}.{self.kind}"
                target = self._part(files, number).rename(self.place / path)
                size, digest = target.stat().st_size, _sha256(target)
                found.append(DataFile(path, files.split, files.language, rows, size, digest))
        return found

    def write_papers(self, card: str, told: Mapping[str, Any], files: list[DataFile]) -> None:
        """The card, and what was exported with a digest of every file."""
        _write_text(self.place / CARD, card)
        listed = [{k: v for k, v in asdict(one).items() if v is not None} for one in files]
        digest = hashlib.sha256(card.encode()).hexdigest()
        paper = {"kind": KIND, **told, "files": listed, "card": digest}
        _write_text(self.place / PAPER, json.dumps(paper, indent=1, sort_keys=True) + "\n")
        for folder in [self.place, *(path for path in self.place.rglob("*") if path.is_dir())]:
            _sync(folder)


@contextlib.contextmanager
def replacing(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside the target that takes its name at the end, if all went well.

    Raises UsageError where the target is something else than an earlier export, or has been changed
    since and `overwrite` is not given; StoreError where the disk does not take it.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - a link stays a link
    _check(target, overwrite=overwrite)
    making, aside = (_beside(target, what) for what in ("new", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        making.mkdir()
        yield making
        if target.exists():
            target.rename(aside)
        making.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        if not target.exists() and aside.exists():
            aside.rename(target)
        for leftover in (making, aside):
            shutil.rmtree(leftover, ignore_errors=True)


def _check(target: Path, *, overwrite: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} is there and is no folder; name another one with -o")
    if not target.is_dir() or not any(target.iterdir()):
        return
    paper = _paper_of(target)
    if paper is None:
        raise UsageError(
            f"{target} is there and is no earlier export, so it is left alone; name another folder"
        )
    changed = _changes(target, paper)
    if changed and not overwrite:
        raise UsageError(
            f"{target} has been changed since it was exported ({changed[0]}); name another folder, "
            "or replace all of it with --overwrite"
        )


def _paper_of(target: Path) -> dict[str, Any] | None:
    try:
        told = json.loads((target / PAPER).read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and told.get("kind") == KIND else None


def _changes(target: Path, paper: Mapping[str, Any]) -> list[str]:
    """Files that an earlier export did not make, or not as they are now."""
    sizes = {one["path"]: one["size_bytes"] for one in paper.get("files", [])}
    found = []
    for path in sorted(path for path in target.rglob("*") if not path.is_dir()):
        name = path.relative_to(target).as_posix()
        if name == CARD:
            same = _sha256(path) == paper.get("card")
        else:
            same = name == PAPER or sizes.get(name) == path.stat().st_size
        found += [] if same else [name]
    return found


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{what}-{socket.gethostname()}-{os.getpid()}")


def _sweep(target: Path) -> None:
    """Removes what killed exports of this machine left beside the target; what one had put aside
    comes back if nothing has taken its place."""
    mine = re.compile(
        rf"\.{re.escape(target.name)}\.(new|old)-{re.escape(socket.gethostname())}-(\d+)"
    )
    for path in sorted(target.parent.iterdir()):
        found = mine.fullmatch(path.name)
        if found is None or _lives(int(found[2])):
            continue
        if found[1] == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_text(path: Path, text: str) -> None:
    with path.open("xb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
