"""Language confusion: letters and lines of an answer that are not in its prompt's language.

Two levels, after Marchisio et al. 2024 (arXiv 2406.20052): words in a script that the language is
not written with, and lines that are surely in another language. Code, addresses and numbers are
looked at in neither, and quotations only where nothing else is left.

Where a prompt is about another language it decides nothing: the languages and scripts that its
user's words name or show are never held against an answer, so a translation passes unread. It is
looked up only for answers in which something was found.

    python -c "from arbitrage.confusion import Asked, confusion; \\
        print(confusion(['I do not know that word.'], [Asked('vi', ['Xin chao'])]))"
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

from arbitrage.languages import Detector, table
from arbitrage.writing import foreign_runs, own_letters, script_of, scripts_in, scripts_of, unspaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Lines of fewer bytes are judged together with the next one.
LINE_BYTES: Final = 40
# A longer paragraph is judged sentence by sentence.
PARAGRAPH_BYTES: Final = 240
# Where a third of a line is in the language's own script, Latin words in it are terms and names.
OWN_SHARE: Final = 1 / 3
# So few words, each with a capital letter, are a title or a name; still fewer may be a term or a
# dish in any language.
TITLE_WORDS: Final = 8
TERM_WORDS: Final = 3
TERM_CHARS: Final = 32
QUOTED_CHARS: Final = 400
_PARTICLES: Final = frozenset(
    {
        *("of", "the", "and", "van", "von", "und", "da", "do", "de", "del", "della", "di", "du"),
        *("des", "la", "le", "el", "al", "y", "e", "bin", "ibn"),
    }
)

_CODE: Final = (
    r"```.*?(?:```|\Z)",
    r"~~~.*?(?:~~~|\Z)",
    r"`[^`\n]{1,400}`",
    r"\$\$.{1,400}?\$\$|\\\(.{1,400}?\\\)|\\\[.{1,400}?\\\]",
    r"\b(?:https?|ftp|file)://\S+|\bwww\.\S+",
    r"[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]+",
)
_PAIRS: Final = (
    ("\u201c", "\u201d"),
    ("\u201e", "\u201c\u201d"),
    ("\u201d", "\u201d"),
    ("\u00ab", "\u00bb"),
    ("\u00bb", "\u00ab"),
    ("\u2039", "\u203a"),
    ("\u300c", "\u300d"),
    ("\u300e", "\u300f"),
    ("\u300a", "\u300b"),
)
_QUOTES: Final = (
    *(f"{a}[^{b}\\n]{{1,{QUOTED_CHARS}}}[{b}]" for a, b in _PAIRS),
    rf'"[^"\n]{{1,{QUOTED_CHARS}}}"',
    rf"(?<!\w)['\u2018\u201a][^\n]{{1,{QUOTED_CHARS}}}?['\u2018\u2019](?!\w)",
)
_ASIDE: Final = re.compile("|".join((*_CODE, r"\d[\d.,:/%]*")), re.DOTALL)
_QUOTED: Final = re.compile("|".join(_QUOTES))
_QUOTE_MARKS: Final = re.compile(
    "[\"'\u2018\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u300a-\u300e]"
)
_ASIDE_MARKS: Final = re.compile(r"[`@\\\d]|~~~|://|www\.|\$\$")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?\u061f\u06d4\u0964])\s+|(?<=[\u3002\uff01\uff1f])")


class Asked(NamedTuple):
    """What an answer answers: its language (a code of the table) and the conversation's texts."""

    language: str
    texts: Sequence[str]


class Confusion(NamedTuple):
    """What of one answer is in another language.

    `lines` are those long enough to be judged: paragraphs, sentences of long ones, short ones taken
    together. `wrong_lines` has the code of the language of each that is surely not the prompt's.
    """

    foreign_words: int
    foreign_letters: int
    lines: int
    wrong_lines: list[str]


def confusion(texts: Sequence[str], asked: Sequence[Asked]) -> list[Confusion]:
    """One per answer, in order. Raises ValueError for a language that is not in the table."""
    unknown = {prompt.language for prompt in asked} - table().keys()
    if unknown:
        raise ValueError(f"{sorted(unknown)} are no codes of the table of languages")
    foreign = [_foreign(text, prompt) for text, prompt in zip(texts, asked, strict=True)]
    lines = [judged_lines(text) for text in texts]
    wrong = _wrong_lines(lines, asked)
    return [
        Confusion(len(runs), sum(map(len, runs)), len(parts), codes)
        for runs, parts, codes in zip(foreign, lines, wrong, strict=True)
    ]


def without_asides(text: str, quotations: bool = True) -> str:
    """The text without code, formulas, addresses and numbers, and without quotations if wanted.

    Where no letter would be left, it is the text as it is.
    """
    bare = _ASIDE.sub(" ", text) if _ASIDE_MARKS.search(text) else text
    if quotations and _QUOTE_MARKS.search(bare):
        bare = _QUOTED.sub(" ", bare)
    return bare if bare is text or any(map(str.isalpha, bare)) else text


def judged_lines(text: str) -> list[str]:
    """The parts of a text whose language is looked at, each long enough to show it."""
    bare = without_asides(text)
    if "\n" not in bare and not _reaches(bare, PARAGRAPH_BYTES):
        parts = [bare.strip()]
    else:
        parts = _joined(part for line in bare.splitlines() for part in _sentences(line))
    return [part for part in parts if Detector.can_judge(part)]


def _sentences(line: str) -> list[str]:
    return _SENTENCE_END.split(line) if _reaches(line, PARAGRAPH_BYTES) else [line]


