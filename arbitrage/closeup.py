"""Looks closely at a few shards of a run: every candidate with its text, in the product's order.

A run may have a million prompts, so whoever wants texts looks at a bounded part of it: `spread`
says which shards that is, `look` reads one. A shard is seen as its product was made: from the files
that the product names, whatever was added since. Knows nothing of what is done with what is seen.
Invariant: the same files give the same shards in the same order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from arbitrage.errors import StaleInputError
from arbitrage.lineup import lined_up
from arbitrage.lots import Offer
from arbitrage.parts import choosing_of, read_parts
from arbitrage.plan import quarantine_of
from arbitrage.selection import ranked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from arbitrage.components import Components
    from arbitrage.config import RunConfig
    from arbitrage.lineup import Lineup
    from arbitrage.plan import Planner, ShardState
    from arbitrage.selection import Ranking
    from arbitrage.store import Store

MOST_SHARDS = 24
"""How many shards are looked at; more where there are more languages and each has its own."""
MOST_ROWS = 60_000
"""Of prompts in the shards that are looked at, beyond the first shard."""
ENOUGH = 40
"""Selected prompts of a language with which it needs no further shard of its own."""
_FACTS = ["prompt_id", "language", "margin", "rank", "candidates"]
_CHOSEN = ["prompt_id", "rank", "teacher_fingerprint", "sample", "margin", "reward"]


class Made(NamedTuple):
    """A shard that has a product, the files of the lanes that it was made from, and how many of its
    selected prompts are in each language."""

    shard: ShardState
    product: str
    files: tuple[str, ...]
    languages: dict[str, int]


@dataclass(frozen=True)
class Extent:
    """How much of a run was looked at: shards and the prompts in them, of all that there are, and
    the languages of the product of which nothing was seen."""

    shards: int
    prompts: int
    of_shards: int
    of_prompts: int
    unseen: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole run."""
        return self.shards == self.of_shards

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "unseen": list(self.unseen)}


@dataclass(frozen=True)
class Closeup:
    """One shard: its prompts (all columns), every candidate that its product was made from with
    the one number it was compared by, and their order. `chosen` maps a prompt's id to its rows of
    the product without texts, best first; `lost` maps one to the reason why it has none."""

    prompts: pa.Table
    lineup: Lineup
    ranking: Ranking
    chosen: dict[str, list[dict[str, Any]]]
    lost: dict[str, str]

    def candidates(self, row: int) -> list[dict[str, Any]]:
        """All candidates of the prompt in a row of `prompts`, best first. `score` is the number
        that they were compared by, `score 0` and so on are each Arbiter's own."""
        start, end = self.ranking.starts[row], self.ranking.starts[row + 1]
        found: list[dict[str, Any]] = self.lineup.table.take(
            self.ranking.order[start:end]
        ).to_pylist()
        return found


def made(store: Store, planner: Planner, shards: Sequence[ShardState]) -> list[Made]:
    """The shards that have a product whose files are still there and whose teachers and Arbiters
    are those of the config; reads footers only."""
    folder = planner.folder_of(planner.components.selector)
    named = {shard.number: f"{folder}/{shard.number:05d}.parquet" for shard in shards}
    there = [path for path in named.values() if path in planner.selected]
    notes = store.footers(there)
    before: Counter[str] = Counter()
    found = []
    for shard in shards:
        product = named[shard.number]
        if product not in notes:
            continue
        tally = Counter(notes[product].get("tally", {}).get("prompts", {}))
        languages = dict(tally - before) if planner.components.selector.chained else dict(tally)
        before = tally
        files = tuple(path for path in notes[product].get("inputs", ()) if _is_lane(path))
        if _is_known(planner, files):
            found.append(Made(shard, product, files, languages))
    return found


def _is_lane(path: str) -> bool:
    return path.startswith(("candidates/", "gates/", "scores/"))


def _is_known(planner: Planner, files: Sequence[str]) -> bool:
    """Whether these are whole lanes of the teachers and Arbiters that the config has."""
    components = planner.components
    width = 2 + len(components.arbiters)
    if len(files) % width or not planner.listing.files.issuperset(files):
        return False
    teachers = (*components.answering, *components.variants)
    folders = {planner.folder_of(teacher) for teacher in teachers}
    judges = [planner.folder_of(part) for part in (components.gates, *components.arbiters)]
    for start in range(0, len(files), width):
        answers, *told = files[start : start + width]
        pairs = zip(judges, told, strict=True)
        if answers.rpartition("/")[0] not in folders:
            return False
        if not all(path.startswith(f"{judge}/") for judge, path in pairs):
            return False
    return True


