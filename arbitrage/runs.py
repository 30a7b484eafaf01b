"""A run as tables of pandas, for notebooks and scripts.

Knows nothing of what wrote the files, and writes nothing. Nothing is remembered between two calls:
each one looks at the files as they are then, so a run may go on meanwhile.

    import arbitrage
    run = arbitrage.open("runs/quickstart")
    run.candidates(columns=["teacher", "completion"], languages=["de", "nl"], teachers="germanic")
"""

from __future__ import annotations

import difflib
import html
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.compute as pc

from arbitrage import baselines, frames, views
from arbitrage import state as states
from arbitrage.configfile import load
from arbitrage.errors import ArbitrageError, UsageError
from arbitrage.files import has_scheme
from arbitrage.frames import Asked
from arbitrage.languages import parse_tag
from arbitrage.reading import columns_of
from arbitrage.records import SCHEMAS
from arbitrage.results import Results

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from arbitrage.results import TeacherResult
    from arbitrage.state import Status
    from arbitrage.views import Shown, View

Names = str | Iterable[str] | None
"""One name or several; none: all."""


class Run:
    """A run, by its folder, its address, or the config that names it; read only.

    Every table has one row per row of the files that the run's config has now, and one fixed dtype
    per column, also without rows. `columns`, `languages` and `teachers` are one name or several;
    what is not asked for is not read. A wrong name raises UsageError with the nearest one, and
    `arbitrage inspect` says what each column holds.
    """

    def __init__(self, place: Path | str) -> None:
        is_config = not has_scheme(str(place)) and Path(place).is_file()
        self._place = load(Path(place)).config.run if is_config else place
        self.address: str = views.open_run(self._place)[0].address()

    def selected(
        self, *, columns: Names = None, languages: Names = None, teachers: Names = None
    ) -> pd.DataFrame:
        """The product: one row per prompt that has an answer, of `top_k` up to k."""
        return self._frame("selected", columns, languages, teachers)

    def candidates(
        self, *, columns: Names = None, languages: Names = None, teachers: Names = None
    ) -> pd.DataFrame:
        """Every completion, with its teacher. What a teacher answered when it was asked again is
        its own, under another `teacher_fingerprint`; the fuser is a teacher."""
        return self._frame("candidates", columns, languages, teachers)

    def scores(
        self,
        *,
        columns: Names = None,
        languages: Names = None,
        teachers: Names = None,
        arbiters: Names = None,
    ) -> pd.DataFrame:
        """One row per candidate and Arbiter. To join it with candidates: `prompt_id`,
        `teacher_fingerprint` and `sample`."""
        return self._frame("scores", columns, languages, teachers, arbiters)

    def gates(
        self, *, columns: Names = None, languages: Names = None, teachers: Names = None
    ) -> pd.DataFrame:
        """One row per candidate that was looked at: what the gates go by, and those it fails."""
        return self._frame("gates", columns, languages, teachers)

    def prompts(self, *, columns: Names = None, languages: Names = None) -> pd.DataFrame:
        """Every prompt."""
        return self._frame("prompts", columns, languages)

    def quarantine(self, *, columns: Names = None, languages: Names = None) -> pd.DataFrame:
        """Every input row that was refused, and every prompt that the product had to leave out."""
        return self._frame("quarantine", columns, languages)

    def stream(
        self,
        kind: str,
        *,
        columns: Names = None,
        languages: Names = None,
        teachers: Names = None,
        arbiters: Names = None,
    ) -> Iterator[pa.Table]:
        """The same rows as Arrow tables, one per file, read one after the other: for runs that are
        larger than memory. `kind` is prompts, routes, candidates, gates, scores, selected or
        quarantine."""
        view = views.look(self._place)
        _check("kind of table", (kind,), SCHEMAS)
        asked = _asked(view, kind, columns, languages, teachers, arbiters)
        return frames.stream(view, kind, asked)

    def _frame(self, kind: str, columns: Names, *filters: Names) -> pd.DataFrame:
        view = views.look(self._place)
        asked = _asked(view, kind, columns, *filters)
        schema = frames.schema_of(kind, asked.columns)
        return frames.frame(frames.stream(view, kind, asked), schema)

    @property
    def teachers(self) -> list[str]:
        """The names of all that answer; a fuser is the last."""
        return [teacher.name for teacher in views.open_run(self._place)[1].answering]

    @property
    def languages(self) -> list[str]:
        """The codes of the languages of all prompts that are stored, sorted."""
        return sorted(_languages_in(views.look(self._place), None))

    @property
    def config(self) -> dict[str, Any]:
        """The config as it was resolved, every default told."""
        config: dict[str, Any] = views.open_run(self._place)[0].read_json("run.json")["config"]
        return config

    def status(self) -> Status:
        """How far the run is, as `arbitrage status` tells it."""
        return states.status(self._place)

    def show(self, prompt: str) -> Shown:
        """A prompt by its id, the start of one, or your own id, with every candidate, best first.

        Raises InputError where there is none, or more than one.
        """
        return views.show(self._place, prompt)

    def results(self) -> pd.DataFrame:
        """One row per language and teacher with a usable answer there.

        `prompts` of the language are in the product. The teacher has a usable answer to `answered`
        of them, won `wins` (a part of one where others gave the very same answer), and gives a mean
        reward of `alone` by itself; choosing per prompt adds `gain` to that, paired, with its 95 %
        interval from `gain_low` to `gain_high`.
        """
        view = views.look(self._place)
        found = Results(view.components, view.config.gates.enforced())
        for path in sorted(view.planner.selected):
            found.add(columns_of(view.store, path, baselines.COLUMNS))
        order = [teacher.name for teacher in view.components.answering]
        rows = [
            (code, row.family, name, row.prompts, *_told(row.teachers[name]))
            for code, row in sorted(found.languages.items())
            for name in order
            if name in row.teachers
        ]
        table = pd.DataFrame(rows, columns=list(RESULTS))
        return table.astype(RESULTS)

    def __repr__(self) -> str:
        try:
            told = ", ".join(f"{count} {what}" for what, count in self._counts().items())
        except ArbitrageError as error:  # a notebook shows this unasked
            told = str(error)
        return f"<Run {self.address}: {told}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a small table without markup of others."""
        try:
            counts = self._counts()
        except ArbitrageError as error:
            return f"<p>{html.escape(str(error))}</p>"
        rows = (f"<tr><td>{what}</td><td>{html.escape(n)}</td></tr>" for what, n in counts.items())
        caption = f"<caption>{html.escape(self.address)}</caption>"
        return f"<table>{caption}{''.join(rows)}</table>"

    def _counts(self) -> dict[str, str]:
        """By footers alone."""
        view = views.look(self._place)
        product = view.store.footers(sorted(view.planner.selected)).values()
        selected = sum(note.get("selected", note["rows"]) for note in product)
        return {
            "prompts": f"{sum(shard.rows for shard in view.shards):,}",
            "selected": f"{selected:,}",
            "shards": f"{len(view.shards):,}",
            "teachers": f"{len(view.components.answering):,}",
        }


