"""Chooses one candidate per prompt from arrays of scores; knows no files, teachers or texts.

Vectorised: a million candidates take about a second. A new rule is one function and one line in
`SELECTORS`. Every rule is deterministic and does not depend on the order of its input.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """All candidates of a shard, one entry each.

    `prompt` (int, index into `prompt_ids`), `teacher` (int, index into `teachers`, which are
    fingerprints), `sample` (int), `score` (float, nan where there is none), `eligible` (bool: has a
    score and passes every enforced gate).
    """

    prompt_ids: Sequence[str]
    teachers: Sequence[str]
    prompt: Ints
    teacher: Ints
    sample: Ints
    score: NDArray[np.float64]
    eligible: NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """`order`: candidate indices, prompt by prompt, best first; `starts`: where each prompt begins
    in it, with the total as last entry (length prompts + 1); `margin`: the best one's distance to
    the next eligible candidate, nan without one; `chosen`: whether the first can be chosen."""

    order: Ints
    starts: Ints
    margin: NDArray[np.float64]
    chosen: NDArray[np.bool_]


def best(field: Field) -> Choice:
    """The eligible candidate with the highest score.

    Ties go to the lowest BLAKE2b of "prompt id/teacher fingerprint/sample", so that no teacher wins
    them by its name or place in the config.
    """
    prompts = len(field.prompt_ids)
    score = np.where(np.isnan(field.score), -np.inf, field.score)
    rank = np.argsort(np.argsort(field.teachers))  # by fingerprint, not by place in the pool
    keys = (field.sample, rank[field.teacher], -score, ~field.eligible, field.prompt)
    order = np.lexsort(keys)
    starts = np.searchsorted(field.prompt[order], np.arange(prompts + 1))
    _break_ties(field, order)
    return Choice(order, starts, _margin(field, order, starts), _chosen(field, order, starts))


def _chosen(field: Field, order: Ints, starts: Ints) -> NDArray[np.bool_]:
    chosen = np.zeros(len(field.prompt_ids), dtype=bool)
    some = starts[1:] > starts[:-1]
    chosen[some] = field.eligible[order[starts[:-1][some]]]
    return chosen


def _margin(field: Field, order: Ints, starts: Ints) -> NDArray[np.float64]:
    margin = np.full(len(field.prompt_ids), np.nan)
    first = starts[:-1]
    two = np.flatnonzero(starts[1:] - first >= 2)
    winner, runner_up = order[first[two]], order[first[two] + 1]
    both = field.eligible[runner_up]
    margin[two[both]] = field.score[winner[both]] - field.score[runner_up[both]]
    return margin


def _break_ties(field: Field, order: Ints) -> None:
    """Reorders, in place, runs of eligible candidates of one prompt that have equal scores."""
    before, after = order[:-1], order[1:]
    equal = (
        (field.prompt[before] == field.prompt[after])
        & (field.score[before] == field.score[after])
        & field.eligible[before]
        & field.eligible[after]
    )
    place = 0
    ties = np.flatnonzero(equal)
    while place < len(ties):
        start = end = int(ties[place])
        while place < len(ties) and ties[place] == end:
            place, end = place + 1, end + 1
        run = order[start : end + 1]
        order[start : end + 1] = sorted(run.tolist(), key=lambda index: _lot(field, index))


def _lot(field: Field, index: int) -> bytes:
    prompt = field.prompt_ids[int(field.prompt[index])]
    teacher = field.teachers[int(field.teacher[index])]
    key = f"{prompt}/{teacher}/{int(field.sample[index])}"
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


SELECTORS: dict[str, Callable[[Field], Choice]] = {"best": best}
