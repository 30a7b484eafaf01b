"""Where two Arbiters disagree about the candidates of one run.

A run keeps the scores of every Arbiter that it ever had; this reads two of them, shard by shard,
and starts nothing. Both are looked at as `best` selects: ties go the same way, gates are left
aside. What is compared is always within a prompt, so the two may score on any scales.

    arbitrage compare runs/mine first-arbiter second-arbiter
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from arbitrage.errors import StoreError, UsageError
from arbitrage.measures import Share, share, spearman_within
from arbitrage.selection import Field, ranked
from arbitrage.stats import Moments
from arbitrage.store import shard_number
from arbitrage.views import open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arbitrage.components import Components
    from arbitrage.store import Listing, Store

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

STRONGEST = 5


class Judge(NamedTuple):
    """An Arbiter whose scores are in the run, and their folder."""

    name: str
    fingerprint: str
    folder: str


@dataclass(frozen=True)
class Disagreement:
    """Two Arbiters on the prompts of one language, or on all.

    `prompts` have at least two candidates that both have scored; on the `differ` share of them the
    two would pick another one. `agreement`: mean of Spearman's rank correlation of the two within
    the prompt, over the `ranked` prompts where it is defined. `length`: the same of each with the
    completion's length in characters. `picks`: by teacher the share of prompts that each gives it.
    """

    prompts: int
    differ: Share
    ranked: int
    agreement: float | None
    length: tuple[float | None, float | None]
    picks: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Contested:
    """A prompt on which the two pick differently.

    `strength`: what the first loses by the second's pick times what the second loses by the
    first's, each in its own points; so the order does not depend on either scale.
    """

    strength: float
    prompt_id: str
    language: str
    first: tuple[str, int]
    second: tuple[str, int]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `unmatched`: files of scores, of either, that have no counterpart made
    from the same candidates; `single`: prompts with fewer than two candidates to choose from."""

    run: str
    first: Judge
    second: Judge
    overall: Disagreement
    languages: dict[str, Disagreement]
    strongest: tuple[Contested, ...]
    single: int
    unmatched: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def compare(
    place: Path | str, first: str, second: str, tell: Callable[[int, int], None]
) -> Comparison:
    """Compares two Arbiters by name or fingerprint. `tell` hears how many shards are done, of all.

    Raises UsageError for a name that is unknown or ambiguous, and where there is nothing that both
    have scored.
    """
    store, components = open_run(place)
    listing = store.listing()
    judges = _judges(listing, components)
    a, b = (find(judges, name) for name in (first, second))
    if a.fingerprint == b.fingerprint:
        raise UsageError(f"{first!r} and {second!r} are one Arbiter; {_known(judges)}")
    names = _names(listing, components)
    matched, unmatched = _matched(listing, a, b)
    tally = _Tally(names)
    for done, (number, parts) in enumerate(sorted(matched.items()), start=1):
        shard = _Shard(store, listing, number)
        unmatched += 2 * sum(not shard.add(part) for part in parts)
        tally.add(shard)
        tell(done, len(matched))
    if not tally.by_language:
        raise UsageError(
            f"there is no prompt of which {first!r} and {second!r} have both scored two "
            "candidates; `arbitrage run` with each of them in the config first"
        )
    return Comparison(
        store.address(),
        a,
        b,
        _summed(list(tally.by_language.values())).told(names),
        {code: counts.told(names) for code, counts in sorted(tally.by_language.items())},
        tuple(tally.strongest),
        tally.single,
        unmatched,
    )


def _names(listing: Listing, components: Components) -> dict[str, str]:
    """Teachers by fingerprint; one that the config has no more by its whole folder name."""
    made = listing.folders.items()
    told = {own: folder.rpartition("/")[2] for (kind, own), folder in made if kind == "candidates"}
    return told | {t.fingerprint: t.name for t in (*components.answering, *components.variants)}


def _judges(listing: Listing, components: Components) -> list[Judge]:
    """All Arbiters with scores; the current ones by their names of today."""
    now = {arbiter.fingerprint: arbiter.name for arbiter in components.arbiters}
    found = []
    for (parent, fingerprint), folder in sorted(listing.folders.items()):
        if parent == "scores":
            name = folder.removeprefix("scores/").removesuffix(f"-{fingerprint}")
            found.append(Judge(now.get(fingerprint, name), fingerprint, folder))
    return found


