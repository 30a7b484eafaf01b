"""Whether a merge can be done, before a weight is read: all reasons against it, and figures.

Reads headers, config.json and tokenizer files. Writes nothing, and raises nothing for what is odd
in a folder: odd things are reasons. The checks, each in a module of its own: `likeness` (names,
shapes, dtypes, ties), `configs`, `tokenizing`, `fitting` (what the merge is told), `room`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arbitrage.errors import UsageError
from arbitrage.merging import likeness
from arbitrage.merging.checkpoint import Checkpoint, open_checkpoint
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.configs import differences
from arbitrage.merging.fitting import distinctness, fitting
from arbitrage.merging.reasons import Finding, Reason
from arbitrage.merging.room import enough, room
from arbitrage.merging.tokenizing import tokenizing
from arbitrage.merging.vocabulary import vocabulary_tensors


@dataclass(frozen=True)
class Examination:
    """What was found. `models`: how many are merged, without the base; `tensors`, `parameters` and
    `output_bytes`: of the result; `input_bytes`: of all models and the base. Free bytes are none
    where they are not known; all figures are 0 where the carrier could not be opened."""

    models: int
    base: bool
    reasons: tuple[Reason, ...] = ()
    remarks: tuple[str, ...] = ()
    tensors: int = 0
    parameters: int = 0
    output_bytes: int = 0
    input_bytes: int = 0
    memory_bytes: int = 0
    disk_free: int | None = None
    memory_free: int | None = None

    @property
    def is_refused(self) -> bool:
        """Whether there is any reason against it."""
        return bool(self.reasons)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; reasons as `about`, `where` and `told`."""
        return {**vars(self), "reasons": [one._asdict() for one in self.reasons]}


def open_all(config: MergeConfig) -> tuple[dict[str, Checkpoint], tuple[Reason, ...]]:
    """All models of a merge that can be opened, the base last, and why the others cannot be."""
    found: dict[str, Checkpoint] = {}
    reasons = []
    for name, model in config.all_models().items():
        try:
            found[name] = open_checkpoint(name, model)
        except UsageError as error:
            told = str(error).removeprefix(f"{name}: ")
            reasons.append(Reason("model", name, told))
    return found, tuple(reasons)


def examine(
    config: MergeConfig,
    checkpoints: Mapping[str, Checkpoint],
    target: Path,
    *,
    unopened: tuple[Reason, ...] = (),
) -> Examination:
    """All that speaks against a merge, what should be known of it, and what it needs.

    `unopened`: why models are not among `checkpoints` (see `open_all`).
    """
    reasons = list(unopened)
    remarks = []
    for finding in _findings(config, checkpoints):
        if isinstance(finding, Reason):
            reasons.append(finding)
        else:
            remarks.append(finding)
    about = Examination(len(config.models), config.base is not None)
    if config.carrier not in checkpoints:
        return _told(about, reasons, remarks)
    needs = room(config, checkpoints, target)
    reasons += [one for one in enough(config, target, needs) if isinstance(one, Reason)]
    return _told(Examination(about.models, about.base, **vars(needs)), reasons, remarks)


def _told(about: Examination, reasons: list[Reason], remarks: list[str]) -> Examination:
    figures = {
        key: value for key, value in vars(about).items() if key not in ("reasons", "remarks")
    }
    return Examination(**figures, reasons=tuple(reasons), remarks=tuple(remarks))


def _findings(config: MergeConfig, checkpoints: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    """All checks, what concerns each file first. Without its carrier a merge is only half known."""
    yield from likeness.soundness(checkpoints)
    yield from likeness.quantization(checkpoints)
    yield from distinctness(config, checkpoints)
    yield from likeness.names(checkpoints)
    if config.carrier not in checkpoints:
        yield from differences(checkpoints, config.accept, config.carrier)
        return
    yield from likeness.shapes(checkpoints, vocabulary_tensors(checkpoints))
    yield from likeness.dtypes(checkpoints, config.carrier)
    yield from likeness.ties(checkpoints)
    yield from tokenizing(config, checkpoints)
    yield from differences(checkpoints, config.accept, config.carrier)
    yield from fitting(config, checkpoints)
