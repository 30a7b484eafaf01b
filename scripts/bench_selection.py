"""How fast a product is built: every rule over a million scored candidates, on one core.

Seven teachers answer prompts in 23 languages, one answer each. One answer in eight is one that
others give too, one in ten fails a gate, one in a hundred has no score. A product is built shard by
shard, as a run does it, and once more with everything in one shard. Files are neither read nor
written.

    python scripts/bench_selection.py --candidates 1000000
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from arbitrage.choices import SelectionConfig
from arbitrage.components import Components
from arbitrage.config import RunConfig
from arbitrage.lineup import Choosing, Part
from arbitrage.product import build
from arbitrage.records import CANDIDATES, PROMPTS, SCORES
from arbitrage.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.components import Teacher
    from arbitrage.quotas import Tally

LANGUAGES = [
    *("ar", "cs", "de", "el", "en", "es", "fa", "fr", "he", "hi", "id", "it"),
    *("ja", "ko", "nl", "pl", "pt", "ro", "ru", "tr", "uk", "vi", "zh"),
]
TEACHERS = 7
GATES = ("truncated", "empty")

RULES: dict[str, Choosing] = {
    "best": Choosing(SelectionConfig(), GATES),
    "top_k of 3": Choosing(SelectionConfig(rule="top_k", k=3), GATES),
    "pairs": Choosing(SelectionConfig(rule="pairs"), GATES),
    "least reward and margin": Choosing(SelectionConfig(min_reward=0.5, min_margin=0.1), GATES),
    "quota of 2,000": Choosing(SelectionConfig(quota=2000), GATES),
    "cap of a fifth": Choosing(SelectionConfig(max_teacher_share=0.2), GATES),
    "pairs, quota and cap": Choosing(
        SelectionConfig(rule="pairs", quota=2000, max_teacher_share=0.2), GATES
    ),
    "two Arbiters, length": Choosing(
        SelectionConfig(),
        GATES,
        weights={"default": (1.0, 2.0)},
        slopes={"default": (0.1, 0.0)},
    ),
}
"""What is measured, by name; only the last one has two Arbiters."""


class Shard(NamedTuple):
    """Prompts, and of every teacher its candidates with the scores of two Arbiters."""

    prompts: pa.Table
    parts: list[Part]


@dataclass(frozen=True)
class Result:
    """One rule: what it took, and how long that was for all candidates, on the clock and of the
    processor's own time, which other work on the machine hardly changes."""

    rule: str
    rows: int
    lost: int
    seconds: float
    cpu_s: float


def pool() -> Components:
    """Seven teachers that cover everything, and an Arbiter."""
    teachers = {
        f"teacher-{n}": {"engine": "fake", "languages": "all", "options": {"voice": str(n)}}
        for n in range(TEACHERS)
    }
    config = {"run": "r", "prompts": "p", "teachers": teachers, "arbiter": {"engine": "fake"}}
    return resolve(RunConfig.model_validate(config))


def shards_of(prompts: int, size: int, components: Components) -> Iterator[Shard]:
    """Made-up shards of `size` prompts; the same whatever the size."""
    rng = np.random.default_rng(0)
    ids = [f"{n:032x}" for n in range(prompts)]
    languages = rng.choice(LANGUAGES, prompts)
    asked = _prompts(ids, languages.tolist())
    parts = [_part(teacher, ids, n, rng) for n, teacher in enumerate(components.teachers)]
    for start in range(0, prompts, size):
        yield Shard(
            asked.slice(start, size),
            [
                Part(
                    part.teacher,
                    part.candidates.slice(start, size),
                    part.failed.slice(start, size),
                    tuple(scores.slice(start, size) for scores in part.scores),
                )
                for part in parts
            ],
        )


def _prompts(ids: list[str], languages: list[str]) -> pa.Table:
    rows = [
        {
            "prompt_id": key,
            "language": language,
            "language_source": "declared",
            "messages": [{"role": "user", "content": f"A question with the number {key}?"}],
            "source": "made up",
            "line": line,
        }
        for line, (key, language) in enumerate(zip(ids, languages, strict=True), 1)
    ]
    return pa.Table.from_pylist(rows, PROMPTS)


def _part(teacher: Teacher, ids: list[str], number: int, rng: np.random.Generator) -> Part:
    count = len(ids)
    size, alike = rng.integers(1, 40, count).tolist(), (rng.random(count) < 1 / 8).tolist()
    texts = [
        "the usual answer" if same else f"the answer of {number} {'x' * chars}"
        for chars, same in zip(size, alike, strict=True)
    ]
    fixed = {"sample": 0, "sampling": 0, "prompt_tokens": 9, "completion_tokens": 9, "seed": 1}
    columns = {name: np.full(count, value) for name, value in fixed.items()}
    told = {"prompt_id": ids, "completion": texts, "finish_reason": ["stop"] * count}
    candidates = _table({**columns, **told}, CANDIDATES)
    fails = (rng.random(count) < 0.1).tolist()
    gates = pa.array([["truncated"] if one else [] for one in fails], pa.list_(pa.string()))
    scores = []
    for _ in range(2):
        failed = rng.random(count) < 0.01
        score = pa.array(rng.normal(size=count), mask=failed)
        error = pa.array(["no score"] * count, mask=~failed)
        judged = {"prompt_id": ids, "sample": columns["sample"]}
        scores.append(_table({**judged, "score": score, "error": error}, SCORES))
    return Part(teacher, candidates, gates, tuple(scores))


def _table(columns: dict[str, object], schema: pa.Schema) -> pa.Table:
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(columns["prompt_id"]), field.type)  # type: ignore[arg-type]
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def measured(rule: str, shards: list[Shard], components: Components) -> Result:
    """Builds the product of all shards in order, each after what those before it took."""
    choosing = RULES[rule]
    arbiters = len(choosing.weights.get("default", (1.0,)))
    rows = lost = 0
    tally: Tally | None = None
    start, begun = time.perf_counter(), time.process_time()
    for shard in shards:
        parts = [part._replace(scores=part.scores[:arbiters]) for part in shard.parts]
        made = build(shard.prompts, parts, components, choosing, tally)
        rows, lost, tally = rows + made.selected.num_rows, lost + made.lost.num_rows, made.tally
    spent = time.perf_counter() - start, time.process_time() - begun
    return Result(rule, rows, lost, *spent)


def main(arguments: list[str] | None = None) -> None:
    """Prints a line per rule and size of shards."""
    parser = argparse.ArgumentParser(description="How fast a product is built.")
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=1024, help="prompts per shard")
    told = parser.parse_args(arguments)
    components = pool()
    prompts = -(-told.candidates // TEACHERS)
    print(f"{prompts * TEACHERS:,} candidates of {TEACHERS} teachers for {prompts:,} prompts")
    for size in (told.shard_size, prompts):
        shards = list(shards_of(prompts, size, components))
        print(f"\n{len(shards):,} shards of {size:,} prompts")
        titles = ("rows", "lost", "seconds", "CPU s")
        print(f"{'rule':24}{''.join(f'{t:>10}' for t in titles)}{'candidates/s':>14}")
        for rule in RULES:
            made = measured(rule, shards, components)
            pace = prompts * TEACHERS / made.seconds
            times = f"{made.seconds:>10.2f}{made.cpu_s:>10.2f}{pace:>14,.0f}"
            print(f"{rule:24}{made.rows:>10,}{made.lost:>10,}{times}")


if __name__ == "__main__":
    main()
