"""Whether choosing among teachers keeps answers diverse: the selected ones beside each teacher's.

Of a bounded part of a run, language by language: every teacher's own best usable answers are set
beside the selected ones over the prompts that both answered. All languages together are a plain
mean over those that have enough prompts, so that none drowns another. Reads files through
`closeup`; the figures are those of `diversity`.
Invariant: the same run gives the same figures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from arbitrage import closeup, lots
from arbitrage.diversity import FIGURES, LEAST, Comparison, Difference, compared, entropy, number
from arbitrage.writing import is_unspaced

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from arbitrage.closeup import Closeup, Extent, Made
    from arbitrage.components import Components
    from arbitrage.config import RunConfig
    from arbitrage.diversity import Diversity
    from arbitrage.lots import Offer
    from arbitrage.plan import Planner, ShardState
    from arbitrage.store import Store

PROMPTS = 20_000
PER_LANGUAGE = 1_000
MOST_CHARS = 100_000_000
"""Of all candidates of the prompts together, so that their texts fit in memory."""


@dataclass
class Answers:
    """Answers to the same prompts, place by place: the selected ones, each with its teacher, and
    every teacher's own best usable one, none where it has none."""

    selected: list[str] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)
    alone: dict[str, list[str | None]] = field(default_factory=dict)

    def add(self, selected: str, teacher: str, alone: Mapping[str, str]) -> None:
        """Takes in one more prompt."""
        for name in alone:
            self.alone.setdefault(name, [None] * len(self.selected))
        for name, answers in self.alone.items():
            answers.append(alone.get(name))
        self.selected.append(selected)
        self.teachers.append(teacher)


@dataclass(frozen=True)
class Row:
    """One language. `unit` is what distinct-n counts; `won` the selected answers by teacher;
    `beside` maps each teacher to its comparison with the selected ones."""

    language: str
    prompts: int
    unit: str
    won: dict[str, int]
    beside: dict[str, Comparison]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `entropy` of the teachers' shares is in bits."""
        return {
            "language": self.language,
            "prompts": self.prompts,
            "unit": self.unit,
            "won": self.won,
            "entropy": entropy(self.won.values()),
            "beside": {name: one.as_dict() for name, one in self.beside.items()},
        }


@dataclass(frozen=True)
class Mean:
    """One teacher over the languages in which it was compared over `LEAST` prompts or more: plain
    means over them of its figures and of the selected answers', and of the differences."""

    languages: tuple[str, ...]
    prompts: int
    selected: dict[str, float]
    alone: dict[str, float]
    differences: dict[str, Difference]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "languages": list(self.languages),
            "prompts": self.prompts,
            "selected": {name: number(value) for name, value in self.selected.items()},
            "alone": {name: number(value) for name, value in self.alone.items()},
            "differences": {name: one.as_dict() for name, one in self.differences.items()},
        }


@dataclass(frozen=True)
class Variety:
    """How diverse a run's selected answers are beside each teacher's, and what that was drawn from:
    `prompts` of the selected ones in `extent`."""

    rows: list[Row]
    teachers: dict[str, Mean]
    prompts: int
    extent: Extent

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "languages": [row.as_dict() for row in self.rows],
            "teachers": {name: one.as_dict() for name, one in self.teachers.items()},
            "prompts": self.prompts,
            "extent": self.extent.as_dict(),
            "least_prompts": LEAST,
        }


def diversity_of_run(
    store: Store,
    components: Components,
    planner: Planner,
    shards: Sequence[ShardState],
    config: RunConfig,
    *,
    prompts: int = PROMPTS,
    per_language: int = PER_LANGUAGE,
    most_shards: int = closeup.MOST_SHARDS,
) -> Variety:
    """Compares the selected answers with each single teacher's, from a bounded part of the run."""
    everything = closeup.made(store, planner, shards)
    looked_at = closeup.spread(everything, most_shards)
    wanted = drawn(closeup.offers_of(store, looked_at), prompts, per_language)
    seen: list[Made] = []
    looks = closeup.closeups(store, looked_at, components, config, seen)
    texts = texts_of(looks, wanted, components)
    rows = sum(shard.rows for shard in shards)
    extent = closeup.extent_of(seen, everything, rows, len(shards))
    found = [_row(code, texts[code]) for code in sorted(texts)]
    return Variety(found, _means(found), sum(row.prompts for row in found), extent)


