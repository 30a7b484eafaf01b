"""Teachers by languages: one grid per measure, as it is shown. Pure: an account in.

Rows are the teachers and what there is over all of them, columns the languages, by family, and what
there is over all of those. Invariant: every mode has the same rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from arbitrage import shown
from arbitrage.cells import Cell
from arbitrage.languages import table
from arbitrage.report_view import digits_of
from arbitrage.results import LanguageResult, TeacherResult
from arbitrage.stats import Moments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from arbitrage.account import Account

_Told = TypeVar("_Told")
UNASKED = "\u00b7"
"""What stands where a teacher was not asked."""
LEAST_BAD = 0.05
"""A share of failures is colored as if the largest were at least so large."""


class Shown(NamedTuple):
    """One cell: its text, the number in full, and how strong its color is, from 0 to 1."""

    text: str
    value: float | None = None
    heat: float | None = None


class Mode(NamedTuple):
    """One measure: `last` is what the row over all teachers tells, `tone` the color, and `cells`
    are (teachers + 1) rows of (languages + 1)."""

    key: str
    label: str
    legend: str
    last: str
    tone: str
    cells: list[list[Shown]]


@dataclass(frozen=True)
class Matrix:
    """`families`: (name, number of columns); `codes`: (code, name, family). `heads` say all about a
    column, `titles` about each cell."""

    teachers: list[str]
    families: list[tuple[str, int]]
    codes: list[tuple[str, str, str]]
    modes: list[Mode]
    heads: list[str]
    titles: list[list[str]]

    def as_dict(self) -> dict[str, Any]:
        """What the page's scripts need of it."""
        return {
            mode.key: {
                "legend": mode.legend,
                "last": mode.last,
                "tone": mode.tone,
                "cells": mode.cells,
            }
            for mode in self.modes
        }


class _Measure(NamedTuple):
    """How a mode comes to its cells; none as teacher or language means all of them."""

    key: str
    label: str
    legend: str
    last: str
    value: Callable[[Account, str | None, str | None], float | None]
    show: Callable[[float], str]
    heat: str


def matrix_of(account: Account) -> Matrix:
    """All modes of which anything is known."""
    codes = codes_of(account)
    told = account.as_dict()
    families: dict[str, int] = {}
    for _, _, family in codes:
        families[family] = families.get(family, 0) + 1
    measures = [*_measures(digits_of(account)), *_prices(told)]
    return Matrix(
        account.teachers,
        list(families.items()),
        codes,
        [_mode(account, measure, codes) for measure in measures],
        [_head(account, code, f"{label}, {family}") for code, label, family in codes],
        [[_title(account, name, code, label) for code, label, _ in codes]
         for name in account.teachers],
    )  # fmt: skip


def codes_of(account: Account) -> list[tuple[str, str, str]]:
    """(code, name, family) of every language that prompts are in, by family."""
    families = {row.language: row.family for row in account.languages}
    seen = {code for _, code in account.cells.found} | set(account.ledger.by_language)
    for code in seen - set(families):
        families[code] = table()[code].family if code in table() else ""
    named = [(code, table()[code].name if code in table() else code) for code in families]
    return sorted(
        ((code, name, families[code]) for code, name in named), key=lambda one: (one[2], one[0])
    )


def _measures(digits: int) -> list[_Measure]:
    reward = partial(shown.number, digits=digits)
    return [
        _Measure(
            "share", "share won",
            "Share of the language's selected prompts whose answer is this teacher's; of the very "
            "same answer each teacher has its part.",
            "prompts selected", _share, shown.percent, "part",
        ),
        _Measure(
            "alone", "mean reward alone",
            "Mean of the teacher's own best rewards. Color compares teachers within a language.",
            "chosen", _alone, reward, "column",
        ),
        _Measure(
            "margin", "margin",
            "Mean distance of its chosen answers to the next best candidate.",
            "all teachers", _margin, reward, "most",
        ),
        _Measure(
            "value", "value",
            "Reward that would be lost per prompt of the language without this teacher.",
            "gain", _value, reward, "most",
        ),
        _Measure(
            "truncated", "truncated %",
            "Share of completions that were cut off.",
            "all teachers", partial(_failed, "truncated"), shown.percent, "bad",
        ),
        _Measure(
            "language", "wrong language %",
            "Share of completions with lines in another language than the prompt's.",
            "all teachers", partial(_failed, "language"), shown.percent, "bad",
        ),
    ]  # fmt: skip


