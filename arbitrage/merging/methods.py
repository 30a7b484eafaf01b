"""The methods: each a function over one block of a tensor in all models, and a line in METHODS.

A block is a run of elements, float32, flat. What of a task vector (a model less the base) is kept
is decided beforehand, element by element (`kept`); so a method knows neither files nor layers, and
where a tensor is cut into blocks changes nothing.

To add a method: write the function, name its paper, add the line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float32]"
Mask: TypeAlias = "NDArray[np.bool_]"

ROUNDING = np.float32(1e-6)
"""A sum of weights is nothing from this part of their size on: what is left is rounding."""


class Operands(NamedTuple):
    """One block of a tensor in all models, with what the method is told.

    `models` and `base`: arrays of one size. `weights` and `densities`: one per model. `kept`: which
    elements of each task vector are kept; none: all. `normalize`: divide by the sum of the weights.
    `scale`: of the merged task vector. `shares`: of slerp's two models, by the angle between them.
    `deltas`: the task vectors where they were made already; a method may change them.
    """

    models: Sequence[Array]
    weights: Sequence[float]
    base: Array | None = None
    densities: Sequence[float] = ()
    kept: Sequence[Mask | None] = ()
    normalize: bool = False
    scale: float = 1.0
    shares: tuple[float, float] = (0.5, 0.5)
    deltas: Sequence[Array] = ()


def linear(block: Operands) -> Array:
    """The weighted average (model soups: Wortsman et al. 2022, arXiv 2203.05482)."""
    total = _sum(block.models, block.weights)
    return total / np.float32(sum(block.weights)) if block.normalize else total


def slerp(block: Operands) -> Array:
    """On the arc between two models (Shoemake 1985, "Animating rotation with quaternion curves").
    The angle is that of the whole tensor; see `shares_of`."""
    return _sum(block.models, block.shares)


def task_arithmetic(block: Operands) -> Array:
    """The base and the weighted sum of task vectors (Ilharco et al. 2023, arXiv 2212.04089)."""
    return _onto(block, _normal(_sum(_deltas(block), block.weights), block))


def ties(block: Operands) -> Array:
    """Trim, elect a sign, and average what agrees with it (Yadav et al. 2023, arXiv 2306.01708).

    Trimming is per tensor and by magnitude: `kept`. Without `normalize` what agrees is summed.
    """
    return _onto(block, _elected(_trimmed(block, rescale=False), block))


def dare_linear(block: Operands) -> Array:
    """Drop elements of the task vectors at random and scale up the rest (Yu et al. 2024, arXiv
    2311.03099), then as task arithmetic."""
    return _onto(block, _normal(_sum(_trimmed(block, rescale=True), block.weights), block))


def dare_ties(block: Operands) -> Array:
    """Drop and scale up as DARE, then elect signs as TIES."""
    return _onto(block, _elected(_trimmed(block, rescale=True), block))


def _sum(parts: Sequence[Array], weights: Sequence[float]) -> Array:
    """The weighted sum, in the order of the models."""
    total = parts[0] * np.float32(weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total += part * np.float32(weight)
    return total


def _normal(total: Array, block: Operands) -> Array:
    return total / np.float32(sum(block.weights)) if block.normalize else total


def _base(block: Operands) -> Array:
    if block.base is None:
        raise ValueError("a task vector needs a base")
    return block.base


def _deltas(block: Operands) -> list[Array]:
    base = _base(block)
    return list(block.deltas) or [model - base for model in block.models]


def _trimmed(block: Operands, *, rescale: bool) -> list[Array]:
    """Task vectors, 0 where nothing is kept; scaled up so that their expectation stays."""
    found = []
    for delta, mask, density in zip(_deltas(block), block.kept, block.densities, strict=True):
        if mask is not None:
            delta *= mask.astype(np.float32)
            if rescale and density > 0:
                delta /= np.float32(density)
        found.append(delta)
    return found


def _elected(deltas: list[Array], block: Operands) -> Array:
    """The weighted sum of what has the sign of the whole sum, which is positive where that is 0;
    with `normalize` divided by the weights of those who have a part in it."""
    for delta, weight in zip(deltas, block.weights, strict=True):
        delta *= np.float32(weight)
    elected = deltas[0].copy()
    for delta in deltas[1:]:
        elected += delta
    positive = elected >= 0
    total = np.zeros_like(deltas[0])
    counted = np.zeros_like(deltas[0])
    size = np.zeros_like(deltas[0]) if min(block.weights) < 0 else counted
    for delta, weight in zip(deltas, block.weights, strict=True):
        agrees = (((delta > 0) == positive) & (delta != 0)).astype(np.float32)
        delta *= agrees
        total += delta
        if size is not counted:
            size += agrees * np.float32(abs(weight))
        agrees *= np.float32(weight)
        counted += agrees
    if not block.normalize:
        return total
    nothing = np.abs(counted) <= ROUNDING * size
    counted *= ~nothing  # arithmetic costs a tenth of choosing
    counted += nothing
    total /= counted
    return total


def _onto(block: Operands, merged: Array) -> Array:
    return _base(block) + merged * np.float32(block.scale)


class Method(NamedTuple):
    """A method, and what it has to do with. `sparsify`: how it is decided what of a task vector is
    kept. `settings`: what it can be told. `models`: how many it merges; none: any number."""

    function: Callable[[Operands], Array]
    settings: frozenset[str]
    needs_base: bool = True
    sparsify: Literal["", "magnitude", "random"] = ""
    normalize: bool = False
    models: int | None = None
    paper: str = ""


AVERAGE = frozenset({"weight", "normalize"})
VECTOR = AVERAGE | {"scale"}

METHODS: dict[str, Method] = {
    "linear": Method(linear, AVERAGE, needs_base=False, normalize=True, paper="arXiv 2203.05482"),
    "slerp": Method(slerp, frozenset("t"), needs_base=False, models=2, paper="Shoemake 1985"),
    "task_arithmetic": Method(task_arithmetic, VECTOR, paper="arXiv 2212.04089"),
    "ties": Method(
        ties, VECTOR | {"density"}, sparsify="magnitude", normalize=True, paper="arXiv 2306.01708"
    ),
    "dare_linear": Method(
        dare_linear, VECTOR | {"density", "seed"}, sparsify="random", paper="arXiv 2311.03099"
    ),
    "dare_ties": Method(
        dare_ties, VECTOR | {"density", "seed"}, sparsify="random", paper="arXiv 2311.03099"
    ),
}
