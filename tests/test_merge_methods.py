"""The methods of merging: against mergekit and PEFT, as they were recorded, and by their own laws.

`data/merges/record.py` wrote what is recorded. Where definitions differ, and what is compared then:

* A gradient over layers: mergekit takes its first value for tensors of no layer, this package the
  mean. The layers themselves are compared, and the others with the first value.
* PEFT elects signs by the task vectors, without their weights, and divides by how many agree;
  mergekit and this package elect by weighted task vectors and divide by the weights of those who
  agree. So they are one where all weights are 1.
* PEFT keeps int(density * size) elements, the others at least one. Which of equal magnitudes is
  kept depends on a sort; the recorded task vectors have none.
* DARE draws at random, so only density 1 can be compared. Since mergekit 0.1 what is kept is
  scaled to the former sum of magnitudes; PEFT and this package divide by the density, as the paper.
* Weights whose sum is 0 divide by 1 in mergekit; here a preflight refuses them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_models
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.merge import merge
from arbitrage.merging.methods import METHODS, Array, Mask, Operands
from arbitrage.merging.schedule import layer_of
from arbitrage.merging.sparsity import Trimmer, cutoff, drawn, key_of, shares_of

RECORDED = np.load(Path(__file__).parent / "data/merges/merges.npz")
ABOUT = json.loads(str(RECORDED["about"]))
SHAPES: dict[str, list[int]] = ABOUT["tensors"]
MERGES: dict[str, dict[str, Any]] = ABOUT["mergekit"]
PEFT: dict[str, list[Any]] = ABOUT["peft"]
MODELS = ("one", "two", "three")
NO_LAYER = [name for name in SHAPES if layer_of(name) is None]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
BASED = [name for name, method in METHODS.items() if method.needs_base]


def tensors(key: str) -> dict[str, Array]:
    """A recorded model, tensor by tensor, flat."""
    found, place = {}, 0
    for name, shape in SHAPES.items():
        found[name] = RECORDED[key][place : place + int(np.prod(shape))]
        place += int(np.prod(shape))
    return found


INPUTS = {name: tensors(f"input-{name}") for name in (*MODELS, "base", "near")}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded models as folders."""
    root = tmp_path_factory.mktemp("pool")
    for name, told in INPUTS.items():
        whole = {key: torch.from_numpy(told[key].reshape(shape)) for key, shape in SHAPES.items()}
        merge_models.save(root / name, whole)
    return root


def setting_of(told: Any) -> Any:
    """A recorded setting as a config has it: mergekit's filters are parts of names."""
    if isinstance(told, dict):
        return {f"*{part}*".replace("***", "*"): setting_of(one) for part, one in told.items()}
    return tuple(told) if isinstance(told, list) else told


def config_of(told: dict[str, Any], pool: Path) -> MergeConfig:
    """A recorded merge as this package has it."""
    names = told.get("models", MODELS[:2] if told["method"] == "slerp" else MODELS)
    models: dict[str, dict[str, Any]] = {name: {"model": str(pool / name)} for name in names}
    for key in {"weight", "density"} & set(told):
        one = told[key] if isinstance(told[key], list) else [told[key]] * len(names)
        for name, setting in zip(names, one, strict=True):
            models[name][key] = setting_of(setting)
    shared = ("t", "normalize", "scale", "dtype")
    more = {key: setting_of(told[key]) for key in shared if key in told}
    base = {"model": str(pool / "base")} if METHODS[told["method"]].needs_base else None
    return MergeConfig(method=told["method"], models=models, base=base, **more)


def made(told: dict[str, Any], pool: Path, target: Path) -> dict[str, Array]:
    """A recorded merge done by this package, from folder to folder."""
    merge(config_of(told, pool), target)
    found = merge_models.load(target)
    assert set(found) == set(SHAPES)
    return {name: tensor.float().numpy().ravel() for name, tensor in found.items()}


def kept_of(method: str, delta: Array, density: float, model: str = "m", seed: int = 0) -> Mask:
    """What is kept of a whole task vector."""
    if METHODS[method].sparsify == "random":
        return drawn(key_of(seed, model, "t"), 0, len(delta), density)
    cut = cutoff(lambda: [delta], len(delta), density)
    return np.ones(len(delta), bool) if cut is None else Trimmer(cut).mask(delta)


def merged(
    method: str,
    models: list[Array],
    weights: list[float] | None = None,
    base: Array | None = None,
    densities: list[float] | None = None,
    **more: Any,
) -> Array:
    """A whole tensor merged as one block."""
    told = METHODS[method]
    densities = densities or [1.0] * len(models)
    kept = [
        kept_of(method, model - base, density, str(number)) if told.sparsify else None
        for number, (model, density) in enumerate(zip(models, densities, strict=True))
    ]
    more = {"normalize": told.normalize, **more}
    copies = [model.copy() for model in models]
    found = told.function(
        Operands(copies, weights or [1.0] * len(models), base, densities, kept, **more)
    )
    assert found.dtype == np.float32
    return found


