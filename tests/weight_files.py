"""Writes safetensors files by hand, for tests of what reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


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
