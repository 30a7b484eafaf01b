"""The folder in which a merge is made, beside its place: whose it is, what is kept of it, its name.

Knows nothing of what a merge is but its identity. Invariants: one process at a time is in it; files
of another merge never stay in it; nothing in it is removed that no merge has made; until it has the
result's name, whoever is killed loses at most the file at which they were.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import IO, TYPE_CHECKING

from arbitrage.errors import LockedError, StoreError, UsageError
from arbitrage.files import reason_of
from arbitrage.merging.output import sync_folder
from arbitrage.merging.room import WORK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK, IDENTITY = "lock", "identity"
WEIGHTS = ".safetensors"


@contextlib.contextmanager
def workplace(target: Path, identity: str) -> Iterator[Path]:
    """The folder in which `target` is made, held by this process alone; what is in it is of this
    merge. Raises LockedError, StoreError, UsageError where the folder is something else."""
    work = target.with_name(f"{target.name}{WORK}")
    try:
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()) and not (work / LOCK).exists():
            raise UsageError(
                f"{work}, where {target} would be made, is there and is no unfinished merge; "
                "rename it, or name another folder with -o"
            )
        with _held(work, target):
            _begin(work, identity)
            yield work
    except OSError as error:
        raise StoreError(f"{work} cannot be written: {reason_of(error)}") from error


@contextlib.contextmanager
def _held(work: Path, target: Path) -> Iterator[IO[str]]:
    with (work / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"another process makes {target} now; wait for it") from None
        if not _is_at(lock, work / LOCK):
            raise LockedError(f"another process made {target} just now; the same command finds it")
        yield lock


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still has its name: the folder of a finished merge has moved away."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _begin(work: Path, identity: str) -> None:
    """Keeps what an earlier call made of the same merge, and that alone."""
    mark, told = work / IDENTITY, identity.encode()
    is_known = mark.is_file() and mark.read_bytes() == told
    for path in work.iterdir():
        is_kept = path.name in (LOCK, IDENTITY) or (is_known and path.suffix == WEIGHTS)
        if not is_kept and path.is_file():
            path.unlink()
    if not is_known:
        sync_folder(work)  # else a power cut could bring files back, now under this merge's mark
        with mark.open("wb") as file:
            file.write(told)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(work)


def give_name(work: Path, target: Path) -> None:
    """Makes a folder that is complete the result. The marks go last: without them what is made
    would be nobody's, and another process could come in. Raises OSError."""
    for path in work.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(work)
    if target.is_dir():
        target.rmdir()  # an empty one, which a folder may not always be moved onto
    work.rename(target)
    sync_folder(target.parent)
    remove_marks(target)


def remove_marks(folder: Path) -> None:
    """Takes the marks out of a finished merge, also of one whose process was killed just then."""
    for name in (IDENTITY, LOCK):
        (folder / name).unlink(missing_ok=True)
