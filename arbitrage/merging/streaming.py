"""One tensor merged, block by block: reads a block of every model, hands it to the method, yields.

Knows where the numbers are and what the tensor's settings are, no files of the result. In memory is
one block of each model and what the method makes of them. What a method must know of the whole
tensor is found by going through its blocks beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arbitrage.merging.checkpoint import Checkpoint
from arbitrage.merging.elements import BLOCK
from arbitrage.merging.methods import Array, Mask, Method, Operands
from arbitrage.merging.sparsity import Trimmer, cutoff, drawn, key_of, shares_of

Masks = Callable[["Stretch", Array], "Mask | None"]
"""What is kept of a block of a task vector."""

Check = Callable[[], None]
"""Raises what ends the work, such as Stopped."""


SAMPLED = 16
"""Blocks of a tensor that tell about where its largest elements begin."""


class Stretch(NamedTuple):
    """A block of the result: `length` elements from `start` on. Where rows are matched by token,
    `first` to `last` are the shared tokens in it."""

    start: int
    length: int
    first: int = 0
    last: int = 0


class Matched(NamedTuple):
    """Rows of a tensor that stand for the same tokens: by model, all of one length; those of the
    carrier ascend. `width`: elements of a row."""

    rows: dict[str, NDArray[np.int64]]
    carrier: str
    width: int


class Share(NamedTuple):
    """What is told of one model for one tensor."""

    weight: float
    density: float


@dataclass(frozen=True)
class Job:
    """One tensor to be merged. `models` in the order of the config; `shares` one per model."""

    name: str
    numbers: int
    method: Method
    models: Sequence[Checkpoint]
    base: Checkpoint | None
    shares: Sequence[Share]
    t: float = 0.5
    scale: float = 1.0
    normalize: bool = False
    seed: int = 0
    matched: Matched | None = None

    def blocks(self, check: Check = lambda: None) -> Iterator[tuple[int, Array]]:
        """The merged tensor: where each block starts, and its numbers. `check` is called for every
        block that is read beforehand. Raises OSError, EOFError, what `check` raises."""
        make = self._maker(check)
        for stretch in self.stretches:
            merged = make(stretch)
            yield stretch.start, merged if self.matched is None else self._around(stretch, merged)

    @property
    def stretches(self) -> list[Stretch]:
        """All blocks, in order; of whole rows where rows are matched. Made anew each time, as there
        is a job for every tensor of a model."""
        if self.matched is None:
            starts = range(0, self.numbers, BLOCK)
            return [Stretch(start, min(BLOCK, self.numbers - start)) for start in starts]
        width, rows = self.matched.width, self.matched.rows[self.matched.carrier]
        each = max(1, BLOCK // width) * width
        starts = range(0, self.numbers, each)
        borders = np.searchsorted(rows * width, [*starts, self.numbers]).tolist()
        return [
            Stretch(start, min(each, self.numbers - start), first, last)
            for start, first, last in zip(starts, borders[:-1], borders[1:], strict=True)
        ]

    def read(self, model: Checkpoint, stretch: Stretch) -> Array:
        """A model's numbers of a block; of matched rows those alone that all share."""
        if self.matched is None:
            return model.read(self.name, stretch.start, stretch.length)
        width = self.matched.width
        rows = self.matched.rows[model.name][stretch.first : stretch.last]
        if not len(rows):
            return np.zeros(0, np.float32)
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        runs = np.split(rows, cuts)
        parts = [model.read(self.name, int(run[0]) * width, len(run) * width) for run in runs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def inputs(self, stretch: Stretch) -> Iterator[tuple[Checkpoint, Array]]:
        """All that a block is made of, by model."""
        for model in [*self.models, *([self.base] if self.base else [])]:
            if self.matched is not None and model.name == self.matched.carrier:
                yield model, model.read(self.name, stretch.start, stretch.length)
            else:
                yield model, self.read(model, stretch)

    def _around(self, stretch: Stretch, merged: Array) -> Array:
        """A whole block: rows that not all models share stay those of the carrier."""
        matched = self.matched
        if matched is None or len(merged) == stretch.length:
            return merged
        known = [*self.models, *([self.base] if self.base else [])]
        carrier = next(model for model in known if model.name == matched.carrier)
        whole = carrier.read(self.name, stretch.start, stretch.length)
        rows = matched.rows[matched.carrier][stretch.first : stretch.last]
        inside = rows - stretch.start // matched.width
        whole.reshape(-1, matched.width)[inside] = merged.reshape(-1, matched.width)
        return whole

    def _maker(self, check: Check) -> Callable[[Stretch], Array]:
        """What makes a block of the result, all that is about the whole tensor being known."""
        masks = [self._masks(*told, check) for told in zip(self.models, self.shares, strict=True)]
        weights = [share.weight for share in self.shares]
        densities = [share.density for share in self.shares]
        shares = self._shares(check)

        def make(stretch: Stretch) -> Array:
            models = [self.read(model, stretch) for model in self.models]
            base = self.read(self.base, stretch) if self.base else None
            deltas = [] if base is None else [model - base for model in models]
            kept = [mask(stretch, delta) for mask, delta in zip(masks, deltas, strict=False)]
            told = (self.normalize, self.scale, shares, deltas)
            return self.method.function(Operands(models, weights, base, densities, kept, *told))

        return make

    def _masks(self, model: Checkpoint, share: Share, check: Check) -> Masks:
        if self.method.sparsify == "magnitude":
            some = self.stretches[:: max(2, len(self.stretches) // SAMPLED)]
            cut = cutoff(
                lambda: self._task_vector(model, self.stretches, check),
                self.compared,
                share.density,
                lambda: self._task_vector(model, some, check),
            )
            if cut is not None:
                trimmer = Trimmer(cut)
                return lambda stretch, delta: trimmer.mask(delta)
        elif self.method.sparsify == "random" and share.density < 1:
            key = key_of(self.seed, model.name, self.name)
            return lambda stretch, delta: self._drawn(key, stretch, share.density)
        return lambda stretch, delta: None

    @property
    def compared(self) -> int:
        """Elements that are merged; those of rows that not all share are not."""
        if self.matched is None:
            return self.numbers
        return len(self.matched.rows[self.matched.carrier]) * self.matched.width

    def _task_vector(
        self, model: Checkpoint, stretches: list[Stretch], check: Check
    ) -> Iterator[Array]:
        for stretch in stretches:
            check()
            part = self.read(model, stretch)
            yield part - self.read(self.base, stretch) if self.base else part

    def _drawn(self, key: NDArray[np.uint64], stretch: Stretch, density: float) -> Mask:
        """A draw depends on the place in the tensor, also where rows are left out."""
        mask = drawn(key, stretch.start, stretch.length, density)
        if self.matched is None:
            return mask
        rows = self.matched.rows[self.matched.carrier][stretch.first : stretch.last]
        inside = rows - stretch.start // self.matched.width
        return mask.reshape(-1, self.matched.width)[inside].reshape(-1)

    def _shares(self, check: Check) -> tuple[float, float]:
        if "t" not in self.method.settings:
            return (1.0, 1.0)
        return shares_of(self._pairs(check), self.t)

    def _pairs(self, check: Check) -> Iterator[tuple[Array, Array]]:
        one, other = self.models
        for stretch in self.stretches:
            check()
            yield self.read(one, stretch), self.read(other, stretch)
