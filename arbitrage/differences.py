"""What differs between two runs: their configs, what they chose for the same prompts, their costs.

Reads files only, shard by shard. Rewards are compared where one and the same Arbiter gave both, and
nowhere else.

    arbitrage diff runs/first runs/second
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arbitrage.baselines import moments_of
from arbitrage.errors import UsageError
from arbitrage.failures import failures
from arbitrage.fields import Change, differing
from arbitrage.gates import GATES
from arbitrage.sides import QUARANTINED, SELECTED, Side, labels_of, unpacked
from arbitrage.stats import Moments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arbitrage.components import Components
    from arbitrage.costs import Cost
    from arbitrage.failures import Failures

    Array = NDArray[Any]
    Sides = tuple[Side, Side]
    Tell = Callable[[int, int], None]


@dataclass
class Shared:
    """The prompts of one language, or of all, that are in both runs.

    `selected`: in both, of which the completion is the `same`, or another one of the same teacher
    (`reworded`), or another teacher's (`other`). `lost`: selected in the first run and quarantined
    in the second, `found`: the reverse. `rewards` and `difference` (second less first, paired) are
    of the `selected` whose rewards can be compared. `won`: by teacher its parts of wins in each
    run, of the `each` prompts that the run has selected.
    """

    prompts: int = 0
    selected: int = 0
    same: int = 0
    reworded: int = 0
    other: int = 0
    lost: int = 0
    found: int = 0
    rewards: tuple[Moments, Moments] = field(default_factory=lambda: (Moments(), Moments()))
    difference: Moments = field(default_factory=Moments)
    each: list[int] = field(default_factory=lambda: [0, 0])
    won: dict[str, list[float]] = field(default_factory=dict)

    def add(self, more: Shared) -> None:
        """Counts other prompts too."""
        for name in ("prompts", "selected", "same", "reworded", "other", "lost", "found"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        pairs = zip((*self.rewards, self.difference), (*more.rewards, more.difference), strict=True)
        for own, others in pairs:
            own.add(others.count, others.total, others.squares)
        for place in (0, 1):
            self.each[place] += more.each[place]
        for name, parts in more.won.items():
            mine = self.won.setdefault(name, [0.0, 0.0])
            self.won[name] = [a + b for a, b in zip(mine, parts, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; none for what is not known."""
        told = asdict(self)
        del told["rewards"], told["difference"], told["each"]
        first, second = self.rewards
        known = self.difference.count
        half = self.difference.half_width
        return told | {
            "won": {name: list(self.shares(name)) for name in self.won},
            "compared": known,
            "rewards": [first.mean, second.mean] if known else None,
            "difference": self.difference.mean if known else None,
            "half_width": None if np.isnan(half) else half,
        }

    def shares(self, name: str) -> tuple[float, float]:
        """What a teacher won in each run."""
        first, second = self.won.get(name, [0.0, 0.0])
        return first / max(1, self.each[0]), second / max(1, self.each[1])


class Answer(NamedTuple):
    """What a run has chosen for a prompt."""

    teacher: str
    reward: float
    completion: str


@dataclass(frozen=True)
class Row:
    """A prompt with both answers; `difference` is that of their rewards, if they compare."""

    prompt_id: str
    language: str
    prompt: str
    first: Answer
    second: Answer
    difference: float | None


@dataclass(frozen=True)
class Differences:
    """What `diff` found. Pairs are of the first and the second run.

    `parts`: components by kind and name with both fingerprints, those that differ alone. `only`:
    prompts that just one has. `incomparable`: why no rewards are compared, if none are. `reasons`:
    of the prompts that one has selected and the other quarantined. `gates`: share of all candidates
    that fails each; `costs`: by name and stage.
    """

    runs: tuple[str, str]
    changes: list[Change]
    parts: dict[str, tuple[str | None, str | None]]
    prompts: tuple[int, int]
    only: tuple[int, int]
    incomparable: str
    overall: Shared
    languages: dict[str, Shared]
    reasons: tuple[dict[str, int], dict[str, int]]
    candidates: tuple[int, int]
    gates: dict[str, tuple[float, float]]
    costs: dict[tuple[str, str], tuple[Cost | None, Cost | None]]
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        costs = [
            {
                "name": name,
                "stage": stage,
                "first": first.as_dict() if first else None,
                "second": second.as_dict() if second else None,
            }
            for (name, stage), (first, second) in self.costs.items()
        ]
        rows = [
            asdict(row) | {"first": row.first._asdict(), "second": row.second._asdict()}
            for row in self.rows
        ]
        return {
            **{name: getattr(self, name) for name in ("runs", "parts", "prompts", "only")},
            **{name: getattr(self, name) for name in ("incomparable", "reasons", "gates")},
            "candidates": self.candidates,
            "changes": [one._asdict() for one in self.changes],
            "overall": self.overall.as_dict(),
            "languages": {code: one.as_dict() for code, one in self.languages.items()},
            "costs": costs,
            "rows": rows,
        }


