"""Lists what no current component names, and removes exactly that when asked to.

What the next `run` reads stays: files of the config's own teachers, Arbiter, router and selector,
and earlier candidates of a teacher of the pool as long as its present file of that shard is missing
(`generate` keeps answers from them). Candidates are what was paid for, so each entry tells what was
spent on it. Only for the holder of the lock does it delete.

    arbitrage gc runs/first
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from arbitrage.config import RunConfig
from arbitrage.errors import StoreError, UsageError
from arbitrage.identity import digest
from arbitrage.manifest import IDENTITY, MANIFEST
from arbitrage.plan import Planner, quarantine_of, read_state
from arbitrage.prompts import MEMO
from arbitrage.resolve import resolve
from arbitrage.store import JOURNAL
from arbitrage.usage import Usage, total_of
from arbitrage.verify import leftovers
from arbitrage.views import config_of, open_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from arbitrage.components import Components
    from arbitrage.plan import ShardState
    from arbitrage.store import Listing, Store


@dataclass
class Garbage:
    """Files that belong together: `place` is their folder, `why` says who does not need them.

    `rows` and `spent` are what their footers tell; `name` and `fingerprint` are the component's.
    """

    place: str
    why: str
    name: str = ""
    fingerprint: str = ""
    files: list[str] = field(default_factory=list)
    papers: list[str] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0
    spent: Usage = field(default_factory=Usage)


@dataclass
class Collection:
    """What is, or was, of no use; `deleted` says which. `warning` is for runs with a budget."""

    run: str
    garbage: list[Garbage]
    deleted: bool = False
    warning: str = ""

    @property
    def size_bytes(self) -> int:
        """All together."""
        return sum(one.size_bytes for one in self.garbage)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {**asdict(self), "size_bytes": self.size_bytes}


def collect_in(
    place: Path | str, config: RunConfig | None, *, keep: Sequence[str], delete: bool
) -> Collection:
    """The same for a run directory; `config` none: the one that it was last run with.

    Raises UsageError where there is no run.
    """
    store, components = open_run(place)
    if config is not None:
        components = resolve(config)
    else:
        config = config_of(store)
    limited = bool(config.budget.limits())
    return collect(store, components, keep=keep, limited=limited, delete=delete)


def collect(
    store: Store,
    components: Components,
    *,
    keep: Sequence[str] = (),
    limited: bool = False,
    delete: bool = False,
) -> Collection:
    """Finds what can go, biggest first, and lets it go if asked to.

    `keep` names components, folders or fingerprints to spare; `limited`: the run has a budget.
    Raises UsageError for a name to keep that there is not, LockedError while a driver is at work.
    """
    with store.lock() if delete else contextlib.nullcontext():
        planner, shards = read_state(components, store)
        complete = bool(shards) and not any(task for s in shards for task in planner.tasks(s))
        found = [
            *_components(planner, complete=complete),
            *_superseded(planner, shards),
            *_aside(store, planner),
        ]
        # a driver at work has temporary files and journals of its own
        found += [] if store.is_held() and not delete else _left(store, planner)
        found = _spared(found, keep, planner.listing)
        for one in found:
            _measure(store, one)
        found = [one for one in found if one.files or one.papers]
        found.sort(key=lambda one: (-one.size_bytes, one.place))
        if delete:
            if complete:
                store.point_latest(planner.folder_of(components.selector))
            for one in found:
                _remove(store, one)
    return Collection(str(store.root), found, delete, _warning(found) if limited else "")


def _warning(found: list[Garbage]) -> str:
    spent = total_of(one.spent for one in found)
    if not (spent.requests or spent.tokens):
        return ""
    return (
        "a budget counts what the files of the run tell: once these are gone, "
        f"{spent.requests:,} requests and {spent.tokens:,} tokens are forgotten and can be spent "
        "again"
    )


def _used(planner: Planner) -> set[str]:
    """Folders of the config's own components."""
    parts = planner.components
    answerers = [part for part in (*parts.teachers, *parts.variants, parts.fuser) if part]
    judges = [planner.folder_of(part) for part in (parts.gates, *parts.arbiters)]
    folders = {planner.folder_of(part) for part in (*parts.rounds, parts.selector, *answerers)}
    return folders | {*judges} | {planner.folder_of(t, one) for one in judges for t in answerers}


