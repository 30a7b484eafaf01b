"""What a folder of weights holds, against files written by hand and the library's own reading."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage import weights
from arbitrage.errors import InputError
from weight_files import write

MODELS = Path(__file__).resolve().parents[1] / "data" / "micro" / "models"


def test_names_shapes_and_places(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"b": (2, 3), "a": (4,)})
    found = weights.weights(tmp_path)
    assert [(w.name, w.dtype, w.shape, w.numbers) for w in found] == [
        ("a", "F32", (4,), 4),
        ("b", "F32", (2, 3), 6),
    ]
    assert [(w.start, w.end) for w in found] == [(24, 40), (0, 24)]
    assert weights.parameters(tmp_path) == 10


def test_the_micro_models_have_what_the_library_reads_of_them() -> None:
    safetensors = pytest.importorskip("safetensors")
    folders = sorted(path.parent for path in MODELS.glob("*/model.safetensors"))
    assert len(folders) >= 2
    for folder in folders:
        with safetensors.safe_open(folder / "model.safetensors", "np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        assert {w.name: w.shape for w in weights.weights(folder)} == shapes
        tied = json.loads((folder / "config.json").read_text("utf-8")).get("tie_word_embeddings")
        total = sum(w.numbers for w in weights.weights(folder))
        assert weights.parameters(folder) == total or tied


def test_only_the_files_of_the_index_count_and_a_name_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "m-1.safetensors", {"a": (5,), "b": (7,)})
    write(tmp_path / "m-2.safetensors", {"b": (7,), "c": (11,)})
    write(tmp_path / "consolidated.safetensors", {"other.a": (1000,)})
    index = {"weight_map": {n: f"m-{k}.safetensors" for n, k in (("a", 1), ("b", 1), ("c", 2))}}
    (tmp_path / weights.INDEX).write_text(json.dumps(index))
    assert weights.parameters(tmp_path) == 23
    (tmp_path / "m-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks m-2\.safetensors"):
        weights.parameters(tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_a_tied_output_layer_counts_once(tmp_path: Path, nested: bool) -> None:
    tensors = {"model.embed_tokens.weight": (8, 4), "lm_head.weight": (8, 4), "x": (3,)}
    write(tmp_path / "model.safetensors", tensors)
    assert weights.parameters(tmp_path) == 67
    told = {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": told} if nested else told))
    assert weights.parameters(tmp_path) == 35


def test_one_place_under_two_names_counts_once(tmp_path: Path) -> None:
    shared = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}
    write(tmp_path / "model.safetensors", {"a": (6,)}, b=shared)
    assert [w.name for w in weights.weights(tmp_path)] == ["a", "b"]
    assert weights.parameters(tmp_path) == 6


def test_nobody_knows_the_size_of_packed_or_missing_weights(tmp_path: Path) -> None:
    assert weights.parameters(tmp_path) is None
    write(tmp_path / "model.safetensors", {"a": (6,)})
    (tmp_path / "config.json").write_text('{"quantization_config": {"bits": 4}}')
    assert weights.parameters(tmp_path) is None


def test_a_cut_file_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"a": (6,)})
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    with pytest.raises(InputError, match="no safetensors file, or it is cut off"):
        weights.parameters(tmp_path)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_raise_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    for content in (data, len(data).to_bytes(8, "little") + data):
        path.write_bytes(content)
        told = ""
        try:
            found = weights.header(path)
        except InputError as error:
            told = str(error)
        else:
            assert all(weight.numbers == math.prod(weight.shape) for weight in found)
        assert "\n" not in told
