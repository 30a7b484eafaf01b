"""Reads the leaderboard of one run or several: a row per teacher, and one for what was selected.

Figures are those of the current product: rewards of each teacher alone, what the selected data has
more on the same prompts, prompts won. Rates of failures are over all candidates of the current
routing, costs over all that the run directory has paid. Reads files only.

    arbitrage leaderboard runs/first --format md
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from arbitrage import baselines
from arbitrage.columns import names_any
from arbitrage.components import Fuser, Teacher
from arbitrage.costs import Cost, costs_of
from arbitrage.errors import InputError, UsageError
from arbitrage.failures import failures
from arbitrage.merging.papers import read_manifest
from arbitrage.plan import read_state
from arbitrage.results import Results
from arbitrage.spending import paid
from arbitrage.standings import Cell, Entry, Leaderboard
from arbitrage.stats import Moments
from arbitrage.summary import store_gates
from arbitrage.views import open_run
from arbitrage.weights import parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from arbitrage.components import Components
    from arbitrage.plan import Planner
    from arbitrage.results import LanguageResult
    from arbitrage.store import Store

SELECTED = "selected"
TRUNCATED, LANGUAGE = "truncated", "language"
"""The gates whose failures have a column."""
PER = 1000


@dataclass
class Chosen:
    """What the selected answers of one language are: so many, their tokens, and failed gates."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    wrong_language: int = 0


@dataclass
class RunBoard:
    """One run's entries, and what decides whether they compare with another's."""

    run: str
    entries: list[Entry]
    judged_by: Any
    prompts: tuple[int, int]
    notes: list[str] = field(default_factory=list)


def leaderboard(places: Sequence[str]) -> Leaderboard:
    """Of some runs, each a directory or address. Raises UsageError where one has no product."""
    labels = labels_of(places)
    several = len(places) > 1
    boards = [
        of_run(place, label, several=several) for place, label in zip(places, labels, strict=True)
    ]
    entries = tuple(entry for board in boards for entry in board.entries)
    languages = sorted({code for entry in entries for code in entry.languages})
    notes = [note for board in boards for note in board.notes] + between(boards)
    return Leaderboard(entries, tuple(languages), tuple(notes))


def labels_of(places: Sequence[str]) -> list[str]:
    """The last part of each place, the whole where two would be called the same.

    Raises UsageError where a run is given twice.
    """
    if len(set(places)) < len(places):
        raise UsageError("a run is given twice; name each once")
    short = [place.rstrip("/").rpartition("/")[2] or place for place in places]
    return [
        name if short.count(name) == 1 else place for name, place in zip(short, places, strict=True)
    ]


def between(boards: Sequence[RunBoard]) -> list[str]:
    """Sentences on whether rewards of different runs compare."""
    notes = []
    first, *others = boards
    foreign = [board.run for board in others if board.judged_by != first.judged_by]
    if foreign:
        notes.append(
            f"Another Arbiter judged {', '.join(foreign)} than {first.run}: rewards of these runs "
            "do not compare; compare rows of one run."
        )
    different = [board.run for board in others if board.prompts != first.prompts]
    if different:
        notes.append(
            f"The selected prompts of {', '.join(different)} are not those of {first.run}: a "
            "difference between runs may be one of prompts."
        )
    return notes


def of_run(place: str, label: str, *, several: bool = False) -> RunBoard:
    """One run's entries. Raises UsageError where it has no product yet."""
    store, components = open_run(place)
    planner, shards = read_state(components, store)
    results, chosen, prompts = read_product(store, components, planner, several=several)
    languages = sorted(results.languages.values(), key=lambda row: row.language)
    if not languages:
        raise UsageError(
            f"{store.address()} has no selected answers yet; `arbitrage run` makes them"
        )
    costs = costs_of(store, components, paid(store, planner.listing))
    rates = rates_of(place)
    board = RunBoard(label, [], _judges(components), prompts)
    for teacher in components.answering:
        cost = next(one for one in costs if one.name == teacher.name and one.stage == "generate")
        size = parameters_of(teacher, made_with(store, planner, teacher), board.notes)
        cells = cells_of(teacher, languages, rates.get(teacher.name, {}))
        board.entries.append(
            Entry(
                teacher.name,
                label,
                kind_of(teacher),
                teacher.config.engine,
                model_of(teacher.config.model),
                teacher.config.license or "",
                size,
                figures_of(cost, teacher.samples),
                cells,
            )
        )
    board.entries.append(_selected(label, languages, chosen, costs))
    told = sum(note["rows"] for note in store.footers(_prompts(planner)).values())
    if told > (have := sum(row.prompts for row in languages)):
        board.notes.append(
            f"{told - have:,} of {told:,} prompts of {label} have no selected answer (unfinished "
            "or in quarantine) and count in no reward."
        )
    if any(True for shard in shards for _ in planner.tasks(shard)):
        board.notes.append(
            f"{label} is not finished: answers or scores are to come, and figures will change."
        )
    return board


