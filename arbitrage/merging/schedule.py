"""What weight, density and t are for one tensor: by the patterns of its name, and by its layer.

A layer is the first whole number in a name (`model.layers.12.mlp.up_proj.weight`), counted among
the tensors with the same words before it; so no architecture is known. A list of values is spread
evenly over the layers. Tensors of no layer take the mean of the list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from arbitrage.merging.config import Curve, Setting, curves

LONGEST = 9
"""Digits of a layer's number; what is longer is a word."""


class Layer(NamedTuple):
    """Where a tensor is: the words before the number, and the number."""

    stem: str
    number: int


def layer_number(part: str) -> bool:
    """Whether a part of a name is a number that a layer may have."""
    return part.isdecimal() and len(part) <= LONGEST


def layer_of(name: str) -> Layer | None:
    """The layer of a tensor, if its name tells one."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if layer_number(part):
            return Layer(".".join(parts[:place]), int(part))
    return None


def depths(names: Iterable[str]) -> dict[str, float | None]:
    """How deep each tensor lies among its kind: 0 in the first layer, 1 in the last; none: in no
    layer. A single layer is the first."""
    layers = {name: layer_of(name) for name in names}
    last: dict[str, int] = defaultdict(int)
    for layer in layers.values():
        if layer is not None:
            last[layer.stem] = max(last[layer.stem], layer.number)
    return {
        name: None if layer is None else layer.number / max(1, last[layer.stem])
        for name, layer in layers.items()
    }


def value_at(curve: Curve, depth: float | None) -> float:
    """A curve's value in a layer."""
    if not isinstance(curve, tuple):
        return curve
    if depth is None:
        return sum(curve) / len(curve)
    place = depth * (len(curve) - 1)
    low = min(int(place), len(curve) - 1)
    high = min(low + 1, len(curve) - 1)
    return curve[low] + (curve[high] - curve[low]) * (place - low)


def value_of(setting: Setting, name: str, depth: float | None) -> float | None:
    """A setting's value for a tensor; none where no pattern fits its name."""
    for pattern, curve in curves(setting).items():
        if fnmatchcase(name, pattern):
            return value_at(curve, depth)
    return None


def values_of(setting: Setting, depths_of: Mapping[str, float | None]) -> dict[str, float]:
    """A setting's values, for all tensors that a pattern of it fits."""
    found = {name: value_of(setting, name, depth) for name, depth in depths_of.items()}
    return {name: value for name, value in found.items() if value is not None}


def unfit(setting: Setting, names: Iterable[str]) -> list[str]:
    """Patterns of a setting that no tensor's name fits, or that are never the first to."""
    left = set(names)
    found = []
    for pattern in curves(setting):
        fits = {name for name in left if fnmatchcase(name, pattern)}
        if not fits:
            found.append(pattern)
        left -= fits
    return found
