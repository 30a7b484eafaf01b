"""Writes the files of the result: each whole or not at all, tensors side by side in threads.

A file is made under a temporary name, at its full size from the start, so that a full disk is
found out at once; it gets its own name when all its tensors are in it and on the disk. Which thread
writes which tensor when changes no byte.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np

from arbitrage import amounts
from arbitrage.errors import InputError, Stopped, StoreError
from arbitrage.files import TEMPORARY, reason_of
from arbitrage.merging.elements import BLOCK, LONG_NAMES, from_float32, keep_freed_memory, write_at

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from arbitrage.merging.checkpoint import Checkpoint
    from arbitrage.merging.layout import Shard, Slot
    from arbitrage.merging.streaming import Job

Tell = Callable[[int, int], None]
"""Is told the bytes written so far, and all that are to be written."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Writer:
    """Writes shards into a folder. `jobs`: how each tensor is merged; none: it is `carrier`'s."""

    def __init__(
        self,
        folder: Path,
        jobs: Mapping[str, Job | None],
        carrier: Checkpoint,
        tell: Tell,
        stop: Event,
    ) -> None:
        self._folder, self._jobs, self._carrier = folder, jobs, carrier
        self._tell, self._stop = tell, stop
        self._lock = Lock()
        self._failed = Event()
        self._done = self._all = 0

    def write(self, shards: Iterable[Shard], threads: int) -> None:
        """Writes what is missing. Raises StoreError where the disk is full or fails, InputError for
        weights that cannot be read or merged, Stopped."""
        keep_freed_memory()
        shards = list(shards)
        self._all = sum(shard.data for shard in shards)
        missing = [shard for shard in shards if not self._is_there(shard)]
        self._done = self._all - sum(shard.data for shard in missing)
        self._tell(self._done, self._all)
        with ThreadPoolExecutor(1) as publisher, ThreadPoolExecutor(threads) as pool:
            published: Future[None] | None = None
            for shard in missing:
                with self._blamed(shard):
                    handle = self._filled(shard, pool)
                if published is not None:
                    self._await(published, handle)
                published = publisher.submit(self._publish, shard, handle)
            if published is not None:
                published.result()

    def _await(self, published: Future[None], handle: int) -> None:
        """Waits for a file to have its name. `handle`: of the next one, closed where that fails."""
        try:
            published.result()
        except BaseException:
            os.close(handle)
            raise

    def _is_there(self, shard: Shard) -> bool:
        path = self._folder / shard.file
        return path.is_file() and path.stat().st_size == len(shard.header) + shard.data

    def _filled(self, shard: Shard, pool: ThreadPoolExecutor) -> int:
        """Writes a file under its temporary name; gives its handle."""
        header = shard.header
        handle = os.open(self._part(shard), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _reserve(handle, len(header) + shard.data)
            write_at(handle, np.frombuffer(header, np.uint8), 0)
            slots = sorted(shard.slots, key=lambda slot: -slot.size)
            _finish([pool.submit(self._fill, handle, slot, len(header)) for slot in slots])
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _publish(self, shard: Shard, handle: int) -> None:
        """Gives a file its name once it is on the disk; the next one is being filled meanwhile."""
        with self._blamed(shard):
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            self._part(shard).rename(self._folder / shard.file)
            sync_folder(self._folder)

    def _part(self, shard: Shard) -> Path:
        return self._folder / f"{TEMPORARY}{shard.file}"

    @contextmanager
    def _blamed(self, shard: Shard) -> Iterator[None]:
        """Errors of the disk as StoreError; what was half-written is removed."""
        try:
            yield
        except OSError as error:
            with suppress(OSError):
                self._part(shard).unlink()
            if error.errno in NO_ROOM:
                raise StoreError(
                    f"there is no room for {shard.file} in {self._folder}; free "
                    f"{amounts.size(shard.data)}, and the same command goes on"
                ) from error
            told = f"{shard.file} cannot be written into {self._folder}: {reason_of(error)}"
            raise StoreError(told) from error

    def _fill(self, handle: int, slot: Slot, offset: int) -> None:
        """One tensor, at its place."""
        place = offset + slot.start
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
                for stored in self._stored(slot):
                    self._check()
                    write_at(handle, stored, place)
                    place += stored.nbytes
                    with self._lock:
                        self._done += stored.nbytes
                        self._tell(self._done, self._all)
        except BaseException:
            self._failed.set()  # the others need not go on
            raise

    def _check(self) -> None:
        if self._stop.is_set() or self._failed.is_set():
            raise Stopped("stopped on request; the same command goes on from here")

    def _stored(self, slot: Slot) -> Iterator[NDArray[np.generic]]:
        job = self._jobs[slot.name]
        try:
            if job is None:
                for start in range(0, slot.numbers, BLOCK):
                    count = min(BLOCK, slot.numbers - start)
                    yield self._carrier.read_raw(slot.name, start, count)
                return
            for _, values in job.blocks(self._check):
                stored = from_float32(values, slot.dtype)
                if not _is_sound(stored, values, slot.dtype):
                    raise InputError(_unsound(job, values, slot))
                yield stored
        except EOFError as error:
            raise InputError(str(error)) from error
        except OSError as error:
            where = error.filename or f"{slot.name} of a model"
            raise InputError(f"{where} cannot be read: {reason_of(error)}") from error


def _reserve(handle: int, size: int) -> None:
    """Takes the room on the disk. Raises OSError where there is none; a file system that cannot
    reserve finds out later."""
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        os.ftruncate(handle, size)


def _finish(futures: list[Future[None]]) -> None:
    """Waits for all; raises what the first that failed raised, the rest not being begun."""
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
    ended = [future for future in futures if not future.cancelled()]
    for future in sorted(ended, key=lambda one: isinstance(one.exception(), Stopped)):
        future.result()  # what failed, rather than what was stopped because of it


def _is_sound(stored: NDArray[np.generic], values: NDArray[np.float32], dtype: str) -> bool:
    """Whether all numbers are finite, as merged and as stored."""
    if dtype == "BF16":
        bits = stored.view(np.uint16)
        return not bool(((bits & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(values).all()) and bool(np.isfinite(stored).all())


def _unsound(job: Job, values: NDArray[np.float32], slot: Slot) -> str:
    """Why a tensor is not written."""
    if np.isfinite(values).all():
        return (
            f"{slot.name} has numbers too large for {LONG_NAMES.get(slot.dtype, slot.dtype)}; "
            "set `dtype:` to bfloat16 or float32"
        )
    for stretch in job.stretches:
        for model, numbers in job.inputs(stretch):
            if not np.isfinite(numbers).all():
                return f"{slot.name} of {model.name} holds NaN or infinity; mend or drop that model"
    return f"{slot.name} overflows float32 when it is merged; choose smaller weights or `scale:`"


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
