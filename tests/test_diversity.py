"""Figures of diversity against their plainest definitions: every n-gram, pair and group."""

from __future__ import annotations

import math
import random
import statistics
import zlib
from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage import diversity
from arbitrage.diversity import FIGURES, compared, entropy, measured
from arbitrage.loops import words_of
from arbitrage.writing import is_unspaced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arbitrage.diversity import Diversity

WORDS = [f"{first}{last}" for first in ("sun", "moon", "sea") for last in ("", "s", "light")]
KANA = "\u304b\u306a\u3042\u3044\u3046"
THAI = "\u0e01\u0e32\u0e23\u0e21"
TEXTS = st.lists(
    st.text(st.sampled_from("ab cd.\u00e4\u6c34\u304b\ud800\x00\n"), max_size=30)
    | st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
    max_size=8,
)
FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)


def plain_distinct(texts: Sequence[str], order: int) -> float:
    grams = [
        tuple(words[start : start + order])
        for words in map(words_of, texts)
        for start in range(len(words) - order + 1)
    ]
    return len(set(grams)) / len(grams) if grams else math.nan


def bucket(gram: str) -> int:
    """The upper 15 bits of a sum of products, of 32 bits."""
    told = sum(ord(letter) * factor for letter, factor in zip(gram, FACTORS, strict=True))
    return told % 2**32 >> 17


def plain_similarity(texts: Sequence[str], kind: Callable[[str], object] = bucket) -> float:
    """Every pair by itself; 3-grams are the same where their `kind` is."""
    padded = [f"\x02\x02{text}\x02\x02" for text in texts]
    counts = [Counter(kind(text[n : n + 3]) for n in range(len(text) - 2)) for text in padded]
    cosines = [
        sum(a[gram] * b[gram] for gram in a)
        / math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
        for a, b in combinations(counts, 2)
    ]
    return statistics.fmean(cosines) if cosines else math.nan


def written(count: int, vocabulary: int, seed: int = 0, length: int = 12) -> list[str]:
    """Answers of random words; fewer words in all are less diverse."""
    lot = random.Random(seed)
    words = [f"word{n}" for n in range(vocabulary)]
    return [" ".join(lot.choices(words, k=length)) for _ in range(count)]


@given(TEXTS)
def test_figures_are_those_of_the_plain_definitions(texts: list[str]) -> None:
    found = measured(texts)
    assert found.answers == len(texts)
    for order, value in enumerate(found.distinct, 1):
        assert value == pytest.approx(plain_distinct(texts, order), nan_ok=True)
    assert found.similarity == pytest.approx(plain_similarity(texts), nan_ok=True)
    lengths = [len(text) for text in texts]
    if texts:
        assert found.chars.mean == pytest.approx(statistics.fmean(lengths))
        assert found.chars.median == pytest.approx(statistics.median(lengths))
        assert found.words.mean == pytest.approx(statistics.fmean(len(words_of(t)) for t in texts))
        assert found.chars.low <= found.chars.median <= found.chars.high


@given(TEXTS, st.randoms(use_true_random=False))
def test_figures_are_shares_and_no_order_changes_them(texts: list[str], lot: random.Random) -> None:
    found = measured(texts)
    for value in (*found.distinct, found.similarity):
        assert math.isnan(value) or 0 <= value <= 1
    mixed = lot.sample(texts, len(texts))
    again = measured(mixed)
    assert again.distinct == pytest.approx(found.distinct, nan_ok=True)
    assert again.similarity == pytest.approx(found.similarity, nan_ok=True)
    assert again.compression == pytest.approx(found.compression, nan_ok=True)
    assert tuple(again.chars) == pytest.approx(tuple(found.chars), nan_ok=True)


@given(TEXTS, st.integers(2, 4))
def test_said_again_is_less_distinct_and_more_alike(texts: list[str], times: int) -> None:
    once, often = measured(texts), measured(texts * times)
    for first, second in zip(once.distinct, often.distinct, strict=True):
        assert math.isnan(first) or second == pytest.approx(first / times)
    if len(texts) > 1:
        assert often.similarity >= once.similarity - 1e-9


@given(st.text(max_size=20), st.integers(2, 6))
def test_the_very_same_answers_are_as_alike_as_can_be(text: str, times: int) -> None:
    assert measured([text] * times).similarity == pytest.approx(1.0)


