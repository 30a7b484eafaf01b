"""One merge, from a config to a model folder. Read this first.

The result is made in `DIR.merging` beside its place and gets its name when it is complete, so a
folder that is there is whole. A merge that was stopped or killed goes on with the file at which it
was; one whose models or settings have changed since begins anew. A merge that is there already is
not made again.

    merge(load_merge(Path("merge.yaml")), Path("merged"))
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from arbitrage.errors import InputError, StoreError, UsageError
from arbitrage.files import reason_of
from arbitrage.identity import fingerprint
from arbitrage.merging.checkpoint import CARD
from arbitrage.merging.jobs import jobs_of
from arbitrage.merging.layout import index_of, layout, slots_of
from arbitrage.merging.output import Writer
from arbitrage.merging.papers import (
    card_of,
    manifest_of,
    read_manifest,
    write_manifest,
    write_papers,
)
from arbitrage.merging.preflight import examine, open_all
from arbitrage.merging.vocabulary import align, vocabulary_tensors
from arbitrage.merging.workplace import give_name, remove_marks, workplace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from arbitrage.merging.checkpoint import Checkpoint
    from arbitrage.merging.config import MergeConfig
    from arbitrage.merging.layout import Shard
    from arbitrage.merging.output import Tell
    from arbitrage.merging.preflight import Examination

FORM = 1
"""Of what a merge makes of the same inputs; another number makes merges begin anew."""


class Refused(UsageError):  # noqa: N818 - an answer, not a fault
    """The models cannot be merged as asked; `examination` has all the reasons."""

    def __init__(self, examination: Examination) -> None:
        super().__init__("the models cannot be merged like this; nothing was written")
        self.examination = examination


@dataclass(frozen=True)
class Merged:
    """A merged model. `made`: whether it was made now; `manifest`: what `merge.json` says."""

    folder: Path
    manifest: Mapping[str, Any]
    made: bool


def merge(
    config: MergeConfig,
    target: Path,
    tell: Tell = lambda done, total: None,
    stop: Event | None = None,
) -> Merged:
    """Merges models into the folder `target`, or finds that it is there.

    Raises Refused before a weight is read, also for models that are not there or broken; InputError
    for numbers that cannot be read or merged, UsageError where `target` holds something else,
    LockedError where another process makes it, StoreError for a disk that fails, Stopped.
    """
    place = Path(os.path.realpath(target))
    checkpoints, unopened = open_all(config)
    if unopened:
        raise Refused(examine(config, checkpoints, place, unopened=unopened))
    identity = identity_of(config, checkpoints)
    if (known := _there(place, identity)) is not None:
        with suppress(OSError):  # a folder that cannot be written to is whole all the same
            remove_marks(place)
        return Merged(target, known, made=False)
    examination = examine(config, checkpoints, place)
    if examination.reasons:
        raise Refused(examination)
    shards = layout(slots_of(config, checkpoints[config.carrier]), config.shard_size)
    manifest = manifest_of(config, checkpoints, shards, identity, examination.remarks)
    with workplace(place, identity) as work:
        if (known := _there(place, identity)) is not None:  # another process made it meanwhile
            shutil.rmtree(work)
            return Merged(target, known, made=False)
        with _unchanged(checkpoints.values()):
            _write_weights(work, config, checkpoints, shards, tell, stop or Event())
        try:
            _complete(work, place, config, checkpoints, shards, manifest)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {reason_of(error)}") from error
    return Merged(target, manifest, made=True)


def look(config: MergeConfig, target: Path) -> Examination:
    """What there is to say of a merge before it is made; writes nothing. Raises UsageError where
    `target` holds something else."""
    place = Path(os.path.realpath(target))
    checkpoints, unopened = open_all(config)
    if not unopened:
        _there(place, identity_of(config, checkpoints))
    return examine(config, checkpoints, place, unopened=unopened)


def identity_of(config: MergeConfig, checkpoints: Mapping[str, Checkpoint]) -> str:
    """What the result depends on: settings, and the models' files as they are now, in order."""
    stamps = [[name, checkpoint.stamp()] for name, checkpoint in checkpoints.items()]
    return fingerprint({"form": FORM, "config": config.identity(), "models": stamps})


def _size(path: Path) -> int | None:
    """Of a file in bytes; none where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _there(target: Path, identity: str) -> dict[str, Any] | None:
    """The manifest of the same merge, if that is what the folder holds; none where there is no
    folder or an empty one. Raises UsageError for anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        if os.path.ismount(target):
            raise UsageError(f"{target} is the root of a disk; name a folder in it with -o")
        return None
    known = read_manifest(target)
    if known is None:
        raise UsageError(f"{target} is there and is no merge; name another folder with -o")
    if known.get("identity") != identity:
        raise UsageError(
            f"{target} is another merge ({known['method']}), or its models have changed since; "
            "name another folder with -o, or remove that one"
        )
    lacking = [name for name, size in known["files"].items() if _size(target / name) != size]
    if lacking:
        raise UsageError(
            f"{target} is this merge, but {lacking[0]} is not there as it was written; remove the "
            "folder, and the same command makes it again"
        )
    return known


@contextmanager
def _unchanged(checkpoints: Collection[Checkpoint]) -> Iterator[None]:
    """Raises InputError where weights are others at the end than at the beginning: half of the
    result would be of the old ones."""
    before = _files_of(checkpoints)
    yield
    after = _files_of(checkpoints)
    changed = [name for name, files in before.items() if files != after[name]]
    if changed:
        raise InputError(
            f"the weights of {', '.join(changed)} changed while they were merged; the same command "
            "merges them as they are now"
        )


def _files_of(checkpoints: Collection[Checkpoint]) -> dict[str, dict[str, tuple[int, ...]]]:
    try:
        return {one.name: one.files_now() for one in checkpoints}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {reason_of(error)}") from error


def _write_weights(
    work: Path,
    config: MergeConfig,
    checkpoints: Mapping[str, Checkpoint],
    shards: list[Shard],
    tell: Tell,
    stop: Event,
) -> None:
    slots = [slot for shard in shards for slot in shard.slots]
    is_shared = config.vocabulary == "shared"
    alignment = align(config, checkpoints) if is_shared else None
    matched = vocabulary_tensors(checkpoints) if is_shared else ()
    jobs = jobs_of(config, checkpoints, slots, alignment, matched)
    Writer(work, jobs, checkpoints[config.carrier], tell, stop).write(shards, config.threads)


def _complete(
    work: Path,
    target: Path,
    config: MergeConfig,
    checkpoints: Mapping[str, Checkpoint],
    shards: list[Shard],
    manifest: Mapping[str, Any],
) -> None:
    """Adds what goes along with the weights, and gives the folder its name."""
    write_papers(work, checkpoints[config.carrier], config)
    if (index := index_of(shards)) is not None:
        (work / index[0]).write_text(index[1], encoding="utf-8")
    (work / CARD).write_text(card_of(target.name, manifest), encoding="utf-8")
    write_manifest(work, manifest)
    give_name(work, target)
