"""Why a merge is refused, and what is only remarked: the words that the preflight's checks share.

Pure text. A check yields a `Reason` for what must be mended, or a plain string for a remark. Names
of tensors and values of configs are others' text: they are cut short here and made harmless where
they are shown.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeAlias

MOST = 3
"""So many examples are named; the rest is counted."""
LONGEST = 90
"""Characters of a name or value that are shown."""
NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")


class Reason(NamedTuple):
    """`about`: what is wrong; `where`: in which models or tensors; `told`: what to do."""

    about: str
    where: str
    told: str


Finding: TypeAlias = Reason | str
"""What a check yields; a string is a remark, which stops nothing."""


def short(text: str) -> str:
    """Text of others, in one line and cut."""
    line = text.replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def listed(names: Collection[str], most: int = MOST) -> str:
    """Some names, and how many more there are."""
    shown = [short(name) for name in list(names)[:most]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def joined(names: Sequence[str]) -> str:
    """All names: a, b and c."""
    few = [short(name) for name in names]
    return " and ".join([", ".join(few[:-1]), few[-1]] if len(few) > 1 else few)


def counted(number: int, what: str) -> str:
    """1 tensor, 2 tensors."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def kind_of(name: str) -> str:
    """A tensor's name with `*` for its numbers, the same in all layers."""
    return NUMBER.sub("*", name)


def kinds(names: Iterable[str], most: int = MOST) -> str:
    """Tensors by kind, with how many there are of each."""
    found = Counter(kind_of(name) for name in names)
    return listed([kind if n == 1 else f"{kind} ({n:,})" for kind, n in found.items()], most)


def by_value(values: Iterable[tuple[str, str]]) -> str:
    """What whom says, from pairs of model and value: `1 in a and b, 2 in c`."""
    found: dict[str, list[str]] = defaultdict(list)
    for model, value in values:
        found[value].append(model)
    return ", ".join(f"{short(value)} in {joined(who)}" for value, who in found.items())


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers as `3, 5 to 7`."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in found)