def find(judges: Sequence[Judge], wanted: str) -> Judge:
    """By name, by `name-fingerprint`, or by the start of a fingerprint; names go first.

    Raises UsageError, which lists what there is, where that is nobody or not one alone.
    """
    named = [one for one in judges if wanted in (one.name, f"{one.name}-{one.fingerprint}")]
    found = named or [one for one in judges if wanted and one.fingerprint.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    what = "more than one Arbiter" if found else "no Arbiter"
    raise UsageError(f"{wanted!r} is {what} with scores in this run; {_known(judges)}")


def _known(judges: Sequence[Judge]) -> str:
    told = ", ".join(f"{one.name} ({one.fingerprint})" for one in judges)
    return f"give a name or fingerprint of these: {told or 'there are none yet'}"


class _Part(NamedTuple):
    """The scores of one teacher's candidates by both, and the file of the candidates if any."""

    teacher: str
    first: str
    second: str
    candidates: str | None


def _matched(listing: Listing, a: Judge, b: Judge) -> tuple[dict[int, list[_Part]], int]:
    """By shard the files that both have, and how many only one has."""
    by_folder: dict[str, set[str]] = defaultdict(set)
    for path in listing.files:
        folder, _, name = path.rpartition("/")
        by_folder[folder].add(name)
    found: dict[int, list[_Part]] = defaultdict(list)
    alone = 0
    for teacher in sorted(
        {key for parent, key in listing.folders if parent in (a.folder, b.folder)}
    ):
        own, other = (listing.folders.get((one.folder, teacher), "") for one in (a, b))
        alone += len(by_folder[own] ^ by_folder[other])
        made = listing.folders.get(("candidates", teacher), "")
        for name in sorted(by_folder[own] & by_folder[other]):
            candidates = f"{made}/{name}" if name in by_folder[made] else None
            part = _Part(teacher, f"{own}/{name}", f"{other}/{name}", candidates)
            found[shard_number(name)].append(part)
    return found, alone


class _Shard:
    """All candidates of one shard that both have scored, one entry each."""

    def __init__(self, store: Store, listing: Listing, number: int) -> None:
        self._store = store
        paths = [path for path in listing.files if path.startswith(f"prompts/{number:05d}.")]
        if len(paths) != 1:
            raise StoreError(f"there are {len(paths)} prompt files of shard {number}, not one")
        table = store.read(paths[0], columns=["prompt_id", "language"]).table
        self.prompt_ids: list[str] = table["prompt_id"].to_pylist()
        self.languages: list[str] = table["language"].to_pylist()
        self._place = {key: row for row, key in enumerate(self.prompt_ids)}
        self.teachers: list[str] = []
        self._rows: dict[tuple[int, int, int], tuple[float, float, float]] = {}

    def add(self, part: _Part) -> bool:
        """Takes in one teacher's scores; False where the two were given other candidates."""
        first, second = self._store.read(part.first), self._store.read(part.second)
        basis = first.footer.get("candidates")
        if basis != second.footer.get("candidates"):
            return False
        keys, samples = (first.table[name].to_pylist() for name in ("prompt_id", "sample"))
        if [keys, samples] != [second.table[n].to_pylist() for n in ("prompt_id", "sample")]:
            raise StoreError(f"{part.first} and {part.second} hold other candidates")
        if part.teacher not in self.teachers:
            self.teachers.append(part.teacher)
        teacher = self.teachers.index(part.teacher)
        scores = zip(*(c.table["score"].to_pylist() for c in (first, second)), strict=True)
        lengths = self._lengths(part.candidates, basis, len(keys))
        for key, sample, (one, other), chars in zip(keys, samples, scores, lengths, strict=True):
            if one is not None and other is not None:
                self._rows[self._place[key], teacher, sample] = (one, other, chars)
        return True

    def _lengths(self, path: str | None, basis: Any, count: int) -> list[float]:
        """Characters of the completions; nan where they are no longer there."""
        content = self._store.read(path, columns=["completion"]) if path else None
        if content is None or content.digest != basis:
            return [np.nan] * count
        chars = pc.utf8_length(content.table["completion"]).to_pylist()
        return [np.nan if one is None else float(one) for one in chars]

    def columns(self) -> tuple[Ints, Ints, Ints, Floats, Floats, Floats]:
        """Prompt, teacher, sample; both scores and the length: (candidates,) each."""
        places = np.array(list(self._rows), np.int64).reshape(-1, 3)
        values = np.array(list(self._rows.values()), np.float64).reshape(-1, 3)
        prompt, teacher, sample = places.T
        first, second, chars = values.T
        return prompt, teacher, sample, first, second, chars


@dataclass
class _Counts:
    """Of one language, so far."""

    prompts: int = 0
    differ: int = 0
    ranks: tuple[Moments, Moments, Moments] = field(
        default_factory=lambda: (Moments(), Moments(), Moments())
    )
    picks: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))

    def told(self, names: Mapping[str, str]) -> Disagreement:
        """As shares and means; teachers by name, an unknown one by its fingerprint."""
        agreement, first, second = (one.mean if one.count else None for one in self.ranks)
        return Disagreement(
            self.prompts,
            share(self.differ, self.prompts),
            self.ranks[0].count,
            agreement,
            (first, second),
            {
                names.get(key, key): (
                    self.picks[0][key] / self.prompts,
                    self.picks[1][key] / self.prompts,
                )
                for key in sorted({*self.picks[0], *self.picks[1]})
            },
        )


