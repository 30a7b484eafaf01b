"""Checks all files of one shard against each other and against what their names promise.

Knows no other shard, and changes nothing. What is not sound is a `Fault`, which says how it can be
mended; `repair` does that. A file that cannot be read hides no other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage import product
from arbitrage.errors import StageError, StoreError
from arbitrage.identity import digest, fingerprint, prompt_id
from arbitrage.plan import Planner, ShardState, quarantine_of, routed
from arbitrage.routers import routes_of
from arbitrage.store import DIGEST_HEX, Listing, shard_number

if TYPE_CHECKING:
    from arbitrage.components import Components
    from arbitrage.plan import Task
    from arbitrage.store import Content, Store

SAID_BY_NAME = ("teacher", "model", "revision", "sampling")
"""Columns that tell a component's name or place, which may change without making anything anew."""

Contents = dict[str, "Content | None"]
Parts = tuple[Contents, Contents, Contents]
"""By path the candidates, the scores and the quarantine files of a shard; none if not readable."""


class Fault(NamedTuple):
    """One thing that is wrong with one file.

    `mend` says how: "remove" it and what was made from it; "restore" a prompt shard under its
    number; score "again"; "read" the sources again; or "none", where a person has to look.
    """

    path: str
    what: str
    mend: str = "remove"


@dataclass
class Findings:
    """Faults, remarks that are no faults, and per kind how many files and rows were read."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    ids: dict[str, Any] = field(default_factory=dict)
    products: dict[str, dict[str, Any]] = field(default_factory=dict)

    def wrong(self, path: str, what: str, mend: str = "remove") -> None:
        """Notes a fault."""
        self.faults.append(Fault(path, what, mend))

    def is_sound(self, path: str) -> bool:
        """Whether nothing was found wrong with a file."""
        return all(fault.path != path for fault in self.faults)

    def add(self, other: Findings) -> None:
        """Takes in what was found in another part of the run."""
        self.faults += other.faults
        self.notes += other.notes
        self.files.update(other.files)
        self.rows.update(other.rows)
        self.ids.update(other.ids)
        self.products.update(other.products)

    def table(self) -> list[tuple[str, int, int, int]]:
        """Per kind of file: files, rows, faults."""
        faults = Counter(kind_of(fault.path) for fault in self.faults)
        kinds = sorted({*self.files, *faults})
        return [(kind, self.files[kind], self.rows[kind], faults[kind]) for kind in kinds]


def kind_of(path: str) -> str:
    """What a path holds: a kind of data file, or the run's papers."""
    return path.split("/", 1)[0] if path.endswith(".parquet") else "papers"


@dataclass(frozen=True)
class Run:
    """What all checks look at. `components` and `enforced` (gates) are the current config's, none
    where it is not known; `samples`: per teacher fingerprint how many it makes of each prompt."""

    store: Store
    listing: Listing
    components: Components | None
    enforced: tuple[str, ...]
    samples: dict[str, int]


def read(run: Run, path: str, found: Findings) -> Content | None:
    """A file's content with every page's checksum, or none and a fault."""
    found.files[kind_of(path)] += 1
    try:
        content = run.store.read(path)
        content.table.validate(full=True)
    except (StoreError, pa.ArrowException) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        mend = {"prompts": "restore"}.get(kind_of(path), "remove")
        found.wrong(path, f"it cannot be read: {cause}", mend)
        return None
    found.rows[kind_of(path)] += content.table.num_rows
    return content


def _key(path: str) -> str:
    return path.rsplit("/", 1)[1].split(".")[1]


def owner_of(folder: str) -> str:
    """The fingerprint in the name of a component's folder."""
    return folder.rpartition("-")[2]


def check_shard(run: Run, number: int, paths: list[str]) -> Findings:
    """Reads all files of one shard, each once; `paths` are those that have its number."""
    found = Findings()
    of: dict[str, list[str]] = {}
    for path in paths:
        of.setdefault(kind_of(path), []).append(path)
    asked = _prompts(run, of.get("prompts", []), found)
    if not of.get("prompts"):
        what = f"the prompts of shard {number} are gone, and other files know of them"
        found.wrong(f"prompts/{number:05d}", what, "restore")
    at = of.get("prompts", [""])[0]
    for path in of.get("routes", []):
        _routes(run, path, at, asked, found)
    answers = {path: _candidates(run, path, at, found) for path in of.get("candidates", [])}
    judged = {path: _scores(run, path, answers, found) for path in of.get("scores", [])}
    lost = {path: read(run, path, found) for path in of.get("quarantine", [])}
    for path in of.get("selected", []):
        _selected(run, path, at, asked, (answers, judged, lost), found)
    for path in lost:
        if path not in map(quarantine_of, of.get("selected", [])):
            found.notes.append(f"{path}: the product that it belongs to is not there")
    return found


