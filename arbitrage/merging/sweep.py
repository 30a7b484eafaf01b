"""A sweep on one page: merge what is missing, evaluate all merges at once, say what came of it.

Each point of the grid has a folder NAME-FINGERPRINT, which is found by the fingerprint: moving a
specialist or renaming a point redoes nothing, another weight does. Killing this at any moment and
calling it again goes on. `points.json` in the sweep's folder says what was made here, and what of
it was removed again (`keep:`); `sweep.json` is the result.

    arbitrage merge sweep sweep.yaml
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from arbitrage.errors import ArbitrageError, ConfigError, Stopped, UsageError
from arbitrage.identity import directory_digest
from arbitrage.merging.checkpoint import open_checkpoint
from arbitrage.merging.config import BASE
from arbitrage.merging.elements import SIZES
from arbitrage.merging.evaluating import (
    Entered,
    answered,
    check,
    entered,
    evaluate_all,
    rewards_of,
    settled,
    without,
)
from arbitrage.merging.layout import slots_of
from arbitrage.merging.merge import Refused
from arbitrage.merging.outcome import Outcome, Swept, of_win_rates, ordered
from arbitrage.merging.papers import MANIFEST
from arbitrage.merging.points import Point, points_of, shared_base
from arbitrage.store import Store

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Mapping

    from arbitrage.merging.checkpoint import Checkpoint
    from arbitrage.merging.config import MergeConfig, MergedModel
    from arbitrage.merging.outcome import Figures
    from arbitrage.merging.preflight import Examination
    from arbitrage.merging.sweep_config import Loaded, SweepConfig
    from arbitrage.progress import Progress

RESULT, LEDGER = "sweep.json", "points.json"
GOING = ".removed-"
"""What a folder is called while it is being removed."""
WORK = ".merging"
"""Behind the name of a folder while it is being made."""

Tell = Callable[[int, int], None]
Counted = Callable[[str], AbstractContextManager[Tell]]
"""A line that is told how far a merge is, by what is being done."""


class Merger(Protocol):
    """Makes one merge; a folder that holds it already is left as it is."""

    def __call__(
        self,
        config: MergeConfig,
        target: Path,
        tell: Tell,
        stop: threading.Event | None = None,
    ) -> Any:
        """Raises UsageError where the merge is refused, Stopped where it was told to stop."""


@dataclass
class Models:
    """The models of a sweep, each opened once: headers, and what it is by content."""

    _opened: dict[tuple[str, str | None], Checkpoint] = field(default_factory=dict)

    def checkpoint(self, name: str, model: MergedModel) -> Checkpoint:
        """Its folder and headers. Raises ConfigError, InputError."""
        key = (model.model, model.revision)
        if key not in self._opened:
            self._opened[key] = open_checkpoint(name, model)
        return self._opened[key]

    def content(self, name: str, model: MergedModel) -> str:
        """The digest of its folder, which is remembered for as long as no file changes."""
        return directory_digest(self.checkpoint(name, model).folder)

    def checkpoints(self, config: MergeConfig) -> dict[str, Checkpoint]:
        """Those of a merge, by name, the base last."""
        return {
            name: replace(self.checkpoint(name, model), name=name)
            for name, model in config.all_models().items()
        }

    def size_of(self, config: MergeConfig) -> int:
        """Bytes of a merge's tensors."""
        model = config.all_models()[config.carrier]
        slots = slots_of(config, self.checkpoint(config.carrier, model))
        return sum(slot.numbers * SIZES.get(slot.dtype, 1) for slot in slots)


@dataclass(frozen=True)
class Planned:
    """A sweep before anything is done: points, where each lies, and who is evaluated. `base` is
    the name of the model beside that the merges were trained from, if any; `gone` are points that
    were removed after the evaluation had their answers."""

    config: SweepConfig
    folder: Path
    points: tuple[Point, ...]
    places: dict[str, Path]
    beside: dict[str, str]
    base: str
    entry: Entered
    models: Models
    ledger: dict[str, dict[str, Any]]
    gone: frozenset[str]

    def is_there(self, point: Point) -> bool:
        """Whether it is merged."""
        return (self.places[point.name] / MANIFEST).is_file()

    @property
    def missing(self) -> list[Point]:
        """Points that are to be merged."""
        return [one for one in self.points if not self.is_there(one) and one.name not in self.gone]

    @property
    def others(self) -> list[Path]:
        """Merges in the sweep's folder that are no points of its grid, as it was changed."""
        there = self.folder.glob(f"*/{MANIFEST}")
        return sorted({path.parent for path in there} - set(self.places.values()))

    def size_of(self, point: Point) -> int:
        """Bytes of its tensors."""
        return self.models.size_of(point.config)

    @property
    def free_bytes(self) -> int:
        """Of the disk that the sweep's folder is on, or will be."""
        there = next(one for one in (self.folder, *self.folder.parents) if one.exists())
        return shutil.disk_usage(there).free


