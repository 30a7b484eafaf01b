"""Removes what `verify` found broken and what was made from it, so that `run` makes it again.

Only for the holder of the lock. A prompt shard is never removed while something was made from it:
all later work knows it by its number and its digest. It is put together again, from its own rows or
from the sources by the ids that its routes name, and kept only if its name comes out the same.

    arbitrage verify runs/first --repair
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage import prompts
from arbitrage.checks import Fault, Findings, kind_of, owner_of
from arbitrage.config import RunConfig
from arbitrage.errors import ArbitrageError, InputError, StageError, StoreError, UsageError
from arbitrage.identity import fingerprint
from arbitrage.manifest import MANIFEST
from arbitrage.plan import quarantine_of
from arbitrage.prompts import MEMO, Accepted
from arbitrage.store import Store, shard_number
from arbitrage.verify import check, is_known
from arbitrage.views import config_of, open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from arbitrage.components import Components
    from arbitrage.prompts import PromptSet

ORDER = ("selected", "quarantine", "scores", "gates", "candidates", "routes", "prompts", "papers")
"""What was made last goes first: a repair that is killed leaves nothing made from what is gone."""


@dataclass
class Repaired:
    """Paths that were removed, and restored with the very bytes; and what could not be mended."""

    removed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    left: list[Fault] = field(default_factory=list)


@dataclass
class Examination:
    """What `verify` says of a run; `repaired` is none where nothing was to be mended."""

    run: str
    findings: Findings
    repaired: Repaired | None

    @property
    def is_sound(self) -> bool:
        """Whether no fault is left."""
        return not (self.findings.faults if self.repaired is None else self.repaired.left)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        kinds = [
            {"kind": kind, "files": files, "rows": rows, "faults": faults}
            for kind, files, rows, faults in self.findings.table()
        ]
        return {
            "run": self.run,
            "sound": self.is_sound,
            "kinds": kinds,
            "faults": [fault._asdict() for fault in self.findings.faults],
            "notes": self.findings.notes,
            "repaired": None if self.repaired is None else asdict(self.repaired),
        }


def examine(place: Path | str, tell: Callable[[int, int], None], *, mend: bool) -> Examination:
    """Verifies the run in `place`, and mends it if asked to.

    Raises UsageError where there is no run, and LockedError if it is to be mended while a driver is
    at work.
    """
    store = Store(place)
    if not store.names("prompts") and not store.exists():
        raise UsageError(f"{place} is no run directory; `arbitrage run CONFIG.yaml` makes one")
    with store.lock() if mend else contextlib.nullcontext():
        opened = _opened(place)
        if opened is None:
            findings = check(store, None, None, tell)
            if findings.is_sound("run.json"):
                findings.wrong("run.json", "there is none that this version can read")
            return Examination(
                str(place), findings, repair(store, findings, None) if mend else None
            )
        config, components = opened
        store = Store(place, config.output.compression, config.output.patience_s)
        findings = check(store, components, config, tell)
        if not mend:
            return Examination(str(place), findings, None)
        sources = None
        with contextlib.suppress(ArbitrageError):
            sources = prompts.find(config.prompts, components.covered, store)
        return Examination(str(place), findings, repair(store, findings, sources))


def _opened(place: Path | str) -> tuple[RunConfig, Components] | None:
    """The run's config as it was last started; none where that cannot be told."""
    try:
        store, components = open_run(place)
        return config_of(store), components
    except (ArbitrageError, ValueError):
        return None


def repair(store: Store, findings: Findings, prompt_set: PromptSet | None) -> Repaired:
    """Mends all faults that can be. `prompt_set`: the sources as they are now, if they are there.

    The caller holds the lock, and has made `findings` under it.
    """
    done = Repaired()
    gone: set[str] = set()
    files = {path for path in store.listing().files if is_known(path)}
    for fault in findings.faults:
        if fault.mend == "none":
            done.left.append(fault)
        elif fault.mend == "restore":
            _mend_prompts(store, fault, findings, prompt_set, files, gone, done)
        elif fault.mend == "again" and (whole := _encoded_again(store, fault.path)):
            done.restored.append(whole)
        else:
            gone.add(MEMO if fault.mend == "read" else fault.path)
    for path in sorted(_with_products(gone, files), key=lambda p: (ORDER.index(kind_of(p)), p)):
        if store.has(path):
            store.remove(path)
            done.removed.append(path)
    return done


def _with_products(gone: set[str], files: set[str]) -> set[str]:
    """The same with all that was made from them, and what has to go so that they are made again."""
    found: set[str] = set()
    waiting = set(gone)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.update(_made_from(path, files))
    return found


