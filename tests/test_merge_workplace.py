"""The folder in which a merge is made: two processes in it, kills at its end, files of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import merge_models as models
from arbitrage.errors import LockedError, UsageError
from arbitrage.merging import workplace as place
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.merge import merge

SHARD = 2000


class Killed(BaseException):
    """Ends a merge where it is, as SIGKILL would."""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        models.save(tmp_path / "pool" / name, models.tensors(number))
    return tmp_path / "pool"


def config(pool: Path, **more: Any) -> MergeConfig:
    told = {name: {"model": str(pool / name)} for name in ("a", "b")}
    return MergeConfig(method="linear", models=told, **more)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def killed_at_its_name(
    pool: Path, target: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool = False
) -> None:
    """A merge that is killed just before, or just after, its folder gets its name."""
    real = Path.rename

    def rename(self: Path, new: Path) -> Path:
        if new != target:
            return real(self, new)
        if after:
            real(self, new)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            merge(config(pool, shard_size=SHARD), target)


def test_no_other_process_gets_into_a_folder_that_is_about_to_have_its_name(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, refused = tmp_path / "x", []
    real = os.fsync

    def sync(handle: int) -> None:
        real(handle)
        work = tmp_path / "x.merging"
        if work.is_dir() and (work / "merge.json").is_file():
            with pytest.raises(LockedError), place.workplace(target, "another"):
                pass
            refused.append(1)

    monkeypatch.setattr(os, "fsync", sync)
    merge(config(pool), target)
    assert len(refused) >= 4
    assert names(target) == {
        *("README.md", "config.json", "generation_config.json", "merge.json"),
        "model.safetensors",
    }


def test_who_waited_at_the_lock_of_a_folder_that_moved_away_is_told(tmp_path: Path) -> None:
    target, work = tmp_path / "x", tmp_path / "x.merging"
    real = place.fcntl.flock

    def flock(file: Any, how: int) -> None:
        work.rename(target)
        real(file, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.fcntl, "flock", flock)
        with pytest.raises(LockedError, match=r"made .* just now"), place.workplace(target, "one"):
            pass
    assert names(target) == {"lock"}


def test_what_another_process_made_meanwhile_is_found(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = place.workplace
    calls: list[bool] = []

    def late(target: Path, identity: str) -> Any:
        if not calls:
            calls.append(True)
            assert merge(config(pool), target).made
        return real(target, identity)

    monkeypatch.setattr("arbitrage.merging.merge.workplace", late)
    assert not merge(config(pool), tmp_path / "x").made
    assert not (tmp_path / "x.merging").exists()


def test_a_kill_before_the_folder_has_its_name_loses_no_file(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at_its_name(pool, tmp_path / "x", monkeypatch)
    told: list[tuple[int, int]] = []
    assert merge(
        config(pool, shard_size=SHARD), tmp_path / "x", lambda *amounts: told.append(amounts)
    ).made
    assert [done == total for done, total in told] == [True]
    assert not {"lock", "identity"} & names(tmp_path / "x")


def test_a_kill_after_the_folder_has_its_name_leaves_a_whole_merge(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at_its_name(pool, tmp_path / "x", monkeypatch, after=True)
    assert not merge(config(pool, shard_size=SHARD), tmp_path / "x").made
    assert not {"lock", "identity"} & names(tmp_path / "x")


def test_folders_that_no_merge_began_are_left_alone(pool: Path, tmp_path: Path) -> None:
    merge(config(pool), tmp_path / "x.merging")
    before = names(tmp_path / "x.merging")
    with pytest.raises(UsageError, match=r"x\.merging.*is no unfinished merge; rename it"):
        merge(config(pool), tmp_path / "x")
    assert names(tmp_path / "x.merging") == before


def test_files_of_another_merge_are_gone_for_good_before_the_mark_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.workplace(tmp_path / "x", "one") as work:
        (work / "model.safetensors").write_bytes(b"one")
    (work / "identity").write_bytes(b"\xff\x00")  # as a power cut may leave it
    seen: list[tuple[bytes, set[str]]] = []
    monkeypatch.setattr(
        place,
        "sync_folder",
        lambda path: seen.append((path.joinpath("identity").read_bytes(), names(path))),
    )
    with place.workplace(tmp_path / "x", "two"):
        pass
    left = {"lock", "identity"}
    assert seen == [(b"\xff\x00", left), (b"two", left)]


def test_a_target_may_be_a_link_or_the_folder_at_hand(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    for name, leads_to in (("link", "real"), ("dangling", "nothing")):
        (tmp_path / name).symlink_to(tmp_path / leads_to)
        assert merge(config(pool), tmp_path / name).made
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / leads_to / "model.safetensors").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert merge(config(pool), Path()).made
    assert (tmp_path / "here/model.safetensors").is_file()


def test_the_root_of_a_disk_is_refused_at_once(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "disk")
    with pytest.raises(UsageError, match="is the root of a disk; name a folder in it"):
        merge(config(pool), tmp_path / "disk")
