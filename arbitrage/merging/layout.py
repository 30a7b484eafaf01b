"""How the result is cut into safetensors files: known to the byte before a weight is read.

A header is 8 bytes (its length), and JSON padded to a multiple of 8. Tensors of wider numbers come
first in a file, so that each is aligned; layers keep their order over the files.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, NamedTuple

from arbitrage.merging.elements import FLOATS, NAMES, SIZES
from arbitrage.merging.schedule import layer_number
from arbitrage.weights import INDEX, SINGLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arbitrage.merging.checkpoint import Checkpoint
    from arbitrage.merging.config import MergeConfig

ALIGNMENT = 8


class Slot(NamedTuple):
    """One tensor's place in a file; `start` and `end` are bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    end: int = 0

    @property
    def numbers(self) -> int:
        """Its elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.numbers * SIZES[self.dtype]


class Shard(NamedTuple):
    """One file of the result."""

    file: str
    slots: tuple[Slot, ...]

    @property
    def header(self) -> bytes:
        """What stands before the data."""
        told = {"__metadata__": {"format": "pt"}} | {
            slot.name: {
                "dtype": slot.dtype,
                "shape": list(slot.shape),
                "data_offsets": [slot.start, slot.end],
            }
            for slot in self.slots
        }
        text = json.dumps(told, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    @property
    def data(self) -> int:
        """Bytes of its tensors."""
        return sum(slot.size for slot in self.slots)


def slots_of(config: MergeConfig, carrier: Checkpoint) -> list[Slot]:
    """The result's tensors, layers in their order: those of the model whose config it has."""
    wanted = NAMES[config.dtype] if config.dtype else None
    found = [
        Slot(w.name, wanted if wanted and w.dtype in FLOATS else w.dtype, w.shape)
        for w in carrier.tensors.values()
    ]
    return sorted(found, key=lambda slot: _natural(slot.name))


def layout(slots: Iterable[Slot], limit: int) -> list[Shard]:
    """Files of at most `limit` bytes of tensors; a larger tensor has a file of its own."""
    groups: list[list[Slot]] = []
    room = 0
    for slot in slots:
        if not groups or slot.size > room:
            groups.append([])
            room = limit
        groups[-1].append(slot)
        room -= slot.size
    several = len(groups) > 1
    return [
        Shard(f"model-{n:05d}-of-{len(groups):05d}.safetensors" if several else SINGLE, _set(group))
        for n, group in enumerate(groups, 1)
    ]


def _set(group: list[Slot]) -> tuple[Slot, ...]:
    """Gives each tensor its place."""
    found, place = [], 0
    for slot in sorted(group, key=lambda slot: -SIZES[slot.dtype]):
        found.append(slot._replace(start=place, end=place + slot.size))
        place += slot.size
    return tuple(found)


def index_of(shards: list[Shard]) -> tuple[str, str] | None:
    """The index's name and text; none where there is one file."""
    if len(shards) == 1:
        return None
    places = {slot.name: shard.file for shard in shards for slot in shard.slots}
    told = {
        "metadata": {"total_size": sum(shard.data for shard in shards)},
        "weight_map": dict(sorted(places.items())),
    }
    return INDEX, json.dumps(told, indent=2) + "\n"


def _natural(name: str) -> list[tuple[int, str]]:
    """So that layer 10 comes after layer 9."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if layer_number(part) else (-1, part) for part in parts]