def test_hashing_makes_answers_hardly_more_alike() -> None:
    texts = written(60, 400)
    exact = plain_similarity(texts, str)
    assert exact - 1e-9 <= measured(texts).similarity < exact + 0.01


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The house, the HOUSE!", ["the", "house", "the", "house"]),
        ("\u00bbNein\u00ab, sagt er.", ["nein", "sagt", "er"]),
        (KANA, list(KANA)),
        (THAI, list(THAI)),
        ("Tokyo " + KANA[:2] + "\u3002", ["tokyo", *KANA[:2]]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_words_are_letters_where_there_are_no_spaces(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_languages_are_known_by_how_they_are_written() -> None:
    unspaced = [code for code in ("de", "ko", "ja", "zh", "th", "vi", "ar") if is_unspaced(code)]
    assert unspaced == ["ja", "zh", "th"]


def test_what_cannot_be_told_is_none() -> None:
    empty = measured([]).as_dict()
    assert empty["answers"] == 0
    assert [empty[n] for n in ("distinct_1", "similarity", "compression")] == [None] * 3
    assert empty["chars"] == dict.fromkeys(("mean", "low", "median", "high"))
    one = measured(["two words"]).as_dict()
    assert (one["distinct_2"], one["distinct_3"], one["similarity"]) == (1.0, None, None)


def test_compression_is_the_ratio_of_bytes_and_knows_repetition() -> None:
    texts = written(50, 1000)
    data = "\n".join(sorted(texts)).encode()
    assert measured(texts).compression == pytest.approx(len(data) / len(zlib.compress(data)))
    assert measured(["the same again"] * 50).compression > 3 * measured(texts).compression


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([], 0), ([0, 0], 0), ([7], 0), ([3, 3], 1), ([1, 1, 1, 1, 0], 2), ([9, 1], 0.4689956)],
)
def test_entropy_is_in_bits(counts: list[int], bits: float) -> None:
    assert entropy(counts) == pytest.approx(bits)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=9))
def test_entropy_lies_between_one_and_all(counts: list[int]) -> None:
    assert 0 <= entropy(counts) <= math.log2(len(counts)) + 1e-9


def flat(told: Diversity) -> list[float]:
    return [
        told.answers,
        *told.distinct,
        told.similarity,
        told.compression,
        *told.chars,
        *told.words,
    ]


def holes(texts: list[str], every: int) -> list[str | None]:
    return [None if n % every == 1 else text for n, text in enumerate(texts)]


def test_each_is_compared_over_the_prompts_that_both_answered() -> None:
    selected: list[str | None] = holes(written(90, 300, 1), 11)
    alone = {"all": list(written(90, 40, 2)), "few": holes(written(90, 60, 3), 2)}
    found = compared(selected, alone)
    for name, answers in alone.items():
        pairs = [(s, a) for s, a in zip(selected, answers, strict=True) if s is not None and a]
        first, second = ([one[side] for one in pairs] for side in (0, 1))
        assert found[name].prompts == len(pairs)
        for told, texts in ((found[name].selected, first), (found[name].alone, second)):
            assert flat(told) == pytest.approx(flat(measured(texts)))
    assert set(found) == set(alone)
    assert found["all"].differences["distinct_2"].value > 0.2


def test_a_difference_is_that_of_the_figures_and_its_error_leaves_out_each_group() -> None:
    first, second = list(written(60, 500, 4, 9)), list(written(60, 30, 5))
    found = compared(first, {"other": second})["other"]
    rows = np.ones(60, dtype=bool)
    group, groups = diversity._parts(rows, 0)
    assert groups == 30
    assert sorted(Counter(group.tolist()).values()) == [2] * 30
    plain = {
        **{f"distinct_{n}": lambda texts, n=n: plain_distinct(texts, n) for n in (1, 2, 3)},
        "chars": lambda texts: statistics.fmean(map(len, texts)),
        "words": lambda texts: statistics.fmean(len(words_of(text)) for text in texts),
        "similarity": lambda texts: measured(texts).similarity,
    }
    assert set(plain) == set(FIGURES)
    for name, figure in plain.items():
        left = [
            figure([t for t, part in zip(first, group, strict=True) if part != out])
            - figure([t for t, part in zip(second, group, strict=True) if part != out])
            for out in range(groups)
        ]
        variance = (groups - 1) / groups * sum((v - statistics.fmean(left)) ** 2 for v in left)
        told = found.differences[name]
        assert told.value == pytest.approx(figure(first) - figure(second))
        assert told.error == pytest.approx(math.sqrt(variance), abs=1e-9)


def test_the_error_is_about_how_far_such_differences_are_spread() -> None:
    """Two hundred pairs of sets drawn alike: the jackknife's error is not below their spread by
    more than chance, and not several times as large."""
    drawn = [
        compared(list(written(60, 80, 2 * n)), {"b": list(written(60, 50, 2 * n + 1))})["b"]
        for n in range(200)
    ]
    for name in ("distinct_1", "distinct_2", "similarity"):
        spread = statistics.stdev(one.differences[name].value for one in drawn)
        error = statistics.fmean(one.differences[name].error for one in drawn)
        assert 0.85 * spread < error < 3 * spread, name


def test_few_prompts_have_no_error_and_the_seed_is_the_only_lot() -> None:
    few = compared(list(written(19, 50, 6)), {"b": list(written(19, 50, 7))})["b"]
    assert few.as_dict()["differences"]["distinct_1"]["interval"] is None
    assert few.as_dict()["differences"]["distinct_1"]["value"] is not None
    texts, others = list(written(50, 50, 8)), {"b": list(written(50, 50, 9))}
    assert compared(texts, others) == compared(texts, others)
    error = [compared(texts, others, seed)["b"].differences["distinct_2"].error for seed in (0, 1)]
    assert error[0] != error[1]


def test_nobody_in_common_is_no_figure_and_lengths_must_fit() -> None:
    found = compared(["a b", None], {"b": [None, "a b"]})["b"]
    assert found.prompts == 0
    assert set(found.as_dict()["differences"]["words"].values()) == {None}
    with pytest.raises(ValueError, match="one place per prompt"):
        compared(["a"], {"b": []})
