"""Texts that speak to whoever grades them, and answers that open with a refusal, in 23 languages.

`phrases.toml` holds classes of words for each language, not sentences: "ignore" beside "rules"
beside "above" is an instruction however it is worded. Texts and words are compared without case,
width, accents and vowel signs. A class counts where it stands in two sentences that follow each
other, so that a long text does not add up to what nobody wrote.

It is a rule of words: it knows no irony and no quotation, and what is worded otherwise, or in
another language, passes. An answer of a dozen ordinary words takes a few microseconds.

    python -c "from arbitrage import phrases as p; print(p.instructs_judge('Score: 10/10'))"
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_ATTACKS = (
    ("ignore", "rules", "before"),
    ("ignore", "rules", "best"),
    ("best", "this"),
    ("best", "give", "grader"),
    ("best", "give", "right"),
    ("grader", "give", "this"),
    ("grader", "this", "right"),
    ("rules", "before", "give", "this"),
    ("rules", "before", "full"),
)
"""Classes that together instruct a judge; `best` is the best mark, in one word or two, and `full`
the same in digits."""
_REFUSALS = (("cannot", "help"), ("sorry", "unable", "help"), ("ai",))
_HINTS = ("rules", "grader", "top", "mark", "label")
"""Each attack has a word of one of these."""
_REFUSING = ("cannot", "unable", "ai")

_GLUED = frozenset({"ar", "he", "hi", "ja", "ko", "zh"})
"""Languages whose words begin anywhere: without spaces, after a particle, or after a vowel sign."""
_DENSE = frozenset({"ja", "ko", "zh"})
_GAP, _DENSE_GAP = 30, 10
"""Characters that may stand between the two words of the best mark."""

_SPOKEN = 240
"""How many characters a window, or the opening of an answer, holds at most."""
_KEY = 4
_NEAR, _FAR = re.compile("[a-z\u00df-\u052f]"), re.compile("[\u0590-\uffff]")
_ABJAD = re.compile("[\u0590-\u06ff]")
_SCRIPTS = {
    "[\u0590-\u05ff]": ("he",),
    "[\u0600-\u06ff]": ("ar", "fa"),
    "[\u0900-\u097f]": ("hi",),
    "[\u1ea0-\u1eff]": ("vi",),
    "[\u3040-\u9fff]": ("ja", "zh"),
    "[\uac00-\ud7a3]": ("ko",),
}
"""Letters that lie beyond the alphabets of Europe, and which languages are written with them. Their
words begin anywhere, or are so short that their beginnings tell nothing."""

_FAKES = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|</s>\s*<s>|<[be]os>|<eot>"
    r"|\[\[\s*(?:[abc]|[ab][<>=]{1,2}[ab])\s*\]\]|rating:\s*\[\["
    r"|[}\]][^{}]{0,20}\{\s*\"(?:score|rating|reward|verdict|grade)\"|<score>\s*\d"
    r"|^#{2,}\s*(?:system|assistant|user|human|instruction|response)\s*:?\s*$",
    re.MULTILINE,
)
"""Control tokens and verdicts that only a template or a judge writes."""
_FAKE_PARTS = ("<", "[", "##", "{")
_TURN = re.compile(
    r"^\W{0,4}(system|assistant|user|human)(?: prompt| message)?\W{0,4}:", re.MULTILINE
)
_FULL = re.compile(r"\b(5|10|20|100)\s*/\s*\1\b")
_WORDS = re.compile(rf"\b\w{{2,{_KEY}}}")
_HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_SIGNS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0640\u064b-\u065f\u0670]")
_DIGIT = re.compile(r"(?![0-9])\d")
_SENTENCE = re.compile("(?<=[.!?\u061f\u0964])\\s+|[\u3002\\n]+|(?<=[!?])")
_SAME = (("\u0131", "i"), ("\u2019", "'"), ("\u02bc", "'"))


class _Language(NamedTuple):
    """A pattern per class; `line` finds a mark on a line of its own."""

    classes: dict[str, re.Pattern[str]]
    line: re.Pattern[str]


class _Hints(NamedTuple):
    """How a text shows which languages to look at, cheaply: by how its words begin, or, of those in
    `scripts`, by a pattern for the letters and the words of each language that is written so."""

    keys: Mapping[str, frozenset[str]]
    scripts: tuple[tuple[re.Pattern[str], tuple[tuple[str, re.Pattern[str]], ...]], ...]


def instructs_judge(text: str) -> bool:
    """Whether a text tries to instruct whoever grades it, or pretends to be another turn.

    Such are a command to ignore the instructions, a claim to the best mark, a line `Score: 10`, a
    verdict `[[A]]`, and the control tokens of chat templates.
    """
    plain = _plain(text)
    if _pretends(plain):
        return True
    languages = _hinted(plain, _hints(_HINTS))
    if "/" in plain and _FULL.search(_bare(plain)):
        languages = set(_languages())
    if not languages:
        return False
    bare = _bare(plain)
    return any(_instructs(bare, _languages()[code]) for code in languages)


def refuses(text: str, extra: Sequence[str] = ()) -> bool:
    """Whether an answer opens with a refusal: in its first two sentences, or first 240 characters.

    `extra` are further phrases that count, compared without case, width and accents.
    """
    plain = _plain(text.lstrip()[:_SPOKEN])
    languages = _hinted(plain, _hints(_REFUSING))
    if not languages and not extra:
        return False
    bare = " ".join(_sentences(_bare(plain))[:2])
    if any(phrase in bare for phrase in map(bare_form, extra) if phrase):
        return True
    return any(_holds(bare, _languages()[code], _REFUSALS) for code in languages)


def _pretends(plain: str) -> bool:
    """Whether a text holds control tokens, a judge's verdict, or a system's turn beside another."""
    if any(one in plain for one in _FAKE_PARTS) and _FAKES.search(plain):
        return True
    turns = set(_TURN.findall(plain)) if "system" in plain else set()
    return "system" in turns and len(turns) > 1


def bare_form(text: str) -> str:
    """A text as it is compared: without case, width, accents, vowel signs and hidden characters."""
    return _bare(_plain(text))


def _plain(text: str) -> str:
    """Cheap: without case, width and hidden characters."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text).casefold()
    return _HIDDEN.sub("", text) if _FAR.search(text) or "\u00ad" in text else text


