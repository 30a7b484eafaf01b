"""Repetition: which share of a text is a copy of what stands right before it.

A loop is a stretch of words said again and again, one copy after the other. Words that come back
elsewhere (a refrain, a list whose items begin alike, a count, a table) are no loop. In scripts
without spaces every letter is a word.

    python -c "from arbitrage.loops import repetition; print(repetition('I sing la la la la la'))"
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Final

from arbitrage.writing import unspaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Copies in a row that make a loop, by the length of what is copied; longer units take the last.
# "Ha ha ha" and "very, very, very" are speech, and so are four equal letters.
WORD_COPIES: Final = (4, 3)
LETTER_COPIES: Final = (6, 4, 3)
# Said twice is a loop only where the second time makes up a third of the text: otherwise it is a
# refrain, or a quotation of the line above.
TWICE_SHARE: Final = 1 / 3
TWICE_WORDS: Final = 3
TWICE_LETTERS: Final = 6
# So many words, or letters, in a row come back in every loop.
WORDS_IN_A_ROW: Final = 3
LETTERS_IN_A_ROW: Final = 5
# A text of thousands of words has as many distances; what loops has the most frequent ones.
MOST_PERIODS: Final = 20
# Nobody writes a word this long; it is a loop without spaces, or data.
LONGEST_WORD: Final = 40

_TABLE_LINE: Final = re.compile(r"^[^\S\n]*\|.*$", re.MULTILINE)
_ITEM_MARK: Final = re.compile(r"^[^\S\n]*(?:[-*+\u2022]|\(?\d{1,3}[.)])\s", re.MULTILINE)
_ENDS: Final = "?!\u3002\uff01\uff1f\u00bb\u201d\u300d"
"""Marks that end a sentence or a quotation; many in a row, on their own, are a loop too."""

_EDGES: Final = (
    "".join(map(chr, range(33, 48)))
    + ":;<=>?@[]^_`{|}~\u00a1\u00ab\u00bb\u00bf"
    + (
        "\u060c\u061b\u061f\u06d4\u0964\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u2026\u3001"
        "\u3002\u300c\u300d\uff01\uff0c\uff0e\uff1a\uff1b\uff1f"
    )
)


def repetition(text: str) -> float:
    """The share of the words of `text`, 0 to 1, that repeat what stands right before them.

    Six equal sentences give 5/6. Lines of tables, the marks of list items, upper case and
    punctuation do not count, and what holds no letter (numbers, rules) is no loop.
    """
    return words_and_repetition(text)[1]


def words_and_repetition(text: str) -> tuple[int, float]:
    """The number of words, a letter in a script without spaces being one; and `repetition`."""
    plain = "\n" not in text and "|" not in text
    bare = text if plain else _ITEM_MARK.sub("", _TABLE_LINE.sub("", text))
    words, by_letter = _words(bare)
    said = len(words) if plain else len(_words(text)[0])
    # Most texts are done after this look: in every loop a few words in a row come back, two of them
    # with the same punctuation.
    size = LETTERS_IN_A_ROW if by_letter else 2
    if max(0, len(words) - size + 1) == len(set(_rows(words, size))):
        return said, 0.0
    if not by_letter:
        words = [core for word in words if (core := word.strip(_EDGES) or _end(word))]
    return said, _copied(words, by_letter) / max(1, len(words))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case without punctuation around them; in a script without
    spaces every letter is one."""
    return [core for word in _words(text)[0] if (core := word.strip(_EDGES))]


def _rows(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Every few words in a row."""
    return zip(*(words[start:] for start in range(size)), strict=False)


def _words(text: str) -> tuple[list[str], bool]:
    """The words of a text, and whether they are mostly letters of a script without spaces."""
    words = text.casefold().split()
    if not text.isascii() and unspaced().search(text):
        letters = _letters().findall(text.casefold())
        return letters, sum(map(len, letters)) < 2 * len(letters)
    if len(text) > LONGEST_WORD and max(map(len, words), default=0) > LONGEST_WORD:
        split = [part for word in words for part in _parts(word)]
        return split, len(split) > 2 * len(words)
    return words, False


def _end(word: str) -> str:
    return word if any(mark in word for mark in _ENDS) else ""


def _parts(word: str) -> Sequence[str]:
    return word if len(word) > LONGEST_WORD else [word]


@cache
def _letters() -> re.Pattern[str]:
    """A letter of a script without spaces, or a word of any other."""
    inside = unspaced().pattern[1:-1]
    return re.compile(rf"[{inside}{_ENDS}]|[^\W{inside}]+")


def _copied(words: Sequence[str], by_letter: bool) -> int:
    """How many words stand in copies, each counted once."""
    needed = LETTER_COPIES if by_letter else WORD_COPIES
    copied = bytearray(len(words))
    twice = 0
    for period in _periods(_rows(words, LETTERS_IN_A_ROW if by_letter else WORDS_IN_A_ROW)):
        for start, end in _runs(words, period):
            copies = (end - start) // period + 1
            if not any(map(_is_said, words[start : start + period])):
                continue
            if copies >= needed[min(period, len(needed)) - 1]:
                copied[start:end] = b"\1" * (end - start)
            elif copies == 2 and period >= (TWICE_LETTERS if by_letter else TWICE_WORDS):
                twice = max(twice, end - start)
    loops = sum(copied)
    return loops if loops or twice < TWICE_SHARE * len(words) else twice


def _periods(rows: Iterable[tuple[str, ...]]) -> list[int]:
    """The distances at which a loop may repeat, ascending: where rows come back, the most often."""
    last: dict[tuple[str, ...], int] = {}
    found: Counter[int] = Counter()
    for place, row in enumerate(rows):
        if row in last:
            found[place - last[row]] += 1
        last[row] = place
    return sorted({1, 2, *(period for period, _ in found.most_common(MOST_PERIODS))})


def _runs(words: Sequence[str], period: int) -> Iterator[tuple[int, int]]:
    """Stretches `start:end` of whole copies, each word equal to the one `period` before it."""
    start = None
    for place in range(period, len(words) + 1):
        same = place < len(words) and words[place] == words[place - period]
        if same and start is None:
            start = place
        elif not same and start is not None:
            whole = (place - start) // period * period
            if whole:
                yield start, start + whole
            start = None


def _is_said(word: str) -> bool:
    """Whether a word is more than a number or a rule."""
    return any(map(str.isalpha, word)) or bool(_end(word) or unspaced().match(word))
