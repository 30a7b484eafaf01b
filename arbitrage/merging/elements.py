"""Numbers of checkpoints as float32 and back; also bfloat16, which numpy does not know.

Reads and writes runs of elements at their place in a file, so that nothing larger than a block is
in memory. Everything is little-endian, as safetensors is. Rounding is to the nearest, ties to even.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

    from arbitrage.merging.methods import Array

BLOCK = 1 << 17
"""Elements of a block, few enough for a processor's cache. What no method's answer depends on."""
AHEAD_BYTES = 1 << 23
"""How far before its use a block is asked for; each reading opens its file anew, so that the system
does not see by itself that it is read in order."""

SIZES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "C64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one element by the dtype's name in a header; those of other names are not merged."""

FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
"""Those that are merged, as numpy reads them."""

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
LONG_NAMES = {short: long for long, short in NAMES.items()}
KEPT_BYTES = 31 << 20
HALF = np.uint32(0x7FFF)


def keep_freed_memory() -> None:
    """Lets blocks that are freed stay with the process. The C library takes the largest array that
    was freed so far, up to 32 MB, for the size from which on memory goes back to the kernel, which
    clears it anew for every block (mallopt(3), M_MMAP_THRESHOLD): half of a merge's time."""
    np.empty(KEPT_BYTES, np.uint8)


def read_bytes(path: Path, place: int, count: int) -> NDArray[np.uint8]:
    """Some bytes of a file. Raises OSError, EOFError where the file is shorter than it says."""
    found = np.empty(count, np.uint8)
    left = found.data
    handle = os.open(path, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, place + AHEAD_BYTES, count, os.POSIX_FADV_WILLNEED)
        while left and (got := os.preadv(handle, [left], place)):
            left, place = left[got:], place + got
    finally:
        os.close(handle)
    if left:
        raise EOFError(f"{path} ends {len(left):,} bytes too early; fetch it again")
    return found


def to_float32(raw: NDArray[np.uint8], dtype: str) -> Array:
    """The numbers of some bytes; exact but for float64."""
    stored: NDArray[Any] = raw.view(FLOATS[dtype])
    if dtype == "BF16":
        bits = stored.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return stored.astype(np.float32, copy=False)


def from_float32(values: Array, dtype: str) -> NDArray[Any]:
    """Numbers as they are stored."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):  # what is too large is told by whoever looks for it
            return values.astype(FLOATS[dtype], copy=False)
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += HALF
    rounded += bits
    rounded >>= 16
    stored = rounded.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        stored[nan] = 0x7FC0
    return stored


def write_at(handle: int, data: NDArray[Any], place: int) -> None:
    """All bytes of an array at a place in a file. Raises OSError."""
    view = np.ascontiguousarray(data).view(np.uint8).data
    while view:
        written = os.pwrite(handle, view, place)
        view, place = view[written:], place + written
