"""Reads a model's files before it is loaded, so that loading finds them in the page cache.

Knows no engine. It takes only memory that nobody needs, and leaves nothing behind but that cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arbitrage.identity import visible_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CHUNK_BYTES = 4 * 2**20
SPARE = 2
"""So many times what is left to read must be available, or else reading stops."""
MEMORY = Path("/proc/meminfo")


def read_ahead(folders: Iterable[Path], goes_on: Callable[[], bool]) -> int:
    """Reads every file of some folders once; gives the bytes that were read.

    Stops when memory gets short, and when `goes_on`, asked before every chunk, says no. Raises
    OSError for a file that cannot be read, and where the system does not tell its memory.
    """
    files = [path for folder in folders for path in sorted(visible_files(folder))]
    total = sum(path.stat().st_size for path in files)
    chunks, read = _chunks(files), 0
    while read < total and goes_on() and available_bytes() >= SPARE * (total - read):
        count = next(chunks, 0)
        if not count:  # a file is shorter than it was
            break
        read += count
    return read


def _chunks(files: Iterable[Path]) -> Iterator[int]:
    """Reads on by one chunk each time, and tells how many bytes it had."""
    chunk = bytearray(CHUNK_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(chunk):
                yield count


def available_bytes() -> int:
    """What can be had without taking it from a process. Raises OSError if that is not told."""
    for line in MEMORY.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
