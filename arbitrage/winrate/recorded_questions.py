"""Language and category of questions, for judgements whose own rows do not tell them.

Knows files of questions (Arena-Hard's question.jsonl, m-ArenaHard's columns, own JSONL), not what
was answered. A file of questions that stands in a folder above a file of judgements or answers is
asked first, so that translations with the same ids, a folder each, are told apart; else all are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.errors import InputError
from arbitrage.languages import parse_tag
from arbitrage.winrate.recorded_files import files_in, place, rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

IDS = ("question_id", "uid", "prompt_id", "id", "question")
TEXTS = ("prompt", "instruction")
MULTILINGUAL = re.compile(r"m-?arena-?hard.*[-_]([a-z]{2,3})")
"""Categories that name their language, as copies of m-ArenaHard in Arena-Hard's form have them."""


class About(NamedTuple):
    """What is known of a question."""

    language: str
    category: str


UNKNOWN = About("", "")


def code_of(tag: str) -> str:
    """A language's code where the tag is known, else the tag as it is."""
    return parse_tag(tag) or tag


Table = dict[str, About | None]


@dataclass
class Questions:
    """What files of questions tell, by their folders."""

    folders: dict[Path, Table] = field(default_factory=dict)

    def of(self, path: Path) -> Scope:
        """What is known of the questions that a file of judgements or answers names."""
        above = [one for one in self.folders if one in path.resolve().parents]
        nearest = max(above, key=lambda folder: len(folder.parts), default=None)
        return Scope(self.folders[nearest] if nearest else {}, [*self.folders.values()])

    def any_of(self, keys: Iterable[str]) -> bool:
        """Whether one of some questions is known at all."""
        return any(key in table for key in keys for table in self.folders.values())


class Scope(NamedTuple):
    """The table to ask first, and all; none for an id means that it has several languages."""

    near: Table
    tables: list[Table]

    def about(self, key: str) -> About:
        """Language and category of a question, empty where they are not known or not sure."""
        if key in self.near:
            return self.near[key] or UNKNOWN
        found = {table[key] for table in self.tables if key in table}
        return (next(iter(found)) or UNKNOWN) if len(found) == 1 else UNKNOWN


def read_questions(paths: Sequence[Path]) -> Questions:
    """Reads files of questions, in a folder those that hold some. Raises InputError for a row
    without an id and without a text."""
    found = Questions()
    for path, is_named in files_in(paths) if paths else ():
        if is_named or _holds_questions(path):
            _read_into(found.folders.setdefault(path.resolve().parent, {}), path)
    return found


def _holds_questions(path: Path) -> bool:
    """Raises InputError for a broken file of lines; a JSON file may be no list."""
    try:
        first = next(iter(rows(path)), None)
    except InputError:
        if path.suffix != ".json":
            raise
        return False
    return first is not None and bool(_keys(first[1]))


def _read_into(table: Table, path: Path) -> None:
    """Takes in what tells more: judgements and answers have ids too, but no language."""
    for number, row in rows(path):
        keys, about = _keys(row), _about(row)
        if not keys:
            raise InputError(
                f"{place(path, number)} is no question: it has none of {', '.join((*IDS, *TEXTS))}"
            )
        for key in keys:
            earlier = table.get(key, UNKNOWN)
            if earlier is None or about.language in ("", earlier.language):
                table.setdefault(key, about)
            elif earlier.language:
                table[key] = None
            else:
                table[key] = About(about.language, about.category or earlier.category)


def _keys(row: dict[str, Any]) -> list[str]:
    """Ids, and the text itself, which AlpacaEval's files have for an id."""
    values = [row.get(name) for name in (*IDS, *TEXTS)]
    return [str(value) for value in values if isinstance(value, str | int) and value != ""]


def _about(row: dict[str, Any]) -> About:
    told = [row.get(name) for name in ("language", "lang", "category")]
    language, other, category = (one if isinstance(one, str) else "" for one in told)
    named = MULTILINGUAL.fullmatch(category.lower())
    if not (language or other) and named and parse_tag(named[1]):
        return About(code_of(named[1]), "")
    return About(code_of(language or other), category)
