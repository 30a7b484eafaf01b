"""What other ways to choose would have given, from the product alone; knows no files.

Four are computed beside every product: one teacher alone, a teacher at random, a fixed teacher per
family, the longest answer. All rewards are those of the Arbiter that chose, so choosing by it can
hardly look worse than any of them: how often it just took the longest answer is counted too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.columns import names_any
from arbitrage.stats import Moments

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

COLUMNS = [
    *("language", "teacher_fingerprint", "sample", "reward", "margin", "rank", "candidates"),
]
"""What is read of a product."""


def moments_of(values: Floats) -> Moments:
    """Of all values that are not nan."""
    known = values[~np.isnan(values)]
    return Moments(len(known), float(known.sum()), float((known**2).sum()))


@dataclass
class Baseline:
    """Rewards of another way to choose, and what the product gains over it, paired by prompt."""

    reward: Moments = field(default_factory=Moments)
    gain: Moments = field(default_factory=Moments)

    def add(self, other: Baseline) -> None:
        """Takes in more prompts."""
        for mine, more in ((self.reward, other.reward), (self.gain, other.gain)):
            mine.add(more.count, more.total, more.squares)

    @property
    def is_beaten(self) -> bool:
        """Whether the 95 % interval of the gain lies above 0."""
        return self.gain.mean - self.gain.half_width > 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data; none for what is not known."""
        told = {
            "reward": self.reward.mean,
            "gain": self.gain.mean,
            "interval": self.gain.half_width,
        }
        plain = {name: None if np.isnan(value) else value for name, value in told.items()}
        return {**plain, "prompts": self.gain.count}


def baseline(rewards: Floats, chosen: Floats) -> Baseline:
    """Both are (prompts,); nan where the other way has no answer."""
    return Baseline(moments_of(rewards), moments_of(chosen - rewards))


@dataclass
class Lengths:
    """How often the longest answer was chosen, over the `prompts` whose usable answers differ in
    length: so often (`longest`), and so often if one of them were drawn by lot (`chance`)."""

    prompts: int = 0
    longest: int = 0
    chance: float = 0.0

    def add(self, other: Lengths) -> None:
        """Takes in more prompts."""
        self.prompts += other.prompts
        self.longest += other.longest
        self.chance += other.chance


class Answers(NamedTuple):
    """All candidates of a product's prompts that could have been chosen, one entry each.

    `prompt` (index of the product's row), `teacher` (index into a list of fingerprints, -1 for one
    that is not in it), `sample`, `reward`, `chars` (nan where an older file does not know them),
    `twin` (same number in a prompt: the very same completion) and `distinct` (the first of those).
    """

    prompt: Ints
    teacher: Ints
    sample: Ints
    reward: Floats
    chars: Floats
    twin: Ints
    distinct: Bools


def first_rows(table: pa.Table) -> pa.Table:
    """The best row of each prompt: a rule may have given more."""
    return table.filter(pc.equal(pc.fill_null(table["rank"], 1), 1))


def answers_of(candidates: pa.ListArray, prints: Sequence[str], gates: Collection[str]) -> Answers:
    """The usable ones: those with a reward and without an error that fail none of these gates."""
    flat = candidates.flatten()
    reward = _floats(flat.field("reward"))
    sound = flat.field("error").is_null().to_numpy(zero_copy_only=False)
    usable = ~np.isnan(reward) & sound & ~names_any(flat.field("gates"), gates)
    prompt = pc.list_parent_indices(candidates).to_numpy().astype(np.int64)
    owner = pc.fill_null(
        pc.index_in(flat.field("teacher_fingerprint"), pa.array(prints, pa.string())), -1
    )
    starts = np.concatenate([[0], np.cumsum(candidates.value_lengths().to_numpy())])
    place = np.arange(len(flat)) - starts[prompt]
    same = _floats(flat.field("same_as"))
    twin = np.where(np.isnan(same), place, same).astype(np.int64)
    _, first = np.unique((starts[prompt] + twin)[usable], return_index=True)
    distinct = np.zeros(int(usable.sum()), dtype=bool)
    distinct[first] = True
    return Answers(
        prompt[usable],
        owner.to_numpy(zero_copy_only=False).astype(np.int64)[usable],
        flat.field("sample").to_numpy(zero_copy_only=False).astype(np.int64)[usable],
        reward[usable],
        _floats(flat.field("chars"))[usable],
        twin[usable],
        distinct,
    )