def spread(shards: Sequence[Made], most: int = MOST_SHARDS, rows: int = MOST_ROWS) -> list[Made]:
    """Which shards to look at, in order: enough of every language, then spread over the run.

    At most `most`, or one per language where those are more, and at most `rows` prompts; but one
    shard at least.
    """
    wanted = _covering(shards)
    wanted = wanted[: max(most, len({code for one in shards for code in one.languages}))]
    rest = [place for place in range(len(shards)) if place not in wanted]
    wanted += [rest[place] for place in _evenly(len(rest), most - len(wanted))]
    taken: list[int] = []
    total = 0
    for place in wanted:
        total += shards[place].shard.rows
        if taken and total > rows:
            break
        taken.append(place)
    return [shards[place] for place in sorted(taken)]


def _covering(shards: Sequence[Made]) -> list[int]:
    """Places of shards that together hold enough of each language; the rarest languages first, and
    of each the shards that hold the most of it."""
    having: dict[str, list[tuple[int, int]]] = {}
    for place, one in enumerate(shards):
        for code, count in one.languages.items():
            having.setdefault(code, []).append((-count, place))
    wanted: list[int] = []
    seen: Counter[str] = Counter()
    for code in sorted(having, key=lambda code: (-sum(count for count, _ in having[code]), code)):
        for _, place in sorted(having[code]):
            if seen[code] >= ENOUGH:
                break
            if place not in wanted:
                wanted.append(place)
                seen.update(shards[place].languages)
    return wanted


def _evenly(count: int, most: int) -> list[int]:
    """Up to `most` places among `count`, as far from each other as they can be."""
    number = max(0, min(count, most))
    return [(2 * n + 1) * count // (2 * number) for n in range(number)]


def extent_of(seen: Sequence[Made], all_made: Sequence[Made], rows: int, count: int) -> Extent:
    """How much was looked at of a run of so many prompts (`rows`) and shards (`count`)."""
    there = {code for one in all_made for code in one.languages}
    known = {code for one in seen for code in one.languages}
    prompts = sum(one.shard.rows for one in seen)
    return Extent(len(seen), prompts, count, rows, tuple(sorted(there - known)))


def offers_of(store: Store, looked_at: Sequence[Made]) -> list[Offer]:
    """Every prompt of these shards, as `lots` takes it; reads no texts."""
    return [offer for one in looked_at for offer in (*_selected(store, one), *_lost(store, one))]


def _selected(store: Store, one: Made) -> Iterator[Offer]:
    table = store.read(one.product, _FACTS).table
    table = table.filter(pc.equal(pc.fill_null(table["rank"], 1), 1))
    lists = table["candidates"].combine_chunks()
    flat, owner = lists.flatten(), pc.list_parent_indices(lists).to_numpy()
    fails = pc.list_value_length(flat.field("gates")).to_numpy() > 0
    gated = np.bincount(owner[fails], minlength=len(lists)) > 0
    chars = pc.fill_null(flat.field("chars"), 0).to_numpy()
    long = np.bincount(owner, chars, len(lists)).astype(np.int64)
    told = [table[name].to_pylist() for name in _FACTS[:3]]
    rows = zip(*told, gated.tolist(), lists.value_lengths().to_pylist(), long.tolist(), strict=True)
    for prompt_id, language, margin, gate, candidates, length in rows:
        yield Offer(prompt_id, language, margin, gate, False, candidates, length)


def _lost(store: Store, one: Made) -> Iterator[Offer]:
    lost = lost_of(store, one)
    if not lost:
        return
    table = store.read(one.shard.path, ["prompt_id", "language"]).table
    told = (table[name].to_pylist() for name in ("prompt_id", "language"))
    for prompt_id, language in zip(*told, strict=True):
        if prompt_id in lost:
            yield Offer(prompt_id, language, lost=True)


def look(store: Store, one: Made, components: Components, config: RunConfig) -> Closeup:
    """Reads all of one shard. Raises StaleInputError where something is about earlier candidates,
    and StoreError where a file cannot be read."""
    prompts = store.read(one.shard.path).table
    parts = read_parts(store, one.files, prompts, components, config)
    lineup = lined_up(prompts, parts, choosing_of(config, components))
    chosen: dict[str, list[dict[str, Any]]] = {}
    for row in store.read(one.product, _CHOSEN).table.to_pylist():
        chosen.setdefault(row["prompt_id"], []).append(row)
    return Closeup(prompts, lineup, ranked(lineup.field), chosen, lost_of(store, one))


def lost_of(store: Store, one: Made) -> dict[str, str]:
    """Why prompts of a shard are in quarantine, by id."""
    aside = quarantine_of(one.product)
    if not store.has(aside):
        return {}
    table = store.read(aside, ["prompt_id", "reason"]).table
    return dict(zip(table["prompt_id"].to_pylist(), table["reason"].to_pylist(), strict=True))


def closeups(
    store: Store,
    shards: Sequence[Made],
    components: Components,
    config: RunConfig,
    seen: list[Made],
) -> Iterator[Closeup]:
    """One shard after the other, each noted in `seen`; those whose scores are about earlier
    candidates are passed over: the next `run` makes them anew."""
    for one in shards:
        try:
            found = look(store, one, components, config)
        except StaleInputError:
            continue
        seen.append(one)
        yield found
