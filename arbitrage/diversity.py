"""How diverse a set of answers in one language is, and how two sets over the same prompts compare.

Training on one teacher's answers makes a model that says the same things the same way; figures of
that are distinct-n (Li et al. 2016, arXiv 1510.03055), the mean similarity of two answers, and how
well they compress (Shaib et al. 2024, arXiv 2403.00553). All depend on how many answers there are
and how long they are: compare sets over the same prompts only, and look at the lengths beside.

Distinct-n counts words, and letters in scripts without spaces, as `loops` does: of those, the third
is the one to look at. Strings in, figures out; knows no files, teachers or rewards.
Invariant: the order of the answers changes no figure but the error of a difference, a little.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arbitrage.loops import words_of
from arbitrage.stats import Z95

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

ORDERS = (1, 2, 3)
FIGURES = (*(f"distinct_{n}" for n in ORDERS), "similarity", "chars", "words")
"""What two sets are compared by; the last two are mean lengths."""
LEAST = 20
"""Prompts below which a difference has no error."""
GROUPS = 40
"""Parts that are left out in turn for the error of a difference."""
_BUCKETS = 2**15
_BATCH = 1000
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93], np.uint64)
_LETTER_FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], np.uint32)
_PAD = "\x02\x02"


class Quantiles(NamedTuple):
    """Mean, and the 10, 50 and 90 % quantiles; nan of nothing."""

    mean: float
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Diversity:
    """Figures of a set of answers; nan where there is nothing to tell.

    `distinct`: different 1-, 2- and 3-grams of words / all of them. `similarity`: mean over all
    pairs of the cosine of their counts of character 3-grams, 1 where all say the same.
    `compression`: bytes / zlib's bytes of all of them, sorted; higher is more of the same. `chars`
    and `words` are lengths.
    """

    answers: int
    distinct: tuple[float, ...]
    similarity: float
    compression: float
    chars: Quantiles
    words: Quantiles

    def as_dict(self) -> dict[str, Any]:
        """Plain data; none for what is not known."""
        told = {f"distinct_{n}": v for n, v in zip(ORDERS, self.distinct, strict=True)}
        told |= {"similarity": self.similarity, "compression": self.compression}
        lengths = {"chars": self.chars, "words": self.words}
        return {
            "answers": self.answers,
            **{name: number(value) for name, value in told.items()},
            **{
                name: {part: number(value) for part, value in one._asdict().items()}
                for name, one in lengths.items()
            },
        }


class Difference(NamedTuple):
    """A set's figure minus another's, and its standard error; nan where it is not known."""

    value: float
    error: float

    def as_dict(self) -> dict[str, float | None]:
        """Plain data; `interval` is half of the 95 % interval."""
        return {"value": number(self.value), "interval": number(Z95 * self.error)}


@dataclass(frozen=True)
class Comparison:
    """Two sets over the prompts that both have an answer to: the selected one, and one teacher
    alone. `differences` maps each of `FIGURES` to selected minus alone."""

    prompts: int
    selected: Diversity
    alone: Diversity
    differences: dict[str, Difference]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "prompts": self.prompts,
            "selected": self.selected.as_dict(),
            "alone": self.alone.as_dict(),
            "differences": {name: one.as_dict() for name, one in self.differences.items()},
        }


def number(value: float) -> float | None:
    """None for nan, which JSON does not have."""
    return None if np.isnan(value) else float(value)


def entropy(counts: Iterable[float]) -> float:
    """Of shares, in bits: 0 where one has everything, log2(n) where n have the same; 0 of none."""
    some = np.array([count for count in counts if count > 0], np.float64)
    shares = some / some.sum() if len(some) else some
    return float(max(0.0, -(shares * np.log2(shares)).sum()))


def measured(answers: Sequence[str]) -> Diversity:
    """The figures of one set."""
    rows = np.ones(len(answers), dtype=bool)
    return _seen(_Made(answers), rows, np.zeros(len(answers), np.int64), 0).diversity


def compared(
    selected: Sequence[str | None], alone: Mapping[str, Sequence[str | None]], seed: int = 0
) -> dict[str, Comparison]:
    """Each set of `alone` beside the selected one, by its name; position by position the answers to
    one prompt, none where there is none. A specialist answers few prompts, so each is compared over
    those that both answered.

    The error of a difference is a delete-a-group jackknife over prompts: the prompts fall into
    `GROUPS` parts by lot, and both sets lose the same part. A bootstrap would draw answers twice,
    which lowers distinct-n by itself. The jackknife's error is rather too large than too small
    (Efron and Stein 1981). Compression has none: it would take too long.

    Raises ValueError where lengths differ.
    """
    if any(len(answers) != len(selected) for answers in alone.values()):
        raise ValueError("every set must have one place per prompt")
    mine = _Made(selected)
    looked_at: dict[bytes, _Seen] = {}
    found = {}
    for name, answers in alone.items():
        other = _Made(answers)
        both = mine.there & other.there
        parts = _parts(both, seed)
        key = both.tobytes()
        if key not in looked_at:
            looked_at[key] = _seen(mine, both, *parts)
        first, second = looked_at[key], _seen(other, both, *parts)
        pairs = zip(FIGURES, first.figures, second.figures, strict=True)
        differences = {name: _difference(one - two) for name, one, two in pairs}
        told = (first.diversity, second.diversity, differences)
        found[name] = Comparison(int(both.sum()), *told)
    return found


class _Made:
    """A set of answers as arrays. `there` (answers,): which are not none; `chars` and `words`
    (answers,), nan where there is none; `grams`: per order (type, answer) of each n-gram, types
    counted from 0; `vectors`: (answer, bucket, weight) of the unit vectors of character 3-grams."""

    def __init__(self, answers: Sequence[str | None]) -> None:
        self.texts = answers
        self.there = np.array([text is not None for text in answers], dtype=bool)
        self.chars = np.array([np.nan if t is None else len(t) for t in answers], np.float64)
        words = [words_of(text) if text else [] for text in answers]
        counts = np.array([len(one) for one in words], np.int64)
        numbers: defaultdict[str, int] = defaultdict()
        numbers.default_factory = numbers.__len__  # every new word gets the next number
        told = map(numbers.__getitem__, chain.from_iterable(words))
        ids = np.fromiter(told, np.uint64, int(counts.sum()))
        self.words = np.where(self.there, counts, np.nan)
        owner = np.repeat(np.arange(len(answers)), counts)
        self.grams = [_grams(ids, owner, order) for order in ORDERS]
        self.vectors = _vectors(answers)


def _grams(ids: NDArray[np.uint64], owner: Ints, order: int) -> tuple[Ints, Ints]:
    """Each n-gram's type and answer. A type is a 64-bit hash of its words' numbers."""
    count = max(0, len(ids) - order + 1)
    whole = owner[:count] == owner[order - 1 : order - 1 + count]
    mixed = np.zeros(count, np.uint64)
    for place in range(order):
        mixed += ids[place : place + count] * _FACTORS[place]
    _, types = np.unique(mixed[whole], return_inverse=True)
    return types, owner[:count][whole]


def _vectors(answers: Sequence[str | None]) -> tuple[Ints, Ints, Floats]:
    parts = [
        _batch(start, answers[start : start + _BATCH]) for start in range(0, len(answers), _BATCH)
    ]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    owner, bucket, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return owner, bucket, weight


def _batch(start: int, answers: Sequence[str | None]) -> tuple[Ints, Ints, Floats]:
    """Counts of hashed 3-grams, each answer's made a vector of length 1. Ends are padded, so that
    even the empty text has one."""
    padded = ["" if text is None else f"{_PAD}{text}{_PAD}" for text in answers]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32)
    owner = np.repeat(np.arange(len(padded), dtype=np.int32), [len(text) for text in padded])
    count = max(0, len(codes) - 2)
    whole = owner[:count] == owner[2 : 2 + count]
    mixed = np.zeros(count, np.uint32)
    for place in range(3):
        mixed += codes[place : place + count] * _LETTER_FACTORS[place]
    buckets = (mixed >> np.uint32(17)).astype(np.int32)
    # of 32 bits, which are sorted twice as fast
    keys, counts = np.unique((owner[:count] * _BUCKETS + buckets)[whole], return_counts=True)
    mine, bucket = keys // _BUCKETS, keys % _BUCKETS
    length = np.sqrt(np.bincount(mine, counts**2.0, minlength=len(padded)))
    return mine + start, bucket, counts / length[mine]


class _Seen(NamedTuple):
    """A set over some prompts, and its `FIGURES`: each over all of them, and without each group."""

    diversity: Diversity
    figures: list[Floats]


def _seen(made: _Made, rows: Bools, group: Ints, groups: int) -> _Seen:
    figures = [
        *(_distinct(grams, rows, group, groups) for grams in made.grams),
        _similarity(made, rows, group, groups),
        _mean(made.chars, rows, group, groups),
        _mean(made.words, rows, group, groups),
    ]
    *distinct, similarity, _, _ = (float(values[0]) for values in figures)
    diversity = Diversity(
        int(rows.sum()),
        tuple(distinct),
        similarity,
        _compression([made.texts[row] or "" for row in np.flatnonzero(rows).tolist()]),
        _quantiles(made.chars[rows]),
        _quantiles(made.words[rows]),
    )
    return _Seen(diversity, figures)


def _parts(rows: Bools, seed: int) -> tuple[Ints, int]:
    """The group of each of these rows by lot, and how many groups there are: none for too few."""
    count = int(rows.sum())
    groups = min(GROUPS, count // 2) if count >= LEAST else 0
    group = np.zeros(len(rows), np.int64)
    order = np.random.default_rng(seed).permutation(count)
    group[np.flatnonzero(rows)] = order % max(1, groups)
    return group, groups


def _quantiles(values: Floats) -> Quantiles:
    if not len(values):
        return Quantiles(*[float("nan")] * 4)
    return Quantiles(float(values.mean()), *np.quantile(values, [0.1, 0.5, 0.9]).tolist())


def _compression(texts: Sequence[str]) -> float:
    """Sorted, so that it depends on no order, and what begins alike stands together."""
    data = "\n".join(sorted(texts)).encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data)) if data else float("nan")


def _difference(values: Floats) -> Difference:
    """From the difference over everything, and over everything but each group."""
    value, without = float(values[0]), values[1:]
    if not len(without):
        return Difference(value, float("nan"))
    scale = (len(without) - 1) / len(without)
    return Difference(value, float(np.sqrt(scale * ((without - without.mean()) ** 2).sum())))


def _distinct(grams: tuple[Ints, Ints], rows: Bools, group: Ints, groups: int) -> Floats:
    """(1 + groups,): over these rows, and over them without each group.

    Without a group the types are gone that it alone has, so one pass is enough for all groups.
    """
    types, owner = grams
    mine = rows[owner]
    types, parts = types[mine], group[owner[mine]]
    kinds = int(types.max()) + 1 if len(types) else 0
    first, last = np.full(kinds, groups + 1), np.full(kinds, -1)
    np.minimum.at(first, types, parts)
    np.maximum.at(last, types, parts)
    alone = np.bincount(first[(first == last) & (last >= 0)], minlength=groups)[:groups]
    there = np.bincount(parts, minlength=groups)[:groups]
    known = int((last >= 0).sum())
    return _divided(known - np.append(0, alone), len(types) - np.append(0, there))


def _similarity(made: _Made, rows: Bools, group: Ints, groups: int) -> Floats:
    """(1 + groups,): of unit vectors, the sum of all cosines of two different ones is the square of
    the length of their sum, less their number; so no pair is looked at."""
    owner, bucket, weight = made.vectors
    mine = rows[owner]
    used = np.zeros(_BUCKETS, dtype=bool)
    used[bucket[mine]] = True
    column, width, parts = np.cumsum(used) - 1, int(used.sum()), max(1, groups)
    keys = group[owner[mine]] * width + column[bucket[mine]]
    sums = np.bincount(keys, weight[mine], parts * width).reshape(parts, width)
    total = sums.sum(axis=0)
    # the square of total - sums, without making them all
    squares = total @ total - 2 * (sums @ total) + np.einsum("gb,gb->g", sums, sums)
    squares = np.append(total @ total, squares[:groups])
    answers = rows.sum() - np.append(0, np.bincount(group[rows], minlength=parts)[:groups])
    return np.clip(_divided(squares - answers, answers * (answers - 1.0)), 0.0, 1.0)


def _mean(values: Floats, rows: Bools, group: Ints, groups: int) -> Floats:
    """(1 + groups,): the mean of these rows, and of them without each group."""
    total = np.bincount(group[rows], values[rows], max(1, groups))[:groups]
    answers = np.bincount(group[rows], minlength=groups)[:groups]
    left = values[rows].sum() - np.append(0.0, total)
    return _divided(left, rows.sum() - np.append(0, answers))


def _divided(total: Any, number: Any) -> Floats:
    """nan where there is nothing to divide by."""
    found: Floats = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    return found