RESULTS = {
    "language": "str",
    "family": "str",
    "teacher": "str",
    "prompts": "int64",
    "answered": "int64",
    "wins": "float64",
    "alone": "float64",
    "gain": "float64",
    "gain_low": "float64",
    "gain_high": "float64",
}
"""The columns of `Run.results`."""


def _told(result: TeacherResult) -> tuple[float, ...]:
    gain = result.gain
    half = gain.half_width
    interval = (gain.mean - half, gain.mean + half)
    return (result.alone.count, result.wins, result.alone.mean, gain.mean, *interval)


def _asked(
    view: View,
    kind: str,
    columns: Names,
    languages: Names = None,
    teachers: Names = None,
    arbiters: Names = None,
) -> Asked:
    """What a caller wants, every name checked."""
    every = frames.schema_of(kind).names
    told = _listed(columns)
    if told is not None:
        told = tuple(dict.fromkeys(told))
        _check(f"column of {kind}", told, every)
        if not told:
            raise UsageError(f"no column of {kind} is asked for; there are {', '.join(every)}")
    if teachers is not None and kind not in frames.OF_TEACHERS:
        raise UsageError(f"rows of {kind} have no teacher; leave `teachers=` out")
    if arbiters is not None and kind != "scores":
        raise UsageError(f"rows of {kind} are not of one Arbiter; leave `arbiters=` out")
    pool = [teacher.name for teacher in view.components.answering]
    judges = [arbiter.name for arbiter in view.components.arbiters]
    return Asked(
        tuple(every) if told is None else told,
        _codes(view, _listed(languages)),
        _known("teacher of this run", _listed(teachers), pool),
        _known("Arbiter of this run", _listed(arbiters), judges),
    )


def _listed(names: Names) -> tuple[str, ...] | None:
    if names is None or isinstance(names, str):
        return names if names is None else (names,)
    return tuple(names)


def _known(
    what: str, names: tuple[str, ...] | None, known: Collection[str]
) -> frozenset[str] | None:
    if names is None:
        return None
    _check(what, names, known)
    return frozenset(names)


def _check(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raises UsageError for the first name that is not known."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"{name!r} is no {what}; {hint}")


def _codes(view: View, tags: tuple[str, ...] | None) -> frozenset[str] | None:
    """Language tags as the run has them. Raises UsageError for one that no prompt is in."""
    if tags is None:
        return None
    codes = {tag: parse_tag(tag) or tag for tag in tags}
    if not view.shards:
        return frozenset(codes.values())
    found = _languages_in(view, set(codes.values()))
    for tag, code in codes.items():
        if code not in found:
            _check("language of this run", (tag,), sorted(_languages_in(view, None)))
    return frozenset(codes.values())


def _languages_in(view: View, wanted: set[str] | None) -> set[str]:
    """The languages of the prompts; reads on only until all that are wanted are found."""
    found: set[str] = set()
    for shard in view.shards:
        if wanted is not None and wanted <= found:
            break
        languages = columns_of(view.store, shard.path, ["language"])["language"]
        found.update(pc.unique(languages).to_pylist())
    return found
