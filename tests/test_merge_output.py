"""What is on the disk when: files are synced before they have their names, room is taken first."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import merge_models as models
from arbitrage.errors import InputError, StoreError
from arbitrage.merging import output
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.layout import Slot, layout
from arbitrage.merging.merge import merge
from arbitrage.merging.room import memory_free


@pytest.fixture
def config(tmp_path: Path) -> MergeConfig:
    for number, name in enumerate(("a", "b")):
        models.save(tmp_path / name, models.tensors(number), _name_or_path="/home/somebody/a")
    told = {name: {"model": str(tmp_path / name)} for name in ("a", "b")}
    return MergeConfig(method="linear", models=told, shard_size=2000)


def test_a_file_is_on_the_disk_before_it_has_its_name(
    config: MergeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the folder: all of its files, and its names, before its own name."""
    log: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        log.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
        sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        log.append(("rename", path.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    merge(config, tmp_path / "x")
    parts = [name for what, name in log if what == "rename" and name.startswith(".tmp-")]
    assert len(parts) >= 8
    for name in parts:
        assert log.index(("sync", name)) < log.index(("rename", name))
    end = log.index(("rename", "x.merging"))
    before = [name for what, name in log[:end] if what == "sync"]
    assert before[-1] == "x.merging"
    assert {path.name for path in (tmp_path / "x").iterdir()} <= set(before)
    assert ("sync", tmp_path.name) in log[end:]


def test_room_is_taken_before_a_weight_is_read(
    config: MergeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, place: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def never(*args: Any) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("arbitrage.merging.checkpoint.read_bytes", never)
    with pytest.raises(StoreError, match="there is no room for model-00001-of"):
        merge(config, tmp_path / "x")


def test_a_file_system_that_reserves_nothing_is_written_to_all_the_same(
    config: MergeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(handle: int, place: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    merge(config, tmp_path / "usual")
    monkeypatch.setattr(os, "posix_fallocate", unable)
    merge(config, tmp_path / "x")
    assert models.content(tmp_path / "x") == models.content(tmp_path / "usual")


def test_a_finished_file_of_another_size_is_made_again(config: MergeConfig, tmp_path: Path) -> None:
    merge(config, tmp_path / "whole")
    stop = threading.Event()

    def tell(done: int, total: int) -> None:
        if done > total / 2:
            stop.set()

    with pytest.raises(Exception, match="stopped on request"):
        merge(config, tmp_path / "x", tell, stop)
    first = min((tmp_path / "x.merging").glob("model-*"))
    first.write_bytes(first.read_bytes()[:-1])
    merge(config, tmp_path / "x")
    assert models.content(tmp_path / "x") == models.content(tmp_path / "whole")


def test_a_note_beside_the_weights_makes_no_other_merge(
    config: MergeConfig, tmp_path: Path
) -> None:
    merge(config, tmp_path / "x")
    (tmp_path / "a/notes.txt").write_text("good one")
    assert not merge(config, tmp_path / "x").made


def test_wider_numbers_come_first_so_that_all_are_aligned() -> None:
    slots = [Slot("a", "BF16", (3,)), Slot("b", "F32", (5,)), Slot("c", "U8", (1,))]
    [shard] = layout([*slots, Slot("d", "F64", (1,))], 1000)
    assert [slot.name for slot in shard.slots] == ["d", "b", "a", "c"]
    assert [slot.start for slot in shard.slots] == [0, 8, 28, 34]
    assert shard.slots[-1].end == shard.data == 35
    assert len(shard.header) % 8 == 0


def test_a_tensor_larger_than_a_file_may_be_has_its_own() -> None:
    slots = [Slot("a", "F32", (1,)), Slot("b", "F32", (100,)), Slot("c", "F32", (1,))]
    found = layout([*slots, Slot("d", "F32", (1,))], 10)
    assert [[slot.name for slot in shard.slots] for shard in found] == [["a"], ["b"], ["c", "d"]]
    assert found[1].file == "model-00002-of-00003.safetensors"


def test_no_path_of_a_machine_goes_along(config: MergeConfig, tmp_path: Path) -> None:
    merge(config, tmp_path / "x")
    texts = [
        path.read_text() for path in (tmp_path / "x").iterdir() if path.suffix != ".safetensors"
    ]
    assert not any("/home/somebody" in text or str(tmp_path) in text for text in texts)


def test_what_failed_is_told_and_not_that_the_others_were_stopped(
    config: MergeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = output.from_float32

    def broken(values: Any, dtype: str) -> Any:
        if len(values) == 16:  # a norm, beside larger tensors that are being written
            raise InputError("this one")
        return real(values, dtype)

    monkeypatch.setattr(output, "from_float32", broken)
    told = config.model_copy(update={"threads": 8, "shard_size": 10**9})
    with pytest.raises(InputError, match="this one"):
        merge(told, tmp_path / "x")


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8000 kB\n")
    told = tmp_path / "meminfo"
    assert memory_free(told, tmp_path) == 8_192_000
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 2000\nfile 2900\n")
    assert memory_free(told, tmp_path) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_free(told, tmp_path) == 8_192_000
    assert memory_free(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize("wrong", [{"weight": True}, {"scale": "1"}, {"shard_size": True}])
def test_yes_and_text_are_no_numbers(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MergeConfig(method="task_arithmetic", base="b", models={"a": "a"}, **wrong)
