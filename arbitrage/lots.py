"""Which prompts of a run to show: a fair lot of every language, and the striking ones beside it.

Pure; knows no files or texts. Only those taken by lot show what the run is like: the others were
looked for. The lot is the hash of a prompt's id, so that two runs over the same prompts show the
same ones. Invariants: the result depends neither on order nor on time, never holds more than was
asked for, and what is taken for less is taken for more.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

WHY = ("lot", "clear", "close", "gated", "lost")
"""Taken by lot; for the largest margin; for the smallest; since a candidate fails a gate; since it
is in quarantine. Only the first is representative."""
LOT_SHARE = 0.4
"""Of a language's places, at least so much goes by lot; the four others share the rest."""


class Offer(NamedTuple):
    """A prompt that could be shown. `gated`: some candidate of it fails a gate; `candidates`: how
    many it has, and `chars`: how long they are together, where that is known."""

    prompt_id: str
    language: str
    margin: float | None = None
    gated: bool = False
    lost: bool = False
    candidates: int = 0
    chars: int = 0


def draw(prompt_id: str) -> bytes:
    """A prompt's lot; another one than quotas draw."""
    return hashlib.blake2b(f"sample/{prompt_id}".encode(), digest_size=8).digest()


def shared(counts: Mapping[str, int], places: int) -> dict[str, int]:
    """How many of each may be taken so that all have the same, or all that they have."""
    left = places
    found = {}
    waiting = sorted(counts, key=lambda name: (counts[name], name))
    for number, name in enumerate(waiting):
        found[name] = min(counts[name], left // (len(waiting) - number))
        left -= found[name]
    return found


def choose(offers: Iterable[Offer], prompts: int) -> dict[str, str]:
    """The ids of at most so many prompts, each with one of `WHY`; every language has the same
    number of places. A language that is shown whole is all lot."""
    languages: dict[str, list[Offer]] = {}
    for offer in offers:
        languages.setdefault(offer.language, []).append(offer)
    places = shared({code: len(mine) for code, mine in languages.items()}, prompts)
    found: dict[str, str] = {}
    for code in sorted(languages):
        found |= _of_language(languages[code], places[code])
    return found


def _of_language(offers: list[Offer], places: int) -> dict[str, str]:
    by_lot = sorted(offers, key=lambda offer: (draw(offer.prompt_id), offer.prompt_id))
    base = places if len(by_lot) <= places else math.ceil(places * LOT_SHARE)
    striking = _striking(by_lot[base:], places - base)
    lot = by_lot[: places - len(striking)]
    return striking | dict.fromkeys((offer.prompt_id for offer in lot), "lot")


def _striking(by_lot: Sequence[Offer], places: int) -> dict[str, str]:
    """Up to so many, in turn one of each kind; of equal ones the first by lot."""
    lines = {
        "clear": _sorted(by_lot, lambda offer: -(offer.margin or 0.0)),
        "close": _sorted(by_lot, lambda offer: offer.margin or 0.0),
        "gated": [offer for offer in by_lot if offer.gated and not offer.lost],
        "lost": [offer for offer in by_lot if offer.lost],
    }
    turns = {why: iter(line) for why, line in lines.items()}
    found: dict[str, str] = {}
    while turns and len(found) < places:
        for why in list(turns):
            if len(found) == places:
                break
            offer = next((one for one in turns[why] if one.prompt_id not in found), None)
            if offer is None:
                del turns[why]
            else:
                found[offer.prompt_id] = why
    return found


def _sorted(offers: Sequence[Offer], key: Callable[[Offer], float]) -> list[Offer]:
    return sorted((offer for offer in offers if offer.margin is not None), key=key)