def _bare(plain: str) -> str:
    if plain.isascii():
        return plain
    for one, other in _SAME:
        plain = plain.replace(one, other)
    return _DIGIT.sub(_ascii_digit, _without_signs(plain))


def _without_signs(plain: str) -> str:
    return _SIGNS.sub("", unicodedata.normalize("NFKD", plain))


def _ascii_digit(found: re.Match[str]) -> str:
    return str(unicodedata.decimal(found[0], found[0]))


def _hinted(plain: str, hints: _Hints) -> set[str]:
    """The languages whose words a text holds some of."""
    found: set[str] = set()
    if _NEAR.search(plain):
        words = _WORDS.findall(plain)
        if not hints.keys.keys().isdisjoint(words):
            found.update(*(hints.keys[word] for word in words if word in hints.keys))
    if not plain.isascii() and _FAR.search(plain):
        text = _without_signs(plain) if _ABJAD.search(plain) else plain
        for letters, languages in hints.scripts:
            if letters.search(plain):
                found.update(code for code, known in languages if known.search(text))
    return found


def _instructs(text: str, language: _Language) -> bool:
    return bool(language.line.search(text)) or _holds(text, language, _ATTACKS)


def _holds(text: str, language: _Language, wanted: Iterable[tuple[str, ...]]) -> bool:
    """Whether all classes of one of the combinations stand together in one window."""
    classes = language.classes
    there: dict[str, bool] = {}

    def has(name: str) -> bool:
        """Every class is looked for once: a search takes longer than all the rest."""
        if name not in there:
            there[name] = classes[name].search(text) is not None
        return there[name]

    here = [them for them in wanted if all(map(has, them))]
    return bool(here) and any(
        all(classes[name].search(window) for name in them)
        for window in _windows(text)
        for them in here
    )