def diff(first: Path | str, second: Path | str, tell: Tell, rows: int = 0) -> Differences:
    """Compares two runs, with the `rows` prompts that differ most. `tell` hears how many shards of
    both are read, of all. Raises UsageError where either is no run or both are the same."""
    sides = (Side(first), Side(second))
    if sides[0].store.address() == sides[1].store.address():
        raise UsageError(f"{first} and {second} are one run; give two")
    shared = np.intersect1d(sides[0].ids, sides[1].ids, assume_unique=True)
    labels = labels_of(*sides)
    codes = sides[0].languages_of(shared)
    total, done = sum(len(side.files) for side in sides), 0
    for side, names in zip(sides, labels, strict=True):
        for _ in side.read(shared, codes, names):
            done += 1
            tell(done, total)
    why = incomparable(sides[0].components, sides[1].components)
    languages = _by_language(sides, codes, comparable=not why)
    overall = Shared()
    for one in languages.values():
        overall.add(one)
    found = [failures(side.store.root) for side in sides]
    return Differences(
        (sides[0].store.address(), sides[1].store.address()),
        _changes(sides),
        _parts(sides),
        (len(sides[0].ids), len(sides[1].ids)),
        (len(sides[0].ids) - len(shared), len(sides[1].ids) - len(shared)),
        why,
        overall,
        languages,
        _reasons(sides),
        (_candidates(found[0]), _candidates(found[1])),
        _gates(found),
        _costs(sides),
        _rows(sides, rows, comparable=not why),
    )


def incomparable(first: Components, second: Components) -> str:
    """Why rewards of two runs have no common scale, in words; nothing where they have one."""
    prints = [[one.fingerprint for one in side.arbiters] for side in (first, second)]
    if prints[0] != prints[1]:
        return "the two runs have other Arbiters"
    if first.judging.slopes != second.judging.slopes:
        return "the two runs take another part of length from the rewards"
    if len(prints[0]) > 1:
        rules = [side.judging.identity(prints[0]) for side in (first, second)]
        pools = [sorted(one.fingerprint for one in side.answering) for side in (first, second)]
        if rules[0] != rules[1] or pools[0] != pools[1]:
            return "rewards of several Arbiters combined hold within one pool and one rule only"
    return ""


def _by_language(sides: Sides, codes: Array, *, comparable: bool) -> dict[str, Shared]:
    """What both did with the shared prompts, by the language that they have in the first run."""
    compared = _compared(sides) if comparable else np.zeros(len(codes), bool)
    found = {n: _shared(sides, codes == n, compared) for n in np.unique(codes).tolist()}
    for place, side in enumerate(sides):
        for (number, name), amount in side.wins.items():
            found[number].won.setdefault(name, [0.0, 0.0])[place] += amount
    names = sides[0].codes
    return {names[n]: found[n] for n in sorted(found, key=lambda n: names[n])}


def _both(sides: Sides) -> Array:
    """(shared,): whether both have selected an answer."""
    chosen: Array = (sides[0].state == SELECTED) & (sides[1].state == SELECTED)
    return chosen


def _compared(sides: Sides) -> Array:
    """(shared,): whether both rewards are there, and are the Arbiter's of today."""
    known: Array = _both(sides) & sides[0].judged & sides[1].judged
    return known


def _same_teacher(sides: Sides) -> Array:
    first, second = sides
    places = {label: number for number, label in enumerate(first.labels)}
    moved = np.array([*(places.get(label, -2) for label in second.labels), -2], np.int64)
    same: Array = moved[second.teacher] == first.teacher
    return same


def _shared(sides: Sides, mine: Array, compared: Array) -> Shared:
    first, second = sides
    both = mine & _both(sides)
    same = both & (first.text == second.text)
    reworded = both & ~same & _same_teacher(sides)
    rows = mine & compared
    lost = mine & (first.state == SELECTED) & (second.state == QUARANTINED)
    found = mine & (first.state == QUARANTINED) & (second.state == SELECTED)
    return Shared(
        int(mine.sum()),
        int(both.sum()),
        int(same.sum()),
        int(reworded.sum()),
        int((both & ~same & ~reworded).sum()),
        int(lost.sum()),
        int(found.sum()),
        (moments_of(first.reward[rows]), moments_of(second.reward[rows])),
        moments_of(second.reward[rows] - first.reward[rows]),
        [int((mine & (side.state == SELECTED)).sum()) for side in sides],
    )


def _reasons(sides: Sides) -> tuple[dict[str, int], dict[str, int]]:
    """Why prompts that the other run has selected are quarantined, in each."""
    told = []
    for side, other in (sides, sides[::-1]):
        moved = (side.state == QUARANTINED) & (other.state == SELECTED)
        counts = np.bincount(side.reason[moved], minlength=len(side.reasons)).tolist()
        told.append({why: n for why, n in zip(side.reasons, counts, strict=True) if n})
    return told[0], told[1]