def planned(loaded: Loaded) -> Planned:
    """Everything that can be known before a weight is read but for the models' digests.

    Raises UsageError, with a sentence for every mistake of the grid and of the evaluation.
    """
    config, models = loaded.config, Models()
    folder = Path(config.sweep)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"sweep: {folder} is no folder")
    for name, what in (("config.json", "a model"), ("run.json", "a run")):
        if (folder / name).is_file():
            raise ConfigError(f"sweep: {folder} holds {what}; give a folder of its own")
    points = points_of(config, loaded.where, models.content)
    beside, bases = _beside(config, points, models)
    _check_there(beside)
    points = tuple(_renamed(point, beside) for point in points)
    places = _places(folder, points)
    entry = entered(
        config.evaluate, {**{name: str(place) for name, place in places.items()}, **beside}
    )
    base = next((name for name, place in beside.items() if Path(place) in bases), "")
    ledger = Store(folder).read_json(LEDGER) or {}
    removed = {
        point.name: ledger[point.fingerprint]["removed"]
        for point in points
        if ledger.get(point.fingerprint, {}).get("removed")
        and not (places[point.name] / MANIFEST).is_file()
    }
    gone = answered(entry, removed) if removed else frozenset()
    return Planned(config, folder, points, places, beside, base, entry, models, ledger, gone)


def _check_there(beside: Mapping[str, str]) -> None:
    """Raises ConfigError for a folder that is none, before anything is merged."""
    lacking = [
        place
        for place in beside.values()
        if place.startswith(("/", ".", "~")) and not Path(place).is_dir()
    ]
    if lacking:
        raise ConfigError(f"evaluate.beside: there is no model folder {lacking[0]}")


def _renamed(point: Point, beside: Mapping[str, str]) -> Point:
    """Called otherwise where a model beside has its name."""
    return replace(point, name=f"{point.name}.merge") if point.name in beside else point


def _places(folder: Path, points: Iterable[Point]) -> dict[str, Path]:
    """A folder for each point: the one that ends with its fingerprint, also one that is not whole
    yet, else a new one."""
    there = sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []
    there = [one for one in there if not one.name.startswith(".")]
    there = [one.with_name(one.name.removesuffix(WORK)) for one in there]
    prints = {one.name.rpartition("-")[2]: one for one in there}
    return {one.name: prints.get(one.fingerprint, folder / one.label) for one in points}


def _beside(
    config: SweepConfig, points: Iterable[Point], models: Models
) -> tuple[dict[str, str], set[Path]]:
    """Models that are evaluated as they are, and the folders of all bases."""
    shared = shared_base(config)
    told = [pair for point in points for pair in point.config.all_models().items()]
    told += [] if shared is None else [(BASE, shared)]
    places = [(name, models.checkpoint(name, model).folder) for name, model in told]
    bases = {place for name, place in places if name == BASE}
    found: dict[str, str] = {}
    for name, place in places:
        if str(place) not in found.values():
            free = (name, *(f"{name}.{number}" for number in range(2, len(found) + 3)))
            found[next(one for one in free if one not in found)] = str(place)
    given = config.evaluate.beside
    return (found if given is None else dict(given)), bases


def sweep(
    plan: Planned,
    merge: Merger,
    progress: Progress,
    stop: threading.Event,
    counted: Counted,
) -> Swept:
    """Merges and evaluates everything that is missing, and says what there is now.

    A point that is refused is set aside, the others go on. Raises UsageError where the disk has no
    room for all, Stopped where it was told to stop, LockedError where another sweep is at work.
    """
    _check_disk(plan)
    check(plan.entry, [point.name for point in plan.points if not plan.is_there(point)])
    plan.folder.mkdir(parents=True, exist_ok=True)
    store = Store(plan.folder)
    with store.lock() as held:
        for rest in plan.folder.glob(f"{GOING}*"):
            shutil.rmtree(rest)
        refused = _merged(plan, merge, store, progress, stop, counted)
        held.check()
        if len(refused) == len(plan.points):
            why = "; ".join(dict.fromkeys(why for told in refused.values() for why in told))
            raise ArbitrageError(f"no point of the grid could be merged: {why}")
        removed = {
            point.name: plan.ledger[point.fingerprint]["removed"]
            for point in plan.points
            if point.name not in refused and not plan.is_there(point)
        }
        entry = settled(without(plan.entry, refused), removed)
        figures, unit, problems = _evaluated(entry, plan, progress, stop)
        held.check()
        found = _swept(plan, refused, figures, unit, problems)
        if plan.config.keep != "all" and not problems:
            _remove(plan, found, store)
            found = _swept(plan, refused, figures, unit, problems)
        store.write_text(RESULT, json.dumps(found.as_dict(), indent=1) + "\n")
    return found


