"""Win rates as columns of a leaderboard, and as rows for models that are in no run. Pure.

A row of a run is found by where the evaluation has the answers from, if that is a run; else by its
name: `RUN/NAME`, or NAME alone; what a run selected by the run's name too. One name may mean
answers of different runs in different evaluations. Invariant: a column holds rates against one
opponent, as the same judges see them, over the same questions and languages and with the same
settings; evaluations that differ in that have a column each.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.standings import Column, Entry
from arbitrage.winrate import telling
from arbitrage.winrate.results import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from arbitrage.standings import Leaderboard
    from arbitrage.winrate.results import Results

NAME = "winrate"
KIND = "model"
"""Of an entry that is in no run."""
SELECTED = "arbitrage"
"""The kind of what a run selected."""

Figures = dict[str, float | None]


class _Model(NamedTuple):
    """A model as an evaluation calls it, and the full name of its answers in a run, if they are of
    one."""

    name: str
    source: str


@dataclass
class _Group:
    """What one column is of: evaluations that compare, and the figures of each model."""

    results: Results
    labels: list[str] = field(default_factory=list)
    rates: dict[_Model, tuple[float | None, ...]] = field(default_factory=dict)


def with_win_rates(board: Leaderboard, found: Sequence[tuple[str, Results]]) -> Leaderboard:
    """The board with the win rates of some evaluations, each with the name of its file."""
    groups = _grouped(found)
    columns: list[Column] = []
    figures: dict[_Model, Figures] = defaultdict(dict)
    for place, group in enumerate(groups, 1):
        name = NAME if place == 1 else f"{NAME}_{place}"
        columns += _columns(name, group.results, alone=_is_alone(group, groups))
        for model, told in group.rates.items():
            keys = (name, f"{name}_low", f"{name}_high", f"{name}_controlled")
            figures[model] |= dict(zip(keys, told, strict=True))
    mine = {model: _places(board.entries, model) for model in figures}
    entries = list(board.entries)
    for model, places in mine.items():
        for place in places:
            entries[place] = _with(entries[place], figures[model])
        if not places:
            entries.append(Entry(_own_name(model, figures), "", KIND, figures=figures[model]))
    notes = (*board.notes, *_notes(groups), *_lost(found), *_doubtful(board.entries, mine))
    return replace(board, entries=tuple(entries), notes=notes, extra=tuple(columns))


def _with(entry: Entry, figures: Figures) -> Entry:
    return replace(entry, figures={**entry.figures, **figures})


def _grouped(found: Sequence[tuple[str, Results]]) -> list[_Group]:
    """Evaluations that compare together, if no model is in two of them."""
    groups: list[tuple[str, _Group]] = []
    for label, results in found:
        rates = _rates(results)
        key = _compared(results)
        twins = (
            group
            for other, group in groups
            if other == key and not _shared(group.rates, rates) - {results.baseline}
        )
        group = next(twins, None)
        if group is None:
            group = _Group(results)
            groups.append((key, group))
        group.labels.append(label)
        group.rates |= rates
    return [group for _, group in groups]


def _shared(one: Iterable[_Model], other: Iterable[_Model]) -> set[str]:
    """The names of models that are in both."""
    return {model.name for model in set(one) & set(other)}


def _compared(results: Results) -> str:
    """What has to be the same for rates to compare: names, and what stands behind them where that
    is told."""
    whom = [results.baseline] if results.baseline else ["", *results.models]
    behind = [_made(results, name, "fingerprint") for name in (*whom, *results.judges)]
    questions = (results.made_from or {}).get("questions")
    told: list[Any] = [whom, results.judges, behind, results.languages, results.settings]
    told.append(questions if isinstance(questions, str) else None)
    return json.dumps(told, sort_keys=True, default=str)


def _made(results: Results, name: str, key: str) -> str | None:
    """What is told of where a model or a judge is from; none where nothing is."""
    told: Any = (results.made_from or {}).get(name)
    found = told.get(key) if isinstance(told, dict) else None
    return found if isinstance(found, str) else None


def _rates(results: Results) -> dict[_Model, tuple[float | None, ...]]:
    """Of each model: rate, ends of its interval, controlled rate; a baseline is at one half."""
    found: dict[_Model, tuple[float | None, ...]] = {}
    for row in telling.ranked(results):
        one = telling.averaged(results, row)
        controlled = one.controlled.value if one.controlled else None
        found[_model(results, row.model)] = tuple(map(_known, (*one.rate, controlled)))
    if results.baseline and found:
        found[_model(results, results.baseline)] = (telling.EVEN, None, None, None)
    return found


def _model(results: Results, name: str) -> _Model:
    return _Model(name, _made(results, name, "run") or "")


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _is_alone(group: _Group, groups: Sequence[_Group]) -> bool:
    """Whether its opponent tells a column from all others."""
    mine = group.results.opponent
    return sum(other.results.opponent == mine for other in groups) == 1


def _columns(name: str, results: Results, *, alone: bool) -> Iterator[Column]:
    whom = f"vs {telling.opponent_of(results)}"
    title = f"win rate {whom}" + ("" if alone else f" ({', '.join(results.judges)})")
    about = f"{_said(results)}; over all languages of the evaluation, whatever is chosen here"
    yield Column(name, title, "share", 1, about=about)
    yield Column(f"{name}_low", f"{title}, low", "share", 1, about="of its 95 % interval")
    yield Column(f"{name}_high", f"{title}, high", "share", 1, about="of its 95 % interval")
    controlled = "the same at equal style and neither shown first"
    yield Column(f"{name}_controlled", f"controlled {whom}", "share", 1, about=controlled)


def _said(results: Results) -> str:
    """What a rate is, as part of a sentence."""
    judges = ", ".join(results.judges)
    is_mean = any(row.scope == LANGUAGES for row in results.rows)
    over = f"as the plain mean of {len(results.languages)} languages" if is_mean else "of all games"
    base = f" ({results.baseline} itself: 50 %)" if results.baseline else ""
    return (
        f"share of games won against {telling.opponent_of(results)}{base}, ties as half, {over}, "
        f"judged by {judges}"
    )


def _notes(groups: Sequence[_Group]) -> Iterator[str]:
    for group in groups:
        yield f"win rate: {_said(group.results)} ({', '.join(group.labels)})."
    if len(groups) > 1:
        whom = [
            f"against {telling.opponent_of(group.results)} by {', '.join(group.results.judges)}"
            for group in groups
        ]
        yield (
            f"Win rates are in {len(groups)} columns, which do not compare with each other: "
            f"{'; '.join(whom)}."
        )


def _lost(found: Sequence[tuple[str, Results]]) -> Iterator[str]:
    for label, results in found:
        told = telling.failures(results)
        if told:
            yield f"{label}: {told}"


def _own_name(model: _Model, models: Iterable[_Model]) -> str:
    """What a row of its own is called: where a name means several models, by the run."""
    alike = sum(one.name == model.name for one in models)
    return model.source if model.source and alike > 1 else model.name


def _places(entries: Sequence[Entry], model: _Model) -> list[int]:
    """The rows that a model of an evaluation is: by the run of its answers, by its full name, or,
    where its answers are of no run, by the name alone. Of runs that are called alike the full name
    tells which."""
    full = [at for at, one in enumerate(entries) if model.name in _full_names(one)]
    if model.source:
        own = [at for at, one in enumerate(entries) if model.source in _full_names(one, short=True)]
        return [at for at in own if at in full] or own or full
    return full or [at for at, one in enumerate(entries) if model.name == one.name]


def _full_names(entry: Entry, *, short: bool = False) -> tuple[str, ...]:
    """With the run's name, or in short with the last part of that, as evaluations tell it."""
    run = entry.run.rstrip("/").rpartition("/")[2] if short else entry.run
    own = f"{run}/{entry.name}"
    return (own, run) if entry.kind == SELECTED else (own,)


def _doubtful(entries: Sequence[Entry], found: dict[_Model, list[int]]) -> Iterator[str]:
    """Names that are those of rows of several runs."""
    for model, places in found.items():
        if len(places) > 1:
            runs = ", ".join(entries[place].run for place in places)
            yield (
                f"{model.name} is in several runs ({runs}) and each shows its win rate; call the "
                "models of an evaluation RUN/NAME to tell them apart."
            )
