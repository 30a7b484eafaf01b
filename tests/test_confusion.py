"""Language confusion: what is looked at, what is let pass, and what the prompt asks for."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage import confusion as module
from arbitrage.confusion import (
    Asked,
    confusion,
    judged_lines,
    languages_named,
    without_asides,
)
from arbitrage.languages import table

SENTENCES = json.loads((Path(__file__).parent / "data/sentences.json").read_text("utf-8"))
NAMES = tomllib.loads((Path(module.__file__).parent / "language_names.toml").read_text("utf-8"))
HAN = "\u6c34\u706b\u6728"


def wrong(text: str, language: str, *texts: str) -> list[str]:
    return confusion([text], [Asked(language, texts)])[0].wrong_lines


def foreign(text: str, language: str, *texts: str) -> int:
    return confusion([text], [Asked(language, texts)])[0].foreign_letters


@pytest.mark.parametrize("language", sorted(SENTENCES))
def test_a_sentence_is_in_its_language_and_in_no_other(language: str) -> None:
    others = sorted(set(SENTENCES) - {language})
    asked = [Asked(language, []), *(Asked(other, []) for other in others)]
    found = [row.wrong_lines for row in confusion([SENTENCES[language]] * len(asked), asked)]
    assert found[0] == []
    assert all(set(codes) <= {language} for codes in found)
    missed = [other for other, codes in zip(others, found[1:], strict=True) if codes != [language]]
    assert missed == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Plain text.", "Plain text."),
        ("Run `ls -l` now", "Run   now"),
        ("Code:\n```python\nprint('x')\n```\nend", "Code:\n \nend"),
        ("Cut off:\n```\nprint(", "Cut off:\n "),
        ("See https://example.org/x?y=1 there", "See   there"),
        ("Write to a.b@example.org please", "Write to   please"),
        ("It costs 1,500.50 dollars", "It costs   dollars"),
        ('She said "hello there" twice', "She said   twice"),
        ("\u201eGuten Tag\u201c sagte er", "  sagte er"),
        ("\u00abbonjour\u00bb dit-il", "  dit-il"),
        ("\u300c\u6c34\u300d\u3092\u98f2\u3080", " \u3092\u98f2\u3080"),
        ("It isn't the dogs' fault", "It isn't the dogs' fault"),
        ("\u2018water\u2019 ist ein Wort", "  ist ein Wort"),
        ('"all of it is quoted"', '"all of it is quoted"'),
        ("`only_code`", "`only_code`"),
        ("12 + 13", "12 + 13"),
    ],
)
def test_code_addresses_quotations_and_numbers_are_taken_out(text: str, left: str) -> None:
    assert without_asides(text) == left


def test_short_lines_are_judged_together_and_long_ones_by_sentence() -> None:
    assert judged_lines("Hi") == []
    assert judged_lines("1 2 3 4 5 6 7 8 9 10 11 12") == []
    assert len(judged_lines("milk and bread\n" * 9)) == 3
    assert len(judged_lines("This sentence has about forty letters in it. " * 8)) == 8
    assert len(judged_lines("This sentence has about forty letters in it. " * 3)) == 1
    text = "A paragraph that is long enough to be judged alone.\n\nThe end."
    assert judged_lines(text) == ["A paragraph that is long enough to be judged alone. The end."]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400))
def test_lines_hold_nothing_but_the_text(text: str) -> None:
    assert "".join("".join(judged_lines(text)).split()) in "".join(text.split()) or "".join(
        "".join(judged_lines(text)).split()
    ) in "".join(without_asides(text).split())


def test_a_wrong_line_is_found_among_right_ones() -> None:
    text = f"{SENTENCES['de']}\n\n{SENTENCES['en']}\n\n{SENTENCES['de']}"
    found = confusion([text], [Asked("de", [])])[0]
    assert (found.lines, found.wrong_lines) == (3, ["en"])


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Vincent van Gogh"),
        ("fr", "Leonardo da Vinci"),
        ("ru", "Microsoft Visual Studio Code"),
        ("vi", "Harry Potter and the Goblet of Fire"),
        ("ja", "spaghetti alla carbonara"),
        ("en", "Homo sapiens sapiens"),
        ("de", "Das Meeting ist um 10 Uhr, bring bitte Laptop und USB-C-Kabel mit."),
        ("es", "```\nprint('hello world, this is all in English')\n```\nEso es todo, amigo."),
        ("fr", "Le proverbe dit : \u00ab The early bird catches the worm. \u00bb"),
        ("id", SENTENCES["id"]),
    ],
)
def test_names_terms_code_and_quotations_pass(language: str, text: str) -> None:
    assert wrong(text, language) == []


def test_terms_in_another_script_do_not_make_a_line_wrong() -> None:
    text = "\u0423\u0441\u0442\u0430\u043d\u043e\u0432\u0438\u0442\u0435 Visual Studio Code tools"
    assert wrong(text, "ru") == []
    assert wrong("Install Visual Studio Code and all the Python tools you need", "ru") == ["en"]


def test_chinese_is_no_japanese_though_its_letters_are() -> None:
    assert wrong(SENTENCES["zh"], "ja") == ["zh"]
    assert wrong(SENTENCES["ja"], "zh") == ["ja"]


@pytest.mark.parametrize(
    ("language", "text", "letters"),
    [
        ("vi", f"n\u01b0\u1edbc {HAN} l\u00e0 g\u00ec", 3),
        ("vi", f"n\u01b0{HAN}\u1edbc l\u00e0 g\u00ec", 3),
        ("vi", f"T\u1eeb \u201c{HAN}\u201d ngh\u0129a l\u00e0 g\u00ec", 0),
        ("vi", f"T\u1eeb \u201cn\u01b0{HAN}\u1edbc\u201d ngh\u0129a l\u00e0 g\u00ec", 3),
        ("ru", f"\u0441\u043b\u043e\u0432\u043e \u00abw{HAN}ater\u00bb", 3),
        ("vi", f"`{HAN}` l\u00e0 m\u00e3", 0),
        ("vi", f"\u201c{HAN}\u201d", 3),
        ("zh", HAN, 0),
    ],
)
def test_foreign_letters_are_counted_outside_code_and_foreign_quotations(
    language: str, text: str, letters: int
) -> None:
    assert foreign(text, language) == letters


def test_a_script_that_the_prompt_shows_or_asks_for_is_not_foreign() -> None:
    assert foreign(HAN, "ko") == 3
    assert foreign(HAN, "ko", "\u6c34\uac00 \ubb34\uc2a8 \ub73b\uc774\uc57c?") == 0
    assert foreign(HAN, "en", "How do you write water, fire and wood in Chinese?") == 0
    assert foreign("\u0432\u043e\u0434\u0430", "en", "What is the Japanese word for water?") == 4


def test_a_language_that_the_prompt_names_or_shows_is_not_wrong() -> None:
    english = SENTENCES["en"]
    assert wrong(english, "de", "Wie geht es dir heute?") == ["en"]
    assert wrong(english, "de", "Wie heisst das auf Englisch?") == []
    assert wrong(english, "de", f"Erkl\u00e4re: {english}\n{english}") == []
    assert wrong(english, "de", f"Was heisst \u201e{english}\u201c?") == []
    assert wrong(english, "de", "Wie heisst das auf Franz\u00f6sisch?") == ["en"]
    assert wrong(english, "sw", "Translate it into English, please.") == []


def test_the_names_of_languages_stand_in_rows_and_columns() -> None:
    codes = list(NAMES)
    assert codes == sorted(codes)
    assert set(codes) <= set(table())
    assert {code: len(names.split()) for code, names in NAMES.items()} == dict.fromkeys(codes, 23)
    for code, names in NAMES.items():
        for other, name in zip(codes, names.split(), strict=True):
            spelt = name.split("|")[0].replace("_", " ")
            if "[" not in spelt:
                assert other in languages_named(f"{spelt}.", code), (code, other)


@pytest.mark.parametrize("language", sorted(NAMES))
def test_the_everyday_requests_to_translate_name_their_language(language: str) -> None:
    path = Path(__file__).parents[1] / "data/everyday/prompts.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    request = next(row["prompt"] for row in rows if row["id"] == f"{language}-03")
    named = languages_named(request, language) - {language}
    assert len(named) == 1


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\['de-DE', 'xx'\] are no codes of the table"):
        confusion(["a"] * 3, [Asked(code, []) for code in ("xx", "de", "de-DE")])
