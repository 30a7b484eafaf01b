"""A leaderboard as plain values: entries, their columns, and averages over languages.

An entry is a model, or data that was chosen; nothing here takes it for a teacher. An average is the
plain mean of languages, so that a large one does not drown a small one, and its interval is that of
so many independent means. An entry is `complete` where it has a value in every language that is
averaged over; only then do its averages compare. Knows no run, file or page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from arbitrage.errors import UsageError
from arbitrage.ranking import front, matcher, ranked
from arbitrage.stats import Moments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Form = Literal["text", "number", "signed", "count", "share"]


@dataclass(frozen=True)
class Column:
    """One column: `better` is 1 where more is, -1 where less is, 0 where neither is; `averaged`: it
    is a mean over languages whose level differs between languages."""

    name: str
    title: str
    form: Form
    better: int = 0
    averaged: bool = False
    about: str = ""


COLUMNS = (
    Column("name", "name", "text", about="the teacher, or the data that was selected"),
    Column("run", "run", "text"),
    Column("kind", "kind", "text", about="teacher, merged, fuser, or arbitrage (selected)"),
    Column("engine", "engine", "text"),
    Column("model", "model", "text"),
    Column("license", "license", "text", about="of the model, as the config says"),
    Column("parameters", "parameters", "count", -1, about="of the model, where known"),
    Column("reward", "reward", "number", 1, True, "mean reward of the entry alone"),
    Column("interval", "\u00b1", "number", about="half of the reward's 95 % interval"),
    Column(
        *("gap", "behind", "signed", -1, True),
        about="what the selected answers have more, on its prompts",
    ),
    Column("gap_interval", "behind \u00b1", "number", about="half of its 95 % interval"),
    Column("wins", "wins", "share", 1, True, "share of the prompts that its answer was chosen for"),
    Column("languages", "languages", "count", 1, about="in which it has a usable answer"),
    Column(
        "answered", "answered", "share", 1, about="share of selected prompts that it has one to"
    ),
    Column("truncated", "truncated", "share", -1, True, "share of its answers that were cut off"),
    Column("wrong_language", "wrong lang.", "share", -1, True, "share not in the language"),
    Column("tokens", "tokens/answer", "number", about="of completions, in its own tokens"),
    Column("tokens_per_s", "tokens/s", "number", 1, about="of one replica at work"),
    Column("requests_per_s", "answers/s", "number", 1, about="of one replica at work"),
    Column("gpu_hours", "GPU-hours", "number", -1, about="of its replicas at work"),
    Column("cpu_hours", "CPU-hours", "number", -1, about="of its replicas at work"),
    Column("money", "money", "number", -1, about="of prices and hours, where the config has them"),
    Column("gpu_hours_per_1000", "GPU-h/1,000", "number", -1, about="per 1,000 prompts"),
    Column("cpu_hours_per_1000", "CPU-h/1,000", "number", -1, about="per 1,000 prompts"),
    Column("money_per_1000", "money/1,000", "number", -1, about="per 1,000 prompts"),
)
AFTER = "wins"
"""Behind this column are those that only some boards have."""
BY_NAME = {column.name: column for column in COLUMNS}
COSTS = ("money_per_1000", "gpu_hours_per_1000", "cpu_hours_per_1000")
"""What the first axis may be, the first of them that any entry has."""


@dataclass(frozen=True)
class Cell:
    """One entry in one language: `reward` by itself, `gap` (the selected reward less that, paired
    by prompt), prompts won of all `prompts` that are selected there."""

    reward: Moments = field(default_factory=Moments)
    gap: Moments = field(default_factory=Moments)
    wins: float = 0.0
    prompts: int = 0
    truncated: float | None = None
    wrong_language: float | None = None

    def values(self) -> dict[str, float | None]:
        """What is averaged, by column; none where it is not known."""
        return {
            "reward": known(self.reward.mean),
            "interval": known(self.reward.half_width),
            "gap": known(self.gap.mean),
            "gap_interval": known(self.gap.half_width),
            "wins": self.wins / self.prompts if self.prompts else None,
            "answered": self.reward.count / self.prompts if self.prompts else None,
            "truncated": self.truncated,
            "wrong_language": self.wrong_language,
        }


@dataclass(frozen=True)
class Entry:
    """One row: texts, figures that no choice of languages changes, and a cell per language. A model
    that is in no run has figures alone."""

    name: str
    run: str
    kind: str
    engine: str = ""
    model: str = ""
    license: str = ""
    parameters: int | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    languages: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def covered(self) -> frozenset[str]:
        """Languages in which it has a usable answer."""
        return frozenset(code for code, cell in self.languages.items() if cell.reward.count)

    def texts(self) -> tuple[str, ...]:
        """What a filter looks at."""
        return (self.name, self.run, self.kind, self.engine, self.model, self.license)

    def over(self, languages: Sequence[str]) -> dict[str, Any]:
        """The value of every column, averaged over those of these languages that it has."""
        texts = ("name", "run", "kind", "engine", "model", "license")
        told: dict[str, Any] = {name: getattr(self, name) or None for name in texts}
        told["parameters"] = self.parameters
        cells = [self.languages[code].values() for code in languages if code in self.languages]
        for name in Cell().values():
            if name.endswith("interval"):
                told[name] = interval_of([c[name] for c in cells if c["reward"] is not None])
            else:
                told[name] = mean_of([cell[name] for cell in cells])
        told["languages"] = len(self.covered.intersection(languages)) if self.run else None
        return {column.name: (told | dict(self.figures)).get(column.name) for column in COLUMNS}


def known(value: float) -> float | None:
    """None for what is not a number."""
    return value if math.isfinite(value) else None


def mean_of(values: Sequence[float | None]) -> float | None:
    """The plain mean of those that are known."""
    some = [value for value in values if value is not None]
    return sum(some) / len(some) if some else None


def interval_of(halves: Sequence[float | None]) -> float | None:
    """Half of the interval of a mean of independent means, from theirs; none where the interval of
    one with a single value is not known."""
    some = [half for half in halves if half is not None]
    return math.hypot(*some) / len(some) if some and len(some) == len(halves) else None


@dataclass(frozen=True)
class Leaderboard:
    """All entries, the languages of any of them, and sentences on how far they compare. `extra`
    are columns that only this board has; their values are figures of its entries."""

    entries: tuple[Entry, ...]
    languages: tuple[str, ...]
    notes: tuple[str, ...] = ()
    extra: tuple[Column, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """All of them, its own after those of quality."""
        place = next(at for at, column in enumerate(COLUMNS) if column.name == AFTER) + 1
        return (*COLUMNS[:place], *self.extra, *COLUMNS[place:])

    @property
    def axes(self) -> tuple[str, str]:
        """What is compared if nobody says: a cost against the reward."""
        figures = [entry.figures for entry in self.entries]
        some = (name for name in COSTS if any(told.get(name) for told in figures))
        return next(some, "tokens"), "reward"


@dataclass(frozen=True)
class Row:
    """An entry as a standing shows it."""

    entry: Entry
    values: Mapping[str, Any]
    complete: bool
    front: bool


@dataclass(frozen=True)
class Standing:
    """Rows in order, and the languages that their averages are over."""

    rows: tuple[Row, ...]
    languages: tuple[str, ...]
    axes: tuple[str, str]
    columns: tuple[Column, ...] = COLUMNS


def standing(
    board: Leaderboard,
    *,
    pattern: str = "",
    languages: Sequence[str] = (),
    common: bool = False,
    sort: str = "reward",
) -> Standing:
    """What is shown: entries that match, averaged over some languages (none: all), with `common`
    over those alone that all of the entries have. Entries of a run that are in none of the
    languages are left out; models of no run have figures alone and stay. `sort` is a column or a
    language; by an average, entries that lack a language come after others.

    Raises UsageError for a pattern, language or column that is none.
    """
    lacking = [code for code in languages if code not in board.languages]
    if lacking:
        there = ", ".join(board.languages)
        raise UsageError(f"there is no language {lacking[0]!r} here; there are {there}")
    matches = matcher(pattern)
    shown = [entry for entry in board.entries if matches(entry.texts())]
    shown = [
        entry
        for entry in shown
        if not (languages and entry.run) or set(languages) & set(entry.languages)
    ]
    over = tuple(code for code in board.languages if not languages or code in languages)
    if common:
        over = tuple(code for code in over if all(code in e.covered for e in shown if e.run))
    own = [column.name for column in board.extra]
    values = [entry.over(over) | {n: entry.figures.get(n) for n in own} for entry in shown]
    complete = [bool(over) and entry.covered.issuperset(over) for entry in shown]
    on_front = _front(values, complete, board.axes)
    value, direction = _sorting(sort, board)
    order = ranked(
        [value(entry, told) for entry, told in zip(shown, values, strict=True)], direction
    )
    if sort in BY_NAME and BY_NAME[sort].averaged:
        order.sort(key=lambda place: not complete[place])
    rows = (Row(shown[n], values[n], complete[n], on_front[n]) for n in order)
    return Standing(tuple(rows), over, board.axes, board.columns)


def _front(
    values: Sequence[Mapping[str, Any]], complete: Sequence[bool], axes: tuple[str, str]
) -> list[bool]:
    """Members of the Pareto front; an average over fewer languages takes no part."""
    columns = [BY_NAME[axis] for axis in axes]
    needs = any(column.averaged for column in columns)
    points = [
        (told[axes[0]], told[axes[1]]) if whole or not needs else (None, None)
        for told, whole in zip(values, complete, strict=True)
    ]
    return front(points, (columns[0].better, columns[1].better))


def _sorting(
    sort: str, board: Leaderboard
) -> tuple[Callable[[Entry, Mapping[str, Any]], Any], int]:
    """How a row's value is found, and which direction is better. Raises UsageError."""
    named = {column.name: column for column in board.columns}
    if sort in named:
        return lambda entry, told: told[sort], named[sort].better or 1
    if sort in board.languages:
        return lambda entry, told: entry.languages.get(sort, Cell()).values()["reward"], 1
    raise UsageError(
        f"there is no column {sort!r} to sort by; there are {', '.join(named)}, and the languages"
    )