def _prices(told: dict[str, Any]) -> list[_Measure]:
    found = [
        _Measure(
            "tokens", "tokens", "Completion tokens, as the teacher counts them.",
            "all teachers", _tokens, shown.compact, "most",
        )
    ]  # fmt: skip
    for key, label, legend in (
        ("gpu_hours", "GPU hours", "Accelerators times hours at work, by share of the tokens."),
        ("cpu_hours", "CPU hours", "Processor cores times hours at work, by share of the tokens."),
        ("money", "money", "By the prices in the config, by share of the tokens."),
    ):
        cells = {
            (name, row["language"]): cell[key]
            for row in told["languages"]
            for name, cell in row["teachers"].items()
            if cell[key]
        }
        if cells:
            value = partial(_price, cells)
            found.append(
                _Measure(key, label, legend, "all teachers", value, shown.significant, "most")
            )
    return found


def _row(account: Account, code: str | None) -> LanguageResult | None:
    return next((row for row in account.languages if row.language == code), None)


def _results(account: Account, name: str, code: str | None) -> list[tuple[int, TeacherResult]]:
    """(prompts of the language, what the teacher won there) in one language or all."""
    return [
        (row.prompts, row.teachers.get(name, TeacherResult()))
        for row in account.languages
        if code in (None, row.language)
    ]


def _share(account: Account, name: str | None, code: str | None) -> float | None:
    if name is None:
        rows = [row for row in account.languages if code in (None, row.language)]
        return float(sum(row.prompts for row in rows))
    found = _results(account, name, code)
    prompts = sum(prompts for prompts, _ in found)
    return sum(result.wins for _, result in found) / prompts if prompts else None


def alone_of(account: Account, name: str, code: str | None = None) -> Moments:
    """A teacher's own best rewards in a language, or all."""
    return summed([result.alone for _, result in _results(account, name, code)])


def summed(parts: Sequence[Moments]) -> Moments:
    """One of all of them."""
    total = Moments()
    for one in parts:
        total.add(one.count, one.total, one.squares)
    return total


def _alone(account: Account, name: str | None, code: str | None) -> float | None:
    if name is not None:
        return shown.known(alone_of(account, name, code).mean)
    rows = [row.reward for row in account.languages if code in (None, row.language)]
    return shown.known(summed(rows).mean)


def _margin(account: Account, name: str | None, code: str | None) -> float | None:
    return shown.known(summed(_picked(account.margins, name, code)).mean)


def _value(account: Account, name: str | None, code: str | None) -> float | None:
    if name is None:
        gains = [
            row.of_teacher(row.best_alone).gain
            for row in account.languages
            if code in (None, row.language)
        ]
        return shown.known(summed(gains).mean)
    losses = account.losses if code is None else account.losses_in.get(code, {})
    return shown.known(losses[name].reward.mean) if name in losses else None


def _picked(
    told: Mapping[tuple[str, str], _Told], name: str | None, code: str | None
) -> list[_Told]:
    """What is told of a teacher or all, in a language or all."""
    if name is not None and code is not None:
        return [told[name, code]] if (name, code) in told else []
    return [
        one
        for (teacher, language), one in told.items()
        if name in (None, teacher) and code in (None, language)
    ]


def _counted(account: Account, name: str | None, code: str | None) -> Cell:
    total = Cell()
    for cell in _picked(account.cells.found, name, code):
        total.add(cell)
    return total


def _failed(gate: str, account: Account, name: str | None, code: str | None) -> float | None:
    rates = _counted(account, name, code).rates
    return rates.failed[gate] / rates.candidates if rates.candidates else None


def _tokens(account: Account, name: str | None, code: str | None) -> float | None:
    tokens = _counted(account, name, code).completion_tokens
    return float(tokens) if tokens else None


def _price(
    cells: dict[tuple[str, str], float], account: Account, name: str | None, code: str | None
) -> float | None:
    del account
    found = _picked(cells, name, code)
    return sum(found) if found else None


