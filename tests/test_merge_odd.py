"""Model folders as they are found: with half an index, two models in one, tensors at one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import merge_models as models
from arbitrage.errors import UsageError
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.merge import Refused, look, merge
from arbitrage.merging.schedule import depths
from arbitrage.weights import INDEX, SINGLE


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        models.save(tmp_path / name, models.tensors(number))
    return tmp_path


def config(pool: Path, **more: object) -> MergeConfig:
    told = {name: {"model": str(pool / name)} for name in ("a", "b")}
    return MergeConfig(method="linear", models=told, **more)


def reasons(pool: Path) -> str:
    return "\n".join(f"{r.where}: {r.told}" for r in look(config(pool), pool / "x").reasons)


def index(folder: Path, places: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_a_finished_merge_that_lost_a_file_is_not_taken_for_whole(pool: Path) -> None:
    merge(config(pool), pool / "x")
    weights = (pool / "x" / SINGLE).read_bytes()
    (pool / "x" / SINGLE).write_bytes(weights[:-1])
    with pytest.raises(UsageError, match=r"model\.safetensors is not there as it was written"):
        merge(config(pool), pool / "x")
    (pool / "x" / SINGLE).unlink()
    with pytest.raises(UsageError, match="remove the folder, and the same command makes it again"):
        merge(config(pool), pool / "x")


def test_an_index_with_more_than_the_files_have_is_refused(pool: Path) -> None:
    index(pool / "a", dict.fromkeys([*models.SHAPES, "model.extra.weight"], SINGLE))
    assert "the index names model.extra.weight, which no file has" in reasons(pool)


def test_two_models_in_one_folder_are_refused(pool: Path) -> None:
    (pool / "a/model-1.safetensors").write_bytes((pool / "b" / SINGLE).read_bytes())
    index(pool / "a", dict.fromkeys(models.SHAPES, "model-1.safetensors"))
    assert "it has model.safetensors and an index of other files" in reasons(pool)


def test_files_of_an_index_may_be_in_folders_but_not_elsewhere(pool: Path) -> None:
    merge(config(pool), pool / "usual")
    (pool / "a/sub").mkdir()
    (pool / "a" / SINGLE).rename(pool / "a/sub/m.safetensors")
    index(pool / "a", dict.fromkeys(models.SHAPES, "sub/m.safetensors"))
    merge(config(pool), pool / "x")
    assert models.content(pool / "x") == models.content(pool / "usual")
    index(pool / "a", dict.fromkeys(models.SHAPES, "../b/model.safetensors"))
    assert "names '../b/model.safetensors', which is not in its folder" in reasons(pool)


def test_tensors_at_one_place_and_names_that_stand_twice_are_refused(pool: Path) -> None:
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [place, place + 8]}
        for name, place in (("one", 0), ("two", 4))
    }
    for name in ("a", "b"):
        told = json.dumps(header).encode()
        (pool / name / SINGLE).write_bytes(len(told).to_bytes(8, "little") + told + bytes(12))
    assert "one, two overlap in model.safetensors" in reasons(pool)
    told = json.dumps(header).replace('"two"', '"one"').encode()
    (pool / "a" / SINGLE).write_bytes(len(told).to_bytes(8, "little") + told + bytes(12))
    assert "its header is not as it should be" in reasons(pool)


def test_a_number_of_a_thousand_digits_is_no_layer(pool: Path) -> None:
    name = f"layers.{'9' * 5000}.weight"
    for folder in ("a", "b"):
        models.save(pool / folder, {name: torch.ones(3)})
    assert depths([name]) == {name: None}
    merge(config(pool), pool / "x")
    assert models.load(pool / "x")[name].tolist() == [1, 1, 1]


def test_templates_in_a_folder_and_the_license_go_along(pool: Path) -> None:
    (pool / "a/additional_chat_templates").mkdir()
    (pool / "a/additional_chat_templates/rag.jinja").write_text("{{ x }}")
    (pool / "a/LICENSE").write_text("free")
    (pool / "a/tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.T"]}}')
    (pool / "a/own.py").write_text("class T: ...")
    merge(config(pool), pool / "x")
    for name in ("additional_chat_templates/rag.jinja", "LICENSE", "own.py"):
        assert (pool / "x" / name).read_bytes() == (pool / "a" / name).read_bytes()


def test_a_mark_of_byte_order_is_no_fault(pool: Path) -> None:
    text = (pool / "a/config.json").read_bytes()
    (pool / "a/config.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert reasons(pool) == ""


def test_rows_that_may_be_positions_are_not_matched_as_tokens(pool: Path) -> None:
    for name in ("a", "b"):
        tokens = {f"t{n}": n if name == "a" else 39 - n for n in range(40)}
        told = {"model": {"type": "WordLevel", "vocab": tokens, "unk_token": "t0"}}
        (pool / name / "tokenizer.json").write_text(json.dumps(told))
    shared = config(pool, vocabulary="shared")
    found = look(shared, pool / "x")
    assert found.reasons == ()
    assert any("lm_head.weight" in remark for remark in found.remarks)
    for name in ("a", "b"):
        told = json.loads((pool / name / "config.json").read_text())
        told["max_position_embeddings"] = 40
        (pool / name / "config.json").write_text(json.dumps(told))
    with pytest.raises(Refused):
        merge(shared, pool / "x")
    assert any("cannot be told" in one.told for one in look(shared, pool / "x").reasons)


def test_whole_task_vectors_that_add_up_are_remarked(pool: Path) -> None:
    models.save(pool / "base", models.tensors(7))
    for name in ("c", "d"):
        models.save(pool / name, models.tensors(ord(name)))
    told = {"models": {n: str(pool / n) for n in "abcd"}, "base": str(pool / "base")}
    summed = look(MergeConfig(method="task_arithmetic", **told), pool / "x")
    assert summed.reasons == ()
    assert any("add up to 4: so many whole task vectors" in one for one in summed.remarks)
    for usual in ({"normalize": True}, {"weight": 0.25}):
        found = look(MergeConfig(method="task_arithmetic", **told, **usual), pool / "x")
        assert not any("whole task vectors" in one for one in found.remarks)
