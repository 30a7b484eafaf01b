"""Scripts: which letters a language is written with, and those of a text that are none of them.

`scripts.toml` holds the letters of each script, `languages.toml` the main script of each language.
Latin letters belong everywhere (names, units), and so do signs of no script. This module knows
nothing of prompts or models.

    python -c "from arbitrage import writing; print(writing.foreign_runs('abc \\u6c34', 'vi'))"
"""

from __future__ import annotations

import re
import tomllib
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Final

from arbitrage.languages import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

UNKNOWN: Final = "Zzzz"
"""The script of a letter that no script of the table holds (ISO 15924: uncoded)."""

_COMMON: Final = "Zyyy"
_MEMBERS: Final = {
    "Hans": ("Hani", "Bopo"),
    "Jpan": ("Hani", "Hira", "Kana"),
    "Kore": ("Hang",),
}
"""Scripts of ISO 15924 that are several; every other one is itself."""

_BESIDE: Final = {
    **dict.fromkeys(("az", "ha", "kk", "ku", "ky", "ms", "pa", "tg", "uz"), ("Arab",)),
    **dict.fromkeys(("bs", "hr", "ro", "tk", "tt", "ug"), ("Cyrl",)),
    "mn": ("Mong",),
    "sd": ("Deva",),
}
"""Languages that are also written with a second script. Latin belongs everywhere anyway."""

_UNSPACED: Final = ("Hani", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr", "Tibt")
"""Scripts that put no space between words."""

_BELOW_LETTERS: Final = r"\x00-@\[-`{-\u00bf\u2000-\u206f\u20a0-\u20cf\u3000-\u3004\u3008-\u3020"
"""Punctuation that is all over, so that the first look can pass over it."""


@cache
def _ranges() -> Mapping[str, str]:
    """Script -> its letters and marks, as the inside of a regular expression's brackets."""
    found = tomllib.loads(resources.files("arbitrage").joinpath("scripts.toml").read_text("utf-8"))
    return {script: "".join(map(_bracketed, told.split())) for script, told in found.items()}


def _bracketed(part: str) -> str:
    first, _, last = part.partition("-")
    return f"\\U{first:0>8}-\\U{last or first:0>8}"


@cache
def _members(script: str) -> re.Pattern[str]:
    return re.compile(f"[{_ranges()[script]}]")


@lru_cache(maxsize=65536)
def script_of(letter: str) -> str:
    """The ISO 15924 code of one letter's script; Zyyy for signs of none, Zzzz where not known."""
    for script in _ranges():
        if _members(script).match(letter):
            return script
    return UNKNOWN


@cache
def scripts_of(language: str) -> frozenset[str]:
    """What a language of the table is written with, Latin included."""
    main = table()[language].script
    return frozenset({"Latn", *_MEMBERS.get(main, (main,)), *_BESIDE.get(language, ())})


def scripts_in(texts: Iterable[str]) -> frozenset[str]:
    """The scripts of all letters in some texts."""
    letters = {c for text in texts if not text.isascii() for c in text if c.isalpha()}
    return frozenset(map(script_of, letters))


@cache
def _suspects(language: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A quick look for anything that may be foreign, and the runs of what is a foreign letter."""
    parts = [_ranges()[script] for script in sorted({*scripts_of(language), _COMMON})]
    own = "".join(parts)
    # Without the ranges beyond the first plane Python makes one look-up of it, four times as fast.
    basic = re.sub(r"\\U000[1-9A-F].{4}-\\U.{8}", "", own)
    return re.compile(f"[^{basic}{_BELOW_LETTERS}]"), re.compile(rf"[^\W\d_{own}]+")


def foreign_runs(text: str, language: str) -> list[str]:
    """The stretches of letters in none of the language's scripts, from the table of languages.

    Vowel signs and other marks end a stretch. A single Greek letter is a symbol, not foreign.
    """
    if text.isascii():
        return []
    hint, runs = _suspects(language)
    if not hint.search(text):
        return []
    found = ("".join(filter(str.isalpha, run)) for run in runs.findall(text))
    return [run for run in found if run and not (len(run) == 1 and script_of(run) == "Grek")]


def own_letters(text: str, language: str, other: str | None = None) -> int:
    """How many letters and marks of the language's own scripts a text holds.

    Its own are all that it is written with besides Latin, or Latin; without those that the `other`
    language is written with too.
    """
    own = scripts_of(language) - {"Latn"} if table()[language].script != "Latn" else {"Latn"}
    kept = own - scripts_of(other) if other else own
    return len(_letters_of(frozenset(kept)).findall(text)) if kept else 0


@cache
def _letters_of(scripts: frozenset[str]) -> re.Pattern[str]:
    return re.compile(f"[{''.join(_ranges()[script] for script in sorted(scripts))}]")


@cache
def unspaced() -> re.Pattern[str]:
    """One letter of a script that puts no space between words."""
    letters = "".join(_ranges()[script] for script in _UNSPACED)
    return re.compile(f"[{letters}]")


def is_unspaced(language: str) -> bool:
    """Whether a language of the table is written without spaces between words."""
    main = table()[language].script
    return not set(_UNSPACED).isdisjoint(_MEMBERS.get(main, (main,)))