def drawn(offers: Iterable[Offer], prompts: int, per_language: int) -> set[str]:
    """The ids of selected prompts, by lot: of every language the same number, or all that there
    are. Fewer where their candidates are long: `MOST_CHARS`."""
    languages: dict[str, list[Offer]] = {}
    chars = 0
    for offer in offers:
        if not offer.lost:
            languages.setdefault(offer.language, []).append(offer)
            chars += offer.chars
    count = sum(map(len, languages.values()))
    most = min(prompts, MOST_CHARS * count // max(1, chars))
    places = lots.shared({c: min(len(m), per_language) for c, m in languages.items()}, most)
    return {
        offer.prompt_id
        for code, mine in languages.items()
        for offer in sorted(mine, key=lambda one: lots.draw(one.prompt_id))[: places[code]]
    }


def texts_of(
    shards: Iterable[Closeup], wanted: Collection[str], components: Components
) -> dict[str, Answers]:
    """The answers to the wanted prompts (ids) in some shards, by language."""
    names = {teacher.fingerprint: teacher.name for teacher in components.answering}
    names |= {variant.fingerprint: names[variant.role] for variant in components.variants}
    found: dict[str, Answers] = {}
    for shard in shards:
        _add(found, shard, wanted, names)
    return found


def _add(
    found: dict[str, Answers], shard: Closeup, wanted: Collection[str], names: Mapping[str, str]
) -> None:
    """Takes in one shard; the first of a teacher's candidates by reward, then in the product's
    order, is its own best."""
    made = shard.lineup.field
    mine = np.array([key in wanted and key in shard.chosen for key in made.prompt_ids], dtype=bool)
    order = shard.ranking.order
    order = order[(mine[made.prompt] & made.eligible)[order]]
    order = order[np.lexsort((-made.score[order], made.prompt[order]))]
    texts = shard.lineup.table["completion"].take(pa.array(order)).to_pylist()
    candidates: dict[int, dict[tuple[str, int], str]] = {}
    for place, text in zip(order.tolist(), texts, strict=True):
        key = (made.teachers[int(made.teacher[place])], int(made.sample[place]))
        candidates.setdefault(int(made.prompt[place]), {})[key] = text
    for row, told in candidates.items():
        best = shard.chosen[made.prompt_ids[row]][0]
        key = (best["teacher_fingerprint"], best["sample"])
        if key not in told:
            continue
        alone: dict[str, str] = {}
        for (owner, _), text in told.items():
            alone.setdefault(names[owner], text)
        code = made.languages[int(made.language[row])]
        found.setdefault(code, Answers()).add(told[key], names[key[0]], alone)


def _row(code: str, texts: Answers) -> Row:
    unit = "letters" if is_unspaced(code) else "words"
    alone = {name: texts.alone[name] for name in sorted(texts.alone)}
    beside = compared(texts.selected, alone)
    return Row(code, len(texts.selected), unit, dict(Counter(texts.teachers)), beside)


def _means(rows: Sequence[Row]) -> dict[str, Mean]:
    """By teacher, those with enough prompts in any language; languages are independent, so the
    squares of their errors add up."""
    enough: dict[str, dict[str, Comparison]] = {}
    for row in rows:
        for name, one in row.beside.items():
            if one.prompts >= LEAST:
                enough.setdefault(name, {})[row.language] = one
    return {name: _mean(enough[name]) for name in sorted(enough)}


def _mean(languages: Mapping[str, Comparison]) -> Mean:
    told = list(languages.values())
    selected = [_figures(one.selected) for one in told]
    alone = [_figures(one.alone) for one in told]
    differences = {
        name: _mean_difference([one.differences[name] for one in told]) for name in FIGURES
    }
    prompts = sum(one.prompts for one in told)
    return Mean(tuple(languages), prompts, _averaged(selected), _averaged(alone), differences)


def _mean_difference(told: Sequence[Difference]) -> Difference:
    known = [one for one in told if not np.isnan(one.value)]
    if not known:
        return Difference(np.nan, np.nan)
    value, square = np.mean([(one.value, one.error**2) for one in known], axis=0)
    return Difference(float(value), float(np.sqrt(square / len(known))))


def _averaged(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of what is known: answers of two words have no 3-grams."""
    known = {name: [v for one in told if not np.isnan(v := one[name])] for name in told[0]}
    return {name: float(np.mean(some)) if some else np.nan for name, some in known.items()}


def _figures(told: Diversity) -> dict[str, float]:
    """All figures of a set by name; lengths as their means."""
    distinct = zip(FIGURES, told.distinct, strict=False)
    rest = {"similarity": told.similarity, "compression": told.compression}
    return {**dict(distinct), **rest, "chars": told.chars.mean, "words": told.words.mean}