def _prompts(run: Run, paths: list[str], found: Findings) -> Content | None:
    """The shard's prompts, if they are sound."""
    for path in paths[1:]:
        found.wrong(path, f"{paths[0]} has the same number; remove the one copied in", "none")
    if not paths or (content := read(run, path := paths[0], found)) is None:
        return None
    if _key(path) != content.digest[:DIGEST_HEX]:
        found.wrong(path, "its content is not what its name says", "restore")
        return None
    ids = content.table["prompt_id"].to_pylist()
    if ids != [prompt_id(turns) for turns in content.table["messages"].to_pylist()]:
        found.wrong(path, "an id is not the hash of its messages", "none")
    found.ids[path] = np.array([int(key[:16], 16) for key in ids], np.uint64)
    return content


def _routes(run: Run, path: str, at: str, asked: Content | None, found: Findings) -> None:
    if (content := read(run, path, found)) is None:
        return
    told: dict[str, list[str]] = {}
    for key, owners in zip(*(column.to_pylist() for column in content.table.columns), strict=True):
        for owner in owners:
            told.setdefault(owner, []).append(key)
    counted = {o: (len(keys), digest("".join(keys).encode())) for o, keys in told.items()}
    try:
        noted = routed(content.footer)
    except (KeyError, TypeError, ValueError, AttributeError):
        noted = {}
    if noted != counted:
        found.wrong(path, "its footer does not say who is asked what")
    key = fingerprint(at) if at else _key(path)
    if not _key(path) == content.footer.get("key") == key:
        found.wrong(path, "it was made from another prompt shard")
    elif asked and not content.table["prompt_id"].equals(asked.table["prompt_id"]):
        found.wrong(path, "it is not about the prompts of its shard")
    elif asked and run.components and _is_current(run, path):
        table = routes_of(asked.table, run.components)[1]
        if not table.equals(content.table):
            found.wrong(path, "the router asks other teachers than it says")


def _is_current(run: Run, path: str) -> bool:
    return run.components is not None and path.split("/")[1].endswith(
        f"-{run.components.router.fingerprint}"
    )


