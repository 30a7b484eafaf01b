"""Re-reads a whole run and says of every file what is wrong with it; changes nothing.

Every shard is checked by itself, so that memory does not grow with the run, and a file that cannot
be read hides no other. What a name promises is computed again: a prompt shard's digest, a prompt's
id, the key of the prompts that a teacher was asked. The current product is built again in memory.
A run that is not complete is sound: what is missing is no fault, `run` makes it.

    arbitrage verify runs/first
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.checks import Findings, Run, check_shard, read
from arbitrage.errors import StoreError
from arbitrage.identity import digest, fingerprint
from arbitrage.manifest import IDENTITY, MANIFEST
from arbitrage.prompts import MEMO
from arbitrage.store import JOURNAL, shard_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbitrage.components import Components
    from arbitrage.config import RunConfig
    from arbitrage.store import Listing, Store

READERS = 4
LEFTOVERS = (".tmp-", JOURNAL)
NUMBERED = re.compile(r"\d{5,}(\.[0-9a-f]+)?\.parquet")


def check(
    store: Store,
    components: Components | None,
    config: RunConfig | None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Reads everything. `tell` hears of shards (done, all); `components` none: no config known."""
    found = Findings()
    listing = store.listing()
    samples = _papers(store, listing, found)
    run = Run(store, listing, components, config, samples)
    shards = _by_number(listing, found)
    with ThreadPoolExecutor(READERS) as pool:
        # an iterator, so that no more than the small accounts of shards are held
        accounts = pool.map(lambda item: check_shard(run, *item), sorted(shards.items()))
        for done, account in enumerate(accounts, 1):
            found.add(account)
            tell(done, len(shards))
    _numbers(shards, found)
    _doubled(found)
    _manifests(run, found)
    _sources(run, found)
    _leftovers(run, found)
    return found


def is_known(path: str) -> bool:
    """Whether a data file has a name that a run gives."""
    return path.startswith("quarantine/read/") or bool(NUMBERED.fullmatch(path.rsplit("/", 1)[1]))


def _by_number(listing: Listing, found: Findings) -> dict[int, list[str]]:
    shards: dict[int, list[str]] = {}
    for path in sorted(listing.files):
        if path.startswith("quarantine/read/"):
            continue
        if is_known(path):
            shards.setdefault(shard_number(path), []).append(path)
        else:
            found.wrong(path, "no run gives a file such a name; move it elsewhere", "none")
    return shards


def _numbers(shards: dict[int, list[str]], found: Findings) -> None:
    """Numbers that nothing at all knows of, below the highest one."""
    for number in set(range(max(shards, default=-1))) - set(shards):
        found.wrong(f"prompts/{number:05d}", f"there is no shard {number}", "none")


def _doubled(found: Findings) -> None:
    """Prompts that stand twice, by the first half of their ids: 8 bytes each in memory."""
    every = [(path, ids) for path, ids in sorted(found.ids.items()) if len(ids)]
    if not every:
        return
    flat = np.concatenate([ids for _, ids in every])
    values, counts = np.unique(flat, return_counts=True)
    twice = values[counts > 1]
    for path, ids in every:
        if count := int(np.isin(ids, twice).sum()) if len(twice) else 0:
            found.wrong(path, f"{count} of its prompts are there twice in the run", "none")


def _papers(store: Store, listing: Listing, found: Findings) -> dict[str, int]:
    """Reads configs and identities; gives how many samples each teacher makes per prompt."""
    samples: dict[str, int] = {}
    again: dict[str, str] = {}
    _paper(store, "run.json", found)
    for (_, owner), folder in sorted(listing.folders.items()):
        note = _paper(store, f"{folder}{IDENTITY}", found)
        if note is None:
            continue
        if not isinstance(note, dict) or fingerprint(note.get("identity")) != owner:
            found.wrong(f"{folder}{IDENTITY}", "it is not the identity of its folder")
        elif folder.startswith("candidates/"):
            identity = note["identity"]
            again[owner] = identity.get("teacher", "")
            groups = identity.get("sampling") or [{}]
            samples[owner] = sum(group.get("n", 1) for group in groups)
    asked_again = {owner: teacher for owner, teacher in again.items() if teacher}
    return samples | {owner: samples.get(t, 1) for owner, t in asked_again.items()}


def _paper(store: Store, path: str, found: Findings) -> Any:
    try:
        told = store.read_json(path)
    except StoreError as error:
        found.files["papers"] += 1
        found.wrong(path, f"it cannot be read: {error.__cause__}", "remove")
        return None
    found.files["papers"] += told is not None
    return told


def _manifests(run: Run, found: Findings) -> None:
    for (kind, _), folder in sorted(run.listing.folders.items()):
        path = f"{folder}{MANIFEST}"
        if kind != "selected" or (told := _paper(run.store, path, found)) is None:
            continue
        try:
            entries = {f"{folder}/{entry['file']}": entry for entry in told["files"]}
            adds_up = told["rows"] == sum(entry["rows"] for entry in told["files"])
        except (KeyError, TypeError):
            entries, adds_up = {}, False
        if not adds_up:
            found.wrong(path, "its rows do not add up")
        for name, entry in entries.items():
            made = found.products.get(name)
            if (
                made
                and made["key"] == entry.get("key")
                and any(made[k] != entry.get(k) for k in made)
            ):
                found.wrong(name, "it is not the file whose checksum is in the manifest")
            elif made is None and name not in run.listing.files:
                found.wrong(path, f"{name} is gone")


def _sources(run: Run, found: Findings) -> None:
    """Per source rows = accepted + refused, and the refused ones are in quarantine."""
    memo = _paper(run.store, MEMO, found) or {}
    paths = {path for path in run.listing.files if path.startswith("quarantine/read/")}
    for name, told in sorted(memo.items()) if isinstance(memo, dict) else []:
        path = f"quarantine/read/{digest(name.encode())}.parquet"
        content = read(run, path, found) if path in paths else None
        paths.discard(path)
        try:
            refused = sum(told["refused"].values())
            adds_up = told["rows"] == told["accepted"] + refused
        except (KeyError, TypeError, AttributeError):
            refused, adds_up = -1, False
        if not adds_up:
            found.wrong(MEMO, f"the rows of {name} do not add up", "read")
        elif found.is_sound(path) and refused != (content.table.num_rows if content else 0):
            found.wrong(path, f"it does not hold the {refused} rows of {name} that were refused")
    for path in sorted(paths):
        if read(run, path, found) is not None:
            found.notes.append(f"{path}: its source is no longer one of the run's")


def _leftovers(run: Run, found: Findings) -> None:
    found.notes += [
        f"{path}: left by a process that was killed" for path in leftovers(run.store, run.listing)
    ]


def leftovers(store: Store, listing: Listing) -> list[str]:
    """Temporary files and journals: of a process that was killed, or that is at work."""
    folders = {path.rpartition("/")[0] for path in listing.files} | set(listing.folders.values())
    parents = {"", *(folder.rpartition("/")[0] for folder in folders), "prompts", "quarantine/read"}
    return sorted(
        f"{folder}/{name}".lstrip("/")
        for folder in folders | parents
        for name in store.names(folder)
        if name.startswith(LEFTOVERS)
    )
