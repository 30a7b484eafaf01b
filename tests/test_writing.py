"""Scripts: the table against the names of Unicode, a language's own scripts, foreign letters."""

from __future__ import annotations

import tomllib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import list_scripts
from arbitrage.languages import table
from arbitrage.writing import (
    UNKNOWN,
    foreign_runs,
    own_letters,
    script_of,
    scripts_in,
    scripts_of,
    unspaced,
)

HAN = "\u6c34\u706b\u6728"


def test_the_file_is_what_the_script_writes() -> None:
    found = tomllib.loads(list_scripts.TARGET.read_text("utf-8"))
    unicode = list_scripts.TARGET.read_text("utf-8").split("names of Unicode ")[1].split(";")[0]
    if unicode != unicodedata.unidata_version:
        pytest.skip(f"this Python knows another Unicode than {unicode}")
    made = {script: list_scripts.written(parts) for script, parts in list_scripts.ranges().items()}
    assert found == made


@pytest.mark.parametrize(
    ("letters", "script"),
    [
        ("aZ\u00e9\u1ea1\uff21\u212a", "Latn"),
        ("\u0436\u0401", "Cyrl"),
        ("\u03b1\u1f00\u2126", "Grek"),
        ("\u0639\u067e\ufb50", "Arab"),
        ("\u05d0", "Hebr"),
        ("\u0915\u093f", "Deva"),
        ("\u6c34\u3005\U00020000", "Hani"),
        ("\u3042", "Hira"),
        ("\u30a2\uff71", "Kana"),
        ("\ud55c\u1100", "Hang"),
        ("\u0e01", "Thai"),
        ("\u00aa\u00b5\u02b0\u30fc\U0001d400", "Zyyy"),
        ("\u13a0\ua000\U0001e900", UNKNOWN),
    ],
)
def test_a_letter_has_its_script(letters: str, script: str) -> None:
    assert {script_of(letter) for letter in letters} == {script}


def test_every_language_has_letters_of_its_own() -> None:
    for code, row in table().items():
        own = scripts_of(code)
        assert "Latn" in own
        assert own - {"Latn"} or row.script == "Latn"
        assert own <= set(list_scripts.SCRIPTS.values())


@pytest.mark.parametrize(
    ("text", "language", "runs"),
    [
        (f"a {HAN} b", "vi", [HAN]),
        (f"a {HAN} b {HAN[0]}", "de", [HAN, HAN[0]]),
        (HAN, "zh", []),
        (HAN, "ja", []),
        (HAN, "ko", [HAN]),
        ("\u3042\u30a2", "zh", ["\u3042\u30a2"]),
        ("Windows 11 \u0438 Linux", "ru", []),
        ("p\u0430ypal", "en", ["\u0430"]),
        ("\u03b1 + \u03b2 = \u03c0 r\u00b2, 5 \u03a9", "en", []),
        ("\u03b1\u03b2\u03b3", "en", ["\u03b1\u03b2\u03b3"]),
        ("\u0440\u0443\u0441\u0441\u043a\u0438\u0439", "sr", []),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "en", ["\u0939", "\u0928", "\u0926"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "mr", []),
        ("\u13a0\u13a1\u13a2", "en", ["\u13a0\u13a1\u13a2"]),
        (
            "caf\u00e9 \u2014 \u201equote\u201c \u2026 \U0001f600 \u2192 1\u00bd \u00b5m \u2116",
            "de",
            [],
        ),
        ("\uff21\uff22\uff23", "ja", []),
        ("", "de", []),
    ],
)
def test_letters_of_other_scripts_are_found(text: str, language: str, runs: list[str]) -> None:
    assert foreign_runs(text, language) == runs


@given(st.text(max_size=60), st.sampled_from(sorted(table())))
def test_foreign_runs_are_what_looking_at_every_letter_finds(text: str, language: str) -> None:
    own = scripts_of(language) | {"Zyyy"}
    foreign = [c.isalpha() and script_of(c) not in own for c in text]
    found = "".join(foreign_runs(text, language))
    kept = "".join(c for c, is_foreign in zip(text, foreign, strict=True) if is_foreign)
    without_greek = "".join(c for c in kept if script_of(c) != "Grek")
    assert "".join(c for c in found if script_of(c) != "Grek") == without_greek
    assert len(found) <= len(kept)


def test_own_letters_leave_out_what_two_languages_share() -> None:
    text = f"{HAN}\u306e\u30a2 abc"
    assert own_letters(text, "ja") == 5
    assert own_letters(text, "ja", "zh") == 2
    assert own_letters(text, "zh", "ja") == 0
    assert own_letters(text, "en") == 3
    assert own_letters(text, "en", "de") == 0


def test_the_scripts_of_some_texts() -> None:
    assert scripts_in(["abc", f"d {HAN}", "\u0436"]) == {"Latn", "Hani", "Cyrl"}
    assert scripts_in(["plain"]) == frozenset()
    assert unspaced().search(HAN)
    assert not unspaced().search("\ud55c\uad6d \u0436 abc")
