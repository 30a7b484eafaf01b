"""Whole merges: the numbers of the result, whatever its threads and files, and however often it was
killed; what goes along with it; and what happens when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import merge_models as models
from arbitrage.errors import InputError, LockedError, Stopped, StoreError, UsageError
from arbitrage.merging import elements, output
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.loading import load_merge
from arbitrage.merging.merge import Refused, merge
from arbitrage.merging.papers import read_manifest
from command_line import cli, start

METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "slerp": {"t": (0.2, 0.8)},
    "task_arithmetic": {"scale": 0.7},
    "ties": {"density": 0.3},
    "dare_linear": {"density": 0.5, "seed": 3},
    "dare_ties": {"density": {"*.mlp.*": 0.2, "*": 0.6}},
}
MIB = 1 << 20


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three models of it."""
    root = tmp_path_factory.mktemp("pool")
    base = models.tensors(0)
    models.save(root / "base", base)
    for number, name in enumerate(("a", "b", "c"), 1):
        told = models.tensors(number)
        models.save(root / name, {key: base[key] + told[key] * 0.1 for key in base})
    return root


def config(pool: Path, method: str, **more: Any) -> MergeConfig:
    names = ("a", "b") if method == "slerp" else ("a", "b", "c")
    needs_base = method not in ("linear", "slerp")
    return MergeConfig(
        method=method,
        base={"model": str(pool / "base")} if needs_base else None,
        models={name: {"model": str(pool / name)} for name in names},
        **{**METHODS[method], **more},
    )


def small_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for module in ("elements", "output", "streaming"):
        monkeypatch.setattr(f"arbitrage.merging.{module}.BLOCK", size)


@pytest.mark.parametrize("method", METHODS)
def test_threads_files_and_blocks_change_no_byte(
    pool: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch, 128)
    merge(config(pool, method, threads=1), tmp_path / "one")
    merge(config(pool, method, threads=8, shard_size=2000), tmp_path / "many")
    assert (tmp_path / "one/model.safetensors").is_file()
    assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) >= 8
    assert models.content(tmp_path / "one") == models.content(tmp_path / "many")
    if method != "slerp":  # whose angle is added up block by block
        small_blocks(monkeypatch, MIB)
        merge(config(pool, method), tmp_path / "large")
        assert models.content(tmp_path / "one") == models.content(tmp_path / "large")


def test_a_weighted_average_is_that_of_torch(pool: Path, tmp_path: Path) -> None:
    weights = {"a": 0.5, "b": 1.5, "c": -0.25}
    told = {n: {"model": str(pool / n), "weight": w} for n, w in weights.items()}
    merge(MergeConfig(method="linear", models=told, dtype="float32"), tmp_path / "x")
    parts = {name: models.load(pool / name) for name in weights}
    for name, tensor in models.load(tmp_path / "x").items():
        wanted = sum(parts[key][name] * weight for key, weight in weights.items()) / 1.75
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_result_is_rounded_once_to_the_dtype_that_is_asked_for(
    pool: Path, tmp_path: Path, dtype: str
) -> None:
    merge(config(pool, "linear", dtype="float32"), tmp_path / "exact")
    merge(config(pool, "linear", dtype=dtype), tmp_path / "cast")
    exact, cast = models.load(tmp_path / "exact"), models.load(tmp_path / "cast")
    for name, tensor in cast.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, exact[name].to(getattr(torch, dtype)))


def test_a_curve_goes_over_the_layers_and_a_pattern_over_names(pool: Path, tmp_path: Path) -> None:
    told = {
        "a": {"model": str(pool / "a"), "weight": {"*.norm.*": 0, "*": (1, 0.25)}},
        "b": {"model": str(pool / "b"), "weight": {"*.norm.*": 1, "*": (0, 0.75)}},
    }
    merge(MergeConfig(method="linear", models=told), tmp_path / "x")
    a, b, found = (models.load(place) for place in (pool / "a", pool / "b", tmp_path / "x"))
    name = "model.layers.{}.mlp.up_proj.weight"
    for layer, share in enumerate((1, 0.75, 0.5, 0.25)):
        wanted = a[name.format(layer)] * share + b[name.format(layer)] * (1 - share)
        torch.testing.assert_close(found[name.format(layer)], wanted)
    assert torch.equal(found["model.layers.2.norm.weight"], b["model.layers.2.norm.weight"])
    embedding = "model.embed_tokens.weight"  # of no layer: the mean of the curve
    torch.testing.assert_close(found[embedding], a[embedding] * 0.625 + b[embedding] * 0.375)


