"""Reads labelled pairs: a prompt, the better completion (`chosen`) and the worse one (`rejected`).

The columns are those of M-RewardBench (arXiv 2410.15522): id, prompt, chosen, rejected, language
and, where it is there, category, subset or source. A row that is no pair is counted with its
reason, never dropped in silence. Invariant: rows = used + the sum of refused.

    {"id": 1, "prompt": "...", "chosen": "...", "rejected": "...", "language": "deu_Latn"}
"""

from __future__ import annotations

import glob
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage import sources
from arbitrage.config import PromptsConfig, SourceConfig
from arbitrage.errors import InputError
from arbitrage.identity import canonical, digest, prompt_id
from arbitrage.languages import parse_tag
from arbitrage.records import Prompt
from arbitrage.validation import (
    BadRowError,
    check_text,
    declared_language,
    messages_of,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arbitrage.sources import Row, Source

KEY_HEX = 32
MAX_CHARS = 1_000_000
"""A longer prompt is no prompt; whether a text fits is for the engine to say."""
CATEGORIES = ("category", "subset", "source")
"""The first of these columns that a row has is its category."""


class Pair(NamedTuple):
    """A labelled pair. `key` is the hash of its content, `id` the user's own."""

    key: str
    id: str | None
    prompt: Prompt
    chosen: str
    rejected: str
    category: str | None


@dataclass(frozen=True)
class PairSet:
    """All pairs of some files, and the rows that are none, by reason with one example each."""

    pairs: tuple[Pair, ...]
    files: tuple[str, ...]
    rows: int
    refused: dict[str, int]
    examples: dict[str, str]

    @property
    def digest(self) -> str:
        """Names the pairs, whatever their order."""
        return digest(canonical(sorted(pair.key for pair in self.pairs)), KEY_HEX)


def read(patterns: Sequence[str], language: str | None = None) -> PairSet:
    """All pairs of files, folders or globs; `{language}` in a path matches and sets the language.

    `language` is that of rows which declare none. Raises InputError where a path matches nothing
    or cannot be read, where the language is not known, and where no row is a pair.
    """
    default = None if language is None else parse_tag(language)
    if language is not None and default is None:
        raise InputError(f"--language {language!r} is no known language tag; give de or deu_Latn")
    pairs: dict[str, Pair] = {}
    refused: Counter[str] = Counter()
    examples: dict[str, str] = {}
    found = _expand(patterns)
    rows = 0
    for source in found:
        for row in sources.rows(source):
            rows += 1
            try:
                pair = _pair(source, row, default)
                if pair.key in pairs:
                    raise BadRowError("duplicate", "the same pair stands above")
                pairs[pair.key] = pair
            except BadRowError as error:
                refused[error.reason] += 1
                examples.setdefault(error.reason, f"{source.name}, line {row.line}: {error.detail}")
    names = tuple(source.name for source in found)
    made = PairSet(tuple(pairs.values()), names, rows, dict(refused), examples)
    if not pairs:
        raise InputError(_nothing(made))
    return made


def _nothing(found: PairSet) -> str:
    if not found.rows:
        return f"there is no row in {', '.join(found.files[:3])}; give a file with labelled pairs"
    told = ", ".join(f"{reason} {count:,}" for reason, count in found.refused.items())
    return (
        f"none of {found.rows:,} rows is a labelled pair ({told}; "
        f"{next(iter(found.examples.values()))}); the columns are prompt, chosen, rejected and "
        "language (or --language)"
    )


def _expand(patterns: Sequence[str]) -> list[Source]:
    for pattern in patterns:
        if not glob.glob(pattern.replace("{language}", "*"), recursive=True):  # noqa: PTH207
            raise InputError(f"no file of pairs matches {pattern}")
    wanted = tuple(SourceConfig(path=pattern) for pattern in patterns)
    found = sources.expand(PromptsConfig(sources=wanted)) if wanted else []
    if any(source.format == "dataset" for source in found):
        raise InputError("pairs are read from JSONL, CSV, TSV or Parquet files; export them first")
    return found


def _pair(source: Source, row: Row, default: str | None) -> Pair:
    """Raises BadRowError with the reason; InputError where the file itself is broken."""
    if row.reason == "unreadable":
        raise InputError(f"{source.name}, line {row.line}: {row.detail}")
    if row.fields is None:
        raise BadRowError(row.reason, row.detail)
    fields = row.fields
    conversation = "prompt" if isinstance(fields.get("prompt"), list) else "messages"
    messages = messages_of(fields, (conversation,), ("prompt",))
    check_text(messages, MAX_CHARS)
    language = _language(fields.get("language"), source.language, default)
    chosen, rejected = (_completion(fields, name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise BadRowError("same_completion", "chosen and rejected are the same text")
    prompt = Prompt(prompt_id(messages), language, messages)
    key = digest(canonical([language, prompt.id, chosen, rejected]), KEY_HEX)
    own = fields.get("id")
    category = next(_known(fields), None)
    return Pair(key, None if own is None else str(own), prompt, chosen, rejected, category)


def _known(fields: dict[str, Any]) -> Iterator[str]:
    """Categories that the row has, the first one first."""
    for name in CATEGORIES:
        value = fields.get(name)
        if isinstance(value, str) and value.strip():
            yield storable(value)


def _language(declared: Any, of_file: str | None, default: str | None) -> str:
    """A path's language wins, as for prompts; the default is for rows that declare none."""
    if of_file is not None:
        return of_file
    is_told = declared is not None and declared != ""
    if not is_told and default is None:
        raise BadRowError("empty_language", "no language is declared; give --language")
    return declared_language(declared) if is_told or default is None else default


def _completion(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise BadRowError("missing_column", f"there is no {name!r}")
    value = fields[name]
    if value is None:
        raise BadRowError("null_completion", f"{name!r} is null")
    if not isinstance(value, str):
        raise BadRowError("wrong_type", f"{name!r} should be a string, not {type(value).__name__}")
    return storable(value)