def _candidates(run: Run, path: str, at: str, found: Findings) -> Content | None:
    if (content := read(run, path, found)) is None:
        return None
    owner = owner_of(path.rpartition("/")[0])
    footer, table = content.footer, content.table
    if footer.get("teacher") != owner or footer.get("key") != _key(path):
        found.wrong(path, "its footer is of another teacher or other prompts than its name")
    ids, samples = table["prompt_id"].to_pylist(), table["sample"].to_pylist()
    asked = list(dict.fromkeys(ids))
    each = run.samples.get(owner, len(ids) // max(1, len(asked)))
    if at and fingerprint([at, digest("".join(asked).encode())]) != _key(path):
        found.wrong(path, "its prompts are not those that its name says")
    if list(zip(ids, samples, strict=True)) != [(k, n) for k in asked for n in range(each)]:
        found.wrong(path, f"not every prompt has the samples 0 to {each - 1}, each once")
    failed = table["error"].is_valid()
    nothing = pc.and_(table["completion"].is_null(), pc.equal(table["finish_reason"], "error"))
    if not failed.equals(nothing) or not failed.equals(table["completion"].is_null()):
        found.wrong(path, "a completion is null without an error, or is there with one")
    if footer.get("errors") != len(ids) - table["error"].null_count:
        found.wrong(path, "its footer counts other errors than there are")
    return content


def _scores(run: Run, path: str, answers: Contents, found: Findings) -> Content | None:
    if (content := read(run, path, found)) is None:
        return None
    _, arbiter, teacher, name = path.split("/")
    if content.footer.get("arbiter") != owner_of(arbiter) or content.footer.get("key") != _key(
        path
    ):
        found.wrong(path, "its footer is of another Arbiter or other prompts than its name")
    folder = run.listing.folders.get(("candidates", owner_of(teacher)))
    table = content.table
    if not table["score"].is_null().equals(table["error"].is_valid()):
        found.wrong(path, "a score is null without an error, or is there with one")
    elif not pc.all(pc.is_finite(table["score"].drop_null())).as_py() and len(
        table["score"].drop_null()
    ):
        found.wrong(path, "a score is not a finite number")
    if f"{folder}/{name}" not in answers:
        found.wrong(path, "the candidates that it is about are gone")
    elif made := answers[f"{folder}/{name}"]:
        if content.footer.get("candidates") != made.digest:
            found.wrong(path, f"{folder}/{name} is not what was scored", "again")
        elif not table.select([0, 1]).equals(made.table.select([0, 1])):
            found.wrong(path, "its rows are not those of its candidates")
    return content


def _selected(
    run: Run, path: str, at: str, asked: Content | None, parts: Parts, found: Findings
) -> None:
    if (content := read(run, path, found)) is None:
        return
    footer, rows = content.footer, content.table.num_rows
    size = run.store.size(path)
    told = {"sha256": content.digest, "rows": rows, "bytes": size, "key": footer.get("key")}
    found.products[path] = told
    aside = parts[2].get(quarantine_of(path))
    task = _select_task(run, path, at, asked)
    current = task is not None and task.key == footer.get("key")
    if aside and aside.footer.get("key") != footer.get("key"):
        if current:
            found.wrong(path, "what it left out, as its quarantine tells, is of another time")
        else:
            found.notes.append(f"{path}: it is being replaced; run again")
        return
    lost = aside.table["prompt_id"].to_pylist() if aside else []
    ids = [*content.table["prompt_id"].to_pylist(), *lost]
    if not footer.get("prompts") == rows + len(lost) == rows + footer.get("quarantined", -1):
        found.wrong(path, "the ledger does not add up: prompts = selected + quarantined")
    elif asked and sorted(ids) != sorted(asked.table["prompt_id"].to_pylist()):
        found.wrong(path, "selected and quarantined are not the prompts of its shard, each once")
    elif task is not None and not current:
        found.notes.append(f"{path}: it was made from other parts than there are now; run again")
    elif task is not None and asked:
        _build_again(run, task.inputs[1:], asked, parts, (path, content, aside), found)


def _select_task(run: Run, path: str, at: str, asked: Content | None) -> Task | None:
    """The task that makes a file of the current product; none for another selector's."""
    if run.components is None or asked is None:
        return None
    planner = Planner(run.components, Listing(folders=dict(run.listing.folders)), {})
    if path.rpartition("/")[0] != planner.folder_of(run.components.selector):
        return None
    who = routes_of(asked.table, run.components)[0]
    shard = ShardState(shard_number(path), at, asked.table.num_rows, who)
    planner.record(planner.route_task(shard))
    return next(task for task in planner.tasks(shard) if task.stage == "select")


def _build_again(
    run: Run,
    inputs: tuple[str, ...],
    asked: Content,
    parts: Parts,
    stored: tuple[str, Content, Content | None],
    found: Findings,
) -> None:
    """The product must be what today's candidates and scores make of the prompts."""
    path, content, aside = stored
    pairs = [
        (a, parts[0].get(a), parts[1].get(s))
        for a, s in zip(inputs[::2], inputs[1::2], strict=True)
    ]
    if run.components is None or not all(found.is_sound(name) for name in inputs):
        return
    made = []
    for name, answers, judged in pairs:
        if answers is None or judged is None:
            what = f"what it was made from is gone: {name} or its scores"
            found.notes.append(f"{path}: {what}; run makes it again")
            return
        teacher = run.components.teacher(owner_of(name.rpartition("/")[0]))
        made.append(product.Part(teacher, answers.table, judged.table))
    try:
        best, lost = product.build(asked.table, made, run.components, run.enforced)
    except StageError as error:
        found.wrong(path, f"it cannot be made from its parts: {error}")
        return
    if not _same(best, content.table):
        found.wrong(path, "it is not the best of its candidates by their scores and gates")
    if aside is not None and not lost.drop(["detail"]).equals(aside.table.drop(["detail"])):
        found.wrong(quarantine_of(path), "it does not hold what the product leaves out")


def _same(made: pa.Table, stored: pa.Table) -> bool:
    """Whether two products are equal but for what tells the name or the place of a component."""
    plain = [name for name in made.column_names if name not in (*SAID_BY_NAME, "candidates")]
    if not all(made[name].equals(stored[name]) for name in plain):
        return False
    one, other = (table["candidates"].combine_chunks() for table in (made, stored))
    if not one.value_lengths().equals(other.value_lengths()):
        return False
    names = [part.name for part in one.type.value_type if part.name != "teacher"]
    ours, theirs = one.flatten(), other.flatten()
    return all(ours.field(name).equals(theirs.field(name)) for name in names)