def _components(planner: Planner, *, complete: bool) -> list[Garbage]:
    """Folders of components that the config does not have; an Arbiter's with all below it."""
    used = _used(planner)
    listing = planner.listing
    found = []
    for (parent, owner), folder in sorted(listing.folders.items()):
        if folder in used or (parent.startswith(("scores/", "gates/")) and parent not in used):
            continue
        name = folder.rpartition("/")[2].removesuffix(f"-{owner}")
        kind = folder.split("/", 1)[0]
        if kind == "selected" and not complete:
            continue  # somebody reads it until there is a product of this config
        files = sorted(path for path in listing.files if path.startswith(f"{folder}/"))
        one = Garbage(folder, "not in the config", name, owner, files)
        one.papers = [f"{folder}{IDENTITY}", f"{folder}{MANIFEST}"]
        if kind == "selected":
            one.files += [p for p in map(quarantine_of, files) if p in listing.files]
        found.append(one)
    return found


def _superseded(planner: Planner, shards: Iterable[ShardState]) -> list[Garbage]:
    """Files of current teachers, router and Arbiter that were made for prompts asked earlier.

    A shard that is not routed, or whose present candidates are not there yet, keeps all it has.
    """
    wanted: set[str] = set()
    settled: set[tuple[str, int]] = set()
    for shard in shards:
        for number in range(len(shard.rounds)):
            wanted.add(shard.rounds[number].route)
        if planner.is_routed(shard):
            settled.update((one.route.rpartition("/")[0], shard.number) for one in shard.rounds)
        for task in (task for lane in planner.lanes(shard) for task in lane.tasks):
            wanted.add(task.output)
            if planner.is_done(task):
                settled.add((task.output.rpartition("/")[0], shard.number))
    old: dict[str, list[str]] = {}
    for path in sorted(planner.listing.files - wanted):
        folder, _, name = path.rpartition("/")
        if name.split(".")[0].isdigit() and (folder, int(name.split(".")[0])) in settled:
            old.setdefault(folder, []).append(path)
    why = "its teachers are asked other prompts now"
    return [Garbage(folder, why, _name(folder), _print(folder), p) for folder, p in old.items()]


def _name(folder: str) -> str:
    return folder.rpartition("/")[2].rpartition("-")[0]


def _print(folder: str) -> str:
    return folder.rpartition("-")[2]


def _aside(store: Store, planner: Planner) -> list[Garbage]:
    """Quarantine files of sources and of products that are not there any more."""
    files = planner.listing.files
    memo = store.read_json(MEMO)
    lost = [
        path
        for path in files
        if path.startswith("quarantine/select/")
        and f"selected/{path.removeprefix('quarantine/select/')}" not in files
    ]
    known = {f"quarantine/read/{digest(name.encode())}.parquet" for name in memo or ()}
    read = [path for path in files if path.startswith("quarantine/read/") and path not in known]
    found = [("quarantine/select", "their product is gone", lost)]
    if memo is not None:  # without it the sources are being read
        found.append(("quarantine/read", "their sources are no longer in the config", read))
    return [Garbage(place, why, files=sorted(paths)) for place, why, paths in found if paths]


def _left(store: Store, planner: Planner) -> list[Garbage]:
    """Temporary files, and journals of files that have been published since."""
    names = [
        path
        for path in leftovers(store, planner.listing)
        if f"/{JOURNAL}" not in path or _published(path, planner.listing)
    ]
    return [Garbage("", "left by processes that were killed", papers=names)] if names else []


def _published(journal: str, listing: Listing) -> bool:
    """Whether the file that a journal was kept for is there: then nobody reads the journal."""
    folder, _, name = journal.rpartition("/")
    stem = name.removeprefix(JOURNAL).removesuffix(".parquet")
    made = {path for path in listing.files if path.rpartition("/")[0] == folder}
    return any(stem.startswith(path.rsplit("/", 1)[1].removesuffix(".parquet")) for path in made)


def _spared(found: list[Garbage], keep: Sequence[str], listing: Listing) -> list[Garbage]:
    folders = listing.folders.values()
    names = {n for f in folders for n in (f, _name(f), _print(f), f.rpartition("/")[2])}
    for name in keep:
        if name.rstrip("/") not in names:
            raise UsageError(f"--keep {name}: the run has no component or folder of that name")
    spared = {name.rstrip("/") for name in keep}
    return [
        one
        for one in found
        if not one.place
        or spared.isdisjoint((one.place, one.name, one.fingerprint, one.place.rpartition("/")[2]))
    ]


def _measure(store: Store, one: Garbage) -> None:
    """Rows, bytes and what was spent; a file that cannot be read counts by its bytes alone."""
    one.papers = [path for path in one.papers if store.has(path)]
    spent = []
    for path in one.files:
        with contextlib.suppress(StoreError):
            note = store.footer(path)
            one.rows += note["rows"]
            spent.append(Usage(**note.get("spent", {})))
    one.spent = total_of(spent)
    one.size_bytes = sum(store.size(path) or 0 for path in (*one.files, *one.papers))


def _remove(store: Store, one: Garbage) -> None:
    for path in (*one.files, *one.papers):
        store.remove(path)