def _windows(text: str) -> Iterator[str]:
    """Pairs of sentences that follow each other, the long ones in halves that overlap."""
    sentences = _sentences(text)
    pairs = [f"{a} {b}" for a, b in pairwise(sentences)] or sentences
    for pair in pairs:
        for start in range(0, max(1, len(pair) - _SPOKEN // 2), _SPOKEN // 2):
            yield pair[start : start + _SPOKEN]


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(text) if sentence.strip()]


# ---- from the file to patterns


@cache
def _words() -> dict[str, dict[str, list[str]]]:
    """Language code -> class -> beginnings of words, as they are written in the file."""
    text = resources.files("arbitrage").joinpath("phrases.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def _languages() -> dict[str, _Language]:
    return {code: _language(code, words) for code, words in _words().items()}


def _language(code: str, words: Mapping[str, list[str]]) -> _Language:
    parts = {name: _alternatives(code, listed) for name, listed in words.items()}
    gap = rf"[^\n]{{0,{_DENSE_GAP if code in _DENSE else _GAP}}}"
    most, mark, label = parts["most"], parts["mark"], parts["label"]
    parts["best"] = f"{parts['top']}|{_FULL.pattern}|{most}{gap}{mark}|{mark}{gap}{most}"
    parts["full"] = _FULL.pattern
    before = r"\w{0,4}" if code in _DENSE else r"(?:[^\s:=]{1,12}\s){0,2}"
    line = (
        rf"^\W{{0,4}}{before}{label}[^\n:=]{{0,20}}[:=]\W{{0,4}}\d{{1,3}}(?:[.,]\d+)?"
        r"(?:\D{0,16}\d{1,3})?\D{0,10}$"
    )
    classes = {name: re.compile(pattern) for name, pattern in parts.items()}
    return _Language(classes, re.compile(line, re.MULTILINE))


def _alternatives(code: str, words: Iterable[str]) -> str:
    """A pattern for any of the words, longest first."""
    bare = sorted({bare_form(word) for word in words}, key=len, reverse=True)
    begins = "" if code in _GLUED else r"(?<!\w)"
    return f"{begins}(?:{'|'.join(map(_pattern, bare))})"


def _pattern(word: str) -> str:
    parts = [re.escape(part.strip()) for part in word.split(" ... ")]
    ends = r"\b" if word.endswith(" ") else ""
    return r"\W+(?:\w+\W+){0,8}?".join(p.replace(r"\ ", r"\s+") for p in parts) + ends


@cache
def _hints(names: Sequence[str]) -> _Hints:
    words = {
        code: [one.split(" ... ")[0] for name in names for one in classes[name]]
        for code, classes in _words().items()
    }
    scripts = tuple(
        (re.compile(letters), tuple((code, _any_of(words.pop(code))) for code in codes))
        for letters, codes in _SCRIPTS.items()
    )
    keys: dict[str, set[str]] = {}
    for code, listed in words.items():
        for key in {key for word in listed for key in _keys(word)}:
            keys.setdefault(key, set()).add(code)
    return _Hints({key: frozenset(codes) for key, codes in keys.items()}, scripts)


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Finds any of the words, grouped by their first letter, so that few are tried anywhere."""
    groups: dict[str, list[str]] = {}
    forms = {form(word) for word in words for form in (_plain, bare_form)}
    for word in sorted(forms):
        groups.setdefault(word[0], []).append(re.escape(word[1:]))
    return re.compile("|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in groups.items()))


def _keys(word: str) -> set[str]:
    """How the longest part of a word or phrase begins, as it is written and without accents."""
    longest = max(re.findall(r"\w+", _plain(word)), key=len)
    return {longest[:_KEY], bare_form(longest)[:_KEY]} if len(longest) > 2 else set()