def test_what_goes_along_says_what_was_merged(pool: Path, tmp_path: Path) -> None:
    (pool / "a/tokenizer_config.json").write_text('{"x": 1}')
    merged = merge(config(pool, "ties", dtype="bfloat16", shard_size=3000), tmp_path / "x")
    folder = tmp_path / "x"
    assert json.loads((folder / "config.json").read_text()) == models.CONFIG
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (pool / "a" / name).read_bytes()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    stored = models.load(folder)
    assert set(index["weight_map"]) == set(stored)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in stored.values())
    told = read_manifest(folder)
    assert told is not None
    assert told == json.loads(json.dumps(merged.manifest))
    assert [one["name"] for one in told["models"]] == ["a", "b", "c", "base"]
    assert told["settings"]["density"] == {"a": 0.3, "b": 0.3, "c": 0.3}
    assert told["parameters"] == sum(t.numel() for t in stored.values())
    assert {n: (folder / n).stat().st_size for n in told["files"]} == told["files"]
    card = (folder / "README.md").read_text()
    assert "**ties** (arXiv 2306.01708)" in card
    assert str(pool) not in card + (folder / "merge.json").read_text()
    left = {path.name for path in folder.iterdir()} - set(told["files"])
    assert left == {
        *("config.json", "generation_config.json", "tokenizer_config.json", "README.md"),
        *("merge.json", "model.safetensors.index.json"),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_tensors_without_floating_numbers_are_those_of_the_carrier(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        told = models.tensors(number) | {"steps": torch.tensor([number, 7, 7])}
        models.save(tmp_path / name, told)
    told = {name: {"model": str(tmp_path / name)} for name in ("a", "b")}
    merge(MergeConfig(method="linear", models=told, like="b", dtype="float16"), tmp_path / "x")
    found = models.load(tmp_path / "x")
    assert found["steps"].tolist() == [1, 7, 7]
    assert found["steps"].dtype == torch.int64


def test_an_output_that_is_tied_to_the_input_is_written_once(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        told = models.tensors(number)
        if name == "a":
            del told["lm_head.weight"]
        models.save(tmp_path / name, told, tie_word_embeddings=True)
    told = {name: {"model": str(tmp_path / name)} for name in ("a", "b")}
    merge(MergeConfig(method="linear", models=told, like="b"), tmp_path / "x")
    assert set(models.load(tmp_path / "x")) == set(models.SHAPES) - {"lm_head.weight"}


def test_a_merge_that_is_there_is_not_made_again(pool: Path, tmp_path: Path) -> None:
    assert merge(config(pool, "linear"), tmp_path / "x").made
    before = (tmp_path / "x/model.safetensors").stat().st_mtime_ns
    assert not merge(config(pool, "linear", threads=7), tmp_path / "x").made
    assert (tmp_path / "x/model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"is another merge \(linear\)"):
        merge(config(pool, "ties"), tmp_path / "x")
    (tmp_path / "y").mkdir()
    (tmp_path / "y/mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there and is no merge"):
        merge(config(pool, "linear"), tmp_path / "y")
    assert (tmp_path / "y/mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert merge(config(pool, "linear"), tmp_path / "empty").made


def test_a_stopped_merge_goes_on_with_the_file_at_which_it_was(pool: Path, tmp_path: Path) -> None:
    wanted = config(pool, "dare_ties", shard_size=2000)
    merge(wanted, tmp_path / "whole")
    stop = threading.Event()

    def tell(done: int, total: int) -> None:
        if done > total / 2:
            stop.set()

    with pytest.raises(Stopped):
        merge(wanted, tmp_path / "x", tell, stop)
    work = tmp_path / "x.merging"
    assert not (tmp_path / "x").exists()
    made = {path.name: path.stat().st_mtime_ns for path in work.glob("model-*")}
    assert made
    told: list[int] = []
    merge(wanted, tmp_path / "x", lambda done, total: told.append(done))
    assert told[0] > 0
    assert models.content(tmp_path / "x") == models.content(tmp_path / "whole")
    kept = {name: (tmp_path / "x" / name).stat().st_mtime_ns for name in made}
    assert kept == made
    assert not work.exists()


def test_what_was_begun_of_another_merge_is_not_gone_on_with(pool: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    def tell(done: int, total: int) -> None:
        if done > total / 2:
            stop.set()

    with pytest.raises(Stopped):
        merge(config(pool, "linear", shard_size=2000), tmp_path / "x", tell, stop)
    merge(config(pool, "task_arithmetic", shard_size=2000), tmp_path / "x")
    merge(config(pool, "task_arithmetic"), tmp_path / "y")
    assert models.content(tmp_path / "x") == models.content(tmp_path / "y")


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    shapes = {f"layers.{n}.weight": (1 << 10, 1 << 9) for n in range(24)}
    for number, name in enumerate(("base", "a", "b")):
        models.save(tmp_path / name, models.tensors(number, shapes))
    told = {
        "method": "dare_ties",
        "base": "base",
        "models": {"a": "a", "b": {"model": "b", "weight": 0.5}},
        "density": 0.4,
        "shard_size": "5MB",
    }
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(told))
    merge(load_merge(path), tmp_path / "whole")
    kills = 0
    for files in range(1, 12, 3):
        process = start("merge", path, "-o", tmp_path / "x", "-q")
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / "x.merging").glob("model-*"))) >= files:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            time.sleep(0.001)
        process.communicate()
    assert kills
    done = cli("merge", path, "-o", tmp_path / "x", "--json")
    assert done.returncode == 0, done.stderr
    assert models.content(tmp_path / "x") == models.content(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_two_processes_do_not_make_one_folder(pool: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def tell(done: int, total: int) -> None:
        if not refused:
            with pytest.raises(LockedError) as error:
                merge(config(pool, "linear"), tmp_path / "x")
            refused.append(str(error.value))

    merge(config(pool, "linear"), tmp_path / "x", tell)
    assert refused == [f"another process makes {tmp_path / 'x'} now; wait for it"]


def test_a_full_disk_is_one_sentence_and_nothing_is_left_half(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = elements.write_at
    left = [3]

    def write(handle: int, data: Any, place: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, data, place)

    monkeypatch.setattr(output, "write_at", write)
    with pytest.raises(StoreError, match=r"there is no room for model.safetensors in .*x\.merging"):
        merge(config(pool, "linear"), tmp_path / "x")
    assert list((tmp_path / "x.merging").glob("*.safetensors")) == []
    monkeypatch.setattr(output, "write_at", real)
    assert merge(config(pool, "linear"), tmp_path / "x").made


def test_numbers_that_are_none_are_never_written(pool: Path, tmp_path: Path) -> None:
    told = models.load(pool / "a")
    told["model.norm.weight"][3] = np.nan
    models.save(tmp_path / "bad", told)
    told["model.norm.weight"][3] = 1e5
    models.save(tmp_path / "large", told)
    models.save(tmp_path / "larger", told)
    both = {"a": {"model": str(pool / "a")}, "bad": {"model": str(tmp_path / "bad")}}
    with pytest.raises(InputError, match=r"model\.norm\.weight of bad holds NaN or infinity"):
        merge(MergeConfig(method="linear", models=both, dtype="bfloat16"), tmp_path / "x")
    both = {"a": {"model": str(tmp_path / "large")}, "b": {"model": str(tmp_path / "larger")}}
    both["b"]["weight"] = 2.0
    with pytest.raises(InputError, match=r"model\.norm\.weight has numbers too large for float16"):
        merge(MergeConfig(method="linear", models=both, dtype="float16"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_weights_that_are_cut_off_or_gone_are_told(pool: Path, tmp_path: Path) -> None:
    folder = models.save(tmp_path / "cut", models.load(pool / "a"))
    told = {"a": {"model": str(pool / "a")}, "cut": {"model": str(folder)}}
    size = (folder / "model.safetensors").stat().st_size

    def cut(done: int, total: int) -> None:
        os.truncate(folder / "model.safetensors", size - 40)

    wanted = MergeConfig(method="linear", models=told)
    with pytest.raises(InputError, match=r"model\.safetensors ends .* bytes too early"):
        merge(wanted, tmp_path / "x", cut)
    with pytest.raises(Refused) as error:
        merge(wanted, tmp_path / "x")
    (reason,) = error.value.examination.reasons
    assert reason.told.startswith("model.safetensors is cut off: 40 bytes are not there")


def test_the_command_line_merges_and_finds_what_is_there(pool: Path, tmp_path: Path) -> None:
    told = {"method": "linear", "models": {name: str(pool / name) for name in ("a", "b")}}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(told))
    made = cli("merge", tmp_path / "merge.yaml", "-o", tmp_path / "x", "--set", "models.b.weight=2")
    assert made.returncode == 2
    assert "'b' is a plain value and has no keys" in made.stderr
    told["models"] = {name: {"model": str(pool / name)} for name in ("a", "b")}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(told))
    command = ("merge", tmp_path / "merge.yaml", "-o", tmp_path / "x", "--set", "models.b.weight=2")
    made = cli(*command)
    assert made.returncode == 0, made.stderr
    assert f"wrote {tmp_path / 'x'}: 4,432 parameters in 11 tensors, by linear" in made.stdout
    again = cli(*command, "--json")
    assert json.loads(again.stdout)["made"] is False
    helped = cli("merge", "--help")
    assert "arbitrage merge sweep" in " ".join(helped.stdout.split())
