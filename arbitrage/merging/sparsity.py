"""What of a task vector is kept: its largest elements, or a share at random; and slerp's angle.

All of it is about a whole tensor and is found block by block, so that no tensor is ever held whole,
and the same blocks in the same order give the same result whatever runs beside them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arbitrage.merging.methods import Array, Mask

LOW_BITS = 15
LOW = (1 << LOW_BITS) - 1
MARGIN = 0.01
"""How far, in shares of a tensor, a sample may err."""
PER_BLOCK = 1 << 12
"""Elements of a block that are in a sample, about. Quantiles of four such blocks err by 0.003."""
HELD = 1 << 24
"""Magnitudes that are held at most for one tensor, of 4 bytes each."""
PER_COUNT = 8
"""Draws of 32 bits that one step of the counter gives."""
NEARLY_PARALLEL = 0.9995
"""From this cosine on the arc is taken for a straight line; its sine would be divided by."""

Blocks = Callable[[], Iterable[Array]]
"""Goes through the blocks of a tensor, as often as it is called."""


class Cutoff(NamedTuple):
    """Magnitudes above `bits` (of a float32) are kept, and of those equal to it `equal`, the first
    ones."""

    bits: int
    equal: int


def magnitudes(block: Array) -> NDArray[np.uint32]:
    """The bits of the absolute values; they are ordered as the values are."""
    return np.abs(block).view(np.uint32)


def cutoff(
    blocks: Blocks, size: int, density: float, sample: Blocks | None = None
) -> Cutoff | None:
    """Where to cut a tensor of `size` elements so that `density` of it is kept, at least one; none
    where all is kept. Exact. A `sample` of its blocks tells about where that is: then one pass over
    all is enough, unless it misleads."""
    wanted = max(1, int(density * size)) if density > 0 else 0
    if wanted >= size:
        return None
    if wanted == 0:
        return Cutoff(1 << 31, 0)
    found = _between(blocks, wanted, *_guessed(sample, density)) if sample else None
    return found or _counted(blocks, wanted)


def _guessed(sample: Blocks, density: float) -> tuple[int, int]:
    """Magnitudes, as bits, between which the cut lies in all likelihood."""
    bits = np.concatenate([magnitudes(_thinned(block)) for block in sample()])
    if not len(bits):
        return 0, 1 << 31
    shares = (1 - density - MARGIN, 1 - density + MARGIN)
    ranks = [min(len(bits) - 1, max(0, int(share * len(bits)))) for share in shares]
    bits.partition(ranks)
    low = 0 if shares[0] <= 0 else int(bits[ranks[0]])
    return low, 1 << 31 if shares[1] >= 1 else int(bits[ranks[1]])


def _thinned(block: Array) -> Array:
    """Some of a block; every so many, an odd number, so that no column of a matrix is preferred."""
    return np.ascontiguousarray(block[:: len(block) // PER_BLOCK | 1])


def _between(blocks: Blocks, wanted: int, low: int, high: int) -> Cutoff | None:
    """The cut, found among the magnitudes from `low` to `high` alone; none where it lies elsewhere,
    or these are too many to be held."""
    above, held = 0, 0
    parts = []
    for block in blocks():
        bits = magnitudes(block)
        part = bits.compress((bits >= np.uint32(low)) & (bits <= np.uint32(high)))
        above += int(np.count_nonzero(bits > np.uint32(high)))
        held += len(part)
        if held > HELD or above >= wanted:
            return None
        parts.append(part)
    if above + held < wanted:
        return None
    kept = np.concatenate(parts)
    place = len(kept) - (wanted - above)
    kept.partition(place)
    cut = kept[place]
    return Cutoff(int(cut), wanted - above - int(np.count_nonzero(kept > cut)))


def _counted(blocks: Blocks, wanted: int) -> Cutoff:
    """The cut, whatever the magnitudes: upper bits are counted, then the lower ones among those."""
    upper = np.zeros(1 << (31 - LOW_BITS), np.int64)
    for block in blocks():
        upper += np.bincount(magnitudes(block) >> LOW_BITS, minlength=len(upper))
    high, above = _place(upper, wanted)
    lower = np.zeros(LOW + 1, np.int64)
    for block in blocks():
        bits = magnitudes(block)
        lower += np.bincount(bits[bits >> LOW_BITS == high] & LOW, minlength=len(lower))
    low, more = _place(lower, wanted - above)
    return Cutoff((high << LOW_BITS) | low, wanted - above - more)


def _place(counts: NDArray[np.int64], wanted: int) -> tuple[int, int]:
    """The bin in which the `wanted`-th largest lies, and how many lie above that bin."""
    from_above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_above, wanted))
    chosen = len(counts) - 1 - place
    return chosen, int(from_above[place] - counts[chosen])


class Trimmer:
    """Keeps the largest elements of one task vector; is given its blocks in order."""

    def __init__(self, cut: Cutoff) -> None:
        self._cut = cut
        self._seen = 0

    def mask(self, delta: Array) -> Mask:
        """Which elements of the next block are kept."""
        bits = magnitudes(delta)
        kept = bits > self._cut.bits
        if self._seen < self._cut.equal:
            equal = np.flatnonzero(bits == self._cut.bits)
            kept[equal[: self._cut.equal - self._seen]] = True
            self._seen += len(equal)
        return kept


def key_of(seed: int, model: str, tensor: str) -> NDArray[np.uint64]:
    """What the draws of one tensor of one model depend on, and nothing else."""
    told = hashlib.blake2b(f"{seed}/{model}/{tensor}".encode(), digest_size=16)
    return np.frombuffer(told.digest(), dtype="<u8")


def drawn(key: NDArray[np.uint64], start: int, count: int, density: float) -> Mask:
    """Which of the elements from `start` on are kept, each with probability `density`. An element's
    draw depends on its place in the tensor alone (counter-based: Salmon et al. 2011, Philox)."""
    skipped = start % PER_COUNT
    words = -(-(skipped + count) // 2)
    source = np.random.Philox(key=key, counter=start // PER_COUNT)
    bits = source.random_raw(words).astype("<u8", copy=False).view("<u4")
    limit = min(round(density * 2**32), 2**32 - 1)
    kept = bits[skipped : skipped + count] < np.uint32(limit)
    return kept if density < 1 else np.ones_like(kept)


def shares_of(pairs: Iterable[tuple[Array, Array]], t: float) -> tuple[float, float]:
    """How much each of two tensors counts on the arc between them, at `t` of it. Where they are
    nearly parallel, or one is nearly 0, the arc is a straight line."""
    dot = first = second = 0.0
    for pair in pairs:
        one, other = (part.astype(np.float64) for part in pair)
        dot += _dot(one, other)
        first += _dot(one, one)
        second += _dot(other, other)
    norms = math.sqrt(first) * math.sqrt(second)
    cosine = max(-1.0, min(1.0, dot / norms)) if norms > 0 else 1.0
    if abs(cosine) > NEARLY_PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _dot(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Added up in a fixed order, which a product of the library for matrices has not."""
    return float(np.einsum("i,i->", one, other))