def _summed(parts: Iterable[_Counts]) -> _Counts:
    total = _Counts()
    for part in parts:
        total.prompts += part.prompts
        total.differ += part.differ
        for own, other in zip(total.ranks, part.ranks, strict=True):
            own.add(other.count, other.total, other.squares)
        for mine, others in zip(total.picks, part.picks, strict=True):
            mine.update(others)
    return total


class _Tally:
    """Adds up shards in constant memory."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.by_language: dict[str, _Counts] = {}
        self.strongest: list[Contested] = []
        self.single = 0

    def add(self, shard: _Shard) -> None:
        """One shard's prompts."""
        prompt, teacher, sample, first, second, chars = shard.columns()
        count = len(shard.prompt_ids)
        sizes = np.bincount(prompt, minlength=count)
        self.single += int((sizes < 2).sum())
        asked = np.flatnonzero(sizes >= 2)
        picks = [_picks(shard, prompt, teacher, sample, own) for own in (first, second)]
        ranks = (
            spearman_within(prompt, count, first, second),
            _with_length(prompt, count, first, chars),
            _with_length(prompt, count, second, chars),
        )
        for place in asked.tolist():
            own, other = int(picks[0][place]), int(picks[1][place])
            counts = self.by_language.setdefault(shard.languages[place], _Counts())
            counts.prompts += 1
            counts.differ += own != other
            for moments, found in zip(counts.ranks, ranks, strict=True):
                if not np.isnan(found[place]):
                    moments.add(1, float(found[place]), float(found[place]) ** 2)
            for counter, pick in zip(counts.picks, (own, other), strict=True):
                counter[shard.teachers[teacher[pick]]] += 1
            if own != other:
                lost = (first[own] - first[other]) * (second[other] - second[own])
                told = [
                    (self._name(shard.teachers[teacher[pick]]), int(sample[pick]))
                    for pick in (own, other)
                ]
                self._note(
                    Contested(float(lost), shard.prompt_ids[place], shard.languages[place], *told)
                )

    def _name(self, teacher: str) -> str:
        return self._names.get(teacher, teacher)

    def _note(self, contested: Contested) -> None:
        self.strongest = heapq.nsmallest(
            STRONGEST, [*self.strongest, contested], key=lambda one: (-one.strength, one.prompt_id)
        )


def _picks(shard: _Shard, prompt: Ints, teacher: Ints, sample: Ints, score: Floats) -> Ints:
    """By prompt the candidate that `best` chooses by these scores; -1 where there is none."""
    each = np.arange(len(score))
    alike = np.zeros(len(shard.prompt_ids), np.int64)
    fields = (prompt, teacher, sample, score, each >= 0, each, alike)
    return ranked(Field(shard.prompt_ids, shard.teachers, [""], *fields)).best


def _with_length(prompt: Ints, count: int, score: Floats, chars: Floats) -> Floats:
    known = ~np.isnan(chars)
    return spearman_within(prompt[known], count, score[known], chars[known])