def asked_of(
    candidates: pa.ListArray, prints: Sequence[str], places: Ints, teachers: int
) -> NDArray[np.int16]:
    """(teachers, prompts): how many candidates of each there are, those of no use too. `places`
    says for each of the fingerprints which teacher it is; what is in neither is not counted."""
    names = candidates.flatten().field("teacher_fingerprint")
    known = pc.index_in(names, pa.array(prints, pa.string()))
    teacher = places[pc.fill_null(known, -1).to_numpy(zero_copy_only=False).astype(np.int64)]
    prompt = pc.list_parent_indices(candidates).to_numpy().astype(np.int64)
    mine, prompts = teacher >= 0, len(candidates)
    cells = np.bincount((teacher * prompts + prompt)[mine], minlength=teachers * prompts)
    return cells.reshape(teachers, prompts).astype(np.int16)


def _floats(column: pa.Array) -> Floats:
    values: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def best_alone(answers: Answers, teachers: int, prompts: int) -> Floats:
    """(teachers, prompts): the best reward of each teacher, nan where it has no usable answer."""
    best = np.full((teachers, prompts), -np.inf)
    known = answers.teacher >= 0
    np.maximum.at(best, (answers.teacher[known], answers.prompt[known]), answers.reward[known])
    return np.where(np.isinf(best), np.nan, best)


def random_teacher(alone: Floats) -> Floats:
    """(prompts,): the mean over the teachers that have a usable answer."""
    there = ~np.isnan(alone)
    total, number = np.where(there, alone, 0.0).sum(axis=0), np.count_nonzero(there, axis=0)
    return _divided(total, number)


def _divided(total: Any, number: Any) -> Floats:
    """Means; nan of nothing."""
    means: Floats = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    return means


def longest_answer(answers: Answers, prompts: int) -> Floats:
    """(prompts,): the reward of the longest usable answer, of several so long their mean."""
    mine = answers.distinct & (answers.chars == _most_chars(answers, prompts)[answers.prompt])
    number = np.bincount(answers.prompt[mine], minlength=prompts)
    total = np.bincount(answers.prompt[mine], answers.reward[mine], prompts)
    return _divided(total, number)


def _most_chars(answers: Answers, prompts: int) -> Floats:
    """(prompts,): characters of the longest usable answer, inf where any length is not known."""
    most = np.full(prompts, -1.0)
    known = np.where(np.isnan(answers.chars), np.inf, answers.chars)
    np.maximum.at(most, answers.prompt, known)
    return most


def is_chosen(answers: Answers, teacher: Ints, sample: Ints) -> Bools:
    """Per answer: whether it is its prompt's chosen one; `teacher` and `sample` are (prompts,)."""
    mine = (answers.teacher == teacher[answers.prompt]) & (answers.teacher >= 0)
    found: Bools = mine & (answers.sample == sample[answers.prompt])
    return found


def lengths_of(answers: Answers, chosen: Bools, prompts: int) -> tuple[Bools, Bools, Floats]:
    """Per prompt: whether its usable answers differ in length, whether the chosen one is a longest,
    and the share of longest ones among those that differ."""
    most = _most_chars(answers, prompts)[answers.prompt]
    each, long = answers.distinct, answers.distinct & (answers.chars == most)
    number = np.bincount(answers.prompt[each], minlength=prompts)
    longest = np.bincount(answers.prompt[long], minlength=prompts)
    differ = (longest > 0) & (longest < number)
    taken = np.zeros(prompts, dtype=bool)
    taken[answers.prompt[chosen & (answers.chars == most)]] = True
    return differ, taken, longest / np.maximum(number, 1)


def shares_of_win(answers: Answers, chosen: Bools, teachers: int, prompts: int) -> Floats:
    """(teachers, prompts): 1 for the chosen answer's teacher; where several gave the very same
    answer each has an equal part, however often it gave it."""
    twin = np.full(prompts, -1)
    twin[answers.prompt[chosen]] = answers.twin[chosen]
    same = (answers.twin == twin[answers.prompt]) & (answers.teacher >= 0)
    won = np.zeros((teachers, prompts))
    won[answers.teacher[same], answers.prompt[same]] = 1.0
    won /= np.maximum(won.sum(axis=0), 1)
    return won