@pytest.mark.parametrize("name", MERGES)
def test_a_whole_merge_is_that_of_mergekit(name: str, pool: Path, tmp_path: Path) -> None:
    found, compared = made(MERGES[name], pool, tmp_path / "x"), 0
    for tensor, wanted in tensors(name).items():
        if name.endswith("-layers") and tensor in NO_LAYER:
            continue
        np.testing.assert_allclose(found[tensor], wanted, **TOLERANCE)
        compared += wanted.size
    assert compared >= 600


@pytest.mark.parametrize("name", [name for name in MERGES if name.endswith("-layers")])
def test_of_a_gradient_mergekit_takes_the_first_value_where_there_is_no_layer(
    name: str, pool: Path, tmp_path: Path
) -> None:
    told = dict(MERGES[name])
    for key in {"weight", "density"} & set(told):
        told[key] = [one[0] if isinstance(one, list) else one for one in told[key]]
    if "t" in told:
        told["t"] = told["t"][0]
    found = made(told, pool, tmp_path / "x")
    for tensor in NO_LAYER:
        np.testing.assert_allclose(found[tensor], tensors(name)[tensor], **TOLERANCE)


@pytest.mark.parametrize("name", PEFT)
def test_a_merge_of_task_vectors_is_that_of_peft(name: str) -> None:
    method, weights, more = PEFT[name]
    for tensor, wanted in tensors(name).items():
        found = merged(
            method,
            [INPUTS[model][tensor] for model in MODELS],
            weights,
            INPUTS["base"][tensor],
            [more.get("density", 1.0)] * len(MODELS),
            normalize=method.endswith("ties"),
        )
        np.testing.assert_allclose(found, wanted, **TOLERANCE)


def test_mergekit_and_peft_are_one_where_all_weights_are_1() -> None:
    np.testing.assert_allclose(RECORDED["ties-equal"], RECORDED["peft-ties"], **TOLERANCE)


def test_what_is_recorded_differs_from_setting_to_setting() -> None:
    """But for what is one by definition; so no comparison holds whatever is compared."""
    names = [*MERGES, *PEFT]
    alike = [
        {one, other}
        for place, one in enumerate(names)
        for other in names[place + 1 :]
        if np.allclose(RECORDED[one], RECORDED[other], **TOLERANCE)
    ]
    assert alike == [
        {"linear", "arithmetic-mean"},
        {"arithmetic", "peft-arithmetic"},
        {"ties-equal", "peft-ties"},
    ]


sizes = st.integers(1, 40)
weights_of = st.lists(st.floats(0.0625, 2, width=16), min_size=2, max_size=4)


def drawn_models(seed: int, size: int, count: int) -> list[Array]:
    """`count` models and behind them the base."""
    source = np.random.default_rng(seed)
    return list(source.standard_normal((count + 1, size)).astype(np.float32))


seeds = st.integers(0, 2**32 - 1)


@given(seeds, sizes, weights_of, st.sampled_from(["linear", "task_arithmetic", "ties"]))
def test_the_order_of_models_changes_nothing(
    seed: int, size: int, weights: list[float], method: str
) -> None:
    """Where the weighted sum is so near 0 that its sign is rounding, any sign is elected."""
    *models, base = drawn_models(seed, size, len(weights))
    given_base = base if METHODS[method].needs_base else None
    densities = [0.3 + 0.1 * number for number in range(len(models))]
    one = merged(method, models, weights, given_base, densities)
    other = merged(method, models[::-1], weights[::-1], given_base, densities[::-1])
    sums = sum(
        weight * (model.astype(float) - base) * kept_of("ties", model - base, density)
        for model, weight, density in zip(models, weights, densities, strict=True)
    )
    sure = (np.abs(sums) > 1e-5) | (sums == 0)
    np.testing.assert_allclose(one[sure], other[sure], rtol=1e-5, atol=1e-6)


@given(seeds, sizes, weights_of)
def test_a_model_merged_with_itself_is_itself(seed: int, size: int, weights: list[float]) -> None:
    model, base = drawn_models(seed, size, 1)
    many = [model] * len(weights)
    for method, more in (
        ("linear", {}),
        ("task_arithmetic", {"normalize": True}),
        ("ties", {}),
        ("dare_ties", {"normalize": True}),
    ):
        given_base = base if METHODS[method].needs_base else None
        found = merged(method, many, weights, given_base, **more)
        np.testing.assert_allclose(found, model, rtol=1e-5, atol=1e-5)
    share = shares_of([(model, model)], weights[0] / 2)
    np.testing.assert_allclose(merged("slerp", [model, model], shares=share), model, rtol=1e-6)


@given(seeds, sizes, weights_of, st.sampled_from(["linear", *BASED]), st.booleans())
def test_a_model_of_weight_0_is_as_if_it_were_not_there(
    seed: int, size: int, weights: list[float], method: str, normalize: bool
) -> None:
    *models, base = drawn_models(seed, size, len(weights) + 1)
    given_base = base if METHODS[method].needs_base else None
    densities = [0.5] * len(weights)
    with_it = merged(
        method, models, [*weights, 0.0], given_base, [*densities, 0.7], normalize=normalize
    )
    without = merged(method, models[:-1], weights, given_base, densities, normalize=normalize)
    assert with_it.tobytes() == (without + np.float32(0)).tobytes()


