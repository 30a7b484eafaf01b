"""Finds files of JSON and JSONL, and reads their rows one at a time; knows nothing of rows.

Invariant: whatever cannot be read is an InputError that names the file and the line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from arbitrage.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUFFIXES = (".jsonl", ".json", ".ndjson")
"""Of the files that are read in a folder; a file that is named itself may end otherwise."""


def files_in(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """Every file that is meant, each once, in the order of their names within a path, and whether
    it was named itself. Folders are searched deeply; a path that is not there may be a pattern.

    Raises InputError where a path leads to no file.
    """
    found: dict[Path, tuple[Path, bool]] = {}
    for path in paths:
        files = _files(path)
        if not files:
            raise InputError(
                f"{path} leads to no file; name files, folders that hold {' or '.join(SUFFIXES)} "
                "files, or a pattern in quotes"
            )
        for file in files:
            found.setdefault(file.resolve(), (file, file == path))
    return list(found.values())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES and one.is_file())
    if path.exists():
        return [path]
    root = Path(path.anchor or ".")
    try:
        matches = sorted(root.glob(str(path.relative_to(path.anchor))))
    except ValueError as error:
        raise InputError(f"{path} is no pattern: {error}") from error
    return [file for match in matches for file in _files(match)]


def place(path: Path, number: int) -> str:
    """Where a row stands, as `rows` numbers them."""
    return f"{path}, row {number}"


def is_list(path: Path) -> bool:
    """Whether a file of text begins as a JSON list does."""
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with their numbers, from 1: of the lines of a JSONL file, of the
    entries of a JSON list. Empty lines are passed over.

    Raises InputError where the file cannot be read, is broken, or holds something else.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, row in _entries(path, file):
                if not isinstance(row, dict):
                    raise InputError(f"{place(path, number)} is no JSON object")
                yield number, row
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: it is no UTF-8 ({error.reason})") from error


def _entries(path: Path, file: IO[str]) -> Iterator[tuple[int, Any]]:
    """Lists are read whole, lines one by one."""
    begun = False
    for number, line in enumerate(file, 1):
        text = line.strip()
        if not text:
            continue
        is_list, begun = text.startswith("[") and not begun, True
        if is_list:
            yield from enumerate(_parsed(path, number, line + file.read()), 1)
            return
        yield number, _parsed(path, number, text)


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place(path, number)} is no JSON ({error}); mend it, or take the line out if it was "
            "cut off"
        ) from error
