"""Which of a prompt's other answers takes the chosen one's place, or stands beside it as rejected.

Plain data in and out; knows no files. The rejected answer is the one that `selection.pairs` finds,
so that a run that chose the best and one that chose pairs give the same training set.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


class Rival(NamedTuple):
    """A candidate with its text. `teacher` is a fingerprint."""

    teacher: str
    sample: int
    reward: float | None
    gates: Collection[str]
    error: str | None
    text: str | None
    reasoning: str | None = None


def is_usable(rival: Rival, enforced: Collection[str], least: float | None = None) -> bool:
    """Whether it could have been chosen: a reward that reaches the least one, no error, a text,
    none of the enforced gates failed."""
    if rival.reward is None or rival.error is not None or rival.text is None:
        return False
    return not set(rival.gates) & set(enforced) and (least is None or rival.reward >= least)


def in_order(rivals: Sequence[Rival], able: Callable[[Rival], bool]) -> list[Rival]:
    """Those that are able, best first, each text once. They come best first, but that what is
    identical to another stands behind: it takes that one's place."""
    places: dict[str | None, int] = {}
    for place, rival in enumerate(rivals):
        places.setdefault(rival.text, place)
    found: dict[str | None, Rival] = {}
    for rival in rivals:
        if able(rival):
            found.setdefault(rival.text, rival)
    return sorted(found.values(), key=lambda rival: places[rival.text])


def rejected(
    prompt_id: str,
    rivals: Sequence[Rival],
    chosen: tuple[str, float],
    able: Callable[[Rival], bool] = lambda rival: True,
) -> Rival | None:
    """The answer with the lowest reward and another text than the chosen one's (text, reward).

    It must have a reward, lower than the chosen one's, but may fail gates: what fails one is what
    training shall lead away from. Of equal rewards the lot decides.
    """
    text, reward = chosen
    found = [
        (rival.reward, _lot(prompt_id, rival), rival)
        for rival in rivals
        if rival.reward is not None and rival.text not in (None, text) and able(rival)
    ]
    lowest = min(found, key=lambda one: one[:2], default=None)
    return lowest[2] if lowest and lowest[0] < reward else None


def _lot(prompt_id: str, rival: Rival) -> bytes:
    key = f"{prompt_id}/{rival.teacher}/{rival.sample}"
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