def _changes(sides: Sides) -> list[Change]:
    """Fields that differ. Where a teacher or an Arbiter is the same one all the same, its model
    just lies in another folder."""
    parts = _parts(sides)
    places = {
        f"teachers.{t.name}.model": f"candidates/{t.name}" for t in sides[0].components.teachers
    }
    for arbiter in sides[0].components.arbiters:
        alone = sides[0].config.arbiter is not None
        place = "arbiter" if alone else f"arbiters.{arbiter.name}"
        places[f"{place}.model"] = f"scores/{arbiter.name}"
    same = {place for place, name in places.items() if name not in parts}
    found = [
        change._replace(identity=change.identity and change.field not in same)
        for change in differing(sides[0].config, sides[1].config, but=("run",))
    ]
    return sorted(found, key=lambda one: not one.identity)


def _parts(sides: Sides) -> dict[str, tuple[str | None, str | None]]:
    """Fingerprints of components that differ, by kind and name."""
    known = []
    for side in sides:
        made = side.components
        parts = [made.router, made.gates, made.selector, made.retry, made.fuse, *made.served]
        known.append({f"{one.kind}/{one.name}": one.fingerprint for one in parts if one})
    first, second = known
    names = dict.fromkeys((*first, *second))
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _candidates(found: Failures) -> int:
    return sum(rates.candidates for rates in found.rates.values())


def _gates(found: Sequence[Failures]) -> dict[str, tuple[float, float]]:
    """The share of each run's candidates that fails a gate, of those that any fails."""
    counts = [
        {gate: sum(rates.failed[gate] for rates in one.rates.values()) for gate in GATES}
        for one in found
    ]
    totals = [max(1, _candidates(one)) for one in found]
    return {
        gate: (counts[0][gate] / totals[0], counts[1][gate] / totals[1])
        for gate in GATES
        if counts[0][gate] or counts[1][gate]
    }


def _costs(sides: Sides) -> dict[tuple[str, str], tuple[Cost | None, Cost | None]]:
    first, second = ({(cost.name, cost.stage): cost for cost in s.costs()} for s in sides)
    names = dict.fromkeys((*first, *second))
    return {name: (first.get(name), second.get(name)) for name in names}


def _rows(sides: Sides, count: int, *, comparable: bool) -> list[Row]:
    """The prompts whose rewards differ most; where rewards do not compare, the first by id whose
    answers differ. Only prompts with two answers that differ are shown."""
    first, second = sides
    differ = _both(sides) & (first.text != second.text)
    gap = second.reward - first.reward
    places = np.flatnonzero(differ & _compared(sides) if comparable else differ)
    if comparable:
        places = places[np.argsort(-np.abs(gap[places]), kind="stable")]
    chosen = places[:count].tolist()
    codes = first.languages_of(first.shared[chosen])
    answers = [_answers(side, chosen) for side in sides]
    asked = _prompts(first, chosen)
    return [
        Row(
            unpacked(first.shared[place]),
            first.codes[code],
            asked[place],
            answers[0][place],
            answers[1][place],
            float(gap[place]) if comparable else None,
        )
        for place, code in zip(chosen, codes.tolist(), strict=True)
    ]


def _answers(side: Side, places: Sequence[int]) -> dict[int, Answer]:
    """The chosen answers to some of the shared prompts."""
    columns = ["prompt_id", "rank", "teacher", "reward", "completion"]
    found = {}
    for path, wanted in _by_shard(side, places).items():
        for row in side.store.read(path, columns=columns).table.to_pylist():
            if row["prompt_id"] in wanted and row["rank"] in (None, 1):
                answer = Answer(row["teacher"], row["reward"], row["completion"])
                found[wanted[row["prompt_id"]]] = answer
    return found


def _prompts(side: Side, places: Sequence[int]) -> dict[int, str]:
    """The last turn of some of the shared prompts."""
    paths = {shard.number: shard.path for shard in side.shards}
    found = {}
    for number in sorted({int(side.shard[place]) for place in places}):
        wanted = {unpacked(side.shared[n]): n for n in places if side.shard[n] == number}
        table = side.store.read(paths[number], columns=["prompt_id", "messages"]).table
        for row in table.to_pylist():
            if row["prompt_id"] in wanted:
                found[wanted[row["prompt_id"]]] = row["messages"][-1]["content"]
    return found


def _by_shard(side: Side, places: Sequence[int]) -> dict[str, dict[str, int]]:
    """Per file of the product the ids that are wanted of it, with their places."""
    found: dict[str, dict[str, int]] = {}
    paths = {int(path.rpartition("/")[2].split(".")[0]): path for path in side.files}
    for place in places:
        own = found.setdefault(paths[int(side.shard[place])], {})
        own[unpacked(side.shared[place])] = place
    return found
