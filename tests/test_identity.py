"""Canonical JSON, fingerprints, prompt ids, seeds, and digests of model folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage import identity
from arbitrage.identity import (
    MAX_SEED,
    canonical,
    derive_seed,
    digest,
    directory_digest,
    fingerprint,
    prompt_id,
)

if TYPE_CHECKING:
    from pathlib import Path

    from arbitrage.records import Message

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates are text in Python, and YAML or JSON can spell them.
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ASKED: list[Message] = [
    {"role": "system", "content": "Antworte kurz."},
    {"role": "user", "content": "Warum ist der Himmel blau?"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def age(folder: Path, seconds: float = 3600) -> None:
    """Lets the files of a folder look as if nobody had touched them for a while."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "1_Pooling" / "config.json").write_text('{"pool": "mean"}')
    return folder


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset("a"),
        float("nan"),
        float("inf"),
        -float("inf"),
        object(),
        b"bytes",
        1j,
        {1: "a"},
        {None: "a"},
        {("a", "b"): 1},
        {"deep": [{"in": {"a": {3}}}]},
        [[{True: "a"}]],
        {"x": [0.5, float("nan")]},
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_a_value_without_a_fixed_form_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical(value)
    with pytest.raises((TypeError, ValueError)):
        fingerprint(value)


def test_canonical_json_is_sorted_compact_ascii() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"z": "\u00fc", "y": ()}}
    assert canonical(value) == b'{"a":{"y":[],"z":"\\u00fc"},"b":[1,2.5,null,true]}'


@given(PLAIN)
def test_canonical_json_is_json_and_the_same_again(value: Any) -> None:
    data = canonical(value)
    assert canonical(json.loads(data)) == data
    assert fingerprint(value) == digest(data)


def test_order_of_keys_does_not_count_but_order_of_items_does() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint((1, 2)) == fingerprint([1, 2])


def test_values_that_look_alike_differ() -> None:
    likes = [1, 1.0, "1", True, None, "null", [], {}, "", [1], {"1": 1}]
    assert len({fingerprint(value) for value in likes}) == len(likes)


def test_fingerprints_are_those_of_earlier_versions() -> None:
    assert fingerprint({}) == "b4b8bf78e9ad"
    assert (
        fingerprint({"engine": "fake", "sampling": [{"n": 2, "temperature": 0.9}]})
        == "c58ff6680d4b"
    )


def test_prompt_ids_and_seeds_are_those_of_earlier_versions() -> None:
    assert prompt_id(ASKED) == "df0aad76b0cde30491eb2c217fa04281"
    assert derive_seed(7, "00ff", "abc", 3) == 636_784_373


def test_names_do_not_depend_on_the_process() -> None:
    code = (
        "from arbitrage.identity import *;"
        "print(fingerprint({'b': [1], 'a': 'x'}), prompt_id([{'role': 'user', 'content': 'x'}]),"
        "derive_seed(1, 'p', 't', 0))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "1234", "LC_ALL": "C"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    here = [fingerprint({"a": "x", "b": [1]}), prompt_id(user("x")), derive_seed(1, "p", "t", 0)]
    assert told.stdout.split() == [str(value) for value in here]


def test_a_prompt_id_is_32_hexadecimal_digits_and_a_fingerprint_12() -> None:
    assert len(prompt_id(ASKED)) == 32
    assert len(fingerprint("x")) == 12
    assert bytes.fromhex(prompt_id(ASKED) + fingerprint("x"))


def test_a_prompt_id_depends_on_role_and_content_only() -> None:
    more: Any = [{"content": turn["content"], "name": "Eva", **turn} for turn in ASKED]
    assert prompt_id(more) == prompt_id(ASKED)
    assert prompt_id([{"role": "assistant", "content": "x"}]) != prompt_id(user("x"))
    assert prompt_id(user("x ")) != prompt_id(user("x"))
    assert prompt_id(list(reversed(ASKED))) != prompt_id(ASKED)


def test_the_bounds_of_turns_count() -> None:
    assert prompt_id([*user("a"), *user("b")]) != prompt_id(user("ab"))
    assert prompt_id(user('a"],["user","b')) != prompt_id([*user("a"), *user("b")])


def test_equal_looking_text_in_another_unicode_form_is_another_prompt() -> None:
    assert prompt_id(user("\u00e9")) != prompt_id(user("e\u0301"))


@given(st.text(st.characters(exclude_categories=[]), min_size=1))
def test_every_text_has_a_prompt_id(text: str) -> None:
    assert len(prompt_id(user(text))) == 32


@given(st.integers(0), st.text(), st.text(), st.integers(0, 10**6))
def test_seeds_are_in_range_and_repeat(seed: int, prompt: str, teacher: str, sample: int) -> None:
    found = derive_seed(seed, prompt, teacher, sample)
    assert 0 <= found < MAX_SEED
    assert found == derive_seed(seed, prompt, teacher, sample)


def test_a_seed_depends_on_each_argument() -> None:
    base = derive_seed(1, "p", "t", 0)
    others = [
        derive_seed(2, "p", "t", 0),
        derive_seed(1, "q", "t", 0),
        derive_seed(1, "p", "u", 0),
        derive_seed(1, "p", "t", 1),
    ]
    assert len({base, *others}) == 5


def test_seeds_of_many_requests_are_spread_out() -> None:
    seeds = [derive_seed(0, f"{n:032x}", "t", 0) for n in range(2000)]
    assert len(set(seeds)) == 2000
    assert min(seeds) < MAX_SEED // 100
    assert max(seeds) > MAX_SEED - MAX_SEED // 100


def test_a_model_folder_moved_elsewhere_is_the_same_model(model: Path, tmp_path: Path) -> None:
    before = directory_digest(model)
    copied = shutil.copytree(model, tmp_path / "elsewhere" / "other-name")
    assert directory_digest(copied) == before
    model.rename(tmp_path / "renamed")
    assert directory_digest(tmp_path / "renamed") == before


def test_times_and_modes_of_files_do_not_count(model: Path) -> None:
    before = directory_digest(model)
    os.utime(model / "config.json", (1, 1))
    (model / "config.json").chmod(0o755)
    assert directory_digest(model) == before


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "1_Pooling/config.json"])
def test_one_changed_byte_is_another_model(model: Path, name: str) -> None:
    before = directory_digest(model)
    data = bytearray((model / name).read_bytes())
    data[-1] ^= 1
    (model / name).write_bytes(data)
    assert directory_digest(model) != before


