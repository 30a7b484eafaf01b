"""Makes a training set of a run: rows of its product in the form that is wanted, and their card.

Reads files only, shard by shard, so that memory does not grow with the run; the run may be at an
address, what is made is a folder. The same run and the same wishes give the same bytes.

    arbitrage export runs/first --format sft -o first-sft
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from arbitrage import datacard, summary
from arbitrage.config import RunConfig
from arbitrage.datafolder import FILE_ROWS, DataFolder, replacing
from arbitrage.errors import InputError, UsageError
from arbitrage.exports import EXTRA, FORMATS
from arbitrage.files import has_scheme
from arbitrage.languages import parse_tag
from arbitrage.permits import Permits
from arbitrage.plan import read_state
from arbitrage.sieve import Sieve, Wanted, split_of
from arbitrage.store import shard_number
from arbitrage.tallies import Tally
from arbitrage.views import config_of, open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from arbitrage.components import Components
    from arbitrage.datafolder import DataFile
    from arbitrage.sieve import Passed
    from arbitrage.store import Store
    from arbitrage.summary import Summary

    Tell = Callable[[int, int], None]

CANDIDATE_COLUMNS = ["prompt_id", "sample", "completion", "reasoning"]


@dataclass(frozen=True)
class Layout:
    """How the folder looks: the kind of its files, none: that of the form; whether each language
    has files of its own; after how many rows a file ends."""

    kind: str | None = None
    per_language: bool = False
    file_rows: int = FILE_ROWS
    overwrite: bool = False


@dataclass
class Exported:
    """What was made, and what became of every row of the product. `unfinished`: prompts of the run
    that its product does not have yet; `outdated`: shards of it that are not yet as the config now
    says; `unlicensed`: teachers whose license is not recorded."""

    folder: str
    form: str
    ledger: dict[str, Any]
    languages: dict[str, int]
    splits: dict[str, int]
    licenses: dict[str, int]
    unlicensed: list[str]
    unfinished: int
    outdated: int
    files: list[DataFile] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        files = [
            {"path": one.path, "rows": one.rows, "bytes": one.size_bytes} for one in self.files
        ]
        told = {k: v for k, v in vars(self).items() if k != "ledger"}
        return {**told, **self.ledger, "files": files}


@dataclass
class _Source:
    """An opened run: what it was told, and the files of its product."""

    store: Store
    components: Components
    config: RunConfig
    permits: Permits
    files: list[str]
    summary: Summary
    outdated: int

    def sieve(self, wanted: Wanted) -> Sieve:
        """A fresh one, with an empty ledger."""
        preferred = self.components.judging.preferred
        return Sieve(
            wanted,
            self.permits,
            self.config.selection,
            self.config.gates.enforced(),
            lambda code: bool(preferred.get(code, preferred.get("default"))),
        )

    def passed(self, sieve: Sieve, tell: Tell) -> Iterator[Passed]:
        """All rows that the sieve lets through, in the product's order."""
        for done, path in enumerate(self.files):
            tell(done, len(self.files))
            table, _, footer = self.store.read(path, columns=sieve.read)
            texts = _Texts(self.store, footer.get("inputs", ()), table["prompt_id"])
            yield from sieve.passed(table.to_pylist(), texts)


class _Texts:
    """The texts of a shard's candidates, read when the first is asked for: of the very files that
    the product was made of."""

    def __init__(self, store: Store, made_of: Sequence[str], prompts: pa.ChunkedArray) -> None:
        self._store, self._prompts = store, prompts
        self._paths = [path for path in made_of if path.startswith("candidates/")]
        self._found: dict[tuple[str, str, int], tuple[str | None, str | None]] | None = None

    def __call__(
        self, owner: str, prompt: str, sample: int
    ) -> tuple[str | None, str | None] | None:
        if self._found is None:
            self._found = dict(self._read())
        return self._found.get((owner, prompt, sample))

    def _read(self) -> Iterator[tuple[tuple[str, str, int], tuple[str | None, str | None]]]:
        for path in filter(self._store.has, self._paths):
            table, _, footer = self._store.read(path, columns=CANDIDATE_COLUMNS)
            mine = pc.is_in(table["prompt_id"], value_set=self._prompts.combine_chunks())
            columns = (table.filter(mine)[name].to_pylist() for name in CANDIDATE_COLUMNS)
            for prompt, sample, text, reasoning in zip(*columns, strict=True):
                yield (footer["teacher"], prompt, sample), (text, reasoning)


def export(
    place: Path | str,
    output: Path | str,
    wanted: Wanted,
    layout: Layout | None = None,
    now: RunConfig | None = None,
    tell: Tell = lambda done, total: None,
) -> Exported:
    """Makes the folder. `now` is the config as it is now: its licenses count.

    Raises UsageError for wishes that cannot be met, InputError where no row is left.
    """
    layout = layout or Layout()
    check_wishes(wanted, layout)
    if isinstance(output, str) and has_scheme(output):
        raise UsageError(f"{output} is an address; export to a folder and copy that")
    store, components = open_run(place)
    _check_place(store, Path(output))
    source = _opened(store, components, now)
    wanted = _known(source, wanted)
    sieve = source.sieve(wanted)
    if wanted.limit is not None:
        sieve.highest = _highest(source, wanted, wanted.limit, tell)
    with replacing(Path(output), overwrite=layout.overwrite) as folder:
        made = _written(source, sieve, layout, folder, tell)
    made.folder = str(output)
    return made


