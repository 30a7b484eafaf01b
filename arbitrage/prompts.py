"""From rows to prompts: check, identify, find the language, drop duplicates, cut into shards.

Knows nothing of teachers but the languages they cover. Prompt shards are immutable; reading again
after a crash, or after files were added or have grown, publishes only prompts that are not there.
Invariant, per source and in total: rows = accepted + refused; every refused row is in quarantine.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from arbitrage import sources
from arbitrage.choices import names_in
from arbitrage.errors import InputError, StageError
from arbitrage.identity import digest, fingerprint, prompt_id
from arbitrage.languages import Detector, parse_tag
from arbitrage.records import PROMPTS, QUARANTINE, RAW_CHARS, Message
from arbitrage.store import shard_number
from arbitrage.validation import (
    BadRowError,
    check_text,
    declared_language,
    finite,
    first_of,
    messages_of,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.config import PromptsConfig
    from arbitrage.sources import Row, Source
    from arbitrage.store import Store

MEMO = "prompts/sources.json"
CHUNK_ROWS = 512


class Accepted(NamedTuple):
    """A row that is a prompt. `contradiction` is the language that the text seems to be in."""

    id: str
    user_id: str | None
    language: str
    language_source: str
    messages: list[Message]
    extra: str | None
    source: str
    line: int
    contradiction: str | None


class Refused(NamedTuple):
    """A row that is none, and why."""

    reason: str
    detail: str
    source: str
    line: int
    raw: str
    prompt_id: str | None = None
    language: str | None = None


class Shard(NamedTuple):
    """A published prompt shard."""

    number: int
    path: str
    rows: int


@dataclass
class Tally:
    """What one source held: rows = accepted + the sum of refused."""

    signature: str
    rows: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    contradicted: Counter[str] = field(default_factory=Counter)

    def add(self, row: Accepted | Refused) -> None:
        """Counts one row."""
        self.rows += 1
        if isinstance(row, Refused):
            self.refused[row.reason] += 1
            return
        self.accepted += 1
        if row.contradiction:
            self.contradicted[f"{row.language} looks like {row.contradiction}"] += 1


@dataclass(frozen=True)
class PromptSet:
    """The sources of a run as they are now, and which of them have to be read."""

    config: PromptsConfig
    covered: frozenset[str]
    signatures: dict[Source, str]
    unread: tuple[Source, ...]


def find(config: PromptsConfig, covered: frozenset[str], store: Store) -> PromptSet:
    """Compares the sources with what was read before. Raises InputError if there are none."""
    memo = store.read_json(MEMO) or {}
    reading = fingerprint([config.model_dump(mode="json", exclude={"sources"}), sorted(covered)])
    found: dict[Source, str] = {}
    for source in sources.expand(config):
        try:
            found[source] = fingerprint([reading, sources.signature(source)])
        except OSError as error:
            raise InputError(f"{source.name} cannot be read: {error.strerror}") from error
    unread = tuple(s for s, now in found.items() if memo.get(s.name, {}).get("signature") != now)
    return PromptSet(config, covered, found, unread)


def survey(prompt_set: PromptSet, *, strict: bool = False) -> None:
    """Looks over the unread sources before anything is written.

    Raises InputError for an unreadable source, a set without rows, a declared language that no
    teacher covers and, if `strict`, for the first row that would be refused.
    """
    for source in prompt_set.unread:
        sources.check(source)
    if strict:
        _refuse_first_bad_row(prompt_set)
    empty = [source for source in prompt_set.unread if not _look_at_languages(prompt_set, source)]
    if empty and len(empty) == len(prompt_set.signatures):
        names = ", ".join(source.name for source in empty[:3])
        raise InputError(f"the prompt set is empty: there is no row in {names}")


def _refuse_first_bad_row(prompt_set: PromptSet) -> None:
    preparer = _Preparer(prompt_set)
    seen: set[str] = set()
    for source in prompt_set.unread:
        for found in preparer.prepare(source):
            if isinstance(found, Accepted) and found.id in seen:
                above = "the same prompt stands above"
                found = Refused("duplicate", above, source.name, found.line, "")
            if isinstance(found, Refused):
                raise InputError(
                    f"{source.name}, line {found.line}: {found.reason} ({found.detail}); without "
                    "--strict the row goes to quarantine and the run goes on"
                )
            seen.add(found.id)


def _look_at_languages(prompt_set: PromptSet, source: Source) -> int:
    """Rows seen: all of them where a column declares the language, else at most one."""
    column = source.columns.language
    count = 0
    uncovered: Counter[str] = Counter()
    for row in sources.rows(source, only=None if source.language else column):
        count += 1
        declared = source.language or ((row.fields or {}).get(column) if column else None)
        code = parse_tag(declared) if isinstance(declared, str) else None
        if code and code not in prompt_set.covered:
            uncovered[code] += 1
        if source.language or not column:
            break
    if uncovered and prompt_set.config.uncovered == "error":
        told = ", ".join(f"{code} ({n} prompts)" for code, n in uncovered.most_common(5))
        raise InputError(
            f"no teacher covers {told if column and not source.language else source.language}, "
            f"declared in {source.name}; add a teacher for it, or set `prompts: {{uncovered: "
            "quarantine}` to leave such prompts out"
        )
    return count


class _Preparer:
    """Turns rows into prompts or refusals."""

    def __init__(self, prompt_set: PromptSet) -> None:
        self._config = prompt_set.config
        self._covered = prompt_set.covered
        self._detector: Detector | None = None

    @property
    def detector(self) -> Detector:
        """Loaded when first needed: it takes half a second."""
        if self._detector is None:
            self._detector = Detector()
        return self._detector

    def prepare(self, source: Source) -> Iterator[Accepted | Refused]:
        """Checks all rows of a source, in order; duplicates are found later."""
        rows = sources.rows(source)
        while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
            found = [self._check(source, row) for row in chunk]
            if self._config.contradiction != "ignore":
                self._compare_languages(found)
            yield from found

    def _compare_languages(self, found: list[Accepted | Refused]) -> None:
        """Notes, or refuses, the rows whose text is not in the language they declare."""
        rows = [
            (place, row)
            for place, row in enumerate(found)
            if isinstance(row, Accepted) and row.language_source == "declared"
        ]
        if not rows:
            return
        texts = [_asked_text(row.messages) for _, row in rows]
        others = self.detector.contradictions(texts, [row.language for _, row in rows])
        for (place, row), text, other in zip(rows, texts, others, strict=True):
            if other is None:
                continue
            found[place] = row._replace(contradiction=other.language)
            if self._config.contradiction == "quarantine":
                detail = f"declared {row.language}, looks like {other.language}"
                told = (row.source, row.line, text[:RAW_CHARS], row.id, row.language)
                found[place] = Refused("contradicted_language", detail, *told)

    def _check(self, source: Source, row: Row) -> Accepted | Refused:
        if row.fields is None:
            return Refused(row.reason, row.detail, source.name, row.line, row.raw[:RAW_CHARS])
        try:
            return self._accept(source, row.line, row.fields)
        except BadRowError as error:
            raw = json.dumps(row.fields, ensure_ascii=False, default=str)
            return Refused(error.reason, error.detail, source.name, row.line, raw[:RAW_CHARS])

    def _accept(self, source: Source, line: int, fields: dict[str, Any]) -> Accepted:
        columns = source.columns
        named = [names_in(column) for column in (columns.messages, columns.prompt, columns.id)]
        messages = messages_of(fields, *named[:2])
        check_text(messages, self._config.max_chars)
        language, how = self._language(source, fields, messages)
        used = {columns.language}.union(*named)
        extra = {key: value for key, value in fields.items() if key not in used}
        user_id = first_of(fields, named[2])[1]
        return Accepted(
            prompt_id(messages),
            None if user_id is None else storable(str(user_id)),
            language,
            how,
            messages,
            json.dumps(finite(extra), default=str) if extra else None,
            source.name,
            line,
            None,
        )

    def _language(
        self, source: Source, fields: dict[str, Any], messages: list[Message]
    ) -> tuple[str, str]:
        """The language, and whether it is declared or detected."""
        column = source.columns.language
        declared = source.language or (fields.get(column) if column else None)
        if declared is None:
            language, how = self._detect(_asked_text(messages)), "detected"
        else:
            language, how = declared_language(declared), "declared"
        if language not in self._covered:
            raise BadRowError("uncovered_language", f"no teacher covers {language} ({how})")
        return language, how

    def _detect(self, text: str) -> str:
        if not self._config.detect:
            raise BadRowError("empty_language", "none is declared, and detection is off")
        found = self.detector.detect(text).language
        if found is None:
            raise BadRowError("unknown_language", "none is declared, and none could be detected")
        return found


def _asked_text(messages: list[Message]) -> str:
    return " ".join(turn["content"] for turn in messages if turn["role"] == "user")


def read_shards(prompt_set: PromptSet, store: Store) -> Iterator[Shard]:
    """Reads the unread sources and publishes their new prompts shard by shard.

    Running it again after a kill goes on where it stopped. The order of prompts is the order of
    sources and rows. At the end the quarantine and the memo of what was read are written.
    """
    known = _Known(store, {source.name for source in prompt_set.signatures})
    preparer = _Preparer(prompt_set)
    tallies: dict[str, Tally] = {}
    waiting: list[Accepted] = []
    number = known.shards
    for source in prompt_set.unread:
        tally = tallies[source.name] = Tally(prompt_set.signatures[source])
        refused: list[Refused] = []
        for row in preparer.prepare(source):
            found = known.without_duplicates(row)
            tally.add(found)
            if isinstance(found, Refused):
                refused.append(found)
            elif not known.is_stored(found):
                waiting.append(found)
                if len(waiting) == prompt_set.config.shard_size:
                    yield publish_shard(store, number, waiting)
                    number, waiting = number + 1, []
        _publish_refused(store, source, refused)
    if waiting:
        yield publish_shard(store, number, waiting)
    _remember(store, tallies, {source.name for source in prompt_set.signatures})


def new_prompts(prompt_set: PromptSet, store: Store) -> Iterator[Accepted]:
    """What `read_shards` would add, without writing; contradicted languages are not looked for."""
    config = prompt_set.config.model_copy(update={"contradiction": "ignore"})
    known = _Known(store, {source.name for source in prompt_set.signatures})
    preparer = _Preparer(replace(prompt_set, config=config))
    for source in prompt_set.unread:
        for row in preparer.prepare(source):
            found = known.without_duplicates(row)
            if isinstance(found, Accepted) and not known.is_stored(found):
                yield found


def published_from(number: int, store: Store) -> list[Shard]:
    """Shards that are there already: a reader that died may not have told of its last one."""
    paths = sorted(path for path in store.files_in("prompts") if shard_number(path) >= number)
    return [Shard(shard_number(path), path, store.footer(path)["rows"]) for path in paths]


class _Known:
    """Which prompts the store holds, and which were seen in this reading."""

    def __init__(self, store: Store, current: set[str]) -> None:
        self._stored: dict[bytes, str] = {}
        self._seen: dict[bytes, tuple[str, int]] = {}
        self._current = current
        paths = sorted(p for p in store.listing().files if p.startswith("prompts/"))
        self.shards = len(paths)
        for path in paths:
            table = store.read(path, columns=["prompt_id", "source"]).table
            names = table["source"].to_pylist()
            for key, name in zip(table["prompt_id"].to_pylist(), names, strict=True):
                self._stored[bytes.fromhex(key)] = name

    def without_duplicates(self, row: Accepted | Refused) -> Accepted | Refused:
        """Refuses a prompt that stands above, or in another source that is still there."""
        if isinstance(row, Refused):
            return row
        key = bytes.fromhex(row.id)
        first = self._seen.get(key)
        home = self._stored.get(key, row.source)
        if first is not None:
            detail = f"the same prompt is in {first[0]}, line {first[1]}"
        elif home != row.source and home in self._current:
            detail = f"the same prompt is in {home}"
        else:
            self._seen[key] = (row.source, row.line)
            return row
        raw = row.messages[-1]["content"][:RAW_CHARS]
        return Refused("duplicate", detail, row.source, row.line, raw, row.id, row.language)

    def is_stored(self, row: Accepted) -> bool:
        """Whether a shard holds this prompt already."""
        return bytes.fromhex(row.id) in self._stored


def publish_shard(store: Store, number: int, rows: list[Accepted]) -> Shard:
    """Writes one prompt shard; the same rows give the same bytes, and so the same name."""
    columns = [list(column) for column in zip(*(row[:-1] for row in rows), strict=True)]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, PROMPTS, strict=True)], PROMPTS)
    published = store.publish(f"prompts/{number:05d}.{{digest}}.parquet", table, {})
    if published.rows != len(rows):
        raise StageError(f"{published.path} holds {published.rows} rows, {len(rows)} were read")
    return Shard(number, published.path, published.rows)


def _publish_refused(store: Store, source: Source, refused: list[Refused]) -> None:
    """One file per source, replaced whenever the source is read again."""
    path = f"quarantine/read/{digest(source.name.encode())}.parquet"
    if not refused and not store.has(path):
        return
    rows = [{"stage": "read", **row._asdict()} for row in refused]
    for row in rows:
        for key in ("detail", "raw"):
            row[key] = row[key].encode("utf-8", "replace").decode("utf-8")
    store.publish(path, pa.Table.from_pylist(rows, QUARANTINE), {"source": source.name})


def _remember(store: Store, tallies: dict[str, Tally], current: set[str]) -> None:
    """Only the sources that there are now: a file that was moved counts once."""
    earlier = store.read_json(MEMO) or {}
    memo = {name: told for name, told in earlier.items() if name in current}
    memo.update({name: vars(tally) for name, tally in tallies.items()})
    store.write_text(MEMO, json.dumps(memo, indent=1, sort_keys=True) + "\n")