def _made_from(path: str, files: set[str]) -> Iterator[str]:
    kind = kind_of(path)
    folder, _, name = path.rpartition("/")
    if kind == "candidates":
        for other in files:
            place, _, its_name = other.rpartition("/")
            if (
                other.startswith(("gates/", "scores/"))
                and its_name == name
                and owner_of(place) == owner_of(folder)
            ):
                yield other
    if kind in ("candidates", "gates", "scores"):
        number = shard_number(path)
        yield from (p for p in files if p.startswith("selected/") and shard_number(p) == number)
    elif kind == "selected":
        yield quarantine_of(path)
        yield f"{folder}{MANIFEST}"
    elif path.startswith("quarantine/select/"):
        yield f"selected/{path.removeprefix('quarantine/select/')}"
    elif path.startswith("quarantine/read/"):
        yield MEMO


def _encoded_again(store: Store, scores: str) -> str | None:
    """Candidates whose bytes were changed where no row is: written again if their scores know the
    outcome. Gives their path, or none where the candidates must be scored again."""
    _, _, teacher, name = scores.split("/")
    folder = store.listing().folders["candidates", owner_of(teacher)]
    path = f"{folder}/{name}"
    content = store.read(path)
    note = {key: value for key, value in content.footer.items() if key != "kind"}
    with tempfile.TemporaryDirectory() as aside:
        made = Store(Path(aside), store.compression).publish(path, content.table, note)
    if made.digest != store.read(scores).footer.get("candidates"):
        return None
    store.publish(path, content.table, note)
    return path


def _mend_prompts(
    store: Store,
    fault: Fault,
    findings: Findings,
    prompt_set: PromptSet | None,
    files: set[str],
    gone: set[str],
    done: Repaired,
) -> None:
    """Restores a prompt shard, or removes it where it is the last and nothing knows of it."""
    number = shard_number(fault.path)
    others = [
        path
        for path in files
        if not path.startswith(("prompts/", "quarantine/read/")) and shard_number(path) == number
    ]
    last = all(shard_number(p) <= number for p in files if p.startswith("prompts/"))
    routes = [path for path in others if path.startswith("routes/") and findings.is_sound(path)]
    try:
        found = any(
            _restored(store, fault.path, number, rows, routes, done)
            for rows in _accounts(store, fault.path, routes, prompt_set)
        )
    except (InputError, StageError) as error:
        done.left.append(fault._replace(what=f"{fault.what}; {error}"))
        return
    if not found and last and not others:
        gone.update((fault.path, MEMO))
    elif not found:
        what = f"{fault.what}; neither it nor the sources as they are now hold its prompts"
        done.left.append(fault._replace(what=what, mend="none"))


def _accounts(
    store: Store, path: str, routes: list[str], prompt_set: PromptSet | None
) -> Iterator[list[Accepted]]:
    """What the rows may have been: its own, if they can be read, or those of the sources."""
    try:
        rows = store.read(path).table.to_pylist() if store.has(path) else []
    except StoreError:
        rows = []
    if rows:
        yield [Accepted._make([*row.values(), None]) for row in rows]
    if not routes or prompt_set is None:
        return
    wanted = store.read(routes[0]).table["prompt_id"].to_pylist()
    told = _of_sources(prompt_set, set(wanted))
    if all(key in told for key in wanted):
        yield [told[key] for key in wanted]


def _of_sources(prompt_set: PromptSet, wanted: set[str]) -> dict[str, Accepted]:
    """The wanted prompts as a first reading of all sources finds them."""
    whole = prompts.PromptSet(
        prompt_set.config, prompt_set.covered, prompt_set.signatures, tuple(prompt_set.signatures)
    )
    with tempfile.TemporaryDirectory() as nothing:
        rows = prompts.new_prompts(whole, Store(Path(nothing)))
        return {row.id: row for row in rows if row.id in wanted}


def _restored(
    store: Store, path: str, number: int, rows: list[Accepted], routes: list[str], done: Repaired
) -> bool:
    """Publishes the rows if they make the file that was there: by its name, or by its routes'."""
    with tempfile.TemporaryDirectory() as aside:
        made = prompts.publish_shard(Store(Path(aside), store.compression), number, rows).path
    keys = {route.rsplit("/", 1)[1].split(".")[1] for route in routes}
    if made != path and (store.has(path) or fingerprint(made) not in keys):
        return False
    prompts.publish_shard(store, number, rows)
    done.restored.append(made)
    return True
