"""Takes prompts one after the other until a language has its quota and no teacher more than its
share. Plain Python over lists; knows no scores.

What earlier shards took is a `Tally`, plain data that goes from each shard to the next: so what was
taken stays taken when prompts are appended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OVER_QUOTA = "over_quota"
OVER_SHARE = "over_teacher_share"


class Tally(TypedDict):
    """What was taken so far: `prompts` per language, and `rows` per language and teacher."""

    prompts: dict[str, int]
    rows: dict[str, dict[str, int]]


def nothing() -> Tally:
    """The tally before the first shard."""
    return {"prompts": {}, "rows": {}}


def added(tally: Tally, language: str, teachers: Sequence[str]) -> None:
    """Counts one prompt, in place, with the teacher of each of its rows."""
    tally["prompts"][language] = tally["prompts"].get(language, 0) + 1
    rows = tally["rows"].setdefault(language, {})
    for teacher in teachers:
        rows[teacher] = rows.get(teacher, 0) + 1


def copied(tally: Tally) -> Tally:
    """One that can be added to without changing the other."""
    rows = {language: dict(teachers) for language, teachers in tally["rows"].items()}
    return {"prompts": dict(tally["prompts"]), "rows": rows}


@dataclass(frozen=True)
class Offer:
    """A prompt and what can be taken of it: its candidates, best first, with their teachers."""

    prompt: int
    language: str
    candidates: Sequence[int]
    teachers: Sequence[str]


@dataclass(frozen=True)
class Limits:
    """`most`: at most so many rows of a prompt; `quota`: of a language so many prompts, none where
    it has no limit; `share`: the part of a language's rows that one teacher may have."""

    most: int
    quota: Mapping[str, int | None]
    share: float | None


@dataclass(frozen=True)
class Taken:
    """Candidates by prompt, best first; why each other prompt has none; the tally after it."""

    rows: dict[int, list[int]]
    reasons: dict[int, str]
    tally: Tally


def filled(offers: Sequence[Offer], limits: Limits, earlier: Tally) -> Taken:
    """Takes what it can of each prompt, in this order.

    A candidate whose teacher is at its share is passed over for the next best of another teacher. A
    teacher never has more than `share` of the rows of a language, rounded up. A prompt that has
    nobody else waits until all others had their turn, since more rows make room for its teachers.
    """
    taken = Taken({}, {}, copied(earlier))
    waiting = list(offers)
    while waiting:
        left = [offer for offer in waiting if not _takes(offer, limits, taken)]
        if len(left) == len(waiting):
            break
        waiting = left
    for offer in waiting:
        full = _is_full(offer.language, limits, taken.tally)
        taken.reasons[offer.prompt] = OVER_QUOTA if full else OVER_SHARE
    return taken


def share_of(rows: int, share: float) -> int:
    """How many of so many rows one teacher may have."""
    return math.ceil(round(share * rows, 6))  # 0.7 of 10 is a little more than 7 in binary


def _is_full(language: str, limits: Limits, tally: Tally) -> bool:
    quota = limits.quota.get(language)
    return quota is not None and tally["prompts"].get(language, 0) >= quota


def _takes(offer: Offer, limits: Limits, taken: Taken) -> bool:
    """Whether something was taken of a prompt."""
    if _is_full(offer.language, limits, taken.tally):
        return False
    places = _allowed(offer, limits, taken.tally["rows"].get(offer.language, {}))
    if places:
        taken.rows[offer.prompt] = [offer.candidates[place] for place in places]
        added(taken.tally, offer.language, [offer.teachers[place] for place in places])
    return bool(places)


def _allowed(offer: Offer, limits: Limits, rows: Mapping[str, int]) -> Sequence[int]:
    """The best candidates of a prompt by place, without those whose teacher has its share."""
    if limits.share is None:
        return range(min(limits.most, len(offer.candidates)))
    counts, total = dict(rows), sum(rows.values())
    places: list[int] = []
    for place, teacher in enumerate(offer.teachers):
        if len(places) == limits.most:
            break
        if counts.get(teacher, 0) < share_of(total + 1, limits.share):
            places.append(place)
            counts[teacher] = counts.get(teacher, 0) + 1
            total += 1
    return places
