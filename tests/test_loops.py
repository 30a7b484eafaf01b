"""Repetition: what is a loop, what is not, and how much of a text stands in one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.loops import repetition, words_and_repetition
from bench_gates import everyday, is_unspaced, micro_answers

SENTENCE = "we walked along the quiet river until evening"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("la la la la", 3 / 4),
        ("We sing: la, la, la, la, la.", 4 / 7),
        ("one two one two one two", 4 / 6),
        (" ".join([SENTENCE] * 6), 5 / 6),
        (f"{SENTENCE}. {SENTENCE.capitalize()}!", 1 / 2),
        (f"{SENTENCE}\n\n{SENTENCE}\n\n{SENTENCE}", 2 / 3),
        ("- Paris\n- Paris\n- Paris\n- Paris", 3 / 4),
        ("1. Paris\n2. Paris\n3. Paris\n4. Paris", 3 / 4),
        ("Is it? ? ? ? ? ?", 4 / 7),
        ("\u6c34" * 8, 7 / 8),
        ("\u72ac\u306f\u52d5\u7269\u3067\u3059\u3002" * 3, 2 / 3),
        ("a" * 50, 49 / 50),
        ("haha" * 20, 78 / 80),
    ],
)
def test_a_loop_is_counted_without_its_first_round(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "ha ha",
        "Ha ha ha, very funny.",
        "No, no, no!",
        "It is very, very, very cold.",
        "one, two, three, four, five, six, seven",
        "1 1 1 1 1 1 1 1 1 1",
        "0 1 0 1 0 1 0 1 0 1 0 1",
        "2 x 1 = 2\n2 x 2 = 4\n2 x 3 = 6\n2 x 4 = 8",
        "one sheep, two sheep, three sheep, four sheep",
        "- a red car\n- a red bus\n- a red bike\n- a red boat",
        "| yes | yes | yes | yes | yes |\n| yes | yes | yes | yes | yes |",
        "---\n---\n---\n---\n---\n---",
        "\u54c8\u54c8\u54c8\u54c8",
        "\u30c9\u30ad\u30c9\u30ad\u3057\u307e\u3057\u305f\u3002",
        "https://example.org/a-rather-long-address/that-is-no-loop/at-all",
    ],
)
def test_speech_lists_tables_and_counts_are_no_loops(text: str) -> None:
    assert repetition(text) == 0


def test_a_refrain_is_no_loop_even_twice_in_a_row() -> None:
    refrain = "oh the river runs down to the sea"
    verses = ["the morning came over grey hills", "my brother went out with his boat"]
    song = "\n".join([verses[0], refrain, verses[1], refrain, "and nobody waited for us", refrain])
    assert repetition(song) == 0
    assert repetition(f"{song}\n{refrain}") == 0


@given(
    unit=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=8, unique=True),
    copies=st.integers(3, 9),
    start=st.lists(st.sampled_from("uvwxyz"), max_size=12, unique=True),
)
def test_the_share_is_the_copies_over_all_words(
    unit: list[str], copies: int, start: list[str]
) -> None:
    words = [*start, *unit * copies]
    assert repetition(" ".join(words)) == pytest.approx(len(unit) * (copies - 1) / len(words))
    assert words_and_repetition(" ".join(words))[0] == len(words)


@given(st.text(max_size=200))
def test_any_text_has_a_share(text: str) -> None:
    words, share = words_and_repetition(text)
    assert 0 <= share <= 1
    assert words >= 0


def test_different_words_never_repeat() -> None:
    draw = random.Random(0)
    for _ in range(50):
        words = [f"w{draw.randrange(10**9)}" for _ in range(200)]
        assert repetition(" ".join(words)) == 0


def test_letters_are_words_where_there_are_no_spaces() -> None:
    assert words_and_repetition("\u72ac\u306f\u52d5\u7269\u3067\u3059\u3002")[0] == 7
    assert words_and_repetition("three small words")[0] == 3


def test_no_right_answer_is_in_a_loop_and_its_loops_are_seen() -> None:
    answers = [*micro_answers()[::3], *everyday()]
    assert [a for a in answers if repetition(a.text)] == []
    for answer in answers:
        glue = "" if is_unspaced(answer.language) else " "
        words = answer.text.split() if glue else list(answer.text)
        for unit in (2, 5) if glue else (3, 5):
            assert repetition(glue.join([*words, *words[-unit:] * 8])) > 0.02, answer
