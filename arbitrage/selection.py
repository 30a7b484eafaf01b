"""Chooses among the candidates of each prompt from arrays; knows no files and no texts.

A rule says which candidates it could take and how many of a prompt. What goes with every rule (the
least reward, quotas, a cap per teacher) is applied to its answer. A new rule is one function and
one line in `SELECTORS`. Everything is deterministic and depends neither on the order of the input
nor on the names of teachers. A million candidates take a few seconds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from arbitrage.choices import in_language
from arbitrage.quotas import Limits, Offer, Tally, added, copied, filled, nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from arbitrage.choices import SelectionConfig

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

REASONS = ("", "unusable", "no_pair", "below_threshold", "over_quota", "over_teacher_share")
"""Why nothing of a prompt was taken: it was taken; it has no eligible candidate; the rule finds
none in it; none reaches the least reward or margin; its language has enough; its teachers do."""
TAKEN, UNUSABLE, NO_PAIR, BELOW, *_ = range(len(REASONS))
NOBODY = -1


@dataclass(frozen=True)
class Field:
    """All candidates of a shard, one entry each.

    `prompt` (int, index into `prompt_ids`), `teacher` (int, index into `teachers`, which are
    fingerprints), `sample` (int), `score` (float, nan where there is none), `eligible` (bool: has a
    score and passes every enforced gate), `text` (int; in a prompt equal numbers are the very same
    completion, below 0 there is none), `language` (int per prompt, index into `languages`).
    `standing` (float), where given, orders the candidates of the prompts that it is not nan for
    instead of the score, higher first: the Arbiter is not trusted there, and there is no margin.
    """

    prompt_ids: Sequence[str]
    teachers: Sequence[str]
    languages: Sequence[str]
    prompt: Ints
    teacher: Ints
    sample: Ints
    score: Floats
    eligible: Bools
    text: Ints
    language: Ints
    standing: Floats | None = None


@dataclass(frozen=True)
class Ranking:
    """The candidates of a field in order.

    `order`: candidate indices, prompt by prompt, best first, those that cannot be chosen last;
    `starts`: where each prompt begins in it, with the total as last entry (length prompts + 1). Per
    candidate: `eligible` (identical ones of a prompt are so only once), `same_as` (the first
    identical one in this order, often itself), `margin` (distance to the next eligible one, nan
    without one) and `trusted` (it is ordered by its score). `best` (per prompt): the first eligible
    one, else -1.
    """

    field: Field
    order: Ints
    starts: Ints
    eligible: Bools
    same_as: Ints
    margin: Floats
    trusted: Bools
    best: Ints


@dataclass(frozen=True)
class Choice:
    """Rows, prompt by prompt and best first: `prompt`, `candidate`, `place` (1 is the best) and
    `rejected` (a candidate, -1 where there is none); and per prompt `reason`, index into `REASONS`.
    """

    ranking: Ranking
    prompt: Ints
    candidate: Ints
    place: Ints
    rejected: Ints
    reason: Ints
    tally: Tally


class Picks(NamedTuple):
    """What a rule could take: `open` (bool per candidate), at most `most` of a prompt, each with
    what it is told apart from (`rejected`, index or -1) and how clearly (`distance`)."""

    open: Bools
    most: int
    rejected: Ints
    distance: Floats


def best(ranking: Ranking, config: SelectionConfig) -> Picks:
    """The eligible candidate with the highest score.

    Ties go to the lowest BLAKE2b of "prompt id/teacher fingerprint/sample", so that no teacher wins
    them by its name or place in the config.
    """
    return top_k(ranking, config)._replace(most=1)


def top_k(ranking: Ranking, config: SelectionConfig) -> Picks:
    """The `k` best different candidates of a prompt, or as many as there are, in rows of their own.

    What is measured by `min_margin` is how far the first is ahead of the second.
    """
    field = ranking.field
    first = np.append(ranking.margin, np.nan)[ranking.best]  # nan for a prompt that has no best
    nobody = np.full(len(field.prompt), NOBODY)
    return Picks(ranking.eligible, config.k, nobody, first[field.prompt])


def pairs(ranking: Ranking, config: SelectionConfig) -> Picks:
    """The best candidate beside the rejected one: the lowest score with another text.

    The rejected one must have a score, since it is chosen by it, but may fail gates: what fails one
    is what training shall lead away from. Of equal scores the lot decides. Where the two scores are
    equal, or the Arbiter is not trusted, there is no pair.
    """
    del config
    field = ranking.field
    rejected = _lowest_of_another_text(ranking)
    score = np.append(field.score, np.nan)
    distance = field.score - score[rejected]
    able = ranking.eligible & ranking.trusted & (distance > 0)
    return Picks(able, 1, rejected, distance)


SELECTORS: dict[str, Callable[[Ranking, SelectionConfig], Picks]] = {
    "best": best,
    "top_k": top_k,
    "pairs": pairs,
}


def choose(field: Field, config: SelectionConfig, earlier: Tally | None = None) -> Choice:
    """What is taken of each prompt; `earlier` is what was taken of the shards before this one.

    Where there is a quota or a cap, prompts have their turn by lot: rewards of different prompts
    cannot be compared, and whoever comes first in a file shall not have an advantage.
    """
    ranking = ranked(field)
    picks = SELECTORS[config.rule](ranking, config)
    able = picks.open & _reaches(config, field, picks)
    reason = np.full(len(field.prompt_ids), UNUSABLE)
    reason[_having(field, ranking.eligible)] = NO_PAIR
    reason[_having(field, picks.open)] = BELOW
    reason[_having(field, able)] = TAKEN
    take = _taken_by_lot if config.chained else _taken
    rows, tally = take(ranking, able, picks.most, config, reason, earlier or nothing())
    prompt = field.prompt[rows]
    first = np.searchsorted(prompt, prompt)
    place = np.arange(len(rows)) - first + 1
    return Choice(ranking, prompt, rows, place, picks.rejected[rows], reason, tally)


def _having(field: Field, which: Bools) -> Bools:
    """Per prompt: whether any of its candidates is among these."""
    found = np.zeros(len(field.prompt_ids), dtype=bool)
    found[field.prompt[which]] = True
    return found


def _reaches(config: SelectionConfig, field: Field, picks: Picks) -> Bools:
    """Per candidate: its reward and distance are not below the least ones of its language."""
    fine = np.ones(len(field.prompt), dtype=bool)
    for limit, value in (
        (config.min_reward, field.score),
        (config.min_margin, picks.distance),
    ):
        if limit is not None:
            told = [in_language(limit, code) for code in field.languages]
            least = np.array([-np.inf if one is None else one for one in told], np.float64)
            fine &= ~(value < least[field.language][field.prompt])
    return fine


def _taken(
    ranking: Ranking,
    able: Bools,
    most: int,
    config: SelectionConfig,
    reason: Ints,
    earlier: Tally,
) -> tuple[Ints, Tally]:
    """The best candidates of every prompt, and the tally with them."""
    del config, reason
    field = ranking.field
    rows = ranking.order[able[ranking.order]]
    prompt = field.prompt[rows]
    rows = rows[np.arange(len(rows)) - np.searchsorted(prompt, prompt) < most]
    return rows, _tallied(field, rows, earlier)


def _tallied(field: Field, rows: Ints, earlier: Tally) -> Tally:
    tally = copied(earlier)
    teachers: dict[int, list[str]] = {}
    for prompt, teacher in zip(
        field.prompt[rows].tolist(), field.teacher[rows].tolist(), strict=True
    ):
        teachers.setdefault(prompt, []).append(field.teachers[teacher])
    for prompt, owners in teachers.items():
        added(tally, field.languages[int(field.language[prompt])], owners)
    return tally


def _taken_by_lot(
    ranking: Ranking,
    able: Bools,
    most: int,
    config: SelectionConfig,
    reason: Ints,
    earlier: Tally,
) -> tuple[Ints, Tally]:
    """The same within quotas and caps; writes into `reason` why prompts were left out."""
    field = ranking.field
    quota = {code: in_language(config.quota, code) for code in field.languages}
    limits = Limits(most, quota, config.max_teacher_share)
    taken = filled(_offers(ranking, able), limits, earlier)
    for prompt, why in taken.reasons.items():
        reason[prompt] = REASONS.index(why)
    rows = [row for prompt in sorted(taken.rows) for row in taken.rows[prompt]]
    return np.array(rows, np.int64), taken.tally


def _offers(ranking: Ranking, able: Bools) -> list[Offer]:
    """What can be taken of each prompt, in the order of the lot."""
    field = ranking.field
    rows = ranking.order[able[ranking.order]]
    starts = np.searchsorted(field.prompt[rows], np.arange(len(field.prompt_ids) + 1)).tolist()
    teachers = [field.teachers[owner] for owner in field.teacher[rows].tolist()]
    languages = [field.languages[language] for language in field.language.tolist()]
    candidates = rows.tolist()
    return [
        Offer(prompt, languages[prompt], candidates[start:end], teachers[start:end])
        for prompt in sorted(range(len(field.prompt_ids)), key=lambda n: _draw(field.prompt_ids[n]))
        if (start := starts[prompt]) < (end := starts[prompt + 1])
    ]


def ranked(field: Field) -> Ranking:
    """Orders the candidates of every prompt and finds those that are identical."""
    trusted = np.ones(len(field.prompt), dtype=bool)
    worth = np.where(np.isnan(field.score), -np.inf, field.score)
    if field.standing is not None:
        trusted = np.isnan(field.standing)
        worth = np.where(trusted, worth, field.standing)
    owner = np.argsort(np.argsort(field.teachers))  # by fingerprint, not by place in the pool
    keys = (field.sample, owner[field.teacher], -worth, ~field.eligible, field.prompt)
    order = np.lexsort(keys)
    _break_ties(field, worth, order)
    itself = np.arange(len(order))
    eligible = field.eligible & (_firsts(field, order, field.eligible) == itself)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    order = np.lexsort((place, -worth, ~eligible, field.prompt))
    starts = np.searchsorted(field.prompt[order], np.arange(len(field.prompt_ids) + 1))
    same = _firsts(field, order, field.text >= 0)
    margin = np.where(trusted, _margin(field, order, eligible), np.nan)
    return Ranking(
        field, order, starts, eligible, same, margin, trusted, _first(order, starts, eligible)
    )


def _first(order: Ints, starts: Ints, eligible: Bools) -> Ints:
    """Per prompt the first candidate, if it is eligible."""
    found = np.full(len(starts) - 1, NOBODY)
    some = starts[1:] > starts[:-1]
    first = order[starts[:-1][some]]
    found[some] = np.where(eligible[first], first, NOBODY)
    return found


def _margin(field: Field, order: Ints, eligible: Bools) -> Floats:
    margin = np.full(len(order), np.nan)
    before, after = order[:-1], order[1:]
    both = (field.prompt[before] == field.prompt[after]) & eligible[before] & eligible[after]
    margin[before[both]] = field.score[before[both]] - field.score[after[both]]
    return margin


def _firsts(field: Field, order: Ints, among: Bools) -> Ints:
    """Per candidate: the first identical one of its prompt among these; itself if there is none."""
    firsts = np.arange(len(order))
    mine = order[among[order] & (field.text[order] >= 0)]
    mine = mine[np.lexsort((field.text[mine], field.prompt[mine]))]  # stable: order is kept
    prompt, text = field.prompt[mine], field.text[mine]
    new = np.ones(len(mine), dtype=bool)
    new[1:] = (prompt[1:] != prompt[:-1]) | (text[1:] != text[:-1])
    firsts[mine] = mine[new][np.cumsum(new) - 1]
    return firsts


def _lowest_of_another_text(ranking: Ranking) -> Ints:
    """Per candidate: the lowest-scored one of its prompt with another text, else -1."""
    field = ranking.field
    scored = np.flatnonzero(~np.isnan(field.score) & (field.text >= 0))
    order = scored[np.lexsort((field.score[scored], field.prompt[scored]))]
    _break_ties(field, field.score, order, eligible=False)
    starts = np.searchsorted(field.prompt[order], np.arange(len(field.prompt_ids) + 1))
    lowest = _first(order, starts, np.ones(len(field.prompt), dtype=bool))
    texts = np.append(field.text, NOBODY)
    differs = order[field.text[order] != texts[lowest][field.prompt[order]]]
    starts = np.searchsorted(field.prompt[differs], np.arange(len(field.prompt_ids) + 1))
    other = _first(differs, starts, np.ones(len(field.prompt), dtype=bool))
    mine = texts[lowest][field.prompt]
    found: Ints = np.where(mine == field.text, other[field.prompt], lowest[field.prompt])
    return found


def _break_ties(field: Field, worth: Floats, order: Ints, *, eligible: bool = True) -> None:
    """Reorders, in place, runs of candidates of one prompt that are worth the same; only those that
    are eligible, or all."""
    before, after = order[:-1], order[1:]
    equal = (field.prompt[before] == field.prompt[after]) & (worth[before] == worth[after])
    if eligible:
        equal &= field.eligible[before] & field.eligible[after]
    ties = np.flatnonzero(equal)
    if not len(ties):
        return
    new = np.flatnonzero(np.diff(ties, prepend=-2) > 1)
    lasts = np.append(new[1:], len(ties)) - 1
    for start, end in zip(ties[new].tolist(), (ties[lasts] + 2).tolist(), strict=True):
        run = order[start:end].tolist()
        order[start:end] = sorted(run, key=lambda index: _lot(field, index))


def _lot(field: Field, index: int) -> bytes:
    prompt = field.prompt_ids[int(field.prompt[index])]
    teacher = field.teachers[int(field.teacher[index])]
    return _draw(f"{prompt}/{teacher}/{int(field.sample[index])}")


def _draw(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
