"""From a config and checkpoints to one job per tensor, with its own weights and densities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from arbitrage.merging.config import BASE
from arbitrage.merging.elements import FLOATS
from arbitrage.merging.methods import METHODS
from arbitrage.merging.schedule import depths, value_of
from arbitrage.merging.streaming import Job, Matched, Share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from arbitrage.merging.checkpoint import Checkpoint
    from arbitrage.merging.config import MergeConfig, MergedModel, Setting
    from arbitrage.merging.layout import Slot
    from arbitrage.merging.vocabulary import Alignment


def jobs_of(
    config: MergeConfig,
    checkpoints: Mapping[str, Checkpoint],
    slots: Iterable[Slot],
    alignment: Alignment | None = None,
    matched: Iterable[str] = (),
) -> dict[str, Job | None]:
    """By tensor; none for those that hold no floating numbers, which are copied. `matched` are the
    names of those whose rows are tokens, where `alignment` tells which row is whose."""
    slots = list(slots)
    depth_of = depths(slot.name for slot in slots)
    by_token = set(matched)
    found: dict[str, Job | None] = {}
    for slot in slots:
        rows = None
        if alignment is not None and slot.name in by_token:
            width = math.prod(slot.shape[1:])
            rows = Matched(dict(alignment.rows), config.carrier, width)
        floats = checkpoints[config.carrier].tensors[slot.name].dtype in FLOATS
        found[slot.name] = (
            _job(config, checkpoints, slot, depth_of[slot.name], rows) if floats else None
        )
    return found


def _job(
    config: MergeConfig,
    checkpoints: Mapping[str, Checkpoint],
    slot: Slot,
    depth: float | None,
    matched: Matched | None,
) -> Job:
    return Job(
        slot.name,
        slot.numbers,
        METHODS[config.method],
        [checkpoints[name] for name in config.models],
        checkpoints.get(BASE),
        [_share(config, model, slot.name, depth) for model in config.models.values()],
        _told(config.t, slot.name, depth),
        config.scale,
        config.is_normalized,
        config.seed,
        matched,
    )


def _share(config: MergeConfig, model: MergedModel, name: str, depth: float | None) -> Share:
    weight = config.weight if model.weight is None else model.weight
    density = config.density if model.density is None else model.density
    return Share(_told(weight, name, depth), _told(density, name, depth))


def _told(setting: Setting, name: str, depth: float | None) -> float:
    value = value_of(setting, name, depth)
    if value is None:
        raise ValueError(f"no pattern fits {name}")  # the preflight looks for this
    return value