@given(seeds, sizes)
def test_one_task_vector_of_weight_1_leads_from_the_base_to_the_model(seed: int, size: int) -> None:
    model, base = drawn_models(seed, size, 1)
    for method in BASED:
        np.testing.assert_allclose(merged(method, [model], [1.0], base), model, atol=1e-6)


@given(seeds, sizes, weights_of, st.sampled_from(BASED))
def test_scale_0_is_the_base(seed: int, size: int, weights: list[float], method: str) -> None:
    *models, base = drawn_models(seed, size, len(weights))
    found = merged(method, models, weights, base, [0.5] * len(weights), scale=0.0)
    assert np.array_equal(found, base)


@given(seeds, st.integers(2, 60), weights_of, st.sampled_from(BASED), st.data())
def test_where_a_tensor_is_cut_changes_nothing(
    seed: int, size: int, weights: list[float], method: str, data: st.DataObject
) -> None:
    """To the bit: the same masks, and every element by itself."""
    *models, base = drawn_models(seed, size, len(weights))
    whole = merged(method, models, weights, base, [0.5] * len(weights), scale=0.7)
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=5)))
    told = METHODS[method]
    kept = [
        kept_of(method, model - base, 0.5, str(number)) if told.sparsify else None
        for number, model in enumerate(models)
    ]
    parts = [
        told.function(
            Operands(
                [model[start:end].copy() for model in models],
                weights,
                base[start:end],
                [0.5] * len(weights),
                [mask if mask is None else mask[start:end] for mask in kept],
                told.normalize,
                0.7,
            )
        )
        for start, end in zip([0, *cuts], [*cuts, size], strict=True)
    ]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@given(seeds, sizes, st.integers(2, 4))
def test_elected_signs_are_those_of_plain_python(seed: int, size: int, count: int) -> None:
    """Small whole numbers: sums are exact, and 0 often."""
    source = np.random.default_rng(seed)
    *models, base = source.integers(-3, 4, (count + 1, size)).astype(np.float32)
    weights = [1.0, -1.0, 2.0, 0.5][:count]
    found = merged("ties", list(models), weights, base)
    for place in range(size):
        parts = [w * float(m[place] - base[place]) for m, w in zip(models, weights, strict=True)]
        sign = 1 if sum(parts) >= 0 else -1
        agree = [(p, w) for p, w in zip(parts, weights, strict=True) if p * sign > 0]
        divisor = sum(w for _, w in agree) or 1.0
        wanted = float(base[place]) + sum(p for p, _ in agree) / divisor
        assert found[place] == pytest.approx(wanted, abs=1e-5)


def plain_slerp(one: Array, other: Array, t: float) -> np.ndarray[Any, Any]:
    """On the arc, in float64, by the angle's own formula."""
    first, second = one.astype(float), other.astype(float)
    angle = np.arccos(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    found = np.sin((1 - t) * angle) * first + np.sin(t * angle) * second
    return np.asarray(found / np.sin(angle))


@given(seeds, st.integers(2, 50), st.floats(0, 1))
def test_slerp_of_unit_vectors_keeps_the_norm(seed: int, size: int, t: float) -> None:
    one, other, _ = drawn_models(seed, size, 2)
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    if abs(float(one @ other)) > 0.999:
        return
    found = merged("slerp", [one, other], shares=shares_of([(one, other)], t))
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found, plain_slerp(one, other, t), atol=1e-5)


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ([1, 0], [0, 1], [np.cos(np.pi * 0.15), np.sin(np.pi * 0.15)]),
        ([1, 2], [1, 2], [1, 2]),
        ([1, 2], [-1, -2], [0.4, 0.8]),
        ([1, 2], [2, 4], [1.3, 2.6]),
        ([1, 2], [0, 0], [0.7, 1.4]),
        ([0, 0], [0, 0], [0, 0]),
        ([0, 0], [1, 2], [0.3, 0.6]),
    ],
    ids=["orthogonal", "same", "opposite", "parallel", "to-zero", "zeros", "from-zero"],
)
def test_slerp_is_a_straight_line_where_there_is_no_angle(
    one: list[float], other: list[float], wanted: list[float]
) -> None:
    first, second = np.array(one, np.float32), np.array(other, np.float32)
    found = merged("slerp", [first, second], shares=shares_of([(first, second)], 0.3))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@given(seeds, st.integers(2, 50), st.data())
def test_slerps_angle_hardly_depends_on_where_a_tensor_is_cut(
    seed: int, size: int, data: st.DataObject
) -> None:
    one, other, _ = drawn_models(seed, size, 2)
    cut = data.draw(st.integers(0, size))
    whole = shares_of([(one, other)], 0.3)
    parts = shares_of([(one[:cut], other[:cut]), (one[cut:], other[cut:])], 0.3)
    assert parts == pytest.approx(whole, rel=1e-9)
