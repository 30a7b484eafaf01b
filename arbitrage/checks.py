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
from arbitrage.errors import StageError, StaleInputError, StoreError
from arbitrage.identity import digest, fingerprint, prompt_id
from arbitrage.parts import choosing_of, parts_of
from arbitrage.plan import Planner, Round, ShardState, quarantine_of, routed
from arbitrage.routers import routes_of
from arbitrage.store import DIGEST_HEX, Listing, key_of, shard_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.components import Component, Components
    from arbitrage.config import RunConfig
    from arbitrage.plan import Task
    from arbitrage.store import Content, Store

SAID_BY_NAME = ("teacher", "model", "revision", "sampling", "rejected_teacher")
"""Columns that tell a component's name or place, which may change without making anything anew."""

Contents = dict[str, "Content | None"]
Parts = tuple[Contents, Contents, Contents]
"""By path the candidates, what gates and Arbiters say of them, and the quarantine files of a shard;
none if not readable."""


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
    """What all checks look at. `components` and `config` are the current ones, none
    where it is not known; `samples`: per teacher fingerprint how many it makes of each prompt."""

    store: Store
    listing: Listing
    components: Components | None
    config: RunConfig | None
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
    facts = {path: _facts(run, path, answers, found) for path in of.get("gates", [])}
    judged = {path: _scores(run, path, answers, found) for path in of.get("scores", [])}
    lost = {path: read(run, path, found) for path in of.get("quarantine", [])}
    for path in of.get("selected", []):
        _selected(run, path, at, asked, (answers, {**facts, **judged}, lost), found)
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
    if key_of(path) != content.digest[:DIGEST_HEX]:
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
    known = content.footer.get("known", [])
    made_from = fingerprint([at, *known] if known else at)
    if not key_of(path) == content.footer.get("key") == (made_from if at else key_of(path)):
        found.wrong(path, "it was made from another prompt shard")
    elif asked and not content.table["prompt_id"].equals(asked.table["prompt_id"]):
        found.wrong(path, "it is not about the prompts of its shard")
    elif asked and (parts := run.components) and _routes_alone(run, path, parts) and not known:
        table = routes_of(asked.table, parts).table
        if not table.equals(content.table):
            found.wrong(path, "the router asks other teachers than it says")


def _routes_alone(run: Run, path: str, parts: Components) -> bool:
    """Whether it is the current router's, and that can be asked again."""
    return parts.router.can_route and _is_current(run, path, parts.router)


def _is_current(run: Run, path: str, part: Component) -> bool:
    return run.components is not None and owner_of(path.split("/")[1]) == part.fingerprint


