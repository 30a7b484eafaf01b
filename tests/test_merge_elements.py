"""Numbers of checkpoints against torch: every bfloat16 and float16, and float32 of all kinds."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.merging.elements import from_float32, read_bytes, to_float32, write_at

if TYPE_CHECKING:
    from arbitrage.merging.methods import Array

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
HALVES = ("BF16", "F16")
PATTERNS = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def by_torch(values: Array, dtype: str) -> np.ndarray[Any, Any]:
    """The bits that torch stores."""
    return np.asarray(torch.from_numpy(values).to(TORCH[dtype]).view(torch.int16)).view(np.uint16)


def bits_of(values: Array, dtype: str) -> np.ndarray[Any, Any]:
    return from_float32(values, dtype).view(np.uint16)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_pattern_is_read_as_torch_reads_it(dtype: str) -> None:
    found = to_float32(PATTERNS.view(np.uint8), dtype)
    wanted = torch.from_numpy(PATTERNS.view(np.int16).copy()).view(TORCH[dtype]).float().numpy()
    assert found.dtype == np.float32
    numbers = ~np.isnan(wanted)
    assert np.array_equal(np.isnan(found), ~numbers)
    assert found[numbers].tobytes() == wanted[numbers].tobytes(), "-0.0 too"


@pytest.mark.parametrize("dtype", HALVES)
def test_every_pattern_comes_back_and_nan_as_nan(dtype: str) -> None:
    values = to_float32(PATTERNS.view(np.uint8), dtype)
    numbers = ~np.isnan(values)
    found = bits_of(values, dtype)
    assert np.array_equal(found[numbers], PATTERNS[numbers])
    assert np.isnan(to_float32(found[~numbers].view(np.uint8), dtype)).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_all_between_two_neighbors_is_rounded_as_torch_rounds_it(dtype: str) -> None:
    """The halfway points of all neighbors, and what lies just below and above."""
    ordered = PATTERNS[: 0x7F80 if dtype == "BF16" else 0x7C00]
    values = to_float32(ordered.view(np.uint8), dtype).astype(np.float64)
    halfway = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    below, above = np.nextafter(halfway, np.float32(0)), np.nextafter(halfway, np.float32(np.inf))
    for some in (below, halfway, above, -below, -halfway, -above):
        assert np.array_equal(bits_of(some, dtype), by_torch(some, dtype))
    assert np.array_equal(bits_of(below, dtype), ordered[:-1])
    assert np.array_equal(bits_of(above, dtype), ordered[1:])
    even = ordered[:-1] + (ordered[:-1] & 1)
    assert np.array_equal(bits_of(halfway, dtype), even)


@pytest.mark.parametrize("dtype", HALVES)
def test_random_patterns_of_float32_are_rounded_as_torch_rounds_them(dtype: str) -> None:
    """Subnormals, what overflows to infinity, and infinities are among them."""
    source = np.random.default_rng(3)
    bits = source.integers(0, 1 << 32, 400_000, dtype=np.uint32)
    subnormal = source.integers(0, 1 << 23, 10_000, dtype=np.uint32)
    largest = np.arange(0x7F7F0000, 0x7F800001, dtype=np.uint32)
    values = np.concatenate([bits, subnormal, largest, largest | 0x80000000]).view(np.float32)
    numbers = ~np.isnan(values)
    assert np.isinf(values).any()
    assert np.array_equal(
        bits_of(values[numbers].copy(), dtype), by_torch(values[numbers].copy(), dtype)
    )
    nan = bits_of(values[~numbers].copy(), dtype)
    assert len(nan) > 1000
    assert np.isnan(to_float32(nan.view(np.uint8), dtype)).all()


@given(st.floats(width=32), st.sampled_from(HALVES))
def test_one_number_is_rounded_as_torch_rounds_it(value: float, dtype: str) -> None:
    values = np.array([value], np.float32)
    if np.isnan(value):
        assert np.isnan(to_float32(bits_of(values, dtype).view(np.uint8), dtype)).all()
    else:
        assert np.array_equal(bits_of(values, dtype), by_torch(values, dtype))


def test_float32_is_kept_to_the_bit_and_float64_is_rounded_once() -> None:
    source = np.random.default_rng(4)
    values = source.integers(0, 1 << 32, 10_000, dtype=np.uint32).view(np.float32)
    assert from_float32(values, "F32").tobytes() == values.tobytes()
    assert to_float32(values.view(np.uint8), "F32").tobytes() == values.tobytes()
    wide = source.standard_normal(10_000)
    assert np.array_equal(to_float32(wide.view(np.uint8), "F64"), wide.astype(np.float32))
    narrow = wide.astype(np.float32)
    assert np.array_equal(from_float32(narrow, "F64").view("<f8"), narrow.astype(np.float64))


@given(st.integers(0, 50), st.integers(0, 50))
def test_bytes_are_read_and_written_at_their_place(place: int, count: int) -> None:
    content = bytes(range(101))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        assert read_bytes(path, place, count).tobytes() == content[place : place + count]
        handle = os.open(path, os.O_RDWR)
        write_at(handle, np.full(count, 255, np.uint8), place)
        os.close(handle)
        wanted = content[:place] + b"\xff" * count + content[place + count :]
        assert path.read_bytes() == wanted


def test_a_file_that_is_too_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    with pytest.raises(EOFError, match="ends 3 bytes too early"):
        read_bytes(path, 5, 8)
