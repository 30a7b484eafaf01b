"""What a merge meets at its edges: weights that cancel, models that change, papers of others."""

from __future__ import annotations

import json
import os
import signal
import threading
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import merge_models as models
from arbitrage.errors import ConfigError, InputError, Stopped, StoreError, UsageError
from arbitrage.merging import output
from arbitrage.merging.checkpoint import COPIED, HUB_FILES, Checkpoint, open_checkpoint
from arbitrage.merging.config import MergeConfig, MergedModel
from arbitrage.merging.jobs import jobs_of
from arbitrage.merging.layout import slots_of
from arbitrage.merging.loading import load_merge
from arbitrage.merging.merge import look, merge
from arbitrage.merging.methods import Operands, ties
from arbitrage.merging.papers import front_matter, front_of
from arbitrage.merging.preflight import open_all
from arbitrage.merging.vocabulary import tokens_of
from arbitrage.progress import Progress
from arbitrage.stopping import stop_on_signals


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        models.save(tmp_path / "pool" / name, models.tensors(number))
    return tmp_path / "pool"


def config(pool: Path, **more: Any) -> MergeConfig:
    told = {name: {"model": str(pool / name)} for name in ("a", "b")}
    return MergeConfig(method="linear", models=told, **more)


@pytest.mark.parametrize("setting", ["weight", "density", "t"])
def test_the_order_of_patterns_is_part_of_what_a_merge_is(setting: str) -> None:
    told = {"*.mlp.*": 0.2, "*.layers.0.*": 0.9, "*": 1.0}
    other = dict(reversed(told.items()))
    method = {"weight": "linear", "density": "ties", "t": "slerp"}[setting]
    more = {"base": "base"} if method == "ties" else {}
    pair = {"a": "a", "b": "b"}
    one, two, again = (
        MergeConfig(method=method, models=pair, **{setting: way}, **more).identity()
        for way in (told, other, dict(told))
    )
    assert json.dumps(one, sort_keys=True) == json.dumps(again, sort_keys=True)
    assert json.dumps(one, sort_keys=True) != json.dumps(two, sort_keys=True)


def test_the_order_of_a_model_s_own_patterns_counts_too(pool: Path, tmp_path: Path) -> None:
    told = {"*.mlp.*": 0.2, "*.layers.0.*": 0.9, "*": 1.0}
    for way in (told, dict([*told.items()][i] for i in (1, 0, 2))):
        pair = {"a": {"model": str(pool / "a"), "weight": way}, "b": {"model": str(pool / "b")}}
        wanted = MergeConfig(method="linear", models=pair)
        if way is told:
            assert merge(wanted, tmp_path / "x").made
        else:
            with pytest.raises(UsageError, match="is another merge"):
                merge(wanted, tmp_path / "x")


def test_weights_of_those_who_agree_that_cancel_divide_nothing() -> None:
    weights = [0.3, -0.1, -0.2, 1.0]
    deltas = [1.0, -1.0, -1.0, -0.1]  # the first three agree, and their weights add up to 0
    one = [np.array([delta], np.float32) for delta in deltas]
    base = np.zeros(1, np.float32)
    found = ties(Operands(one, weights, base, [1.0] * 4, [None] * 4, normalize=True))
    np.testing.assert_allclose(found, [0.6], rtol=1e-6)


def test_a_small_weight_alone_is_divided_by_itself() -> None:
    one = [np.array([value], np.float32) for value in (0.0, 3.0)]
    base = np.zeros(1, np.float32)
    for other in (1.0, -1.0):
        told = Operands(one, [other, 1e-9], base, [1.0] * 2, [None] * 2, normalize=True)
        np.testing.assert_allclose(ties(told), [3.0], rtol=1e-6)


def test_models_that_change_while_they_are_merged_are_told(pool: Path, tmp_path: Path) -> None:
    path = pool / "b/model.safetensors"

    def touch(done: int, total: int) -> None:
        (pool / "b/notes.txt").write_text("mine")
        if done == total:
            os.utime(path, ns=(1, 1))

    with pytest.raises(InputError, match="the weights of b changed while they were merged"):
        merge(config(pool), tmp_path / "x", touch)
    assert not (tmp_path / "x").exists()
    assert merge(config(pool), tmp_path / "x").made