def _mode(account: Account, measure: _Measure, codes: Sequence[tuple[str, str, str]]) -> Mode:
    names: list[str | None] = [*account.teachers, None]
    columns: list[str | None] = [*(code for code, _, _ in codes), None]
    values = [
        [
            measure.value(account, name, code) if _is_asked(account, name, code) else None
            for code in columns
        ]
        for name in names
    ]
    heats = _heats([row[:-1] for row in values[:-1]], measure.heat)
    cells = [
        [_cell(account, measure, name, code, values[at][place], heats, (at, place))
         for place, code in enumerate(columns)]
        for at, name in enumerate(names)
    ]  # fmt: skip
    tone = "bad" if measure.heat == "bad" else "good"
    return Mode(measure.key, measure.label, measure.legend, measure.last, tone, cells)


def _is_asked(account: Account, name: str | None, code: str | None) -> bool:
    if name is None or code is None:
        return True
    row = _row(account, code)
    return (name, code) in account.cells.found or (row is not None and name in row.teachers)


def _cell(
    account: Account,
    measure: _Measure,
    name: str | None,
    code: str | None,
    value: float | None,
    heats: list[list[float | None]],
    place: tuple[int, int],
) -> Shown:
    if not _is_asked(account, name, code):
        return Shown(UNASKED)
    is_inner = name is not None and code is not None
    heat = heats[place[0]][place[1]] if is_inner else None
    if value is None:
        return Shown(shown.MISSING)
    show = shown.count if measure.key == "share" and name is None else measure.show
    return Shown(show(value), value, heat)


def _heats(values: list[list[float | None]], kind: str) -> list[list[float | None]]:
    """How strong the color of each cell is."""
    flat = [value for row in values for value in row if value is not None]
    most = max(flat, default=0.0)
    if kind == "column":
        columns = [_stretched(list(column)) for column in zip(*values, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)] or values
    top = {"part": 1.0, "bad": max(most, LEAST_BAD)}.get(kind, most)
    return [
        [None if value is None or not top > 0 else round(max(0.0, value / top), 3)
         for value in row]
        for row in values
    ]  # fmt: skip


def _stretched(values: list[float | None]) -> list[float | None]:
    """0 for the lowest, 1 for the highest; nothing where there is nothing to compare."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    if not high > low:
        return [None] * len(values)
    return [None if value is None else round((value - low) / (high - low), 3) for value in values]


def _head(account: Account, code: str, label: str) -> str:
    """Everything about one language, in a sentence."""
    row = _row(account, code)
    if row is None:
        return f"{label}: nothing selected"
    digits = digits_of(account)
    gain = row.of_teacher(row.best_alone).gain
    return (
        f"{label}: {row.prompts:,} prompts selected; mean reward "
        f"{shown.interval(row.reward, digits)}; best alone {row.best_alone or shown.MISSING}, gain "
        f"over it {shown.interval(gain, digits, '+')}"
    )


def _title(account: Account, name: str, code: str, label: str) -> str:
    """Everything about one teacher in one language, in a sentence or two."""
    if not _is_asked(account, name, code):
        return f"{name} was not asked in {label}"
    digits = digits_of(account)
    row = _row(account, code) or LanguageResult(code, "")
    result = row.teachers.get(name, TeacherResult())
    cell = account.cells.found.get((name, code), Cell())
    loss = account.losses_in.get(code, {}).get(name)
    told = [
        f"{name} in {label}: won {shown.number(result.wins, 1)} of {row.prompts:,} prompts",
        f"reward alone {shown.interval(result.alone, digits)}",
        f"margin {shown.interval(account.margins.get((name, code), Moments()), digits)}",
    ]
    if loss is not None:
        told.append(
            f"lost without it {shown.interval(loss.reward, digits)}, {loss.changed:,} answers "
            f"would change, {loss.alone:,} would be missing"
        )
    failed = ", ".join(f"{gate} {n:,}" for gate, n in sorted(cell.rates.failed.items()) if n)
    told.append(f"{cell.completions:,} completions, {cell.errors:,} errors")
    told.append(f"failed gates: {failed or 'none'}")
    told.append(f"{cell.completion_tokens:,} tokens")
    return "; ".join(told)
