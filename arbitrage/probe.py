"""Sends a few prompts through the whole pipeline to see what they take; leaves nothing behind.

The run directory of the config is read only: a probe has one of its own, in a temporary folder.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage import pipeline, prompts
from arbitrage.config import PromptsConfig
from arbitrage.configfile import Loaded
from arbitrage.errors import ArbitrageError
from arbitrage.figures import figures_of
from arbitrage.plan import read_state
from arbitrage.resolve import resolve
from arbitrage.settings import BudgetConfig
from arbitrage.spending import paid
from arbitrage.store import Store

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Sequence

    from arbitrage.components import Teacher
    from arbitrage.config import RunConfig
    from arbitrage.estimate import Figures
    from arbitrage.progress import Progress

Row = dict[str, Any]


def probe(
    loaded: Loaded, count: int, progress: Progress, stop: threading.Event
) -> dict[str, Figures]:
    """Asks each teacher at least `count` prompts, spread over its languages; figures by
    fingerprint. It is no part of the run, nor of its budget.

    Raises ArbitrageError where a part of it could not be done.
    """
    config = loaded.config
    rows = _chosen(config, resolve(config).teachers, count)
    with tempfile.TemporaryDirectory(prefix="arbitrage-probe-") as folder:
        source = Path(folder) / "prompts.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        small = _small(config, Path(folder) / "run", source, len(rows))
        done = pipeline.run(Loaded(small, ""), progress, stop, strict=False)
        if done.given_up or done.stopped:
            why = next(iter(done.given_up.values()), "it was stopped")
            raise ArbitrageError(f"the probe is not complete ({why}); nothing of it was kept")
        components = resolve(small)
        store = Store(Path(small.run))
        planner, shards = read_state(components, store)
        return figures_of(store, planner, shards, paid(store, planner.listing), "probe")


def _small(config: RunConfig, run: Path, source: Path, rows: int) -> RunConfig:
    asked = PromptsConfig.model_validate(
        {
            "sources": [{"path": str(source)}],
            "detect": False,
            "contradiction": "ignore",
            "max_chars": config.prompts.max_chars,
            "shard_size": max(1, rows),
        }
    )
    told = {"run": str(run), "prompts": asked, "budget": BudgetConfig()}
    return config.model_copy(update=told)


def _chosen(config: RunConfig, teachers: Sequence[Teacher], count: int) -> list[Row]:
    """Prompts of the set so that each teacher has `count` of them if there are so many.

    Which ones is decided by their ids, which are hashes: a fair sample, the same at each call.
    """
    found = _lowest(_prompts(config, resolve(config).covered), count)
    chosen: dict[str, Row] = {}
    for teacher in sorted(teachers, key=lambda one: len(one.languages)):
        own = [rows for language, rows in sorted(found.items()) if language in teacher.languages]
        has = sum(row["language"] in teacher.languages for row in chosen.values())
        turns = (rows[n] for n in range(count) for rows in own if n < len(rows))
        for row in turns:
            if has >= count:
                break
            has += row["key"] not in chosen
            chosen[row["key"]] = row
    return [{k: v for k, v in row.items() if k != "key"} for row in chosen.values()]


def _lowest(rows: Iterable[Row], count: int) -> dict[str, list[Row]]:
    """Per language the rows with the lowest ids."""
    heaps: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    seen: set[str] = set()
    for row in rows:
        heap = heaps[row["language"]]
        item = (-int(row["key"], 16), row)
        if row["key"] in seen or (len(heap) == count and item[0] <= heap[0][0]):
            continue
        seen.add(row["key"])
        if len(heap) < count:
            heapq.heappush(heap, item)
        else:
            seen.discard(heapq.heapreplace(heap, item)[1]["key"])
    return {k: [row for _, row in sorted(h, reverse=True)] for k, h in heaps.items()}


def _prompts(config: RunConfig, covered: frozenset[str]) -> Iterator[Row]:
    """Every prompt of the run, stored or not; nothing is written."""
    store = Store(config.run, patience_s=config.output.patience_s)
    prompt_set = prompts.find(config.prompts, covered, store)
    prompts.survey(prompt_set)
    columns = ["prompt_id", "language", "messages"]
    for path in sorted(p for p in store.listing().files if p.startswith("prompts/")):
        for row in store.read(path, columns=columns).table.to_pylist():
            if row["language"] in covered:
                yield _row(row["prompt_id"], row["language"], row["messages"])
    for fresh in prompts.new_prompts(prompt_set, store):
        yield _row(fresh.id, fresh.language, fresh.messages)


def _row(key: str, language: str, messages: Any) -> Row:
    return {"key": key, "language": language, "messages": messages}