def _candidates(run: Run, path: str, at: str, found: Findings) -> Content | None:
    if (content := read(run, path, found)) is None:
        return None
    owner = owner_of(path.rpartition("/")[0])
    footer, table = content.footer, content.table
    if footer.get("teacher") != owner or footer.get("key") != key_of(path):
        found.wrong(path, "its footer is of another teacher or other prompts than its name")
    ids, samples = table["prompt_id"].to_pylist(), table["sample"].to_pylist()
    asked = list(dict.fromkeys(ids))
    each = run.samples.get(owner, len(ids) // max(1, len(asked)))
    read_besides = footer.get("read", [])
    if at and fingerprint([at, digest("".join(asked).encode()), *read_besides]) != key_of(path):
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
    if not _is_of(content, path, "arbiter"):
        found.wrong(path, "its footer is of another Arbiter or other prompts than its name")
    table = content.table
    alone = pc.and_(table["score"].is_null(), table["error"].is_null())
    both = pc.and_(table["score"].is_valid(), table["error"].is_valid())
    in_some = "languages" in content.footer  # elsewhere it is not asked, which is no error
    if pc.any(both).as_py() or (not in_some and pc.any(alone).as_py()):
        found.wrong(path, "a score is null without an error, or is there with one")
    elif not pc.all(pc.is_finite(table["score"].drop_null())).as_py() and len(
        table["score"].drop_null()
    ):
        found.wrong(path, "a score is not a finite number")
    _about(run, path, content, answers, found)
    return content


def _facts(run: Run, path: str, answers: Contents, found: Findings) -> Content | None:
    if (content := read(run, path, found)) is None:
        return None
    if not _is_of(content, path, "gates"):
        found.wrong(path, "its footer is of other gates or other prompts than its name")
    _about(run, path, content, answers, found)
    return content


def _is_of(content: Content, path: str, kind: str) -> bool:
    footer, folder = content.footer, path.split("/")[1]
    return footer.get(kind) == owner_of(folder) and footer.get("key") == key_of(path)


def _about(run: Run, path: str, content: Content, answers: Contents, found: Findings) -> None:
    """What gates or an Arbiter say must be of the candidates that there are."""
    made_of = about(path, content.footer, run.listing)
    if made_of not in answers:
        found.wrong(path, "the candidates that it is about are gone")
    elif made := answers[made_of]:
        if content.footer.get("candidates") != made.digest:
            found.wrong(path, f"{made_of} is not what was scored", "again")
        elif not content.table.select([0, 1]).equals(made.table.select([0, 1])):
            found.wrong(path, "its rows are not those of its candidates")


def about(path: str, footer: dict[str, Any], listing: Listing) -> str:
    """The candidates that a file of scores or of gates is about."""
    _, _, teacher, name = path.split("/")
    folder = listing.folders.get(("candidates", owner_of(teacher)))
    number = name.partition(".")[0]
    return f"{folder}/{number}.{footer['of']}.parquet" if "of" in footer else f"{folder}/{name}"


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
    having = list(dict.fromkeys(content.table["prompt_id"].to_pylist()))
    ids = [*having, *lost]
    counted = (footer.get("selected", rows), footer.get("quarantined"))
    if counted != (len(having), len(lost)) or footer.get("prompts") != len(ids):
        found.wrong(path, "the ledger does not add up: prompts = selected + quarantined")
    elif asked and sorted(ids) != sorted(asked.table["prompt_id"].to_pylist()):
        found.wrong(path, "selected and quarantined are not the prompts of its shard, each once")
    elif task is not None and not current:
        found.notes.append(f"{path}: it was made from other parts than there are now; run again")
    elif asked and run.components and _is_current(run, path, run.components.selector):
        inputs = footer.get("inputs") if task is None else task.inputs[1:]
        _build_again(run, inputs or (), asked, parts, (path, content, aside), found)


def _select_task(run: Run, path: str, at: str, asked: Content | None) -> Task | None:
    """The task that makes a file of the current product; none for another selector's, and where
    what goes in depends on more than the shard's prompts, or the router's file is gone."""
    parts = run.components
    if parts is None or asked is None or not _is_current(run, path, parts.selector):
        return None
    many = len(parts.rounds) > 1 or parts.router.lag or parts.selector.chained
    if many or not parts.router.can_route:
        return None
    planner = Planner(parts, Listing(folders=dict(run.listing.folders)), {})
    shard = ShardState(shard_number(path), at, asked.table.num_rows)
    route = planner.route_task(shard)
    shard.rounds.append(Round(route.output if route else "", routes_of(asked.table, parts)[0]))
    return next(task for task in planner.tasks(shard) if task.stage == "select")


def _build_again(
    run: Run,
    inputs: Sequence[str],
    asked: Content,
    parts: Parts,
    stored: tuple[str, Content, Content | None],
    found: Findings,
) -> None:
    """The product must be what today's candidates, gates and scores make of the prompts."""
    path, content, aside = stored
    if run.components is None or run.config is None or not all(map(found.is_sound, inputs)):
        return
    there = {**parts[0], **parts[1]}
    before = [name for name in inputs if name.startswith("selected/")]
    files = [name for name in inputs if name not in before]
    contents = [there.get(name) for name in files]
    if gone := [name for name, one in zip(files, contents, strict=True) if one is None]:
        what = f"what it was made from is gone: {gone[0]}"
        found.notes.append(f"{path}: {what}; run makes it again")
        return
    try:
        read_from = dict(zip(files, filter(None, contents), strict=True))
        made = parts_of(read_from, asked.table, run.components, run.config)
        tally = run.store.footer(before[0]).get("tally") if before else None
        choosing = choosing_of(run.config, run.components)
        best, lost, _ = product.build(asked.table, made, run.components, choosing, tally)
    except (StageError, StaleInputError, StoreError) as error:
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
