"""What earlier work of a run tells of what more would take: footers, sizes and the diary.

Reads files only; of sizes a fair part.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from arbitrage.components import Teacher
from arbitrage.estimate import Figures
from arbitrage.speeds import speeds
from arbitrage.store import shard_number
from arbitrage.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.plan import Planner, ShardState
    from arbitrage.store import Store

SAMPLED_FILES = 64
PROMPTS, ROUTES, GATES, PRODUCT = "prompts", "routes", "gates", "selected"
"""Under these names `Figures` of files that no engine makes are kept; their requests are rows.
Who routes or selects changes little in their size, so earlier ones count too."""


def figures_of(
    store: Store,
    planner: Planner,
    shards: Sequence[ShardState],
    usages: Mapping[str, Usage],
    source: str = "earlier",
) -> dict[str, Figures]:
    """What the files and the diary of a run tell, by fingerprint; only of parts that did work."""
    components = planner.components
    parts = components.served
    diary = speeds(store.events(), {part.fingerprint: part.name for part in parts})
    files = _files(planner, shards)
    found = {}
    for part in parts:
        spent = usages.get(part.fingerprint, Usage())
        if spent.requests:
            told = not spent.untold and (isinstance(part, Teacher) or part.config.tells_tokens)
            found[part.fingerprint] = Figures(
                source,
                spent.prompt_tokens / spent.requests if told else None,
                spent.completion_tokens / spent.requests if told else None,
                diary[part.fingerprint].request_s,
                _mean_bytes(store, files[part.fingerprint]),
                diary[part.fingerprint].load_s,
            )
    for name in (PROMPTS, ROUTES, GATES, PRODUCT):
        size = _mean_bytes(store, files[name])
        if size is not None:
            found[name] = Figures(source, request_bytes=size)
    return found


def _files(planner: Planner, shards: Sequence[ShardState]) -> dict[str, list[tuple[str, int]]]:
    """Stored files with their rows, by owner."""
    files: dict[str, list[tuple[str, int]]] = defaultdict(list)
    rows = {shard.number: shard.rows for shard in shards}
    for path in sorted(planner.listing.files):
        kind = path.partition("/")[0]
        if kind in (PROMPTS, ROUTES, GATES, PRODUCT):
            files[kind].append((path, rows.get(shard_number(path), 0)))
    for shard in shards:
        for task in (task for lane in planner.lanes(shard) for task in lane.tasks):
            if planner.is_done(task) and task.requests:
                files[task.owner].append((task.output, task.requests))
    return files


def _mean_bytes(store: Store, files: Sequence[tuple[str, int]]) -> float | None:
    """Bytes per row, from at most `SAMPLED_FILES` files spread over all."""
    sampled = files[:: -(-len(files) // SAMPLED_FILES) or 1]
    rows = sum(count for _, count in sampled)
    if not rows:
        return None
    return sum((store.size(path) or 0) for path, _ in sampled) / rows
