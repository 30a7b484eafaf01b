"""How much a merge reads, writes and holds, and how much room there is: bytes, from headers alone.

What it needs is an estimate from above: blocks that are held at once, headers, and tokenizers. What
cannot be found out about the machine is none, and stops nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from arbitrage.amounts import size
from arbitrage.merging.checkpoint import Checkpoint
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.elements import BLOCK, FLOATS, NAMES, SIZES
from arbitrage.merging.methods import METHODS
from arbitrage.merging.reasons import Finding, Reason
from arbitrage.merging.sparsity import HELD

FIXED = 200_000_000
"""Bytes of the process itself, with its libraries."""
PER_TENSOR = 700
"""Bytes of a tensor's name, shape and place in memory."""
PER_TOKEN = 300
"""Bytes of a token and its row in memory, while vocabularies are compared."""
GROUP = Path("/sys/fs/cgroup")
"""Where a container's limits are told."""
WORKING = 6
"""Arrays of a block that a method makes beside those of the models."""
WORK = ".merging"
"""How the name of the folder ends in which a result is made."""
BLOCK_BYTES = 512
"""Of what the file system calls a block."""
LARGEST = 1 << 60
"""Of numbers and bytes; beyond it a header says nonsense."""
SPARE = 0.01
"""Of the output, for headers and the tokenizer's files."""


@dataclass(frozen=True)
class Room:
    """Bytes, and what there is of the result. `disk_free` and `memory_free`: none where unknown."""

    tensors: int
    parameters: int
    input_bytes: int
    output_bytes: int
    memory_bytes: int
    disk_free: int | None
    memory_free: int | None


def room(config: MergeConfig, checkpoints: Mapping[str, Checkpoint], target: Path) -> Room:
    """What a merge needs, and what there is."""
    carrier = checkpoints[config.carrier]
    return Room(
        len(carrier.tensors),
        sum(_sane(weight.numbers) for weight in carrier.tensors.values()),
        sum(_sane(w.end - w.start) for one in checkpoints.values() for w in one.tensors.values()),
        output_bytes(config, carrier),
        memory_bytes(config, checkpoints),
        disk_free(target),
        memory_free(),
    )


def _sane(number: int) -> int:
    """A number of a header or config, which may be any; what is wrong with it is told elsewhere."""
    return max(0, min(number, LARGEST))


def output_bytes(config: MergeConfig, carrier: Checkpoint) -> int:
    """Bytes of all tensors of the result; those that are no floats keep their size."""
    wanted = SIZES[NAMES[config.dtype]] if config.dtype else None
    return sum(
        _sane(weight.numbers) * (wanted or SIZES[weight.dtype])
        if weight.dtype in FLOATS
        else _sane(weight.end - weight.start)
        for weight in carrier.tensors.values()
    )


def memory_bytes(config: MergeConfig, checkpoints: Mapping[str, Checkpoint]) -> int:
    """Bytes held at once at most."""
    arrays = 2 * len(checkpoints) + WORKING  # of each model a block as stored and as float32
    tensors = checkpoints[config.carrier].tensors.values()
    largest = max((_sane(weight.numbers) for weight in tensors), default=0)
    blocks = config.threads * arrays * min(BLOCK, largest) * 4
    if METHODS[config.method].sparsify == "magnitude":  # what is near the cut, and side by side
        blocks += config.threads * 2 * min(HELD, largest) * 4
    headers = sum(len(one.tensors) for one in checkpoints.values()) * PER_TENSOR
    tokens = sum(_sane(one.vocabulary_size or 0) for one in checkpoints.values()) * PER_TOKEN
    return FIXED + blocks + headers + tokens


def place_of(target: Path) -> Path:
    """The nearest folder or file of a path that exists."""
    whole = Path(os.path.abspath(target.expanduser()))  # noqa: PTH100 - links stay
    return next((one for one in (whole, *whole.parents) if one.exists()), whole)


def disk_free(target: Path) -> int | None:
    """Free bytes where a path is or would be."""
    try:
        return shutil.disk_usage(place_of(target)).free
    except OSError:
        return None


def memory_free(told: Path = Path("/proc/meminfo"), group: Path = GROUP) -> int | None:
    """Bytes that the machine, or the container that this is, can give without swapping."""
    try:
        lines = told.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        lines = []
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    known = [int(line[1]) * 1024 for line in found if len(line) > 1 and line[1].isdigit()]
    return min([*known, *_left_to(group)], default=None)


def _left_to(group: Path) -> Iterator[int]:
    """What a container's limit leaves; files that are kept in memory are no use of it."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return
    used = [line.split()[1] for line in lines if line.startswith("anon ")]
    if limit.isdigit() and used and used[0].isdigit():
        yield max(0, int(limit) - int(used[0]))


def written(target: Path) -> int:
    """Bytes that a stopped merge holds of the disk: it goes on with them, or another frees them."""
    work = target.with_name(f"{target.name}{WORK}")
    try:
        return sum(path.stat().st_blocks * BLOCK_BYTES for path in work.iterdir())
    except OSError:
        return 0


def _smaller(found: Room) -> str:
    """How less is written, where that is possible."""
    return ", or set `dtype: bfloat16`" if found.output_bytes > 2 * found.parameters else ""


def enough(config: MergeConfig, target: Path, found: Room) -> Iterator[Finding]:
    """Whether disk and memory suffice."""
    place = place_of(target)
    if not place.is_dir():
        yield Reason("target", str(place), "this is no folder; give another -o")
    elif not os.access(place, os.W_OK):
        yield Reason("target", str(place), "this folder cannot be written to; give another -o")
    needed = int(found.output_bytes * (1 + SPARE)) - written(target)
    if found.disk_free is not None and needed > found.disk_free:
        yield Reason(
            "disk",
            str(place),
            f"{size(needed)} are to be written, {size(needed - found.disk_free)} more than are "
            f"free; free some, give another -o{_smaller(found)}",
        )
    if found.memory_free is not None and found.memory_bytes > found.memory_free:
        fewer = f"; set `threads: {config.threads // 2}`" if config.threads > 1 else ""
        yield Reason(
            "memory",
            "this machine",
            f"{size(found.memory_bytes)} are needed and {size(found.memory_free)} are free{fewer}"
            " or stop what else runs",
        )