def test_another_file_name_place_or_file_is_another_model(model: Path) -> None:
    seen = {directory_digest(model)}
    (model / "config.json").rename(model / "generation_config.json")
    seen.add(directory_digest(model))
    (model / "generation_config.json").rename(model / "1_Pooling" / "generation_config.json")
    seen.add(directory_digest(model))
    (model / "added.txt").touch()
    seen.add(directory_digest(model))
    assert len(seen) == 4


def test_contents_swapped_between_two_files_are_another_model(model: Path) -> None:
    before = directory_digest(model)
    first, second = model / "config.json", model / "weights.safetensors"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert directory_digest(model) != before


def test_hidden_files_and_folders_do_not_count(model: Path) -> None:
    before = directory_digest(model)
    (model / ".gitattributes").write_text("x")
    (model / ".cache" / "huggingface").mkdir(parents=True)
    (model / ".cache" / "huggingface" / "download.lock").write_text("x")
    (model / "1_Pooling" / ".DS_Store").write_text("x")
    assert directory_digest(model) == before


def test_a_folder_below_a_hidden_one_is_still_a_model(model: Path, tmp_path: Path) -> None:
    hidden = shutil.copytree(model, tmp_path / ".cache" / "model")
    assert directory_digest(hidden) == directory_digest(model)


def test_links_are_followed_to_the_bytes(model: Path, tmp_path: Path) -> None:
    linked = tmp_path / "snapshot"
    (linked / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "weights.safetensors", "1_Pooling/config.json"):
        (linked / name).symlink_to(model / name)
    assert directory_digest(linked) == directory_digest(model)


def test_a_digest_without_cache_is_that_with_one(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(model)
    first = directory_digest(model)
    assert directory_digest(model) == first
    shutil.rmtree(cache, ignore_errors=True)
    cache.write_text("no folder")
    assert directory_digest(model) == first
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no/such/place")
    assert directory_digest(model) == first


def test_a_file_of_equal_size_and_time_is_still_another_model(model: Path) -> None:
    """As `cp -p` or `rsync -t` of another checkpoint leave it."""
    age(model)
    before = directory_digest(model)
    weights = model / "weights.safetensors"
    times = (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    weights.write_bytes(bytes(reversed(weights.read_bytes())))
    os.utime(weights, ns=times)
    assert directory_digest(model) != before


def test_a_file_rewritten_within_a_tick_of_the_clock_is_another_model(model: Path) -> None:
    weights = model / "weights.safetensors"
    for _ in range(50):
        weights.write_bytes(b"a" * 100)
        before = directory_digest(model)
        weights.write_bytes(b"b" * 100)
        assert directory_digest(model) != before


@pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 12, b"not hex at all"])
def test_a_damaged_cache_is_not_believed(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(identity, "SETTLED_S", -1.0, raising=False)
    first = directory_digest(model)
    memos = [path for path in cache.rglob("*") if path.is_file()]
    assert len(memos) == 1
    memos[0].write_bytes(data)
    assert directory_digest(model) == first


def test_a_model_that_has_not_changed_is_not_read_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "SETTLED_S", -1.0, raising=False)
    first = directory_digest(model)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert directory_digest(model) == first