def _judges(components: Components) -> Any:
    judging = components.judging
    prints = [arbiter.fingerprint for arbiter in components.arbiters]
    return prints, judging.identity(prints)


def _prompts(planner: Planner) -> list[str]:
    return [path for path in planner.listing.files if path.startswith("prompts/")]


def read_product(
    store: Store, components: Components, planner: Planner, *, several: bool
) -> tuple[Results, dict[str, Chosen], tuple[int, int]]:
    """Adds up the product, shard by shard: the results, what was chosen by language, and (where
    there are several runs) what tells its prompts from others."""
    results = Results(components, set(store_gates(store)))
    chosen: dict[str, Chosen] = defaultdict(Chosen)
    columns = [*baselines.COLUMNS, "completion_tokens", *(["prompt_id"] if several else [])]
    count = mixed = 0
    for path in sorted(planner.selected):
        table = store.read(path, columns=columns).table
        results.add(table)
        best = baselines.first_rows(table)
        add_chosen(chosen, best)
        if several:
            ids = set(best["prompt_id"].to_pylist())
            count, mixed = count + len(ids), mixed ^ _mixed(ids)
    results.settle()
    return results, chosen, (count, mixed)


def _mixed(ids: Iterable[str]) -> int:
    """One number for a set of ids, which are hashes, whatever their order."""
    found = 0
    for one in ids:
        found ^= int.from_bytes(one.encode(), "big")
    return found


def add_chosen(chosen: dict[str, Chosen], table: pa.Table) -> None:
    """Takes in the best rows of a shard: the tokens of what was chosen, and the gates it fails."""
    if not table.num_rows:
        return
    candidates = table["candidates"].combine_chunks()
    flat = candidates.flatten()
    row = pc.list_parent_indices(candidates)
    mine = pc.and_(
        pc.equal(flat.field("teacher_fingerprint"), table["teacher_fingerprint"].take(row)),
        pc.equal(flat.field("sample"), table["sample"].take(row)),
    ).combine_chunks()
    picked = flat.filter(mine)
    owner = row.filter(mine).to_numpy()
    failed = {gate: names_any(picked.field("gates"), [gate]) for gate in (TRUNCATED, LANGUAGE)}
    language = table["language"].to_numpy()
    tokens = table["completion_tokens"].to_numpy()
    for code in sorted(set(language.tolist())):
        here, told = language == code, chosen[code]
        told.rows += int(here.sum())
        told.tokens += int(tokens[here].sum())
        told.truncated += int(failed[TRUNCATED][here[owner]].sum())
        told.wrong_language += int(failed[LANGUAGE][here[owner]].sum())


