"""Reads prompt sets: JSONL, CSV, TSV, Parquet files and Hugging Face datasets, one row at a time.

Knows nothing of prompts: it yields rows as they are, or the reason why one could not be read. A bad
row never ends the reading, and never disappears.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import os
import re
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from arbitrage.choices import Columns, names_in
from arbitrage.config import PromptsConfig, SourceConfig
from arbitrage.errors import InputError
from arbitrage.identity import fingerprint
from arbitrage.languages import parse_tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
}
SAVED_DATASET = ("dataset_info.json", "dataset_dict.json")
PARQUET_BATCH_ROWS = 1024
MAX_CSV_FIELD_CHARS = 2**30


class Source(NamedTuple):
    """One file or dataset.

    `name` is relative to the config, so that a project can move; `place` is where to open it.
    `language` is set where it holds for every row.
    """

    name: str
    place: str
    format: str
    config: SourceConfig
    columns: Columns
    language: str | None


class Row(NamedTuple):
    """One row as read; where it could not be read `fields` is none and `reason` says why.

    `line` is 1-based: the line of a text file (where the row ends), else the row's number.
    """

    line: int
    fields: dict[str, Any] | None
    reason: str = ""
    detail: str = ""
    raw: str = ""


def expand(config: PromptsConfig) -> list[Source]:
    """All sources in reading order. Raises InputError where a path matches nothing."""
    found: list[Source] = []
    for item in config.sources:
        columns = item.columns or config.columns
        if item.dataset is not None:
            name = "/".join(filter(None, (_name(item.dataset, item), item.subset, item.split)))
            found.append(Source(name, item.dataset, "dataset", item, columns, item.language))
        else:
            found += _expand_path(str(item.path), item, columns)
    return list({source.name: source for source in found}.values())


def _expand_path(pattern: str, item: SourceConfig, columns: Columns) -> list[Source]:
    folder = Path(pattern)
    if any((folder / name).exists() for name in SAVED_DATASET):
        saved = item.model_copy(update={"dataset": pattern, "path": None})
        return [Source(_name(pattern, item), pattern, "dataset", saved, columns, item.language)]
    if folder.is_dir():
        paths = sorted(p for p in folder.rglob("*") if _format(p) and p.is_file())
    elif folder.is_file():
        paths = [folder]
    else:
        names = glob.glob(pattern.replace("{language}", "*"), recursive=True)  # noqa: PTH207
        paths = sorted(Path(name) for name in names)
        paths = [path for path in paths if path.is_file()]
    if not paths:
        raise InputError(
            f"no prompt file matches {pattern}; relative paths start at the config file's folder, "
            f"and folders are searched for {' '.join(SUFFIXES)} (also .gz)"
        )
    return [_file_source(path, pattern, item, columns) for path in paths]


def _file_source(path: Path, pattern: str, item: SourceConfig, columns: Columns) -> Source:
    kind = _format(path) if item.format == "auto" else item.format
    if not kind:
        raise InputError(f"{path}: its format is not known by its ending; set `format:`")
    if not str(path).isprintable() and not _is_utf8(str(path)):
        raise InputError(f"{str(path)!r}: the name is no UTF-8; rename the file")
    language = item.language or _language_in(path, pattern)
    return Source(_name(str(path), item), str(path), kind, item, columns, language)


def _name(place: str, item: SourceConfig) -> str:
    """What a source is called in the store: its path from the config file's folder."""
    if item.folder is None or not Path(place).is_absolute():
        return place
    return Path(os.path.relpath(place, item.folder)).as_posix()


