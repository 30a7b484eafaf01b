"""Vocabularies from files alone, against the tokenizers' library; and rows of the same token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merge_models as models
from arbitrage.errors import InputError
from arbitrage.merging.checkpoint import Checkpoint
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.merge import merge
from arbitrage.merging.preflight import open_all
from arbitrage.merging.vocabulary import (
    Vocabulary,
    align,
    aligned,
    ambiguous,
    tokens_of,
    vocabulary_of,
    vocabulary_tensors,
)
from merge_folders import WORDS, folder, looked_at, reason, tensors, tokenizer

ROWED = ("model.embed_tokens.weight", "lm_head.weight")
MICRO = Path(__file__).resolve().parents[1] / "data" / "micro" / "models"


@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "WordLevel", "Unigram"])
def test_tokens_are_those_of_the_library(tmp_path: Path, kind: str) -> None:
    library = pytest.importorskip("tokenizers")
    texts = ["the quick brown fox", "der schnelle braune Fuchs"]
    core = library.Tokenizer(getattr(library.models, kind)())
    core.pre_tokenizer = library.pre_tokenizers.Whitespace()
    more = {"unk_token": "<unk>"} if kind == "Unigram" else {}
    trainer = getattr(library.trainers, kind.replace("BPE", "Bpe") + "Trainer")(
        vocab_size=60, special_tokens=["<unk>", "<s>"], show_progress=False, **more
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens(["<late>"])
    core.add_tokens(["quick"])
    core.save(str(tmp_path / "tokenizer.json"))
    found = tokens_of(tmp_path)
    assert found == core.get_vocab(with_added_tokens=True)
    assert "<late>" in found
    before = vocabulary_of(tmp_path)
    core.enable_padding()
    core.enable_truncation(8)
    core.save(str(tmp_path / "tokenizer.json"), pretty=False)
    assert vocabulary_of(tmp_path) == before, "padding and truncation are no part of it"


def test_the_micro_models_share_one_tokenizer() -> None:
    library = pytest.importorskip("tokenizers")
    found = vocabulary_of(MICRO / "romance")
    told = library.Tokenizer.from_file(str(MICRO / "romance" / "tokenizer.json"))
    assert found.tokens == told.get_vocab(with_added_tokens=True)
    assert found.tokenizer_digest == vocabulary_of(MICRO / "germanic").tokenizer_digest


def test_merges_are_the_same_as_pairs_and_as_texts(tmp_path: Path) -> None:
    one = tokenizer(folder(tmp_path / "a"), WORDS, merges=["w 1", "a b"])
    other = tokenizer(folder(tmp_path / "b"), WORDS, merges=[["w", "1"], ["a", "b"]])
    third = tokenizer(folder(tmp_path / "c"), WORDS, merges=[["a", "b"], ["w", "1"]])
    assert vocabulary_of(one).tokenizer_digest == vocabulary_of(other).tokenizer_digest
    assert vocabulary_of(one).digest == vocabulary_of(third).digest
    assert vocabulary_of(one).unlike(vocabulary_of(third), ("model", "merges")) == ["merges"]


def test_an_added_token_takes_the_place_of_the_piece_with_its_id(tmp_path: Path) -> None:
    tokenizer(tmp_path, ["a", "reserved", "c"], added_tokens=[{"id": 1, "content": "<tool>"}])
    assert tokens_of(tmp_path) == {"a": 0, "<tool>": 1, "c": 2}


def test_other_files_are_read_where_there_is_no_tokenizer_json(tmp_path: Path) -> None:
    assert tokens_of(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"\x00\x01")
    opaque = vocabulary_of(tmp_path)
    assert (opaque.source, opaque.tokens, bool(opaque.digest)) == ("tokenizer.model", None, True)
    (tmp_path / "vocab.txt").write_text("[PAD]\nthe\n##s\n")
    assert tokens_of(tmp_path) == {"[PAD]": 0, "the": 1, "##s": 2}
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "added_tokens.json").write_text('{"<x>": 2}')
    (tmp_path / "merges.txt").write_text("a b\n")
    assert tokens_of(tmp_path) == {"a": 0, "b": 1, "<x>": 2}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"model": 3}',
        '{"model": {"vocab": {"a": "b"}}}',
        '{"model": {"vocab": {"a": -1}}}',
        '{"model": {"vocab": {"a": true}}}',
        '{"model": {"vocab": [[]]}}',
        '{"model": {"vocab": {}}, "added_tokens": [7]}',
        "[" * 100_000,
        '{"model": {"vocab": {}, "merges": [1]}}',
    ],
)
def test_a_broken_tokenizer_is_a_fault_and_never_raises(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    found = vocabulary_of(tmp_path)
    assert (found.source, found.fault) == ("tokenizer.json", "is not as it should be")
    assert tokens_of(tmp_path) is None


def test_a_token_that_is_half_a_character_has_a_digest(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"\\ud800": 0}}}')
    assert vocabulary_of(tmp_path).digest


def checkpoints_of(root: Path, *names: str) -> dict[str, Checkpoint]:
    told = {name: str(root / name) for name in names}
    return open_all(MergeConfig(method="linear", models=told))[0]


def test_vocabulary_tensors_are_those_with_each_model_s_own_rows(tmp_path: Path) -> None:
    folder(tmp_path / "a", tensors(40) | {"model.rows": ("F32", (40,))})
    folder(tmp_path / "b", tensors(48) | {"model.rows": ("F32", (48,))}, vocab_size=48)
    found = checkpoints_of(tmp_path, "a", "b")
    wanted = ["lm_head.weight", "model.embed_tokens.weight", "model.rows"]
    assert sorted(vocabulary_tensors(found)) == wanted
    assert ambiguous(found) == []
    folder(tmp_path / "c", vocab_size=None)
    assert vocabulary_tensors(checkpoints_of(tmp_path, "a", "c")) == []


def test_a_size_that_is_another_s_too_is_ambiguous(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder(tmp_path / name, tensors(16), vocab_size=16)
        tokenizer(tmp_path / name, WORDS[:16] if name == "a" else WORDS[1:17])
    assert "lm_head.weight" in ambiguous(checkpoints_of(tmp_path, "a", "b"))
    told = looked_at(tmp_path, vocabulary="shared")
    assert "whether it has a row per token" in reason(told, "vocabulary")
    assert "ambig" not in reason(looked_at(tmp_path), "vocabulary")


def vocabularies(most: int) -> st.SearchStrategy[list[dict[str, int]]]:
    """Several vocabularies over the same few tokens, rows in any order, some rows of nobody."""
    tokens = st.lists(st.sampled_from(WORDS), unique=True, max_size=most)
    rows = st.permutations(range(most))
    one = st.tuples(tokens, rows).map(lambda told: dict(zip(told[0], told[1], strict=False)))
    return st.lists(one, min_size=2, max_size=4)


def stand_in(name: str, size: int) -> Checkpoint:
    return Checkpoint(name, Path(name), {}, {"vocab_size": size})


@settings(max_examples=200)
@given(vocabularies(12), st.integers(0, 3), st.integers(1, 14))
def test_rows_lead_to_the_same_token_in_every_model(
    tokens: list[dict[str, int]], nth: int, size: int
) -> None:
    names = [f"m{n}" for n in range(len(tokens))]
    carrier = names[nth % len(names)]
    known = {name: Vocabulary("x", told) for name, told in zip(names, tokens, strict=True)}
    found = aligned(carrier, {name: stand_in(name, size) for name in names}, known)
    texts = [
        [{row: token for token, row in told.items()}[int(row)] for row in found.rows[name]]
        for name, told in zip(names, tokens, strict=True)
    ]
    there = [{token for token, row in told.items() if row < size} for told in tokens]
    assert all(told == texts[0] for told in texts)
    assert sorted(texts[0]) == sorted(set.intersection(*there)), "each shared token once"
    mine = [int(row) for row in found.rows[carrier]]
    assert mine == sorted(mine)
    assert found.kept == size - len(mine)
    assert found.lost == {
        name: len(told - there[names.index(carrier)])
        for name, told in zip(names, there, strict=True)
        if name != carrier
    }


def test_tokens_of_one_row_and_rows_beyond_the_tensor_are_of_nobody() -> None:
    told = {"a": Vocabulary("x", {"p": 0, "q": 0, "r": 1, "s": 9}), "b": Vocabulary("x", {})}
    told["b"] = Vocabulary("x", {"p": 0, "q": 1, "r": 2, "s": 3})
    found = aligned("b", {name: stand_in(name, 4) for name in told}, told)
    assert {name: rows.tolist() for name, rows in found.rows.items()} == {"a": [1], "b": [2]}
    assert (found.lost, found.kept) == ({"a": 0}, 3)


def test_align_reads_the_folders_and_needs_tokenizers(tmp_path: Path) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS[:30])
    tokenizer(folder(tmp_path / "b"), WORDS[10:40])
    config = MergeConfig(
        method="linear", models={n: str(tmp_path / n) for n in ("a", "b")}, vocabulary="shared"
    )
    found = align(config, open_all(config)[0])
    assert found.rows["a"].tolist() == list(range(10, 30))
    assert found.rows["b"].tolist() == list(range(20))
    assert (found.kept, found.lost) == (20, {"b": 10})
    (tmp_path / "b" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="b: its vocabulary is not known"):
        align(config, open_all(config)[0])


def test_other_ids_are_refused_and_what_sharing_would_do_is_told(tmp_path: Path) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS[:30])
    tokenizer(folder(tmp_path / "b"), WORDS[10:40])
    told = reason(looked_at(tmp_path), "vocabulary")
    assert told == (
        "b: 40 tokens of b and a have other rows ('w10' is 10 in a and 0 in b); merge models of "
        "one tokenizer, or set `vocabulary: shared`, which merges the 20 tokens that all have, "
        "keeps 20 rows of a and drops 10 tokens of b"
    )
    shared = looked_at(tmp_path, vocabulary="shared")
    assert shared.reasons == ()
    assert any("merges the 20 tokens that all have" in one for one in shared.remarks)
    turned = looked_at(tmp_path, vocabulary="shared", like="b")
    assert any("drops 10 tokens of a; rows are tokens in" in x for x in turned.remarks)
    assert any("the tokenizer is that of b" in x for x in turned.remarks)


def test_tensors_may_have_other_rows_where_tokens_are_shared(tmp_path: Path) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS)
    tokenizer(folder(tmp_path / "b", tensors(48), vocab_size=48), WORDS)
    found = looked_at(tmp_path)
    assert [one.about for one in found.reasons] == ["vocabulary"]
    told = reason(found, "vocabulary")
    assert "40 rows in a, 48 rows in b" in told
    assert "merges the 40 tokens that all have;" not in told
    assert looked_at(tmp_path, vocabulary="shared").reasons == ()


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_shared_tokens_are_merged_and_the_rest_is_the_carrier_s(
    tmp_path: Path, method: str
) -> None:
    """Every row of the result, by token, from the files of the models."""
    sizes = {"a": 44, "b": 38, "base": 40}
    rows = {
        "a": {f"w{n}": 41 - n for n in range(40)},
        "b": {f"w{n}": n - 5 for n in range(5, 43)},
        "base": {f"w{n}": (7 * n) % 40 for n in range(40)},
    }
    for seed, (name, size) in enumerate(sizes.items()):
        told = models.SHAPES | dict.fromkeys(ROWED, (size, 16))
        models.save(tmp_path / name, models.tensors(seed, told), vocab_size=size)
        tokenizer(tmp_path / name, rows[name])
    told = {"method": method, "models": {n: {"model": str(tmp_path / n)} for n in ("a", "b")}}
    config = MergeConfig(
        **told,
        base={"model": str(tmp_path / "base")} if method != "linear" else None,
        vocabulary="shared",
        dtype="float32",
    )
    merge(config, tmp_path / "out")
    found = models.load(tmp_path / "out")
    parts = {name: models.load(tmp_path / name) for name in sizes}
    shared = set.intersection(*(set(rows[name]) for name in config.names))
    assert len(shared) == 35
    for tensor in ROWED:
        assert found[tensor].shape == (44, 16)
        left = set(range(44)) - {rows["a"][token] for token in shared}
        for row in left:
            assert torch.equal(found[tensor][row], parts["a"][tensor][row])
        for token in shared:
            a, b, base = (parts[name][tensor][rows[name][token]] for name in ("a", "b", "base"))
            wanted = (a + b) / 2 if method == "linear" else base + (a - base) + (b - base)
            torch.testing.assert_close(found[tensor][rows["a"][token]], wanted)


def test_sharing_needs_tokenizers_and_rows(tmp_path: Path) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS)
    folder(tmp_path / "b")
    told = reason(looked_at(tmp_path, vocabulary="shared"), "vocabulary")
    assert told.startswith("b: without a tokenizer.json")
    tokenizer(tmp_path / "b", WORDS[::-1])
    (tmp_path / "b" / "config.json").write_text('{"vocab_size": 7}')
    found = looked_at(tmp_path, vocabulary="shared")
    assert "no tensor has as many rows" in reason(found, "vocabulary")


def test_no_shared_token_is_refused(tmp_path: Path) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS[:10])
    tokenizer(folder(tmp_path / "b"), WORDS[20:30])
    told = reason(looked_at(tmp_path, vocabulary="shared"), "vocabulary")
    assert told == "a, b: no token is in all models"


PARTS: list[tuple[dict[str, Any], str]] = [
    ({"merges": ["w 1"]}, "has the same ids, and other merges"),
    ({"normalizer": {"type": "NFC"}}, "has the same ids, and other normalizer"),
    ({"model": {"byte_fallback": True}}, "has the same ids, and other model"),
]


@pytest.mark.parametrize(("more", "told"), PARTS)
def test_another_tokenizer_of_the_same_ids_is_refused_unless_accepted(
    tmp_path: Path, more: dict[str, Any], told: str
) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS)
    tokenizer(folder(tmp_path / "b"), WORDS, **more)
    assert told in reason(looked_at(tmp_path), "tokenizer")
    accepted = looked_at(tmp_path, accept=("tokenizer",))
    assert accepted.reasons == ()
    assert f"the tokenizer of b {told}, as accepted; that of a is taken" in accepted.remarks


def test_special_settings_are_remarked_only(tmp_path: Path) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS)
    added = [{"id": 3, "content": "w3", "special": True}]
    tokenizer(folder(tmp_path / "b"), WORDS, added_tokens=added, model={"dropout": None})
    found = looked_at(tmp_path)
    assert found.reasons == ()
    assert found.remarks == ("b has other special tokens; the tokenizer of a is taken",)


def test_no_tokenizer_is_remarked_and_sizes_are_compared(tmp_path: Path) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS)
    folder(tmp_path / "b")
    found = looked_at(tmp_path)
    assert found.reasons == ()
    assert found.remarks[0].startswith("there is no tokenizer in b, so that ids are not compared")
    (tmp_path / "b" / "tokenizer.model").write_bytes(b"x")
    told = reason(looked_at(tmp_path), "tokenizer")
    assert "written in another form (tokenizer.model, not tokenizer.json)" in told


def test_a_broken_tokenizer_is_a_reason(tmp_path: Path) -> None:
    tokenizer(folder(tmp_path / "a"), WORDS)
    (folder(tmp_path / "b") / "tokenizer.json").write_text("{")
    told = reason(looked_at(tmp_path), "tokenizer")
    assert told == "b: its tokenizer.json is not as it should be; fetch it again"


def test_whose_chat_template_is_taken_is_said(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        tokenizer(folder(tmp_path / name), WORDS)
    assert looked_at(tmp_path).remarks == ()
    (tmp_path / "b" / "chat_template.jinja").write_text("{{ x }}\n")
    assert "a has no chat template, unlike b" in looked_at(tmp_path).remarks[0]
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ x }}"}))
    assert looked_at(tmp_path).remarks == (), "where it is written does not matter"
    (tmp_path / "b" / "chat_template.jinja").write_text("{{ y }}\n")
    assert looked_at(tmp_path).remarks == ("other chat templates in b; that of a is taken",)