def _check_disk(plan: Planned) -> None:
    """Raises UsageError where the merges do not fit, before the first is made."""
    needed, free = sum(map(plan.size_of, plan.missing)), plan.free_bytes
    if needed > free:
        raise UsageError(
            f"the {len(plan.missing)} merges that are to be made take {needed / 1e9:,.1f} GB, and "
            f"the disk of {plan.folder} has {free / 1e9:,.1f} GB left; make room, name another "
            "`sweep:`, or shorten the grid"
        )


def _merged(
    plan: Planned,
    merge: Merger,
    store: Store,
    progress: Progress,
    stop: threading.Event,
    counted: Counted,
) -> dict[str, list[str]]:
    """Makes the merges that are missing; gives the reasons of those that were refused."""
    refused: dict[str, list[str]] = {}
    missing = plan.missing
    for number, point in enumerate(missing, 1):
        if stop.is_set():
            raise Stopped("stopped on request; the same command goes on from here")
        place = plan.places[point.name]
        progress.say(f"merging {point.name} ({number} of {len(missing)})")
        plan.ledger[point.fingerprint] = {"name": point.name, "made": not place.exists()}
        store.write_text(LEDGER, json.dumps(plan.ledger, indent=1) + "\n")
        try:
            with counted(f"merging {point.name}") as tell:
                merge(point.config, place, tell, stop)
        except UsageError as error:
            examination = error.examination if isinstance(error, Refused) else None
            refused[point.name] = reasons_of(examination) or [str(error)]
            progress.say(f"refused {point.name}: {'; '.join(refused[point.name])}")
    return refused


def reasons_of(examination: Examination | None) -> list[str]:
    """What speaks against a merge, a sentence each."""
    reasons = examination.reasons if examination else ()
    return [f"{one.where}: {one.told}" if one.where else one.told for one in reasons]


def _evaluated(
    entry: Entered, plan: Planned, progress: Progress, stop: threading.Event
) -> tuple[dict[str, Figures], str, list[str]]:
    """Figures by the sweep's names, what they are, and what keeps them from being whole."""
    progress.say(f"evaluating {len(entry.names)} models in {entry.place}")
    results, problems = evaluate_all(entry, progress, stop)
    references = [name for name in plan.beside if name in entry.names]
    if results is None:
        return rewards_of(entry, references), "reward", problems
    return of_win_rates(results, entry.names, references), "win rate", problems


def _swept(
    plan: Planned,
    refused: Mapping[str, list[str]],
    figures: Mapping[str, Figures],
    unit: str,
    problems: list[str],
) -> Swept:
    points = []
    for point in plan.points:
        mine = figures.get(point.name)
        state = "evaluated" if mine else "merged"
        state = state if plan.is_there(point) else "removed"
        points.append(
            Outcome(
                point.name,
                "refused" if point.name in refused else state,
                str(plan.places[point.name]),
                point.config.method,
                point.fingerprint,
                point.said,
                point.varied,
                point.config.model_dump(mode="json", exclude_defaults=True),
                tuple(refused.get(point.name, ())),
                mine,
            )
        )
    beside = [
        Outcome(
            name, "evaluated" if name in figures else "merged", place, figures=figures.get(name)
        )
        for name, place in plan.beside.items()
    ]
    lost = [one.name for one in (*points, *beside) if one.state != "refused" and not one.figures]
    place = plan.entry.place
    told = [f"{', '.join(lost)}: no usable answer; see `arbitrage report {place}`"] if lost else []
    return Swept(unit, place, ordered(points), ordered(beside), plan.base, (*problems, *told))


def _remove(plan: Planned, found: Swept, store: Store) -> None:
    """Removes the folders of all but the best that this sweep has made; what they held is noted
    first, so that their answers are known by it."""
    shown = [one for one in found.points if one.figures is not None]
    for one in shown[int(plan.config.keep) :]:
        place, note = Path(one.folder), plan.ledger.get(one.fingerprint, {})
        if note.get("made") and (place / MANIFEST).is_file():
            note["removed"] = directory_digest(place)
            store.write_text(LEDGER, json.dumps(plan.ledger, indent=1) + "\n")
            going = place.with_name(f"{GOING}{place.name}")
            place.rename(going)
            shutil.rmtree(going)