def _reaches(text: str, size: int) -> bool:
    """Whether a text has so many bytes: letters outside Latin tell more, and have two or three."""
    return len(text) >= size or (
        3 * len(text) >= size and len(text.encode("utf-8", "replace")) >= size
    )


def _joined(parts: Iterable[str]) -> list[str]:
    """Short parts together with what follows; a short rest with what stands before it."""
    found: list[str] = []
    waiting = ""
    for part in parts:
        waiting = f"{waiting} {part.strip()}".strip()
        if _reaches(waiting, LINE_BYTES):
            found.append(waiting)
            waiting = ""
    if waiting and found:
        found[-1] = f"{found[-1]} {waiting}"
    return found or [waiting]


def _foreign(text: str, asked: Asked) -> list[str]:
    """The stretches of letters in a script that neither the language nor the prompt has."""
    if not foreign_runs(text, asked.language):
        return []
    bare = without_asides(text, quotations=False)
    told = _QUOTED.sub(lambda quote: _unless_foreign(quote[0], asked.language), bare)
    runs = foreign_runs(told if any(map(str.isalpha, told)) else text, asked.language)
    allowed = _scripts(asked) if runs else frozenset()
    return [run for run in runs if script_of(run[0]) not in allowed]


def _unless_foreign(quotation: str, language: str) -> str:
    """A quotation goes if it is foreign as a whole: no letter of the language, no mixed word."""
    mixed = any(_is_mixed(word, language) for word in quotation.split())
    return quotation if mixed or own_letters(quotation, language) else " "


def _is_mixed(word: str, language: str) -> bool:
    foreign = sum(map(len, foreign_runs(word, language)))
    return 0 < foreign < sum(map(str.isalpha, word))


def _scripts(asked: Asked) -> frozenset[str]:
    named = [languages_named(text, asked.language) for text in asked.texts]
    return scripts_in(asked.texts).union(*(scripts_of(code) for codes in named for code in codes))


def _wrong_lines(lines: Sequence[Sequence[str]], asked: Sequence[Asked]) -> list[list[str]]:
    owners = [owner for owner, parts in enumerate(lines) for _ in parts]
    parts = [part for parts in lines for part in parts]
    languages = [asked[owner].language for owner in owners]
    found: list[list[str]] = [[] for _ in lines]
    for owner, part, code in zip(owners, parts, _detector().strays(parts, languages), strict=True):
        if code is not None and not _may_be_terms(part, asked[owner].language, code):
            found[owner].append(code)
    suspects = [owner for owner, codes in enumerate(found) if codes]
    shown = _shown([asked[owner] for owner in suspects])
    for owner, known in zip(suspects, shown, strict=True):
        found[owner] = [code for code in found[owner] if code not in known]
    return found


def _may_be_terms(line: str, expected: str, found: str) -> bool:
    """Whether a line in the script of `found` may be names and terms in a text in `expected`."""
    words = line.split()
    if not unspaced().search(line):
        if len(words) <= TITLE_WORDS and all(map(_is_name, words)):
            return True
        if len(words) <= TERM_WORDS and len(line) <= TERM_CHARS:
            return True
    letters = sum(map(str.isalpha, line))
    return own_letters(line, expected, found) >= OWN_SHARE * letters


def _is_name(word: str) -> bool:
    """With a capital letter, as names are written, or one of the small words between them."""
    letters = word.strip(".,:;!?()[]*#-\u2013\u2014\"'")
    return not letters or letters[0].isupper() or letters in _PARTICLES


def _shown(asked: Sequence[Asked]) -> list[set[str]]:
    """Per prompt, the languages besides its own that it names, or that a line of it is in."""
    found = [
        {code for text in prompt.texts for code in languages_named(text, prompt.language)}
        for prompt in asked
    ]
    parts = [
        (owner, part)
        for owner, prompt in enumerate(asked)
        for text in prompt.texts
        for part in (*judged_lines(text), *(quote[1:-1] for quote in _QUOTED.findall(text)))
    ]
    languages = [asked[owner].language for owner, _ in parts]
    seen = _detector().strays([part for _, part in parts], languages)
    for (owner, _), code in zip(parts, seen, strict=True):
        if code is not None:
            found[owner].add(code)
    return found


def languages_named(text: str, language: str) -> frozenset[str]:
    """The languages that a text in `language` calls by their names, in its own words or English."""
    folded = text.casefold().replace("i\u0307", "i")  # the Turkish capital
    patterns = (_names().get(language), _names()["en"])
    return frozenset(
        code
        for pattern in patterns
        if pattern is not None
        for match in pattern.finditer(folded)
        if (code := match.lastgroup) is not None
    )


@cache
def _names() -> Mapping[str, re.Pattern[str]]:
    told = tomllib.loads(
        resources.files("arbitrage").joinpath("language_names.toml").read_text("utf-8")
    )
    return {language: _pattern(list(told), names.split()) for language, names in told.items()}


def _pattern(codes: Sequence[str], names: Sequence[str]) -> re.Pattern[str]:
    """One group per language. Where words are spaced and not prefixed, a name begins one."""
    plain = all(script_of(name[0]) in ("Latn", "Cyrl", "Grek") for name in names)
    groups = (
        f"(?P<{code}>{name.replace('_', ' ')})" for code, name in zip(codes, names, strict=True)
    )
    return re.compile((r"(?<!\w)" if plain else "") + f"(?:{'|'.join(groups)})")


@cache
def _detector() -> Detector:
    return Detector()