def _written(source: _Source, sieve: Sieve, layout: Layout, folder: Path, tell: Tell) -> Exported:
    wanted, form = sieve.wanted, FORMATS[sieve.wanted.form]
    kind = layout.kind or form.files[0]
    schema = form.schema(wanted.beside, reasoning=wanted.reasoning)
    data = DataFolder(folder, schema, kind, layout.file_rows, layout.per_language)
    tally = Tally()
    for one in source.passed(sieve, tell):
        columns = one.row.columns
        split = split_of(columns["prompt_id"], wanted.splits)
        made = form.row(one.row, wanted.beside)
        data.add(split, columns["language"], made, one.row.characters)
        tally.add(split, one)
    if not sieve.ledger.exported:
        raise InputError(_nothing(sieve))
    files = data.finish()
    ledger = sieve.ledger.as_dict()
    card = datacard.render(
        datacard.Told(
            source.store, source.components, source.config, source.permits, source.summary,
            wanted, schema, kind, ledger, tally, files, source.outdated,
        )
    )  # fmt: skip
    data.write_papers(card, _paper(source, wanted, kind, ledger), files)
    return Exported(
        "",
        wanted.form,
        ledger,
        {code: row.rows for code, row in sorted(tally.languages.items())},
        dict(sorted(tally.splits.items())),
        dict(sorted(tally.licenses.items())),
        sorted(tally.unlicensed),
        source.summary.ledger.unfinished,
        source.outdated,
        files,
    )


def _paper(source: _Source, wanted: Wanted, kind: str, ledger: dict[str, Any]) -> dict[str, Any]:
    """What `export.json` says besides the files."""
    wishes = {k: v for k, v in vars(wanted).items() if v not in (None, (), False)}
    return {
        "run_fingerprint": source.components.fingerprint,
        "wishes": {**wishes, "columns": list(wanted.beside), "files": kind},
        "ledger": ledger,
    }


def _nothing(sieve: Sieve) -> str:
    if not sieve.ledger.rows:
        return "the run has no product yet; `arbitrage run` makes it"
    left = {why: counts.total() for why, counts in sieve.ledger.left_out.items()}
    told = ", ".join(f"{why} {count:,}" for why, count in sorted(left.items()))
    return f"none of {sieve.ledger.rows:,} rows is left to export ({told}); ask for less"


def _opened(store: Store, components: Components, now: RunConfig | None) -> _Source:
    config = config_of(store)
    planner, shards = read_state(components, store)
    found = summary.of_run(store, components, planner, {}, stopped=False)
    permits = Permits(store, planner.listing, components, now)
    files = sorted(planner.selected)
    late = {shard.number for shard in shards if any(True for _ in planner.tasks(shard))}
    outdated = sum(shard_number(path) in late for path in files)
    return _Source(store, components, config, permits, files, found, outdated)


def check_wishes(wanted: Wanted, layout: Layout) -> None:
    """Raises UsageError for what a form does not have, and for splits that do not add up."""
    form, name = FORMATS[wanted.form], wanted.form
    if wanted.reasoning and not form.reasoning:
        able = " and ".join(other for other, one in FORMATS.items() if one.reasoning)
        raise UsageError(f"the format {name} has no place for reasoning, only {able}; drop it")
    if layout.kind is not None and layout.kind not in form.files:
        raise UsageError(f"the format {name} is {form.files[0]}; drop `--to {layout.kind}`")
    if wanted.min_margin is not None and not form.pairs:
        raise UsageError(f"a least margin is for pairs; the format {name} has none")
    known = [*form.columns, *(EXTRA if form.columns else ())]
    for column in wanted.beside:
        if not known:
            raise UsageError(f"the format {name} allows no other columns; drop `--columns`")
        if column not in known:
            raise UsageError(f"there is no column {column!r}; {_meant(column, known)}")
    names = [split for split, _ in wanted.splits]
    if len(set(names)) < len(names) or not math.isclose(sum(s for _, s in wanted.splits), 1):
        raise UsageError("the splits must have different names, and shares that add up to 1")


def _meant(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def _known(source: _Source, wanted: Wanted) -> Wanted:
    """The same with codes of languages. Raises UsageError for a language or a teacher that the
    run does not have."""
    there = [row.language for row in source.summary.languages]
    codes = []
    for tag in wanted.languages:
        code = parse_tag(tag)
        if code not in there:
            raise UsageError(f"no row of the run is in {tag!r}; {_meant(tag, there)}")
        codes.append(code or tag)
    names = [permit.name for permit in source.permits.pool]
    for name in wanted.teachers:
        if name not in names:
            raise UsageError(f"the run has no teacher {name!r}; {_meant(name, names)}")
    return Wanted(**{**vars(wanted), "languages": tuple(codes)})


def _check_place(store: Store, output: Path) -> None:
    here = store.address()
    if has_scheme(here):
        return
    run, target = Path(here).resolve(), output.resolve()
    if target == run or run in target.parents:
        raise UsageError(
            f"{output} is in the run directory, which is the run's alone; name another"
        )


def _highest(source: _Source, wanted: Wanted, limit: int, tell: Tell) -> int:
    """The lot of the last row within the limit: those with the lowest are taken, so that a lower
    limit takes a part of what a higher one takes. Costs a pass of its own."""
    passed = source.passed(source.sieve(wanted), tell)
    lots = np.fromiter((one.lot for one in passed), np.uint64)
    last = min(limit, len(lots)) - 1
    return int(np.partition(lots, last)[last]) if len(lots) else 0
