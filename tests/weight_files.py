"""Writes safetensors files by hand, for tests of what reads them."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


BYTES = {
    "F32": 4,
    "BF16": 2,
    "F16": 2,
    "F64": 8,
    "I64": 8,
    "I8": 1,
    "U8": 1,
    "F8_E4M3": 1,
    "C64": 8,
}
"""Of one element."""


def write(path: Path, tensors: dict[str, tuple[int, ...]], **more: Any) -> Path:
    """A safetensors file of float32 zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in tensors.items():
        size = 4
        for one in shape:
            size *= one
        offsets = [place, place + size]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        place += size
    told = json.dumps(header | more).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(told).to_bytes(8, "little") + told + bytes(place))
    return path


def write_sparse(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A safetensors file of any dtypes that takes no room on the disk, however large it is."""
    header: dict[str, Any] = {}
    place = 0
    for name, (dtype, shape) in tensors.items():
        end = place + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    told = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(told).to_bytes(8, "little") + told)
    os.truncate(path, 8 + len(told) + place)
    return path
