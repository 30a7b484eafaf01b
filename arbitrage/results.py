"""Adds up what each language and teacher of a product won, and what other ways would have given.

The gain of a language is paired: per prompt, the chosen reward minus the best reward of one teacher
alone, against the teacher that is best there by itself. So it is zero when one teacher would do.
The same is told of other ways to choose; see `baselines`. Takes tables, reads no files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage import baselines
from arbitrage.baselines import Baseline, Lengths, moments_of
from arbitrage.columns import numbers, whole
from arbitrage.stats import Moments

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from arbitrage.components import Components


@dataclass
class TeacherResult:
    """One teacher in one language: prompts won (a part of one where others gave the very same
    answer), its own best rewards, and what choosing adds."""

    wins: float = 0.0
    alone: Moments = field(default_factory=Moments)
    gain: Moments = field(default_factory=Moments)


@dataclass
class LanguageResult:
    """One language of the product, by teacher name.

    `fixed` is the teacher that is best by itself over all of its family. `random` and `longest` are
    a teacher at random and the longest answer. `fuser`, which answers from the answers of others,
    is none that there could be by itself.
    """

    language: str
    family: str
    prompts: int = 0
    reward: Moments = field(default_factory=Moments)
    teachers: dict[str, TeacherResult] = field(default_factory=dict)
    fixed: str | None = None
    random: Baseline = field(default_factory=Baseline)
    longest: Baseline = field(default_factory=Baseline)
    lengths: Lengths = field(default_factory=Lengths)
    fuser: str | None = None

    @property
    def best_alone(self) -> str | None:
        """The teacher with the highest mean reward by itself."""
        answered = [name for name in self.singles if self.teachers[name].alone.count]
        return max(answered, key=lambda name: (self.teachers[name].alone.mean, name), default=None)

    @property
    def singles(self) -> list[str]:
        """All that have answers here, but for the fuser."""
        return [name for name in self.teachers if name != self.fuser]

    def of_teacher(self, name: str | None) -> Baseline:
        """One teacher alone, over the prompts that it has a usable answer to."""
        result = self.teachers.get(name or "", TeacherResult())
        return Baseline(result.alone, result.gain)


def beside(languages: Sequence[LanguageResult]) -> dict[str, Baseline]:
    """What other ways to choose would have given over some languages, by name."""
    found: dict[str, Baseline] = {}
    for row in languages:
        ways = {
            "best single teacher": row.of_teacher(row.best_alone),
            "one teacher per family": row.of_teacher(row.fixed),
            "random teacher": row.random,
            "longest answer": row.longest,
        }
        for name, way in ways.items():
            found.setdefault(name, Baseline()).add(way)
    return found


def lengths_over(languages: Sequence[LanguageResult]) -> Lengths:
    """How often the longest answer was chosen in some languages."""
    total = Lengths()
    for row in languages:
        total.add(row.lengths)
    return total


def told_beside(languages: Sequence[LanguageResult]) -> dict[str, Any]:
    """The two above as plain data; none for what is not known."""
    ways = {name: way.as_dict() for name, way in beside(languages).items()}
    return {"beside": ways, "lengths": asdict(lengths_over(languages))}


class Results:
    """Adds up shards of the product, language by language and teacher by teacher.

    What a teacher answered when it was asked again is its own too. Teachers that the components do
    not have, and gates that are not enforced, count for nothing.
    """

    def __init__(self, components: Components, enforced: Collection[str]) -> None:
        answering = components.answering
        self.names = [teacher.name for teacher in answering]
        places = {teacher.fingerprint: place for place, teacher in enumerate(answering)}
        places |= {variant.fingerprint: places[variant.role] for variant in components.variants}
        self._prints = list(places)
        self._places = np.array([*places.values(), -1], np.int64)
        self._families = components.families
        self._fuser = components.fuser.name if components.fuser else None
        self._singles = [place for place, name in enumerate(self.names) if name != self._fuser]
        self._enforced = enforced
        self.languages: dict[str, LanguageResult] = {}
        self.gates: dict[str, Counter[str]] = defaultdict(Counter)
        self.errors: Counter[str] = Counter()

    def add(self, table: pa.Table) -> Shard:
        """Takes in one shard, and gives back what was seen in it, one entry per prompt."""
        table = baselines.first_rows(table).combine_chunks()
        candidates = whole(table["candidates"])
        self._count_problems(candidates.flatten())
        made = self._looked_at(table, candidates)
        for code in sorted(set(made.language.tolist())):
            self._add_language(code, made.of(made.language == code))
        return made

    def settle(self) -> None:
        """Finds the teacher of each family, once everything is taken in."""
        families: dict[str, list[LanguageResult]] = defaultdict(list)
        for row in self.languages.values():
            families[row.family].append(row)
        for rows in families.values():
            fixed = _best_of(rows)
            for row in rows:
                row.fixed = fixed

    def _looked_at(self, table: pa.Table, candidates: pa.ListArray) -> Shard:
        prompts, teachers = table.num_rows, len(self.names)
        answers = baselines.answers_of(candidates, self._prints, self._enforced)
        answers = answers._replace(teacher=self._places[answers.teacher])
        owner = pc.fill_null(pc.index_in(table["teacher_fingerprint"], pa.array(self._prints)), -1)
        owners = self._places[numbers(owner)]
        chosen = baselines.is_chosen(answers, owners, numbers(table["sample"]))
        return Shard(
            table["language"].to_numpy(),
            table["reward"].to_numpy(),
            table["margin"].to_numpy(),
            owners,
            numbers(table["sample"]),
            baselines.best_alone(answers, teachers, prompts),
            baselines.shares_of_win(answers, chosen, teachers, prompts),
            baselines.longest_answer(answers, prompts),
            np.stack(baselines.lengths_of(answers, chosen, prompts)),
            baselines.asked_of(candidates, self._prints, self._places, teachers),
            answers,
        )

    def _count_problems(self, flat: pa.StructArray) -> None:
        """Errors and failed gates, by teacher."""
        owner = pc.index_in(flat.field("teacher_fingerprint"), pa.array(self._prints)).to_pylist()
        gates = flat.field("gates")
        parents = pc.list_parent_indices(gates).to_pylist()
        for parent, gate in zip(parents, gates.flatten().to_pylist(), strict=True):
            if owner[parent] is not None:
                self.gates[self.names[self._places[owner[parent]]]][gate] += 1
        for index in np.flatnonzero(flat.field("error").is_valid()).tolist():
            if owner[index] is not None:
                self.errors[self.names[self._places[owner[index]]]] += 1

    def _add_language(self, code: str, made: Shard) -> None:
        new = LanguageResult(code, self._families[code], fuser=self._fuser)
        row = self.languages.setdefault(code, new)
        row.prompts += len(made.reward)
        _add(row.reward, made.reward)
        by_lot = baselines.random_teacher(made.alone[self._singles])
        row.random.add(baselines.baseline(by_lot, made.reward))
        row.longest.add(baselines.baseline(made.longest, made.reward))
        differ, taken, chance = made.lengths
        long = int((differ * taken).sum())
        row.lengths.add(Lengths(int(differ.sum()), long, float((differ * chance).sum())))
        for number, name in enumerate(self.names):
            alone = made.alone[number]
            if np.isnan(alone).all():
                continue
            result = row.teachers.setdefault(name, TeacherResult())
            result.wins += float(made.won[number].sum())
            _add(result.alone, alone)
            _add(result.gain, made.reward - alone)


class Shard(NamedTuple):
    """What a product's rows hold: everything (..., prompts), of those that were selected.

    `margin` is nan where there is none; `owner` is the place of the teacher that was chosen among
    those of the `Results`, -1 where they do not have it, and `sample` which of its answers; `alone`
    (teachers, prompts) each one's best reward, nan without a usable answer; `won` (teachers,
    prompts) its part of the win; `longest` the reward of the longest answer; `lengths` (3, prompts)
    as `baselines.lengths_of` says; `asked` (teachers, prompts) how many completions it was asked
    for. `answers` are all usable candidates, which are numbered by rows.
    """

    language: Any
    reward: Any
    margin: Any
    owner: Any
    sample: Any
    alone: Any
    won: Any
    longest: Any
    lengths: Any
    asked: Any
    answers: baselines.Answers

    def of(self, rows: Any) -> Shard:
        """The same for some of the prompts; `answers` stay as they are."""
        told = self._asdict()
        del told["answers"]
        return self._replace(**{name: values[..., rows] for name, values in told.items()})


def _best_of(rows: Sequence[LanguageResult]) -> str | None:
    """The teacher with the highest mean reward by itself over some languages; if any has answers in
    all of them, one of those."""
    able = [set(row.singles) for row in rows]
    pool = set.intersection(*able) or set.union(*able)
    alone: dict[str, Moments] = {}
    for row in rows:
        for name in pool & set(row.singles):
            part = row.teachers[name].alone
            alone.setdefault(name, Moments()).add(part.count, part.total, part.squares)
    return max(alone, key=lambda name: (alone[name].mean, name), default=None)


def _add(moments: Moments, values: Any) -> None:
    more = moments_of(values)
    moments.add(more.count, more.total, more.squares)