def test_no_file_stays_open_when_the_one_before_cannot_have_its_name(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise OSError(5, f"Input/output error in {folder.name}")

    opened: list[int] = []
    closed: list[int] = []
    real_open, real_close = os.open, os.close

    def note(path: Any, *flags: Any) -> int:
        opened.append(real_open(path, *flags))
        return opened[-1]

    def leave(handle: int) -> None:
        closed.append(handle)
        real_close(handle)

    monkeypatch.setattr(output, "sync_folder", broken)
    monkeypatch.setattr(output.os, "open", note)
    monkeypatch.setattr(output.os, "close", leave)
    with pytest.raises(StoreError, match="cannot be written"):
        merge(config(pool, shard_size=2000), tmp_path / "x")
    assert len(opened) >= 2
    assert sorted(opened) == sorted(handle for handle in closed if handle in opened)


def test_nan_in_a_row_that_is_not_shared_is_blamed_on_its_own_model(tmp_path: Path) -> None:
    for name, rows in (("large", 50), ("small", 20)):
        told = {"embed.weight": torch.ones(rows, 4)}
        if name == "large":
            told["embed.weight"][45] = torch.nan
        models.save(tmp_path / name, told, vocab_size=rows)
        tokens = {f"t{n}": n for n in range(rows)}
        (tmp_path / name / "tokenizer.json").write_text(
            json.dumps({"model": {"type": "BPE", "vocab": tokens, "merges": []}})
        )
    told_of = {name: {"model": str(tmp_path / name)} for name in ("small", "large")}
    wanted = MergeConfig(method="linear", models=told_of, vocabulary="shared", like="large")
    with pytest.raises(InputError, match=r"embed\.weight of large holds NaN"):
        merge(wanted, tmp_path / "x")


def test_only_an_end_of_line_ends_a_token(tmp_path: Path) -> None:
    text = "a\u2028b\r\nc\x0b\x85\nlast"
    (tmp_path / "vocab.txt").write_bytes(text.encode())
    assert tokens_of(tmp_path) == {"a\u2028b": 0, "c\x0b\x85": 1, "last": 2}


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ("language: [en, no]\nlicense: mit\ndate: 2024-02-30", {"language": ["en", "no"]}),
        ("language: no\nlicense: mit", {"language": ["no"]}),
        ("language: [{a: b}, de, '']\nlicense: [mit]", {"language": ["de"]}),
        ("license:", {}),
        ("license: " + "[" * 1500, {}),
    ],
)
def test_cards_are_read_as_they_are_written(pool: Path, front: str, wanted: dict[str, Any]) -> None:
    for name in ("a", "b"):
        (pool / name / "README.md").write_text(f"---\n{front}\n---\nText")
    told = {n: open_checkpoint(n, MergedModel(model=str(pool / n))) for n in ("a", "b")}
    license_of = front_matter(pool / "a/README.md").get("license")
    expected = {**wanted, **({"license": "mit"} if license_of == "mit" else {})}
    assert front_of(told) == expected


def test_a_folder_has_no_revision(pool: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, which has no `revision:`"):
        open_checkpoint("a", MergedModel(model=str(pool / "a"), revision="main"))


def test_all_that_goes_along_is_fetched_from_the_hub() -> None:
    for pattern in (*COPIED, "*.py", "README.md"):
        names = [pattern.replace("*", "x")]
        if pattern.endswith("*"):
            names = [pattern.replace("*", end) for end in (".json", "_config.json", ".model")]
        for name in names:
            if name not in ("vocab.model", "chat_template.model"):
                assert any(fnmatch(name, known) for known in HUB_FILES), name


def test_a_look_tells_what_a_merge_would_and_writes_nothing(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there and is no merge"):
        look(config(pool), tmp_path / "mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert not look(config(pool), Path()).reasons
    assert {path.name for path in tmp_path.iterdir()} == {"pool", "mine", "here"}
    gone = MergeConfig(method="linear", models={n: str(tmp_path / f"no-{n}") for n in ("a", "b")})
    assert [reason.where for reason in look(gone, tmp_path / "x").reasons] == ["a", "b"]


def test_models_without_a_config_make_one_without(pool: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (pool / name / "config.json").unlink()
    assert merge(config(pool), tmp_path / "x").made
    assert not (tmp_path / "x/config.json").exists()


def test_a_home_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text("method: linear\nmodels: {a: ~nobody-of-this-name/model}\n")
    with pytest.raises(ConfigError, match="begins in a home that nobody here has"):
        load_merge(path)


def test_a_stop_names_what_is_still_done(capsys: pytest.CaptureFixture[str]) -> None:
    with stop_on_signals(Progress(), "the blocks at hand") as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.is_set()
    assert "stopping after the blocks at hand; repeat the signal" in capsys.readouterr().err


def test_jobs_hold_no_list_of_blocks(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a job for each tensor, for as long as the merge takes."""
    told = config(pool)
    checkpoints, _ = open_all(told)
    jobs = jobs_of(told, checkpoints, slots_of(told, checkpoints["a"]))
    monkeypatch.setattr("arbitrage.merging.streaming.BLOCK", 16)
    for job in jobs.values():
        assert job is not None
        before = set(vars(job))
        assert sum(len(block) for _, block in job.blocks()) == job.numbers
        assert set(vars(job)) == before


@pytest.mark.parametrize("method", ["ties", "slerp"])
def test_a_stop_does_not_wait_until_a_tensor_was_gone_through(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    stop, reads = threading.Event(), []
    real = Checkpoint.read

    def read(self: Checkpoint, *place: Any) -> Any:
        stop.set()
        reads.append(place)
        return real(self, *place)

    monkeypatch.setattr("arbitrage.merging.streaming.BLOCK", 16)
    monkeypatch.setattr(Checkpoint, "read", read)
    models.save(tmp_path / "base", models.tensors(5))
    more = {"base": str(tmp_path / "base"), "density": 0.5} if method == "ties" else {}
    pair = {name: str(pool / name) for name in ("a", "b")}
    with pytest.raises(Stopped):
        merge(MergeConfig(method=method, models=pair, threads=1, **more), tmp_path / "x", stop=stop)
    assert len(reads) == 2  # of one block


def test_added_tokens_belong_to_a_vocab_txt(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "added_tokens.json").write_text('{"<x>": 2}')
    assert tokens_of(tmp_path) == {"a": 0, "b": 1, "<x>": 2}
