"""What of a task vector is kept: against a plain sort, and against what chance allows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.merging.elements import from_float32, to_float32
from arbitrage.merging.methods import METHODS, Array, Mask, Operands
from arbitrage.merging.sparsity import Trimmer, cutoff, drawn, key_of

seeds = st.integers(0, 2**32 - 1)
densities = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]))
KINDS = ("normal", "bfloat16", "few", "zeros", "wide")


def vector(kind: str, seed: int, size: int) -> Array:
    """A task vector; most kinds have many elements of one magnitude."""
    source = np.random.default_rng(seed)
    values = source.standard_normal(size).astype(np.float32)
    if kind == "bfloat16":
        return to_float32(from_float32(values, "BF16").view(np.uint8), "BF16")
    if kind == "few":
        return np.round(values).astype(np.float32) * np.float32(0.25)
    if kind == "zeros":
        values[source.random(size) < 0.7] = 0
        values[source.random(size) < 0.2] = np.float32(-0.0)
    if kind == "wide":
        bits = source.integers(0, 1 << 32, size, dtype=np.uint32)
        found = bits.view(np.float32)
        return np.where(np.isfinite(found), found, np.float32(1))
    return values


def plainly(delta: Array, density: float) -> Mask:
    """The largest by a stable sort, so that the first of those of one magnitude are kept."""
    wanted = max(1, int(density * len(delta))) if density > 0 else 0
    kept = np.zeros(len(delta), bool)
    kept[np.argsort(-np.abs(delta), kind="stable")[:wanted]] = True
    return kept


def in_blocks(delta: Array, cuts: list[int]) -> list[Array]:
    edges = [0, *sorted(cuts), len(delta)]
    return [delta[start:end] for start, end in itertools.pairwise(edges)]


@given(st.sampled_from(KINDS), seeds, st.integers(1, 300), densities, st.data())
def test_the_largest_are_kept_as_a_plain_sort_keeps_them(
    kind: str, seed: int, size: int, density: float, data: st.DataObject
) -> None:
    """Wherever the tensor is cut, and also where a sample misleads."""
    delta = vector(kind, seed, size)
    blocks = in_blocks(delta, data.draw(st.lists(st.integers(0, size), max_size=5)))
    some = data.draw(st.sampled_from([None, lambda: blocks[:1], lambda: blocks[::2]]))
    cut = cutoff(lambda: blocks, size, density, some)
    if cut is None:
        assert plainly(delta, density).all()
        return
    trimmer = Trimmer(cut)
    kept = np.concatenate([trimmer.mask(block) for block in blocks])
    assert np.array_equal(kept, plainly(delta, density))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("sampled", [True, False])
def test_large_tensors_are_trimmed_exactly(kind: str, density: float, sampled: bool) -> None:
    delta = vector(kind, 7, 200_000)
    blocks = in_blocks(delta, [65_536, 65_537, 131_072])
    cut = cutoff(lambda: blocks, len(delta), density, (lambda: blocks[:2]) if sampled else None)
    assert cut is not None
    trimmer = Trimmer(cut)
    kept = np.concatenate([trimmer.mask(block) for block in blocks])
    assert kept.sum() == int(density * len(delta))
    assert np.array_equal(kept, plainly(delta, density))


def test_nothing_of_density_0_is_kept_and_all_of_density_1() -> None:
    delta = vector("normal", 1, 100)
    cut = cutoff(lambda: [delta], 100, 0.0)
    assert cut is not None
    assert not Trimmer(cut).mask(delta).any()
    assert cutoff(lambda: [delta], 100, 1.0) is None
    assert cutoff(lambda: [delta[:1]], 1, 0.001) is None, "at least one is kept"


def test_infinities_and_nan_are_above_all_numbers() -> None:
    """So that they are kept, and are found in the result."""
    delta = np.array([1, np.inf, 3, -np.inf, 3e38, np.nan], np.float32)
    cut = cutoff(lambda: [delta], 6, 0.5)
    assert cut is not None
    assert Trimmer(cut).mask(delta).tolist() == [False, True, False, True, False, True]


KEY = key_of(0, "germanic", "model.norm.weight")


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.9])
def test_the_share_that_is_drawn_is_the_density(density: float) -> None:
    """Within five standard errors of a binomial, in all and at every place of the counter."""
    count = 1 << 20
    kept = drawn(KEY, 0, count, density)
    assert abs(kept.mean() - density) < 5 * math.sqrt(density * (1 - density) / count)
    places = kept.reshape(-1, 8).mean(axis=0)
    assert np.all(np.abs(places - density) < 5 * math.sqrt(density * (1 - density) / count * 8))


def test_all_or_nothing_is_drawn_at_the_ends() -> None:
    assert drawn(KEY, 5, 1000, 1.0).all()
    assert not drawn(KEY, 5, 1000, 0.0).any()


@given(st.integers(0, 2**40), st.integers(1, 200), st.floats(0, 1), st.data())
def test_a_draw_depends_on_its_place_alone(
    start: int, size: int, density: float, data: st.DataObject
) -> None:
    whole = drawn(KEY, start, size, density)
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, size), max_size=5))), size]
    parts = [
        drawn(KEY, start + first, last - first, density)
        for first, last in itertools.pairwise(edges)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


@given(st.integers(0, 2**40), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_density_keeps_what_a_lower_one_kept(start: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert not (drawn(KEY, start, 100, low) & ~drawn(KEY, start, 100, high)).any()


@pytest.mark.parametrize(
    "other",
    [
        key_of(1, "germanic", "model.norm.weight"),
        key_of(0, "romance", "model.norm.weight"),
        key_of(0, "germanic", "model.layers.0.input_layernorm.weight"),
    ],
    ids=["seed", "model", "tensor"],
)
def test_seeds_models_and_tensors_draw_independently(other: np.ndarray) -> None:  # type: ignore[type-arg]
    count = 1 << 18
    one, two = drawn(KEY, 0, count, 0.5), drawn(other, 0, count, 0.5)
    agree = (one == two).mean()
    assert abs(agree - 0.5) < 5 * 0.5 / math.sqrt(count)
    shifted = (one[8:] == two[:-8]).mean()
    assert abs(shifted - 0.5) < 5 * 0.5 / math.sqrt(count)


FIRST_DRAWS = "x.x...xxx..x.x..x..xx...xxxxx.xxx.x..x.x...xxxxxxxxxxx.xxxx..x.."


def test_draws_are_the_same_for_ever() -> None:
    """A merge that is resumed by a later version must go on with the same draws."""
    kept = drawn(key_of(7, "germanic", "model.embed_tokens.weight"), 3, 64, 0.5)
    assert "".join("x" if one else "." for one in kept) == FIRST_DRAWS


def dared(delta: Array, density: float, seed: int, method: str = "dare_linear") -> Array:
    """The task vector of one model, after DARE."""
    base = np.zeros_like(delta)
    mask = drawn(key_of(seed, "m", "t"), 0, len(delta), density)
    told = Operands([delta.copy()], [1.0], base, [density], [mask])
    return METHODS[method].function(told)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_what_dare_keeps_is_divided_by_the_density(method: str, density: float) -> None:
    delta = vector("normal", 5, 1000)
    found = dared(delta, density, 0, method)
    mask = drawn(key_of(0, "m", "t"), 0, 1000, density)
    assert np.array_equal(found[mask], delta[mask] / np.float32(density))
    assert not found[~mask].any()


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_dare_expects_the_task_vector(density: float) -> None:
    """The mean over 2,000 seeds is within five standard errors of every element."""
    delta = vector("normal", 6, 64)
    runs = 2000
    mean = sum(dared(delta, density, seed).astype(float) for seed in range(runs)) / runs
    error = np.abs(delta) * math.sqrt((1 - density) / density / runs)
    assert np.all(np.abs(mean - delta) < 5 * error)
    spread = np.mean(((mean - delta) / error) ** 2)
    assert 0.4 < spread < 1.8, "the errors are as large as chance makes them"
