"""Reads what a shard's lanes have made, for those who decide by it: candidates, gates, scores.

Invariant: what gates and Arbiters say is about the very candidates beside it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from arbitrage import gates
from arbitrage.errors import StageError, StaleInputError
from arbitrage.lineup import Choosing, Part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from arbitrage.components import Components
    from arbitrage.config import RunConfig
    from arbitrage.store import Content, Store


def choosing_of(config: RunConfig, components: Components) -> Choosing:
    """How the product is chosen, as the config and the Arbiter's card say."""
    judging = components.judging
    others = (0.0,) * (len(components.arbiters) - 1)
    return Choosing(
        config.selection,
        config.gates.enforced(),
        judging.method,
        judging.weights,
        {code: (slope, *others) for code, slope in judging.slopes.items()},
        {code: tuple(order) for code, order in judging.preferred.items()},
    )


def read_parts(
    store: Store,
    paths: Sequence[str],
    prompts: pa.Table,
    components: Components,
    config: RunConfig,
) -> list[Part]:
    """One for each lane; `paths` are the files of the lanes, as the planner names them.

    Raises StaleInputError where something is about earlier candidates.
    """
    return parts_of({path: store.read(path) for path in paths}, prompts, components, config)


def parts_of(
    contents: Mapping[str, Content], prompts: pa.Table, components: Components, config: RunConfig
) -> list[Part]:
    """The same from the contents of files by their paths, in the order of the lanes."""
    width = 2 + len(components.arbiters)
    paths = list(contents)
    lanes = [paths[n : n + width] for n in range(0, len(paths), width)]
    return [
        part_of(lane, [contents[path] for path in lane], prompts, components, config)
        for lane in lanes
    ]


def part_of(
    paths: Sequence[str],
    contents: Sequence[Content],
    prompts: pa.Table,
    components: Components,
    config: RunConfig,
) -> Part:
    """A lane's part from the contents of its files. Raises StaleInputError, and StageError where
    there are candidates of prompts that the shard does not have."""
    candidates, facts, *scores = contents
    for path, content in zip(paths[1:], itertools.islice(contents, 1, None), strict=True):
        if content.footer.get("candidates") != candidates.digest:
            raise StaleInputError(path, paths[0])
    teacher = components.teacher(candidates.footer["teacher"])
    languages = languages_of(candidates.table, prompts)
    failed = gates.apply(facts.table, languages, config.gates)
    return Part(teacher, candidates.table, failed, tuple(content.table for content in scores))


def languages_of(candidates: pa.Table, prompts: pa.Table) -> pa.Array:
    """The language of each candidate's prompt."""
    place = pc.index_in(candidates["prompt_id"], value_set=prompts["prompt_id"].combine_chunks())
    if place.null_count:
        raise StageError("there are candidates for prompts that the shard does not have")
    return prompts["language"].combine_chunks().take(place.combine_chunks())
