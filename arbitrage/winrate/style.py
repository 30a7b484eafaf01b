"""How an answer looks, apart from what it says: its length, headers, lists and bold text.

Counted as Arena-Hard counts them for its style control (code blocks are left out of the Markdown),
but for the length: that is in characters here, as no tokenizer is part of this package. Knows no
judge and no file. Invariant: counting takes time in proportion to the text, whatever it holds.

    python -c "from arbitrage.winrate import style; print(style.features('# A\\n- b\\n- **c**'))"
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = ("length", "headers", "lists", "bold")
"""Of the columns that `differences` makes."""

_CODE = re.compile(r"```[^`]*```")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
# White space up to the mark is looked for within the line: over many lines it takes square time.
_LIST = re.compile(r"^[^\S\n]*(?:\d+\.|[-*+])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*")
_STRONG = re.compile(r"__[^_\n]+__")


class Features(NamedTuple):
    """Of one answer: characters, and how many headers, list items and bold texts it has."""

    length: int
    headers: int
    lists: int
    bold: int


def features(text: str) -> Features:
    """Counts in one answer; its code blocks count for the length alone."""
    plain = _CODE.sub("", text) if "```" in text else text
    return Features(
        len(text),
        len(_HEADER.findall(plain)) if "#" in plain else 0,
        len(_LIST.findall(plain)),
        (len(_BOLD.findall(plain)) if "**" in plain else 0)
        + (len(_STRONG.findall(plain)) if "__" in plain else 0),
    )


def differences(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """How much more of each the first answer has, in [-1, 1]: the names, and a column (n, 4) each.

    Both (n, 4) with the columns of `Features`; nan stays nan. Of the length: the difference over
    the sum; of the others the same of the number per character, with 1 added to the sum, as
    Arena-Hard v2 does. Standardise them over the games before a fit.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    found = np.empty(one.shape)
    total = one[:, 0] + other[:, 0]
    found[:, 0] = (one[:, 0] - other[:, 0]) / np.where(total == 0, 1, total)
    dense = one[:, 1:] / (one[:, :1] + 1)
    other_dense = other[:, 1:] / (other[:, :1] + 1)
    found[:, 1:] = (dense - other_dense) / (dense + other_dense + 1)
    return NAMES, found