def _format(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    return SUFFIXES.get(plain.suffix.lower(), "")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _language_in(path: Path, pattern: str) -> str | None:
    if "{language}" not in pattern:
        return None
    before, after = (_regex(part) for part in pattern.split("{language}", 1))
    match = re.fullmatch(f"{before}([^/]+?){after}", str(path))
    code = parse_tag(match[1]) if match else None
    if code is None:
        part = match[1] if match else path.name
        raise InputError(f"{path}: {part!r} stands where {{language}} is, but is no known language")
    return code


def _regex(pattern: str) -> str:
    """What `glob` would match with this part of a pattern."""
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    for place in range(1, len(parts), 2):
        one_of = parts[place].replace("\\", "\\\\").replace("[!", "[^")
        parts[place] = wild.get(parts[place], one_of)
    parts[::2] = map(re.escape, parts[::2])
    return "".join(parts)


def signature(source: Source) -> str:
    """Changes whenever the source may hold other rows, or is read differently.

    Files: size and modification time. Datasets: their own fingerprint.
    """
    reading = source.config.model_dump(mode="json", exclude={"path", "dataset", "folder"})
    told = [source.format, reading, source.columns.model_dump()]
    folder = Path(source.place)
    if source.format == "dataset" and not folder.is_dir():
        return fingerprint([*told, str(_dataset(source)._fingerprint)])
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    states = [
        [path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
    ]
    return fingerprint([*told, states])


def check(source: Source) -> None:
    """Opens a source and looks at its columns. Raises InputError with one sentence."""
    known = _known_columns(source)
    if known is None:
        return
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice:
        raise InputError(f"{source.name} has two columns of the name {twice[0]!r}; rename one")
    prompt = names_in(source.columns.prompt)
    if not any(name in known for name in (*names_in(source.columns.messages), *prompt)):
        raise InputError(
            f"{source.name} has no column {' or '.join(map(repr, prompt))}; it has "
            f"{', '.join(map(repr, known)) or 'none'}: map yours with `columns: {{prompt: ...}}`"
        )


def _known_columns(source: Source) -> list[str] | None:
    """Column names where the format has them; none for JSON lines, which differ row by row."""
    try:
        if source.format == "parquet":
            return list(pq.read_schema(source.place).names)
        if source.format == "dataset":
            return list(_dataset(source).column_names)
        with _open(source.place) as file:
            if source.format == "jsonl":
                file.read(1)
                return None
            return list(source.config.names or next(_csv_reader(file, source), []))
    except (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error) as error:
        problem = " ".join(str(error).split())
        raise InputError(f"{source.name} cannot be read as {source.format}: {problem}") from error


def rows(source: Source, only: str | None = None) -> Iterator[Row]:
    """Every row of a source. `only` names the one column that the caller needs, a hint.

    A source that breaks in the middle gives one last row whose reason is `unreadable`.
    """
    line = 0
    try:
        for row in _READERS[source.format](source, only):
            line = row.line
            yield row
    except (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error) as error:
        yield Row(line + 1, None, "unreadable", f"the rest cannot be read: {error}")


def _jsonl(source: Source, only: str | None) -> Iterator[Row]:
    del only
    with _open(source.place) as file:
        for line, data in enumerate(file, start=1):
            data = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
            if data.strip():
                yield _json_row(line, data)


def _json_row(line: int, data: bytes) -> Row:
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(line, None, "invalid_utf8", str(error), data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        return Row(line, None, "malformed_json", str(error), data.decode("utf-8", "replace"))
    if not isinstance(value, dict):
        detail = f"a JSON object is wanted, this is {type(value).__name__}"
        return Row(line, None, "not_an_object", detail, data.decode("utf-8", "replace"))
    return Row(line, value)


def _table_text(source: Source, only: str | None) -> Iterator[Row]:
    del only
    with _open(source.place) as file:
        reader = _csv_reader(file, source)
        names: Sequence[str] = source.config.names or next(reader, [])
        for values in _records(reader):
            if not values:
                continue
            if isinstance(values, csv.Error):
                yield Row(reader.line_num, None, "malformed_csv", str(values))
            elif len(values) == len(names):
                yield Row(reader.line_num, dict(zip(names, values, strict=True)))
            else:
                detail = f"{len(values)} fields where {len(names)} are wanted"
                yield Row(reader.line_num, None, "malformed_csv", detail, ",".join(values))


def _records(reader: Any) -> Iterator[list[str] | csv.Error]:
    """All records; one that is no CSV is an error, after which the reading goes on."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield error


def _csv_reader(file: IO[bytes], source: Source) -> Any:
    """Bytes that are no UTF-8 become lone surrogates, which are found when the row is checked."""
    csv.field_size_limit(MAX_CSV_FIELD_CHARS)
    lines = (line.decode("utf-8", "surrogateescape") for line in file)
    first = (
        line.removeprefix("\ufeff") if number == 0 else line for number, line in enumerate(lines)
    )
    return csv.reader(
        first,
        delimiter="\t" if source.format == "tsv" else ",",
        quoting=csv.QUOTE_MINIMAL if source.config.quoting else csv.QUOTE_NONE,
        strict=True,
    )


def _open(name: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(name)) if name.endswith(".gz") else Path(name).open("rb")


def _parquet(source: Source, only: str | None) -> Iterator[Row]:
    line = 0
    with pq.ParquetFile(source.place) as file:
        columns = [only] if only in file.schema_arrow.names else None
        for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=columns):
            for row in _batch_rows(batch, line):
                line = row.line
                yield row


def _batch_rows(batch: pa.RecordBatch, before: int) -> Iterator[Row]:
    try:
        for offset, fields in enumerate(batch.to_pylist(), start=1):
            yield Row(before + offset, fields)
    except (ValueError, ArithmeticError):  # invalid UTF-8, a date beyond Python's
        for offset in range(batch.num_rows):
            yield _single_row(batch.slice(offset, 1), before + offset + 1)


def _single_row(batch: pa.RecordBatch, line: int) -> Row:
    try:
        return Row(line, batch.to_pylist()[0])
    except UnicodeDecodeError as error:
        raw = error.object.decode("utf-8", "replace")
        return Row(line, None, "invalid_utf8", str(error), raw)
    except (ValueError, ArithmeticError) as error:
        return Row(line, None, "unreadable_value", str(error), _in_words(batch))


def _in_words(batch: pa.RecordBatch) -> str:
    """Arrow's own words for values that Python cannot hold."""
    told = (" ".join(str(column).split()) for column in batch.columns)
    return ", ".join(
        f"{name}: {value}" for name, value in zip(batch.schema.names, told, strict=True)
    )


def _rows_of_dataset(source: Source, only: str | None) -> Iterator[Row]:
    dataset = _dataset(source)
    if only in dataset.column_names:
        dataset = dataset.select_columns([only])
    line = 0
    for table in dataset.with_format("arrow").iter(PARQUET_BATCH_ROWS):
        for batch in table.combine_chunks().to_batches():
            for row in _batch_rows(batch, line):
                line = row.line
                yield row


def _dataset(source: Source) -> Any:
    """Loads a dataset by `datasets`; the hub's files are cached by it."""
    import datasets

    config = source.config
    name = str(config.dataset)
    datasets.disable_progress_bars()
    try:
        if Path(name).is_dir() and any((Path(name) / item).exists() for item in SAVED_DATASET):
            loaded = datasets.load_from_disk(name)
            return loaded[config.split] if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(
            name, config.subset, split=config.split, revision=config.revision
        )
    except (OSError, ValueError, KeyError, ConnectionError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:300]
        raise InputError(
            f"dataset {name} (split {config.split}) cannot be loaded: {problem}"
        ) from error


_READERS = {
    "jsonl": _jsonl,
    "csv": _table_text,
    "tsv": _table_text,
    "parquet": _parquet,
    "dataset": _rows_of_dataset,
}