def rates_of(place: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Teacher -> language -> the shares of its candidates that are cut off, and in no right one."""
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for (teacher, code), rates in failures(place).rates.items():
        if rates.candidates:
            cut, wrong = (rates.failed[gate] / rates.candidates for gate in (TRUNCATED, LANGUAGE))
            found[teacher][code] = (cut, wrong)
    return found


def cells_of(
    teacher: Teacher,
    languages: Sequence[LanguageResult],
    rates: Mapping[str, tuple[float, float]],
) -> dict[str, Cell]:
    """A teacher's cells: of the languages that it has answers in, usable or not."""
    cells = {}
    for row in languages:
        told = row.teachers.get(teacher.name)
        if told is None and row.language not in rates:
            continue
        cut, wrong = rates.get(row.language, (None, None))
        won = told.wins if told else 0.0
        alone, gap = (told.alone, told.gain) if told else (Moments(), Moments())
        cells[row.language] = Cell(alone, gap, won, row.prompts, cut, wrong)
    return cells


def _selected(
    label: str,
    languages: Sequence[LanguageResult],
    chosen: Mapping[str, Chosen],
    costs: Sequence[Cost],
) -> Entry:
    """The entry of the data that was selected, which everybody's cost was for."""
    cells = {}
    for row in languages:
        told = chosen[row.language]
        cut, wrong = told.truncated / told.rows, told.wrong_language / told.rows
        none = Moments(row.reward.count)
        cells[row.language] = Cell(row.reward, none, row.prompts, row.prompts, cut, wrong)
    rows = sum(told.rows for told in chosen.values())
    totals = [spent(cost) for cost in costs if cost.usage.requests]
    figures = {
        name: _sum_of([total[name] for total in totals])
        for name in ("gpu_hours", "cpu_hours", "money")
    }
    figures |= per_1000(figures, rows)
    figures["tokens"] = sum(told.tokens for told in chosen.values()) / rows
    return Entry(SELECTED, label, "arbitrage", figures=figures, languages=cells)


def _sum_of(values: Sequence[float | None]) -> float | None:
    """The sum, none where any part is not known."""
    some = [value for value in values if value is not None]
    return sum(some) if some and len(some) == len(values) else None


def spent(cost: Cost) -> dict[str, float | None]:
    """Hours and money of a role; none where the diary or the config does not tell."""
    hours = cost.busy_s > 0
    priced = cost.usage.cost > 0 or (cost.hourly is not None and hours)
    return {
        "gpu_hours": cost.gpu_hours if hours else None,
        "cpu_hours": cost.cpu_hours if hours else None,
        "money": cost.money if priced else None,
    }


def per_1000(figures: Mapping[str, float | None], prompts: float) -> dict[str, float | None]:
    """The same costs for every 1,000 prompts."""
    return {
        f"{name}_per_1000": None if value is None or not prompts else value / prompts * PER
        for name, value in figures.items()
    }


def figures_of(cost: Cost, samples: int) -> dict[str, float | None]:
    """A teacher's figures that depend on no language; `samples` are its answers to a prompt."""
    told = spent(cost)
    asked = cost.usage.requests
    return {
        **told,
        **per_1000(told, asked / samples),
        "tokens": cost.usage.completion_tokens / asked if asked else None,
        "tokens_per_s": cost.tokens_per_s,
        "requests_per_s": cost.requests_per_s,
    }


def kind_of(teacher: Teacher) -> str:
    """What a row is: the fuser, a merged model (its folder says how it was made), or a teacher."""
    if isinstance(teacher, Fuser):
        return "fuser"
    model = teacher.config.model
    is_merged = model is not None and read_manifest(Path(model)) is not None
    return "merged" if is_merged else "teacher"


def model_of(told: str | None) -> str:
    """A model's name; of a local folder its own name alone, as a page may leave this machine."""
    if not told:
        return ""
    return Path(told).name if Path(told).is_absolute() else told


def made_with(store: Store, planner: Planner, teacher: Teacher) -> dict[str, Any]:
    """What the engine told of itself in the last file of a teacher's candidates."""
    folder = planner.folder_of(teacher)
    mine = sorted(path for path in planner.listing.files if path.startswith(f"{folder}/"))
    told = store.footer(mine[-1]).get("made_with") if mine else None
    return told if isinstance(told, dict) else {}


def parameters_of(teacher: Teacher, told: Mapping[str, Any], notes: list[str]) -> int | None:
    """How large a teacher's model is: as the config says, else its engine, else the headers of a
    local folder; none where nobody knows. A broken file is noted."""
    if teacher.config.parameters:
        return teacher.config.parameters
    engine = str(told.get("parameters", ""))
    if engine.isdecimal():
        return int(engine)
    model = teacher.config.model
    if not model or not Path(model).is_dir():
        return None
    try:
        return parameters(model)
    except InputError as error:
        notes.append(f"The parameters of {teacher.name} are not known: {error}.")
        return None
